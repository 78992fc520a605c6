//! A container's packet events for `watch` and `simple-clearance`: from the reader that owns the
//! group, or from one started for the purpose where none runs.
//!
//! The kernel allows one listener per group and namespace, and entering a container's namespaces
//! cannot be undone by an ordinary process. So even without a hook's reader it is a reader, in a
//! process of its own, that listens; it ends with our pipe to it.

use crate::bundle::Bundle;
use crate::contract::file;
use crate::error::{Context, Error, Result};
use crate::unix;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A longer line is dropped.
const MAX_LINE: usize = 8 * 1024;
/// Bytes taken in one go.
const CHUNK: usize = 64 * 1024;
/// Pause between attempts while a reader is on its way.
const PAUSE: Duration = Duration::from_millis(50);
/// Attempts of that kind before only a change in the bundle is waited for.
const ATTEMPTS: u32 = 40;

/// A connection to whoever reads the packets.
#[derive(Debug, Default)]
pub struct Packets {
    ear: Option<OwnedFd>,
    partial: Vec<u8>,
    helper: Option<Child>,
    retry: Option<Instant>,
    attempts: u32,
}

impl Packets {
    /// Connects where that is possible now; starts a reader where the container runs without one.
    /// Call it again when something changed in the bundle and when [`Packets::deadline`] is due.
    pub fn connect(&mut self, bundle: &Bundle, container: &str) -> Result<()> {
        if self.ear.is_some() {
            return Ok(());
        }
        match unix::connect_in(bundle.dir(), file::EVENTS_SOCKET) {
            // A reader in podman's user namespace shows its uid as ours: no further check of a
            // socket in a directory that only we can write.
            Ok(fd) => {
                self.ear = Some(fd);
                self.partial.clear();
                self.retry = None;
                self.attempts = 0;
                return Ok(());
            }
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => {}
            Err(e) => return Err(e).context(|| "cannot reach the event reader"),
        }
        self.retry = None;
        if bundle.living_init()?.is_none() {
            self.stop_helper();
            return Ok(());
        }
        if self.helper.is_none() {
            self.helper = Some(start_helper(bundle, container)?);
            self.attempts = 0;
        }
        if self.attempts < ATTEMPTS {
            self.attempts += 1;
            self.retry = Some(Instant::now() + PAUSE);
        } else {
            self.stop_helper();
        }
        Ok(())
    }

    /// What to wait for.
    pub fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        if let Some(ear) = &self.ear {
            fds.push(PollFd::from_borrowed_fd(ear.as_fd(), PollFlags::IN));
        }
    }

    /// When [`Packets::connect`] should be tried again.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// Hands whole lines to `each`, as many as are there; whether the connection still stands.
    pub fn read(&mut self, mut each: impl FnMut(&str)) -> bool {
        let Some(ear) = &self.ear else {
            return false;
        };
        let mut buffer = [0u8; 8192];
        let mut left = CHUNK;
        while left > 0 {
            match rustix::io::read(ear, &mut buffer) {
                Ok(n @ 1..) => {
                    left = left.saturating_sub(n);
                    let bytes = buffer.get(..n).unwrap_or_default();
                    feed(&mut self.partial, bytes, &mut each);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Ok(_) | Err(_) => {
                    self.ear = None;
                    self.stop_helper();
                    self.retry = Some(Instant::now() + PAUSE);
                    return false;
                }
            }
        }
        true
    }

    fn stop_helper(&mut self) {
        if let Some(mut helper) = self.helper.take() {
            // Its standard input closes with ours; it may have ended long ago.
            drop(helper.stdin.take());
            // Asked, not killed: it removes its socket.
            let pid = rustix::process::Pid::from_child(&helper);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = helper.wait();
        }
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.stop_helper();
    }
}

/// Splits bytes into lines; what does not end yet is kept.
fn feed(partial: &mut Vec<u8>, bytes: &[u8], each: &mut impl FnMut(&str)) {
    for part in bytes.split_inclusive(|&b| b == b'\n') {
        partial.extend(part);
        if !part.ends_with(b"\n") {
            continue;
        }
        if partial.len() <= MAX_LINE
            && let Ok(line) = std::str::from_utf8(partial)
        {
            each(line.trim_end_matches('\n'));
        }
        partial.clear();
    }
    if partial.len() > MAX_LINE {
        partial.truncate(MAX_LINE + 1);
    }
}

fn start_helper(bundle: &Bundle, container: &str) -> Result<Child> {
    let program = std::env::current_exe().map_err(Error::from)?;
    let mut command = Command::new(program);
    command
        .arg0("nflog-reader")
        .args(["--emit=none", "--join"])
        .arg(bundle.path())
        .arg(container.trim_start_matches('-'))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // Ctrl-C is ours to act on; the helper ends with its standard input.
        .process_group(0);
    command
        .spawn()
        .context(|| "cannot start a reader for this container's packets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_whole_however_they_are_cut() {
        let mut partial = Vec::new();
        let mut seen = Vec::new();
        let text = format!("one\n{}\ntwo\n\u{e9}\n", "x".repeat(MAX_LINE + 9));
        for byte in text.as_bytes() {
            feed(&mut partial, &[*byte], &mut |l| seen.push(l.to_string()));
        }
        assert_eq!(seen, ["one", "two", "\u{e9}"]);
        feed(&mut partial, b"three\nfo", &mut |l| {
            seen.push(l.to_string())
        });
        assert_eq!(seen[3], "three");
        assert_eq!(partial, b"fo");
    }
}
