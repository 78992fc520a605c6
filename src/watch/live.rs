//! `watch`: what happens to one container, from every source its tier has, until a signal.

use crate::bundle::Bundle;
use crate::contract::file;
use crate::error::{Error, Result};
use crate::watch::event::{Event, Source};
use crate::watch::follow::{Follower, From};
use crate::watch::packets::Packets;
use crate::watch::queries::Queries;
use crate::watch::view::{self, Filter};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Most events of the past that are sorted and shown.
const HISTORY: usize = 100_000;
/// Bytes of a log read in one go.
const BUDGET: usize = 256 * 1024;
/// A pipe that polls writable takes this much (PIPE_BUF).
const CHUNK: usize = 4096;
/// How often to look where the bundle cannot be watched.
const FALLBACK: Duration = Duration::from_millis(250);

/// What to show, and how.
#[derive(Debug, Default)]
pub struct Options {
    /// JSON lines even on a terminal.
    pub json: bool,
    /// Past events, too, from this time on (seconds since 1970).
    pub since: Option<i64>,
    /// Which events.
    pub filter: Filter,
}

/// Shows events until SIGINT or SIGTERM, or until nobody reads them any more.
pub fn run(bundle: &Bundle, container: &str, options: &Options) -> Result<()> {
    let signals = signals()?;
    let changes = watch_dir(bundle);
    let history = options.since.is_some();
    let audit_from = if history { From::Start } else { From::End };
    let mut watch = Watch {
        bundle,
        container,
        options,
        rows: !options.json && rustix::termios::isatty(rustix::stdio::stdout()),
        audit: Follower::new(bundle.dir(), file::AUDIT_LOG, audit_from)?,
        queries: Queries::new(bundle.dir(), container, history)?,
        packets: Packets::default(),
        out: Vec::new(),
        sent: 0,
    };
    if let Some(since) = options.since {
        watch.past(since)?;
    }
    watch.serve(&signals, changes.as_ref())
}

/// SIGINT, SIGTERM and SIGHUP end `watch` and `simple-clearance` in an orderly way.
pub(crate) fn signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&set, flags)?)
}

/// Watches the bundle for what is written and made in it; `None` where the kernel has no watch
/// left for us.
pub(crate) fn watch_dir(bundle: &Bundle) -> Option<OwnedFd> {
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    let dir = format!("/proc/self/fd/{}", bundle.dir().as_fd().as_raw_fd());
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, dir.as_str(), flags).ok()?;
    Some(fd)
}

/// Empties a descriptor that only says "look again".
pub(crate) fn drain(fd: &OwnedFd) {
    let mut buffer = [0u8; 4096];
    while let Ok(1..) = rustix::io::read(fd, &mut buffer) {}
}

/// Waits for a descriptor, at most until `deadline`.
pub(crate) fn wait_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> Result<()> {
    let timeout = deadline.map(|at| {
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        }
    });
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

struct Watch<'a> {
    bundle: &'a Bundle,
    container: &'a str,
    options: &'a Options,
    rows: bool,
    audit: Follower,
    queries: Queries,
    packets: Packets,
    out: Vec<u8>,
    sent: usize,
}

impl Watch<'_> {
    /// Shows the past from `since` on, in time order.
    fn past(&mut self, since: i64) -> Result<()> {
        let mut events: VecDeque<Event> = VecDeque::new();
        loop {
            let mut round = Vec::new();
            let more = self.logs(&mut round)?;
            for event in round {
                if event.time >= since && self.options.filter.passes(&event) {
                    events.push_back(event);
                }
                if events.len() > HISTORY {
                    events.pop_front();
                }
            }
            if !more {
                break;
            }
        }
        crate::sort::sort_by_key(events.make_contiguous(), |e| e.time);
        for event in &events {
            self.show(event);
        }
        Ok(())
    }

    /// New lines of the audit log and refused queries; whether there may be more.
    fn logs(&mut self, events: &mut Vec<Event>) -> Result<bool> {
        let container = self.container;
        let audit = self.audit.read(self.bundle.dir(), BUDGET, |line| {
            let parsed = std::str::from_utf8(line).ok().and_then(Event::parse);
            if let Some(mut event) = parsed {
                event.source = Source::Audit.word().into();
                if event.container.is_empty() {
                    event.container = container.into();
                }
                events.push(event);
            }
        })?;
        let dns = self.queries.read(self.bundle, |event| events.push(event))?;
        Ok(audit || dns)
    }

    fn show(&mut self, event: &Event) {
        let mut line = String::new();
        if self.rows {
            let colour = std::env::var_os("NO_COLOR").is_none();
            view::push_row(&mut line, event, colour);
        } else {
            event.push_line(&mut line);
        }
        self.out.extend(line.as_bytes());
    }

    /// New packets' events; what is no event (a loss) is shown at once.
    fn packets(&mut self, events: &mut Vec<Event>) -> bool {
        let rows = self.rows;
        let out = &mut self.out;
        self.packets.read(|line| match Event::parse(line) {
            Some(event) => events.push(event),
            None if rows => out.extend(format!("-- {}\n", crate::sanitize::text(line)).as_bytes()),
            None => out.extend(format!("{}\n", crate::sanitize::line(line)).as_bytes()),
        })
    }

    fn serve(&mut self, signals: &SignalFd, changes: Option<&OwnedFd>) -> Result<()> {
        loop {
            if matches!(signals.read_signal(), Ok(Some(_))) {
                return Ok(());
            }
            let mut more = false;
            // What is read has to be written first: a reader of ours that stops is waited for.
            if self.out.is_empty() {
                if let Some(changes) = changes {
                    drain(changes);
                }
                self.packets.connect(self.bundle, self.container)?;
                let mut events = Vec::new();
                self.packets(&mut events);
                more = self.logs(&mut events)?;
                events.retain(|e| self.options.filter.passes(e));
                crate::sort::sort_by_key(&mut events, |e| e.time);
                for event in &events {
                    self.show(event);
                }
            }
            if self.write()? && more {
                continue;
            }
            let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
            let stdout = rustix::stdio::stdout();
            let mut deadline = None;
            if self.out.is_empty() {
                fds.push(PollFd::from_borrowed_fd(stdout, PollFlags::empty()));
                self.packets.poll_fds(&mut fds);
                deadline = self.packets.deadline();
                match changes {
                    Some(changes) => fds.push(PollFd::new(changes, PollFlags::IN)),
                    None => deadline = Some(Instant::now() + FALLBACK),
                }
            } else {
                fds.push(PollFd::from_borrowed_fd(stdout, PollFlags::OUT));
            }
            wait_until(&mut fds, deadline)?;
        }
    }

    /// Writes what waits as far as it goes; whether all of it went.
    fn write(&mut self) -> Result<bool> {
        let stdout = rustix::stdio::stdout();
        loop {
            let mut fds = [PollFd::from_borrowed_fd(stdout, PollFlags::OUT)];
            let ready = rustix::event::poll(&mut fds, Some(&Timespec::default()));
            if fds[0].revents().contains(PollFlags::ERR) {
                return Err(Error::reader_gone());
            }
            let waiting = self.out.get(self.sent..).unwrap_or_default();
            if waiting.is_empty() {
                self.out.clear();
                self.sent = 0;
                return Ok(true);
            }
            if !matches!(ready, Ok(1..)) {
                return Ok(false);
            }
            match rustix::io::write(stdout, &waiting[..waiting.len().min(CHUNK)]) {
                Ok(n) => self.sent += n,
                Err(Errno::INTR | Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE) => return Err(Error::reader_gone()),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
