//! The error every fallible function above the netlink layer returns.

use std::fmt;

/// What went wrong, in one line a person can act on, and how the process should exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

/// Behind a pointer, so that a `Result` is small and an error is moved and dropped in few
/// instructions: there are thousands of `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    kind: Kind,
    message: String,
}

/// How an [`Error`] ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The command line was wrong: exit 2.
    Usage,
    /// The operation failed: exit 1.
    Failed,
    /// No error: `--help` was asked for. The message goes to stdout: exit 0.
    Help,
    /// Whoever read our standard output has gone: exit 141, as a shell shows a death by SIGPIPE,
    /// and not a word.
    ReaderGone,
}

/// Result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An operation failed; `message` says what was being done, to what, and the cure.
    pub fn new(message: impl Into<String>) -> Self {
        Self::of(Kind::Failed, message.into())
    }

    /// The command line was wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::of(Kind::Usage, message.into())
    }

    /// Not an error: help was asked for, and is `text`.
    pub fn help(text: impl Into<String>) -> Self {
        Self::of(Kind::Help, text.into())
    }

    /// Standard output was closed by its reader: there is nobody left to tell.
    pub fn reader_gone() -> Self {
        Self::of(Kind::ReaderGone, "standard output was closed".into())
    }

    #[cold]
    #[inline(never)]
    fn of(kind: Kind, message: String) -> Self {
        Self(Box::new(Inner { kind, message }))
    }

    /// `what` and a colon before the message.
    #[cold]
    #[inline(never)]
    fn prefixed(mut self, what: &dyn fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// How this error ends the process.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Process exit code: 2 for usage errors, 1 for failures, 0 for help, 141 for a closed stdout.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Usage => 2,
            Kind::Failed => 1,
            Kind::Help => 0,
            Kind::ReaderGone => 141,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

/// Adds what was being done to an error on its way up: `cannot read x: No such file`.
pub trait Context<T> {
    /// Prefixes the error with `what()` and a colon.
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.into().prefixed(&what()))
    }
}

impl From<std::io::Error> for Error {
    #[cold]
    #[inline(never)]
    fn from(e: std::io::Error) -> Self {
        match e.raw_os_error() {
            // The system's words without Rust's "(os error N)" tail.
            Some(n) => Self::new(nix::errno::Errno::from_raw(n).desc()),
            None => Self::new(e.to_string()),
        }
    }
}

impl From<nix::errno::Errno> for Error {
    #[cold]
    #[inline(never)]
    fn from(e: nix::errno::Errno) -> Self {
        Self::new(e.desc())
    }
}

impl From<rustix::io::Errno> for Error {
    #[cold]
    #[inline(never)]
    fn from(e: rustix::io::Errno) -> Self {
        Self::new(nix::errno::Errno::from_raw(e.raw_os_error()).desc())
    }
}
