//! The reader's other listeners: `watch` and `simple-clearance`, on a socket in the bundle.
//!
//! The kernel gives one listener per group and namespace; the reader is it, and passes on every
//! event. A listener that reads too slowly would have to be waited for or remembered for: it is
//! told so and dropped instead, and may connect again.

use crate::clock;
use crate::contract::file;
use crate::error::Result;
use crate::files::Dir;
use crate::unix;
use crate::watch::event;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::OwnedFd;

/// Most listeners at once.
pub const MAX_EARS: usize = 8;
/// Bytes kept for a listener beyond what the kernel keeps.
const BACKLOG: usize = 64 * 1024;
/// How long a dropped listener may take to read why, milliseconds.
const FAREWELL: u64 = 2000;

#[derive(Debug)]
struct Ear {
    fd: OwnedFd,
    out: Vec<u8>,
    missed: u64,
    // When it is closed, read or not, once it was found too slow.
    closing: Option<u64>,
    gone: bool,
}

/// The listening socket and those who listen.
#[derive(Debug)]
pub struct Ears {
    listener: OwnedFd,
    ears: Vec<Ear>,
}

impl Ears {
    /// Listens in the bundle, in place of whoever did before.
    pub fn listen(dir: &Dir) -> Result<Self> {
        Ok(Self {
            listener: unix::listen_in(dir, file::EVENTS_SOCKET, MAX_EARS as i32)?,
            ears: Vec::new(),
        })
    }

    /// Whether nobody listens: then nothing needs to be written.
    pub fn is_empty(&self) -> bool {
        self.ears.is_empty()
    }

    /// What to wait for.
    pub fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        for ear in &self.ears {
            let wanted = if ear.out.is_empty() {
                PollFlags::RDHUP
            } else {
                PollFlags::RDHUP | PollFlags::OUT
            };
            fds.push(PollFd::new(&ear.fd, wanted));
        }
    }

    /// When [`Ears::serve`] is due even if nothing happens, milliseconds.
    pub fn deadline(&self) -> Option<u64> {
        self.ears.iter().filter_map(|e| e.closing).min()
    }

    /// Takes in new listeners, sends what waits, lets go of those who left. `now` in milliseconds.
    pub fn serve(&mut self, container: &str, now: u64) {
        for ear in &mut self.ears {
            ear.send();
            ear.gone |= ear.has_left();
            if let Some(deadline) = ear.closing {
                ear.gone |= ear.out.is_empty() || now >= deadline;
            }
        }
        self.ears.retain(|ear| !ear.gone);
        while let Some(fd) = unix::accept(&self.listener) {
            if !unix::peer_is_trusted(&fd) {
                continue;
            }
            if self.ears.len() < MAX_EARS {
                self.ears.push(Ear::new(fd));
            } else {
                let mut line = String::new();
                event::push_lost_line(&mut line, clock::now(), container, 0, "too many listeners");
                let _ = rustix::net::send(&fd, line.as_bytes(), SendFlags::NOSIGNAL);
            }
        }
    }

    /// Passes whole lines on to everybody. `count` is how many events they hold.
    pub fn tell(&mut self, lines: &str, count: u64, container: &str, now: u64) {
        for ear in &mut self.ears {
            ear.tell(lines.as_bytes(), count, container, now);
        }
        self.ears.retain(|ear| !ear.gone);
    }
}

impl Ear {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            out: Vec::new(),
            missed: 0,
            closing: None,
            gone: false,
        }
    }

    fn tell(&mut self, lines: &[u8], count: u64, container: &str, now: u64) {
        if self.closing.is_some() {
            return;
        }
        self.send();
        let mut lines = lines;
        if self.out.is_empty() {
            match rustix::net::send(&self.fd, lines, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(n) => lines = lines.get(n..).unwrap_or_default(),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
        if self.out.len() + lines.len() <= BACKLOG {
            self.out.extend(lines);
            return;
        }
        // Whole lines only: what stands in `out` or was begun on the wire is finished first.
        self.missed += count;
        if let Some(end) = lines.iter().position(|&b| b == b'\n')
            && self.out.is_empty()
        {
            self.out.extend(&lines[..=end]);
        }
        let mut line = String::new();
        let reason = "listener too slow, dropped: connect again";
        event::push_lost_line(&mut line, clock::now(), container, self.missed, reason);
        self.out.extend(line.as_bytes());
        self.closing = Some(now + FAREWELL);
    }

    fn send(&mut self) {
        while !self.out.is_empty() && !self.gone {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.fd, &self.out, flags) {
                Ok(n) if n == self.out.len() => self.out = Vec::new(),
                Ok(n) => drop(self.out.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.gone = true,
            }
        }
    }

    fn has_left(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::RDHUP)];
        let zero = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&zero)), Ok(1..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::net::UnixStream;

    fn setup(name: &str) -> (std::path::PathBuf, Dir, Ears) {
        let path = std::env::temp_dir().join(format!("shield-ears-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let dir = Dir::create(&path).unwrap();
        let ears = Ears::listen(&dir).unwrap();
        (path, dir, ears)
    }

    fn connect(dir: &Dir) -> UnixStream {
        let stream = UnixStream::from(unix::connect_in(dir, file::EVENTS_SOCKET).unwrap());
        stream.set_nonblocking(false).unwrap();
        stream
    }

    #[test]
    fn everybody_hears_every_line() {
        let (path, dir, mut ears) = setup("all");
        let (a, b) = (connect(&dir), connect(&dir));
        ears.serve("box", 0);
        ears.tell("one\ntwo\n", 2, "box", 0);
        for stream in [&a, &b] {
            let lines: Vec<_> = BufReader::new(stream)
                .lines()
                .take(2)
                .map(Result::unwrap)
                .collect();
            assert_eq!(lines, ["one", "two"]);
        }
        drop(a);
        ears.serve("box", 0);
        assert_eq!(ears.ears.len(), 1);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_slow_listener_is_told_and_dropped_and_lines_stay_whole() {
        let (path, dir, mut ears) = setup("slow");
        let mut slow = connect(&dir);
        ears.serve("box", 0);
        let line = format!("{}\n", "x".repeat(999));
        let batch = line.repeat(64);
        for _ in 0..100 {
            ears.tell(&batch, 64, "box", 0);
        }
        assert!(ears.deadline().is_some());
        let mut text = String::new();
        let mut buffer = [0; 8192];
        while !ears.is_empty() {
            let n = slow.read(&mut buffer).unwrap();
            text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
            ears.serve("box", 1);
        }
        slow.read_to_string(&mut text).unwrap();
        let (rest, last) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(rest.lines().all(|l| l.len() == 999), "a line was cut");
        assert!(last.starts_with("{\"type\":\"lost\","), "{last}");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn one_that_never_reads_is_let_go_and_one_too_many_is_told() {
        let (path, dir, mut ears) = setup("never");
        let silent = connect(&dir);
        ears.serve("box", 0);
        for _ in 0..100 {
            ears.tell(&"x\n".repeat(20_000), 20_000, "box", 0);
        }
        ears.serve("box", FAREWELL);
        assert!(ears.is_empty());
        drop(silent);
        let many: Vec<_> = (0..MAX_EARS)
            .map(|_| {
                let one = connect(&dir);
                ears.serve("box", 0);
                one
            })
            .collect();
        let mut refused = connect(&dir);
        ears.serve("box", 0);
        let mut text = String::new();
        refused.read_to_string(&mut text).unwrap();
        assert!(text.contains("too many listeners"));
        assert_eq!(many.len(), MAX_EARS);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
