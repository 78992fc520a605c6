//! The gate as processes: a supervisor that owns the sockets, and a worker that serves them.
//!
//! The worker parses what hostile clients and upstreams send; if it dies, the supervisor starts
//! another within milliseconds. The sockets stay open meanwhile: queries wait in them, and the
//! workload cannot take over the port. While no worker lives, nothing is opened.

use super::confine;
use super::door::{Door, Opener};
use super::journal::Journal;
use super::report::Report;
use super::server::{Gate, Sockets};
use super::settings::Settings;
use crate::contract::{self, file};
use crate::dns::keeper::{self, Keeper};
use crate::dns::ready;
use crate::error::{Context, Error, Result};
use crate::files::Dir;
use crate::process::{Detached, Identity, PidFd};
use crate::unix;
use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Signal, WaitOptions};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How long the gate may take to serve after it was started.
const START: Duration = Duration::from_secs(5);
/// How long it may take to end or to reload.
const PATIENCE: Duration = Duration::from_secs(4);
/// A worker that died younger than this is not replaced before [`PAUSE`] has passed.
const YOUNG: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);
/// Size of `gate.log` beyond which workers no longer write to it, octets.
const MAX_LOG: u64 = 64 << 10;
/// Datagrams wait in the kernel while a worker is replaced, octets of them.
const RECEIVE_BUFFER: usize = 1 << 20;

impl Sockets {
    /// Binds the address for UDP and TCP, and the control socket in the bundle.
    ///
    /// # Errors
    /// The address is taken, or not ours.
    pub fn bind(dir: &Dir, listen: SocketAddr) -> Result<Self> {
        let what = || format!("cannot listen on {listen}");
        let family = match listen {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = |kind| rustix::net::socket_with(family, kind, flags, None).context(what);
        let udp = socket(SocketType::DGRAM)?;
        let _ = sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER));
        rustix::net::bind(&udp, &listen).context(what)?;
        let tcp = socket(SocketType::STREAM)?;
        // For the connections of an earlier gate that linger; two listeners it does not allow.
        sockopt::set_socket_reuseaddr(&tcp, true).context(what)?;
        rustix::net::bind(&tcp, &listen).context(what)?;
        rustix::net::listen(&tcp, 64).context(what)?;
        let control = unix::listen_in(dir, file::GATE_SOCKET, 16)?;
        Ok(Self { udp, tcp, control })
    }

    fn raw(&self) -> [RawFd; 3] {
        [&self.udp, &self.tcp, &self.control].map(AsRawFd::as_raw_fd)
    }
}

/// Starts the gate of this bundle in the calling process's network namespace and waits until it
/// answers a query on `listen`. What an earlier container's gate held open is forgotten: the
/// namespace is new.
///
/// # Errors
/// The gate does not serve; its own words where it had any. It is not left running.
pub fn start(dir: &Dir, listen: SocketAddr) -> Result<Identity> {
    stop(dir)?;
    dir.remove(file::GATE_LEARNED)?;
    dir.remove(file::GATE_LOG)?;
    resume(dir, listen)
}

/// As [`start`], for the dnsmasq tier: starts dnsmasq and the process that keeps it.
///
/// # Errors
/// dnsmasq does not serve; its own words where it had any. Nothing is left running.
pub fn start_dnsmasq(dir: &Dir, listen: SocketAddr) -> Result<Identity> {
    stop(dir)?;
    dir.remove(file::GATE_LOG)?;
    launch(dir, listen, Some("--dnsmasq=keep")).context(|| "cannot start the dnsmasq tier")
}

/// As [`start`], for a gate that died while its container lives on: it must know what it held
/// open, for that is open still.
///
/// # Errors
/// As [`start`].
pub fn resume(dir: &Dir, listen: SocketAddr) -> Result<Identity> {
    launch(dir, listen, None).context(|| "cannot start the DNS gate")
}

fn launch(dir: &Dir, listen: SocketAddr, mode: Option<&str>) -> Result<Identity> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (bundle, ready) = (dir.as_fd().as_raw_fd(), write.as_raw_fd());
    let mut args = vec![
        "dns-gate".to_string(),
        format!("--bundle-fd={bundle}"),
        format!("--ready-fd={ready}"),
        format!("--listen={listen}"),
    ];
    args.extend(mode.map(str::to_string));
    let identity = Detached {
        program: OsStr::new("/proc/self/exe"),
        argv0: "terok-shield",
        args: args.iter().map(OsStr::new).collect(),
        env: Vec::new(),
        output: log(dir),
        inherit: vec![bundle, ready],
    }
    .spawn()?;
    drop(write);
    let served = wait_ready(read)
        .and_then(|()| ready::wait_for(listen, START))
        .and_then(|()| dir.write(file::GATE_PID, identity.to_string().as_bytes()));
    if let Err(error) = served {
        if let Some(process) = identity.open() {
            process.terminate(PATIENCE)?;
        }
        keeper::stop_orphan(dir)?;
        return Err(error);
    }
    Ok(identity)
}

/// Waits for the gate's word: a newline when it serves, else what is wrong.
fn wait_ready(pipe: OwnedFd) -> Result<()> {
    let deadline = Instant::now() + START;
    let mut pipe = std::fs::File::from(pipe);
    let mut said = Vec::new();
    while !said.contains(&b'\n') && said.len() < 1024 {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(Error::new("it did not say in time that it serves")),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let mut buffer = [0; 256];
        match pipe.read(&mut buffer)? {
            0 => break,
            n => said.extend_from_slice(&buffer[..n]),
        }
    }
    match said.as_slice() {
        b"\n" => Ok(()),
        [] => Err(Error::new("it ended before it served")),
        words => Err(Error::new(String::from_utf8_lossy(words).trim_end())),
    }
}

/// Stops the gate of this bundle, if it runs: by identity, never by bare pid.
///
/// # Errors
/// It cannot be signalled.
pub fn stop(dir: &Dir) -> Result<()> {
    if let Some(process) = identity(dir)?.and_then(|identity| identity.open()) {
        process.terminate(PATIENCE)?;
    }
    keeper::stop_orphan(dir)?;
    dir.remove(file::GATE_PID)?;
    dir.remove(file::GATE_SOCKET)?;
    Ok(())
}

/// The recorded supervisor, dead or alive.
fn identity(dir: &Dir) -> Result<Option<Identity>> {
    let text = dir.read_text(file::GATE_PID, 64)?;
    Ok(text.as_deref().and_then(Identity::parse))
}

/// Whether the gate's supervisor lives.
pub fn is_running(dir: &Dir) -> bool {
    matches!(identity(dir), Ok(Some(identity)) if identity.is_alive())
}

/// Has the gate read its bundle again and waits until it has: lists, posture, servers. Addresses
/// that no allowed name earns any more are closed when this returns.
///
/// # Errors
/// No gate answers, or it cannot read the bundle: then it goes on as before.
pub fn reload(dir: &Dir) -> Result<String> {
    match command(dir, "reload")? {
        reply if reply.starts_with("ok") => Ok(reply),
        reply => Err(Error::new(format!(
            "the DNS gate cannot reload: {}",
            reply.strip_prefix("error ").unwrap_or(&reply)
        ))),
    }
}

/// The gate's state as one JSON object.
///
/// # Errors
/// No gate answers.
pub fn status(dir: &Dir) -> Result<String> {
    command(dir, "status")
}

/// Opens addresses that were resolved elsewhere, under an allowed name, as the gate's own answers
/// would be. Returns after the kernel's acknowledgement.
///
/// # Errors
/// No gate answers, the name is not allowed, or the kernel refuses.
pub fn learn(dir: &Dir, name: &str, addresses: &[std::net::IpAddr]) -> Result<()> {
    use std::fmt::Write as _;
    // Each at most 40 octets: a command of this many fits the gate's buffer.
    for some in addresses.chunks(150) {
        let mut words = format!("learn {name}");
        for address in some {
            let _ = write!(words, " {address}");
        }
        let reply = command(dir, &words)?;
        if !reply.starts_with("ok") {
            return Err(Error::new(format!(
                "the DNS gate cannot open {name}: {}",
                reply.strip_prefix("error ").unwrap_or(&reply)
            )));
        }
    }
    Ok(())
}

fn command(dir: &Dir, word: &str) -> Result<String> {
    let what = || "cannot reach the DNS gate";
    let socket = unix::connect_in(dir, file::GATE_SOCKET).context(what)?;
    rustix::net::send(&socket, word.as_bytes(), rustix::net::SendFlags::NOSIGNAL).context(what)?;
    let timeout = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    while let Err(e) = rustix::event::poll(&mut fds, Some(&timeout)) {
        if e != Errno::INTR {
            return Err(e).context(what);
        }
    }
    let mut buffer = [0; 1024];
    let flags = rustix::net::RecvFlags::DONTWAIT;
    let (_, length) = rustix::net::recv(&socket, &mut buffer[..], flags).context(what)?;
    let reply = buffer.get(..length).unwrap_or(&[]);
    if reply.is_empty() {
        return Err(Error::new("it hung up")).context(what);
    }
    Ok(String::from_utf8_lossy(reply).into_owned())
}

fn log(dir: &Dir) -> Option<std::fs::File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let file = dir.open_file(file::GATE_LOG, flags).ok().flatten()?;
    file.metadata()
        .is_ok_and(|m| m.len() < MAX_LOG)
        .then_some(file)
}

/// Takes over a descriptor that our parent left open for us, by its number.
///
/// # Errors
/// Nothing is open under that number.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: borrowed for one system call that says whether it is open at all.
    let open = number > 2
        && rustix::io::fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }).is_ok();
    if !open {
        return Err(Error::new(format!(
            "no descriptor {number} was handed over"
        )));
    }
    // SAFETY: it is open, and the applet calls this once for each number on its command line
    // before it opens anything itself, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// The supervisor: binds, gives up privileges, and keeps a worker alive until SIGTERM.
///
/// # Errors
/// The address cannot be bound, or privileges not dropped; told to `ready` as well.
pub fn supervise(dir: &Dir, listen: SocketAddr, ready: Option<OwnedFd>) -> Result<()> {
    match prepare(dir, listen) {
        Ok((sockets, signals)) => watch(dir, &sockets, &signals, ready),
        Err(error) => {
            tell(ready, &error.to_string());
            Err(error)
        }
    }
}

fn prepare(dir: &Dir, listen: SocketAddr) -> Result<(Sockets, SignalFd)> {
    Settings::load(dir)?;
    let sockets = Sockets::bind(dir, listen)?;
    confine::drop_capabilities()?;
    Ok((sockets, signals()?))
}

/// The keeper of the dnsmasq tier, until SIGTERM.
///
/// # Errors
/// dnsmasq does not serve; told to `ready` as well.
pub fn keep_dnsmasq(dir: Dir, listen: SocketAddr, ready: Option<OwnedFd>) -> Result<()> {
    let started = signals().and_then(|signals| Ok((Keeper::start(dir, listen)?, signals)));
    match started {
        Ok((mut keeper, signals)) => {
            tell(ready, "");
            keeper.run(&signals)
        }
        Err(error) => {
            tell(ready, &error.to_string());
            Err(error)
        }
    }
}

/// Blocks the signals we act on and opens a descriptor that delivers them.
fn signals() -> Result<SignalFd> {
    let set = SigSet::from_iter([NixSignal::SIGHUP, NixSignal::SIGTERM, NixSignal::SIGINT]);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

fn tell(ready: Option<OwnedFd>, words: &str) {
    if let Some(ready) = ready {
        let _ = std::fs::File::from(ready).write_all(format!("{words}\n").as_bytes());
    }
}

fn watch(
    dir: &Dir,
    sockets: &Sockets,
    signals: &SignalFd,
    mut ready: Option<OwnedFd>,
) -> Result<()> {
    loop {
        let born = Instant::now();
        let worker = spawn_worker(dir, sockets, ready.as_ref())?;
        // The worker alone says that it serves; if it dies first, the pipe's end says so.
        ready = None;
        let ended = attend(&worker, signals)?;
        if let Some(pid) = rustix::process::Pid::from_raw(worker.pid()) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        }
        if ended == Ended::Asked {
            return Ok(());
        }
        if born.elapsed() < YOUNG {
            std::thread::sleep(PAUSE);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    Asked,
    Died,
}

/// Waits until the worker has ended, passing SIGHUP on to it and ending it on other signals.
fn attend(worker: &PidFd, signals: &SignalFd) -> Result<Ended> {
    loop {
        let mut fds = [
            PollFd::new(worker, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let died = !fds[0].revents().is_empty();
        while let Ok(Some(info)) = signals.read_signal() {
            if info.ssi_signo == libc::SIGHUP as u32 {
                worker.signal(Signal::HUP)?;
            } else {
                worker.terminate(PATIENCE)?;
                return Ok(Ended::Asked);
            }
        }
        if died {
            return Ok(Ended::Died);
        }
    }
}

fn spawn_worker(dir: &Dir, sockets: &Sockets, ready: Option<&OwnedFd>) -> Result<PidFd> {
    let bundle = dir.as_fd().as_raw_fd();
    let [udp, tcp, control] = sockets.raw();
    let mut inherit = vec![bundle, udp, tcp, control];
    let mut args = vec![
        "dns-gate".to_string(),
        format!("--bundle-fd={bundle}"),
        format!("--worker={udp},{tcp},{control},{}", std::process::id()),
    ];
    if let Some(ready) = ready {
        inherit.push(ready.as_raw_fd());
        args.push(format!("--ready-fd={}", ready.as_raw_fd()));
    }
    let identity = Detached {
        program: OsStr::new("/proc/self/exe"),
        argv0: "terok-shield",
        args: args.iter().map(OsStr::new).collect(),
        env: Vec::new(),
        output: log(dir),
        inherit,
    }
    .spawn()?;
    // Our own child: until it is waited for, its pid is its own.
    PidFd::open(identity.pid)
}

/// The worker: serves the sockets until SIGTERM or its supervisor's end.
///
/// # Errors
/// The bundle or the kernel refuse; told to `ready` as well.
pub fn work(
    dir: Dir,
    sockets: Sockets,
    supervisor: i32,
    ready: Option<OwnedFd>,
    opener: fn() -> Result<Box<dyn Opener>>,
) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that call.
    if rustix::process::getppid().map(|p| p.as_raw_nonzero().get()) != Some(supervisor) {
        return Err(Error::new("the DNS gate's supervisor is gone"));
    }
    confine::drop_capabilities()?;
    match assemble(dir, sockets, opener) {
        Ok((mut gate, signals)) => {
            tell(ready, "");
            gate.run(Some(&signals))
        }
        Err(error) => {
            tell(ready, &error.to_string());
            Err(error)
        }
    }
}

fn assemble(
    dir: Dir,
    sockets: Sockets,
    opener: fn() -> Result<Box<dyn Opener>>,
) -> Result<(Gate, SignalFd)> {
    let journal = Journal::new(dir.try_clone()?);
    let report = Report::open(dir.try_clone()?);
    let door = Door::new(opener()?, journal, 0);
    let signals = signals()?;
    confine::landlock(&dir);
    let gate = Gate::new(dir, sockets, door, report, Some(contract::GATE_MARK))?;
    confine::seccomp();
    Ok((gate, signals))
}
