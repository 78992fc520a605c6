//! Where the reader's events go: the hub's socket, or standard output.
//!
//! The hub may be missing, slow, or replaced by a new one. Events wait in [`Destinations`]; here is
//! only the line being written and which events of it have arrived. A hub that is not there costs
//! no wake-up: the directory where its socket will appear is watched.

use crate::error::{Error, Result};
use crate::hub::{self, Paths};
use crate::json::Object;
use crate::watch::destinations::{Destination, Destinations, Ticket};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of lines made ahead of what the hub took.
const AHEAD: usize = 16 * 1024;
/// Standard output is shared with others and stays blocking; a pipe that polls writable takes this
/// much (PIPE_BUF, pipe(7)).
const STDOUT_CHUNK: usize = 4096;
/// First and longest pause between attempts to connect, milliseconds.
const PAUSE: (u64, u64) = (10, 5000);
/// A connection that held this long was a good one, milliseconds.
const STABLE: u64 = 1000;

/// Where events go.
#[derive(Debug)]
pub enum Target {
    /// The hub's socket.
    Hub(Paths),
    /// Standard output.
    Stdout,
}

#[derive(Debug)]
enum Link {
    Socket(OwnedFd),
    Stdout,
}

/// The events' way out.
#[derive(Debug)]
pub struct Sink {
    target: Target,
    container: String,
    link: Option<Link>,
    since: u64,
    out: Vec<u8>,
    sent: usize,
    // Where in `out` each event under way ends.
    under_way: VecDeque<(usize, Ticket)>,
    appearance: Option<OwnedFd>,
    retry: Option<u64>,
    pause: u64,
}

impl Sink {
    /// A way out for the events of this container (its 12-hex id).
    pub fn new(target: Target, container: &str) -> Self {
        Self {
            target,
            container: container.to_string(),
            link: None,
            since: 0,
            out: Vec::new(),
            sent: 0,
            under_way: VecDeque::new(),
            appearance: None,
            retry: None,
            pause: PAUSE.0,
        }
    }

    /// What to wait for.
    pub fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        // Errors and hang-ups are always reported; nothing the hub might say is read.
        let wanted = if self.sent < self.out.len() {
            PollFlags::OUT
        } else {
            PollFlags::empty()
        };
        if let Some(fd) = self.fd() {
            fds.push(PollFd::from_borrowed_fd(fd, wanted));
        }
        if let Some(fd) = &self.appearance {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
    }

    /// When [`Sink::pump`] is due even if nothing happens, milliseconds.
    pub fn deadline(&self) -> Option<u64> {
        self.retry
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self.link.as_ref()? {
            Link::Socket(fd) => Some(fd.as_fd()),
            Link::Stdout => Some(rustix::stdio::stdout()),
        }
    }

    /// Connects where needed and hands on what waits, as far as it goes without waiting.
    /// Fails only when standard output is gone. `now` in milliseconds.
    pub fn pump(&mut self, table: &mut Destinations, dossier: &str, now: u64) -> Result<()> {
        if self.link.is_some() && self.has_hung_up() {
            self.disconnect(table, now, false)?;
        }
        if self.link.is_none() {
            self.connect(now);
        }
        while self.link.is_some() {
            self.fill(table, dossier);
            if self.sent == self.out.len() {
                return Ok(());
            }
            match self.write() {
                Ok(n) => self.wrote(n, table, now),
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => {
                    self.disconnect(table, now, e == Errno::CONNRESET)?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Makes lines of what waits, a little ahead of the hub.
    fn fill(&mut self, table: &mut Destinations, dossier: &str) {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        while self.out.len() < AHEAD {
            let Some((ticket, destination)) = table.next_for_hub() else {
                return;
            };
            let mut line = String::new();
            push_pending(&mut line, &self.container, destination, dossier);
            self.out.extend(line.as_bytes());
            self.under_way.push_back((self.out.len(), ticket));
        }
    }

    fn write(&self) -> Result<usize, Errno> {
        let bytes = self.out.get(self.sent..).unwrap_or_default();
        match self.link.as_ref().ok_or(Errno::NOTCONN)? {
            Link::Socket(fd) => loop {
                match rustix::net::send(fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                    Err(Errno::INTR) => {}
                    done => return done,
                }
            },
            Link::Stdout => {
                let stdout = rustix::stdio::stdout();
                let mut fds = [PollFd::from_borrowed_fd(stdout, PollFlags::OUT)];
                let ready = rustix::event::poll(&mut fds, Some(&Timespec::default()))?;
                if ready == 0 {
                    return Err(Errno::AGAIN);
                }
                rustix::io::write(stdout, &bytes[..bytes.len().min(STDOUT_CHUNK)])
            }
        }
    }

    fn wrote(&mut self, n: usize, table: &mut Destinations, now: u64) {
        self.sent += n;
        while let Some(&(end, ticket)) = self.under_way.front()
            && end <= self.sent
        {
            table.delivered(ticket, now);
            self.under_way.pop_front();
        }
    }

    fn has_hung_up(&self) -> bool {
        let Some(fd) = self.fd() else {
            return false;
        };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
        matches!(
            rustix::event::poll(&mut fds, Some(&Timespec::default())),
            Ok(1..)
        )
    }

    /// The other end is gone: what it may not have had waits again for the next one.
    fn disconnect(&mut self, table: &mut Destinations, now: u64, reset: bool) -> Result<()> {
        for (_, ticket) in self.under_way.drain(..) {
            table.returned(ticket);
        }
        self.out = Vec::new();
        self.sent = 0;
        let Some(Link::Socket(fd)) = self.link.take() else {
            return Err(Error::reader_gone());
        };
        // A hub that closes with lines unread resets us: then anything of this connection may be
        // lost, however long ago it was written. Else a new hub only lacks the current window.
        let reset = reset || rustix::net::sockopt::socket_error(&fd) == Ok(Err(Errno::CONNRESET));
        let window = now.saturating_sub(crate::watch::destinations::WINDOW);
        table.tell_again(if reset { self.since } else { window });
        if now.saturating_sub(self.since) >= STABLE {
            self.pause = PAUSE.0;
        }
        self.try_later(now);
        Ok(())
    }

    /// Tries to connect, unless it is too early for that.
    fn connect(&mut self, now: u64) {
        let early = match self.retry {
            Some(at) => now < at,
            None => self.appearance.is_some(),
        };
        if !self.drain_appearance() && early {
            return;
        }
        let paths = match &self.target {
            Target::Stdout => return self.connected(Link::Stdout, now),
            Target::Hub(paths) => paths,
        };
        // Watch first, then look: a socket that appears between is seen by one of the two.
        let watched = appearance_of(paths);
        match paths.connect() {
            Ok((fd, _)) => self.connected(Link::Socket(fd), now),
            Err(Errno::NOENT) if watched.is_some() => {
                self.appearance = watched;
                self.pause = PAUSE.0;
                self.retry = None;
            }
            // A socket that nobody listens to is a dead hub's, or a new one's between bind and
            // listen: after a while only its replacement is worth an attempt.
            Err(Errno::CONNREFUSED) if watched.is_some() && self.pause >= PAUSE.1 => {
                self.appearance = watched;
                self.pause = PAUSE.0;
                self.retry = None;
            }
            Err(_) => {
                self.appearance = watched;
                self.try_later(now);
            }
        }
    }

    fn try_later(&mut self, now: u64) {
        self.retry = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE.1);
    }

    fn connected(&mut self, link: Link, now: u64) {
        self.link = Some(link);
        self.since = now;
        self.appearance = None;
        self.retry = None;
        let mut line = String::new();
        push_started(&mut line, &self.container);
        self.out = line.into_bytes();
        self.sent = 0;
    }

    /// Whether something happened where the socket will appear.
    fn drain_appearance(&mut self) -> bool {
        let mut seen = false;
        if let Some(fd) = &self.appearance {
            let mut buffer = [0u8; 4096];
            while let Ok(1..) = rustix::io::read(fd, &mut buffer) {
                seen = true;
            }
        }
        seen
    }

    /// Sends what waits and the farewell, for at most `patience`.
    pub fn finish(
        &mut self,
        table: &mut Destinations,
        dossier: &str,
        reason: &str,
        now: u64,
        patience: Duration,
    ) {
        let deadline = Instant::now() + patience;
        self.retry = None;
        let mut said = false;
        while self.pump(table, dossier, now).is_ok() && self.link.is_some() {
            if self.sent == self.out.len() {
                if said {
                    return;
                }
                said = true;
                let mut line = String::new();
                push_exited(&mut line, &self.container, reason);
                self.out = line.into_bytes();
                self.sent = 0;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(fd) = self.fd() else { return };
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            if left.is_zero() || matches!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(0)) {
                return;
            }
        }
    }
}

/// Watches the nearest existing directory above each path for what appears in it.
fn appearance_of(paths: &Paths) -> Option<OwnedFd> {
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    // A watch whose directory is removed says so, too.
    let flags =
        WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    for path in paths.all() {
        path.ancestors()
            .skip(1)
            .find(|dir: &&Path| inotify::add_watch(&fd, *dir, flags).is_ok())?;
    }
    Some(fd)
}

fn push_started(out: &mut String, container: &str) {
    Object::open(out)
        .plain("type", "container_started")
        .text("container", container)
        .close();
    out.push('\n');
}

fn push_exited(out: &mut String, container: &str, reason: &str) {
    Object::open(out)
        .plain("type", "container_exited")
        .text("container", container)
        .text("reason", reason)
        .close();
    out.push('\n');
}

fn push_pending(out: &mut String, container: &str, event: &Destination, dossier: &str) {
    debug_assert!(dossier.len() < hub::MAX_LINE / 2 + 16);
    Object::open(out)
        .plain("type", "pending")
        .text("container", container)
        .text("id", &format!("{container}:{}", event.number))
        .plain("dest", event.packet.dest)
        .number("port", event.packet.port.into())
        .number("proto", event.packet.proto.into())
        .text("domain", event.domain.as_deref().unwrap_or(""))
        .raw("dossier", dossier)
        .plain("ts", crate::clock::rfc3339(event.time))
        .close();
    out.push('\n');
}
