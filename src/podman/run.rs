//! Runs podman: no shell, bounded output, a deadline.

use crate::error::{Context, Error, Result};
use crate::sanitize;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest that one question may take. `podman info` on a cold, busy machine needs seconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// Largest answer read, bytes: `podman inspect` of one container is about 12 KiB.
const MAX_OUTPUT: usize = 4 << 20;

/// The podman to ask.
#[derive(Debug, Clone)]
pub struct Podman {
    program: OsString,
    deadline: Duration,
}

impl Default for Podman {
    fn default() -> Self {
        Self {
            program: "podman".into(),
            deadline: DEADLINE,
        }
    }
}

/// What a run left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it printed.
    pub stdout: Vec<u8>,
    /// Everything it complained.
    pub stderr: Vec<u8>,
}

impl Podman {
    /// Another program in podman's place.
    pub fn at(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().into(),
            ..Self::default()
        }
    }

    /// The same with another deadline.
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Runs it to its end, whatever its exit code.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        let mut child = match Command::new(&self.program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(Error::new(format!(
                    "cannot run {}: it is not installed or not in PATH; install podman",
                    self.program.to_string_lossy()
                )));
            }
            Err(e) => {
                return Err(e).context(|| format!("cannot run {}", self.program.to_string_lossy()));
            }
        };
        let gathered = gather(&mut child, self.deadline);
        if gathered.is_err() {
            let _ = child.kill();
        }
        let status = child.wait();
        let what = || sanitize::text(&format!("podman {}", args.join(" ")));
        let (stdout, stderr) = gathered.context(what)?;
        let status = status.context(what)?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }

    /// What it prints; an exit code other than 0 is an error with its last words.
    pub fn stdout(&self, args: &[&str]) -> Result<Vec<u8>> {
        let output = self.output(args)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(output.error(args))
    }
}

impl Output {
    /// The error that a failed run amounts to: podman's own last line.
    pub fn error(&self, args: &[&str]) -> Error {
        let stderr = self.stderr.trim_ascii_end();
        let last = stderr.rsplit(|&b| b == b'\n').next().unwrap_or(stderr);
        let words = sanitize::bytes(last);
        let words = words.strip_prefix("Error: ").unwrap_or(&words);
        let command = sanitize::text(&args.join(" "));
        Error::new(match self.status.code() {
            Some(code) if words.is_empty() => format!("podman {command}: exit code {code}"),
            Some(_) => format!("podman {command}: {words}"),
            None => format!("podman {command}: killed by a signal"),
        })
    }
}

/// Reads both pipes to their ends without a thread.
fn gather(child: &mut Child, within: Duration) -> Result<(Vec<u8>, Vec<u8>)> {
    let deadline = Instant::now() + within;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while stdout.is_some() || stderr.is_some() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = Vec::with_capacity(2);
        fds.extend(stdout.iter().map(|p| PollFd::new(p, PollFlags::IN)));
        fds.extend(stderr.iter().map(|p| PollFd::new(p, PollFlags::IN)));
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => {
                return Err(Error::new(format!(
                    "no answer within {} s",
                    within.as_secs()
                )));
            }
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
            Ok(_) => {}
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        if stdout.is_some() && ready.next() == Some(true) {
            read_once(&mut stdout, &mut out)?;
        }
        if stderr.is_some() && ready.next() == Some(true) {
            read_once(&mut stderr, &mut err)?;
        }
    }
    Ok((out, err))
}

/// One read of what poll(2) announced; the pipe becomes `None` at its end.
fn read_once(pipe: &mut Option<impl Read>, into: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 8192];
    let Some(open) = pipe else { return Ok(()) };
    match open.read(&mut buffer) {
        Ok(0) => *pipe = None,
        Ok(n) if into.len() + n > MAX_OUTPUT => {
            return Err(Error::new("the answer is larger than 4 MiB: refused"));
        }
        Ok(n) => into.extend_from_slice(&buffer[..n]),
        Err(e) if e.kind() == ErrorKind::Interrupted => {}
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Result<Vec<u8>> {
        Podman::at("/bin/sh")
            .within(Duration::from_secs(5))
            .stdout(&["-c", script])
    }

    #[test]
    fn both_streams_are_read_without_deadlock() {
        let script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; \
                      echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done";
        assert_eq!(sh(script).unwrap().len(), 41 * 3000);
    }

    #[test]
    fn a_failure_gives_podmans_last_words() {
        let error = sh("echo first >&2; printf 'Error: no such\\033[1m thing\\n' >&2; exit 125");
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with(": no such [1m thing"), "{error}");
        let error = sh("exit 3").unwrap_err().to_string();
        assert!(error.ends_with("exit code 3"), "{error}");
    }

    #[test]
    fn silence_and_floods_end() {
        let slow = Podman::at("/bin/sh").within(Duration::from_millis(50));
        let before = Instant::now();
        assert!(slow.stdout(&["-c", "exec sleep 60"]).is_err());
        assert!(before.elapsed() < Duration::from_secs(10));
        let error = sh("exec yes").unwrap_err().to_string();
        assert!(error.contains("larger than 4 MiB"), "{error}");
    }

    #[test]
    fn a_missing_podman_is_a_clear_error() {
        let error = Podman::at("/nonexistent/podman")
            .stdout(&["info"])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot run /nonexistent/podman: it is not installed or not in PATH; install podman"
        );
    }
}
