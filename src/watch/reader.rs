//! The event reader of one container: owns the NFLOG group of its network namespace.
//!
//! One poll loop; nothing in it waits, and nothing wakes it when nothing happens.

use crate::contract::{NFLOG_GROUP, annotation, file};
use crate::error::{Error, Kind, Result};
use crate::files::Dir;
use crate::hub::Paths;
use crate::netns;
use crate::nflog::socket::{self, BindError, Nflog, Received};
use crate::output;
use crate::process::{Identity, PidFd};
use crate::watch::desk::Desk;
use crate::watch::dossier::{self, Dossier};
use crate::watch::ears::Ears;
use crate::watch::names::Names;
use crate::watch::sink::{Sink, Target};
use miniserde::json::Value;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Datagrams read between two looks at everything else.
const DATAGRAMS: usize = 32;
/// How long the last events and the farewell may take.
const FAREWELL: Duration = Duration::from_millis(400);
/// How long after the container's end poststop may still come and say so itself, milliseconds.
const ORPHANED: u64 = 5000;
/// First and longest pause while another process owns the group, milliseconds.
const BUSY: (u64, u64) = (10, 1000);

/// Where the reader's events go, beside the listeners on its own socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// To the hub's socket, and to the audit log.
    Socket,
    /// To standard output, and to the audit log.
    Json,
    /// To listeners only, until standard input is closed.
    Nowhere,
}

/// What the reader is told to do.
#[derive(Debug)]
pub struct Options {
    /// The bundle.
    pub state_dir: PathBuf,
    /// The container's name.
    pub container: String,
    /// Where events go.
    pub emit: Emit,
    /// Enter the container's network namespace first, from the operator's shell.
    pub join: bool,
    /// The container's annotations, a JSON object.
    pub annotations: Option<String>,
    /// The container's id; else the bundle's `container.id`.
    pub container_id: Option<String>,
    /// The hub's socket, where it is not the usual one.
    pub hub_socket: Option<PathBuf>,
    /// The container's init process; else the bundle's `container.init`.
    pub init: Option<Identity>,
}

/// The container's init process.
#[derive(Debug)]
enum Init {
    Unknown,
    Alive(PidFd),
    Dead,
}

/// Why the reader ends.
enum End {
    Told,
    ContainerGone,
}

impl End {
    fn reason(&self) -> &'static str {
        match self {
            Self::Told => "poststop",
            Self::ContainerGone => "eof",
        }
    }
}

/// Runs until SIGTERM or the container's end. Everything it needs beyond the NFLOG group is
/// best effort.
pub fn run(options: Options) -> Result<()> {
    let signals = block_signals()?;
    let dir = Dir::open(&options.state_dir)?;
    let annotations = match &options.annotations {
        Some(text) => miniserde::json::from_str(text)
            .map_err(|_| Error::usage("--annotations is not a JSON object"))?,
        None => Value::Null,
    };
    let id = container_id(&options, &dir);
    let init = open_init(&options, &dir);
    let target = match (options.emit, options.hub_socket) {
        (Emit::Json, _) => Some(Target::Stdout),
        (Emit::Socket, Some(path)) => Some(Target::Hub(Paths::explicit(path))),
        (Emit::Socket, None) => Some(Target::Hub(Paths::of(&id))),
        (Emit::Nowhere, _) => None,
    };
    let dossier = Dossier::new(&dir, dossier::fields_of(&annotations));
    let names = Names::new(&dir)?;
    if options.join {
        match &init {
            Init::Alive(process) => drop(netns::enter_as_operator(process)?),
            _ => return Err(Error::new("the container does not run")),
        }
    }
    let audit = target.is_some() && !audit_disabled(&annotations);
    let hub = target.is_some();
    let mut reader = Reader {
        signals,
        init,
        sink: target.map(|target| Sink::new(target, &id)),
        desk: Desk::new(dir, options.container, hub, audit, dossier, names),
        clock: Instant::now(),
        orphaned: None,
    };
    let Some(nflog) = reader.bind()? else {
        return Ok(());
    };
    match Ears::listen(&reader.desk.dir) {
        Ok(ears) => reader.desk.ears = Some(ears),
        Err(e) => output::warn(&format!("Warning: {e}; watch will not see packets")),
    }
    reader.serve(nflog)
}

/// SIGTERM and SIGINT end us in an orderly way; they are read from a descriptor.
fn block_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// The 12 hex digits events name the container by; its name where no id is known.
fn container_id(options: &Options, dir: &Dir) -> String {
    let recorded = || dir.read_text(file::CONTAINER_ID, 256).ok().flatten();
    let id = options.container_id.clone().or_else(recorded);
    let id: String = id.unwrap_or_default().trim().chars().take(12).collect();
    if !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        id
    } else {
        // It becomes a path's component: no separators.
        crate::sanitize::text(&options.container).replace('/', "_")
    }
}

fn open_init(options: &Options, dir: &Dir) -> Init {
    let recorded = || {
        let text = dir.read_text(file::CONTAINER_INIT, 64).ok().flatten()?;
        Identity::parse(&text)
    };
    match options.init.or_else(recorded) {
        None => Init::Unknown,
        Some(identity) => identity.open().map_or(Init::Dead, Init::Alive),
    }
}

fn audit_disabled(annotations: &Value) -> bool {
    let Value::Object(object) = annotations else {
        return false;
    };
    matches!(object.get(annotation::AUDIT_ENABLED), Some(Value::String(s)) if s == "false")
}

struct Reader {
    signals: SignalFd,
    init: Init,
    // None: for listeners only, and only while our standard input is open.
    sink: Option<Sink>,
    desk: Desk,
    clock: Instant,
    // Since when the container is gone.
    orphaned: Option<u64>,
}

impl Reader {
    /// Milliseconds since we began.
    fn now(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64
    }

    /// Binds the group, waiting for another owner to let go of it; `None` if we are to end before.
    fn bind(&mut self) -> Result<Option<Nflog>> {
        let mut pause = BUSY.0;
        loop {
            match Nflog::bind(NFLOG_GROUP) {
                Ok(nflog) => return Ok(Some(nflog)),
                Err(BindError::Failed(e)) => return Err(e),
                Err(BindError::Busy) => {
                    if pause == BUSY.0 {
                        output::warn("Warning: another process reads these events; waiting for it");
                    }
                    let (until, mut fds) = (self.now() + pause, Vec::new());
                    self.control_fds(&mut fds);
                    wait(&mut fds, Some(pause))?;
                    if self.ending(until).is_some() {
                        return Ok(None);
                    }
                    pause = (pause * 2).min(BUSY.1);
                }
            }
        }
    }

    fn control_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.push(PollFd::from_borrowed_fd(
            self.signals.as_fd(),
            PollFlags::IN,
        ));
        if let Init::Alive(init) = &self.init {
            fds.push(PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN));
        }
        if self.sink.is_none() {
            let stdin = rustix::stdio::stdin();
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
    }

    /// Whether it is time to end, and why.
    fn ending(&mut self, now: u64) -> Option<End> {
        if matches!(self.signals.read_signal(), Ok(Some(_))) {
            return Some(End::Told);
        }
        if self.sink.is_none() && has_hung_up(rustix::stdio::stdin()) {
            return Some(End::Told);
        }
        let dead = match &self.init {
            Init::Alive(init) => init.wait(Duration::ZERO),
            Init::Dead => true,
            Init::Unknown => false,
        };
        if dead {
            self.init = Init::Dead;
            let since = *self.orphaned.get_or_insert(now);
            // Where no hook started us, no poststop comes.
            if now.saturating_sub(since) >= ORPHANED || self.sink.is_none() {
                return Some(End::ContainerGone);
            }
        }
        None
    }

    fn serve(&mut self, mut nflog: Nflog) -> Result<()> {
        let mut buffer = vec![0u8; socket::BUFFER];
        let served = self.serve_until_end(&mut nflog, &mut buffer);
        let end = match served {
            Ok(end) => end,
            // Nobody reads our standard output any more: that is an end like any other.
            Err(e) if e.kind() == Kind::ReaderGone => End::Told,
            Err(e) => return Err(e),
        };
        self.read_packets(&mut nflog, &mut buffer)?;
        let now = self.now();
        self.desk.report(now);
        if let Some(sink) = &mut self.sink {
            let dossier = self.desk.dossier.json();
            let table = &mut self.desk.table;
            sink.finish(table, dossier, end.reason(), now, FAREWELL);
        }
        // Only while we own the group: the next reader has made its own.
        let _ = self.desk.dir.remove(file::EVENTS_SOCKET);
        drop(nflog);
        Ok(())
    }

    fn serve_until_end(&mut self, nflog: &mut Nflog, buffer: &mut [u8]) -> Result<End> {
        loop {
            let now = self.now();
            if let Some(end) = self.ending(now) {
                return Ok(end);
            }
            let more = self.read_packets(nflog, buffer)?;
            let now = self.now();
            if let Some(ears) = &mut self.desk.ears {
                ears.serve(&self.desk.container, now);
            }
            if let Some(sink) = &mut self.sink {
                sink.pump(&mut self.desk.table, self.desk.dossier.json(), now)?;
            }
            self.desk.report_if_due(now);
            if more {
                continue;
            }
            let mut fds = Vec::with_capacity(16);
            fds.push(PollFd::from_borrowed_fd(nflog.as_fd(), PollFlags::IN));
            self.control_fds(&mut fds);
            if let Some(sink) = &self.sink {
                sink.poll_fds(&mut fds);
            }
            if let Some(ears) = &self.desk.ears {
                ears.poll_fds(&mut fds);
            }
            let now = self.now();
            wait(&mut fds, self.deadline().map(|at| at.saturating_sub(now)))?;
        }
    }

    /// When something is due even if nothing happens.
    fn deadline(&self) -> Option<u64> {
        [
            self.sink.as_ref().and_then(Sink::deadline),
            self.desk.deadline(),
            self.desk.ears.as_ref().and_then(Ears::deadline),
            self.orphaned.map(|since| since + ORPHANED),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Reads what is queued, up to a bound; whether there may be more.
    fn read_packets(&mut self, nflog: &mut Nflog, buffer: &mut [u8]) -> Result<bool> {
        let now = self.now();
        let desk = &mut self.desk;
        let (mut overruns, mut begun, mut more) = (0, false, true);
        for _ in 0..DATAGRAMS {
            let received = nflog.receive(buffer, |entry| {
                if !begun {
                    desk.begin();
                    begun = true;
                }
                desk.packet(entry, now);
            })?;
            match received {
                Received::Datagram => {}
                Received::Overrun => overruns += 1,
                Received::Empty => {
                    more = false;
                    break;
                }
            }
        }
        let lost = nflog.take_lost();
        if begun {
            desk.end(now);
        }
        if lost + overruns > 0 {
            desk.lost(lost, overruns, now);
        }
        Ok(more)
    }
}

/// Whether the other end of a pipe is closed (nobody writes into this one).
fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    matches!(
        rustix::event::poll(&mut fds, Some(&Timespec::default())),
        Ok(1..)
    )
}

/// Waits for a descriptor or for so many milliseconds.
pub(super) fn wait(fds: &mut [PollFd<'_>], milliseconds: Option<u64>) -> Result<()> {
    // One more: a deadline is due when its millisecond has passed.
    let timeout = milliseconds.map(|ms| ms + 1).map(|ms| Timespec {
        tv_sec: (ms / 1000) as i64,
        tv_nsec: (ms % 1000 * 1_000_000) as i64,
    });
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
