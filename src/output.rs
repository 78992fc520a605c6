//! Writing to stdout and stderr without ever panicking.
//!
//! `println!` panics when the reader has gone away (`terok-shield rules web | head -1`), and a
//! hook's stderr may be closed. Everything that prints goes through here.

use std::io::{self, Write};

use crate::error::{Error, Result};

/// Writes `text` and a newline to stdout, at once. A reader that has gone away ends the process
/// quietly (see [`Error::reader_gone`]).
pub fn line(text: &str) -> Result<()> {
    let mut out = String::with_capacity(text.len() + 1);
    out.push_str(text);
    out.push('\n');
    self::text(&out)
}

/// Writes `text` to stdout as it is.
pub fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Error::reader_gone()),
        Err(e) => Err(Error::new(format!(
            "cannot write to standard output: {}",
            Error::from(e)
        ))),
    }
}

/// Writes `text` and a newline to stderr; that nobody reads it is no failure.
pub fn warn(text: &str) {
    let mut out = String::with_capacity(text.len() + 1);
    out.push_str(text);
    out.push('\n');
    // One write: lines of several processes that share a log do not mix.
    let _ = io::stderr().write_all(out.as_bytes());
}
