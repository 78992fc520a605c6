//! Processes by identity, never by bare number: pids recycle.
//!
//! A process is (pid, start time). Signals go through a pidfd that was opened first and whose
//! process was then found to have the recorded start time, so that no stranger is ever hit.

use crate::error::{Context, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A process that cannot be confused with a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Process id, as this pid namespace counts.
    pub pid: i32,
    /// Start time in clock ticks since boot (proc(5), `/proc/<pid>/stat` field 22).
    pub start: u64,
}

/// A process held by descriptor: it stays this very process, dead or alive.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: i32,
}

/// State, parent and start time of a process from `/proc/<pid>/stat`.
struct Stat {
    state: u8,
    parent: i32,
    start: u64,
}

/// Reads `/proc/<pid>/stat`; the command name in it is the process's own and may hold anything.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let tail = &text[text.iter().rposition(|&b| b == b')')? + 1..];
    let mut fields = std::str::from_utf8(tail).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?; // field 3
    let parent = fields.next()?.parse().ok()?; // field 4
    let start = fields.nth(17)?.parse().ok()?; // field 22
    Some(Stat {
        state,
        parent,
        start,
    })
}

impl Identity {
    /// The identity of a running process; `None` if it is gone or a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (stat.state != b'Z').then_some(Self {
            pid,
            start: stat.start,
        })
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.trim_end().split_once(' ')?;
        let identity = Self {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        };
        (identity.pid > 0).then_some(identity)
    }

    /// A descriptor of this very process; `None` if it is gone.
    pub fn open(&self) -> Option<PidFd> {
        let fd = PidFd::open(self.pid).ok()?;
        // The pid cannot pass to another process unseen: the descriptor was opened first.
        (Self::of(self.pid) == Some(*self)).then_some(fd)
    }

    /// Whether the process still lives.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.pid, self.start)
    }
}

/// The parent of a process, while both live.
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|s| s.parent).filter(|&p| p > 1)
}

/// The arguments of a process, cut at 4 KiB; empty if it is gone or a kernel thread.
pub fn arguments(pid: i32) -> Vec<String> {
    let Ok(file) = File::open(format!("/proc/{pid}/cmdline")) else {
        return Vec::new();
    };
    let mut bytes = Vec::new();
    let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, 4096), &mut bytes);
    bytes
        .split(|&b| b == 0)
        .filter(|a| !a.is_empty())
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect()
}

impl PidFd {
    /// Opens the process that now has this pid.
    pub fn open(pid: i32) -> Result<Self> {
        let raw = Some(pid)
            .filter(|&pid| pid > 0)
            .and_then(Pid::from_raw)
            .ok_or_else(|| Error::new(format!("{pid} is no process id")))?;
        let fd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
            .context(|| format!("cannot open process {pid}"))?;
        Ok(Self { fd, pid })
    }

    /// The pid this was opened with.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal; `false` if the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e).context(|| format!("cannot signal process {}", self.pid)),
        }
    }

    /// Waits for the process to end; whether it did within the time.
    pub fn wait(&self, at_most: Duration) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: at_most.as_secs() as i64,
            tv_nsec: at_most.subsec_nanos().into(),
        };
        matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1..))
    }

    /// Ends the process: SIGTERM, then SIGKILL after `grace`.
    pub fn terminate(&self, grace: Duration) -> Result<()> {
        if self.signal(Signal::TERM)? && !self.wait(grace) && self.signal(Signal::KILL)? {
            self.wait(grace);
        }
        Ok(())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A process of ours that outlives us: own session, clean signals, no stray descriptors.
#[derive(Debug)]
pub struct Detached<'a> {
    /// Program to execute.
    pub program: &'a OsStr,
    /// Its `argv[0]`.
    pub argv0: &'a str,
    /// The other arguments.
    pub args: Vec<&'a OsStr>,
    /// Environment, complete.
    pub env: Vec<(&'a str, &'a OsStr)>,
    /// Where stdout and stderr go; nowhere without one.
    pub output: Option<File>,
    /// Descriptors it inherits, under the same numbers.
    pub inherit: Vec<RawFd>,
}

impl Detached<'_> {
    /// Starts it. Its exit status goes to whoever adopts it.
    pub fn spawn(self) -> Result<Identity> {
        let what = || format!("cannot start {}", self.program.to_string_lossy());
        let (out, err) = match self.output {
            Some(file) => {
                let copy = file.try_clone().context(what)?;
                (Stdio::from(file), Stdio::from(copy))
            }
            None => (Stdio::null(), Stdio::null()),
        };
        let mut command = Command::new(self.program);
        command
            .arg0(self.argv0)
            .args(&self.args)
            .env_clear()
            .envs(self.env)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        let inherit = self.inherit;
        // SAFETY: between fork and exec the closure makes only async-signal-safe system calls and
        // does not allocate; `inherit` was allocated before the fork.
        unsafe {
            command.pre_exec(move || prepare_detached(&inherit));
        }
        let child = command.spawn().context(what)?;
        let pid = child.id() as i32;
        // Our own child cannot be reaped by anybody else, so its pid is its identity even if it
        // has ended already.
        let start = stat(pid).map_or(0, |s| s.start);
        Ok(Identity { pid, start })
    }
}

/// In the child: leave the session, unblock and reset all signals, close what is not wanted.
fn prepare_detached(inherit: &[RawFd]) -> std::io::Result<()> {
    let _ = rustix::process::setsid();
    // crun runs hooks with every signal blocked, and masks survive exec: a daemon that inherits
    // that never sees SIGTERM.
    let none = nix::sys::signal::SigSet::empty();
    nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&none), None)?;
    for n in 1..32 {
        // SAFETY: resetting a disposition to the default is async-signal-safe; errors (SIGKILL,
        // SIGSTOP) change nothing.
        unsafe { libc::signal(n, libc::SIG_DFL) };
    }
    // SAFETY: close_range(2) with CLOEXEC only marks descriptors; nothing in use is closed.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if rc != 0 {
        return Err(std::io::Error::last_os_error());
    }
    for &fd in inherit {
        // SAFETY: the caller of spawn keeps these descriptors open across the fork.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_text_and_not_its_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id() as i32).unwrap();
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        assert!(identity.is_alive());
        let fd = identity.open().unwrap();
        let impostor = Identity {
            start: identity.start + 1,
            ..identity
        };
        assert!(impostor.open().is_none());
        fd.terminate(Duration::from_secs(5)).unwrap();
        assert!(!identity.is_alive(), "a zombie is not alive");
        child.wait().unwrap();
        assert!(identity.open().is_none());
        assert!(!fd.signal(Signal::TERM).unwrap());
    }

    #[test]
    fn nonsense_is_no_identity() {
        for bad in ["", "1", "0 5", "-1 5", "x y", "1 2 3", "99999999999 1"] {
            assert_eq!(Identity::parse(bad), None, "{bad:?}");
        }
        assert!(PidFd::open(0).is_err());
        assert!(PidFd::open(-1).is_err());
    }

    #[test]
    fn the_parent_is_read_from_proc() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(parent(child.id() as i32), Some(std::process::id() as i32));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(parent(child.id() as i32), None);
    }

    #[test]
    fn a_detached_process_has_a_clean_slate() {
        let out = std::env::temp_dir().join(format!("shield-detached-{}", std::process::id()));
        let file = File::create(&out).unwrap();
        let stray = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
        let identity = Detached {
            program: OsStr::new("/bin/sh"),
            argv0: "sh",
            args: vec![
                OsStr::new("-c"),
                OsStr::new("while read k v; do [ $k != SigBlk: ] || echo $k $v; done </proc/$$/status; ls /proc/$$/fd | wc -w; env | grep -v -e PWD -e SHLVL -e _= | wc -l"),
            ],
            env: vec![],
            output: Some(file),
            inherit: vec![],
        }
        .spawn()
        .unwrap();
        let fd = PidFd::open(identity.pid).unwrap();
        assert!(fd.wait(Duration::from_secs(5)));
        let said = std::fs::read_to_string(&out).unwrap();
        let lines: Vec<_> = said.lines().map(str::trim).collect();
        // Read by the shell itself: dash blocks every signal while it starts a command.
        assert_eq!(lines[0], "SigBlk: 0000000000000000");
        assert!(
            lines[1].parse::<u32>().unwrap() <= 4,
            "stray descriptors: {said}"
        );
        assert_eq!(lines[2], "0", "environment: {said}");
        std::fs::remove_file(&out).unwrap();
    }
}
