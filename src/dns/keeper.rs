//! Keeps dnsmasq running beside a container: starts it, replaces it when its configuration
//! changes, writes its log in bounds, ends it.
//!
//! dnsmasq reads its domains at start only, so a change means another process. Meanwhile queries
//! are queued, not lost: a UDP socket bound later takes the datagrams, so for the time of the
//! change the keeper holds the address itself, and then hands what came to the new dnsmasq.
//! TCP, which a resolver uses after a truncated answer, is refused for the milliseconds between.

use super::dnsmasq;
use super::gate::control::Control;
use super::ready;
use crate::clock;
use crate::contract::file;
use crate::error::{Context, Error, Result};
use crate::files::Dir;
use crate::process::{Detached, Identity, PidFd};
use crate::unix;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Length at which the query log is put aside and a new one begun, octets.
const MAX_LOG: u64 = 1 << 20;
/// How long dnsmasq may take to serve, or to end.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an old dnsmasq is left to the queries it still has on their way.
const DRAIN: Duration = Duration::from_millis(250);
/// Pause before a dnsmasq that died is replaced.
const PAUSE: Duration = Duration::from_millis(100);
/// Queries that can wait for the new dnsmasq.
const MAX_QUEUED: usize = 256;

/// A running dnsmasq and the pipe its log comes through.
struct Server {
    process: PidFd,
    pipe: File,
}

/// The keeper's state.
pub struct Keeper {
    dir: Dir,
    listen: SocketAddr,
    server: Server,
    log: Log,
    control_socket: OwnedFd,
    control: Control,
}

impl Keeper {
    /// Starts dnsmasq and waits until it answers.
    ///
    /// # Errors
    /// It is not installed, does not start or does not answer.
    pub fn start(dir: Dir, listen: SocketAddr) -> Result<Self> {
        let mut log = Log::open(&dir)?;
        let server = start_server(&dir, listen, &mut log)?;
        let control_socket = unix::listen_in(&dir, file::GATE_SOCKET, 16)?;
        Ok(Self {
            dir,
            listen,
            server,
            log,
            control_socket,
            control: Control::default(),
        })
    }

    /// Serves until SIGTERM; SIGHUP, or `reload` on the control socket, replaces dnsmasq.
    ///
    /// # Errors
    /// poll(2) fails.
    pub fn run(&mut self, signals: &SignalFd) -> Result<()> {
        loop {
            let [signal, died, logged, accept, rest @ ..] = &self.wait(signals)?[..] else {
                return Err(Error::new("poll lost a descriptor"));
            };
            let (signal, died, logged) = (*signal, *died, *logged);
            let commands = self.control.advance(*accept, &self.control_socket, rest);
            if logged {
                self.log.take(&mut self.server.pipe);
            }
            while signal && let Ok(Some(info)) = signals.read_signal() {
                if info.ssi_signo != libc::SIGHUP as u32 {
                    return self.stop();
                }
                let _ = self.replace();
            }
            for command in commands {
                let reply = match command.text().trim() {
                    "reload" => match self.replace() {
                        Ok(()) => "ok".to_string(),
                        Err(error) => format!("error {error}"),
                    },
                    "status" => format!("{{\"pid\":{}}}", self.server.process.pid()),
                    _ => "error unknown command: use reload or status".into(),
                };
                self.control.reply(command, &reply);
            }
            if died {
                self.restart();
            }
        }
    }

    fn wait(&self, signals: &SignalFd) -> Result<Vec<bool>> {
        let mut fds = vec![
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(&self.server.process, PollFlags::IN),
            PollFd::new(&self.server.pipe, PollFlags::IN),
            PollFd::new(&self.control_socket, PollFlags::IN),
        ];
        self.control.poll_fds(&mut fds);
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(fds.iter().map(|f| !f.revents().is_empty()).collect())
    }

    /// dnsmasq has died: another one, if it can be had. Until then DNS fails, and nothing opens.
    fn restart(&mut self) {
        reap(&self.server.process);
        std::thread::sleep(PAUSE);
        match start_server(&self.dir, self.listen, &mut self.log) {
            Ok(server) => self.server = server,
            Err(error) => self.log.line(&format!("terok-shield: {error}")),
        }
    }

    /// Replaces dnsmasq by one that has read the bundle again.
    fn replace(&mut self) -> Result<()> {
        // What cannot be read changes nothing.
        dnsmasq::write_config(&self.dir, self.listen)?;
        let queue = Queue::bind(self.listen)?;
        let drained = Instant::now() + DRAIN;
        while Instant::now() < drained {
            std::thread::sleep(Duration::from_millis(10));
            self.log.take(&mut self.server.pipe);
        }
        self.server.process.terminate(PATIENCE)?;
        reap(&self.server.process);
        self.server = start_server(&self.dir, self.listen, &mut self.log)?;
        queue.hand_over(self.listen)
    }

    fn stop(&mut self) -> Result<()> {
        self.server.process.terminate(PATIENCE)?;
        reap(&self.server.process);
        self.log.take(&mut self.server.pipe);
        self.dir.remove(file::DNSMASQ_PID)?;
        Ok(())
    }
}

fn reap(process: &PidFd) {
    if let Some(pid) = rustix::process::Pid::from_raw(process.pid()) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

fn start_server(dir: &Dir, listen: SocketAddr, log: &mut Log) -> Result<Server> {
    let program = dnsmasq::find().ok_or_else(|| Error::new("dnsmasq is not installed"))?;
    dnsmasq::write_config(dir, listen)?;
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (pipe, output) = rustix::pipe::pipe_with(flags)?;
    rustix::io::ioctl_fionbio(&pipe, true)?;
    let conf = dnsmasq::conf_argument(dir)?;
    let identity = Detached {
        program: program.as_os_str(),
        argv0: "dnsmasq",
        args: vec![OsStr::new("--keep-in-foreground"), &conf],
        env: Vec::new(),
        output: Some(File::from(output)),
        inherit: Vec::new(),
    }
    .spawn()?;
    let mut server = Server {
        process: PidFd::open(identity.pid)?,
        pipe: File::from(pipe),
    };
    let serves = ready::wait_for(listen, PATIENCE)
        .and_then(|()| dir.write(file::DNSMASQ_PID, format!("{}\n", identity.pid).as_bytes()));
    if let Err(error) = serves {
        let _ = server.process.terminate(PATIENCE);
        reap(&server.process);
        let said = log.take(&mut server.pipe);
        return Err(match said {
            Some(words) => Error::new(words),
            None => error,
        })
        .context(|| "cannot start dnsmasq");
    }
    Ok(server)
}

/// Ends a dnsmasq whose keeper was killed: by its recorded pid, if that is still one of ours.
///
/// # Errors
/// It cannot be signalled.
pub fn stop_orphan(dir: &Dir) -> Result<()> {
    let text = dir.read_text(file::DNSMASQ_PID, 64)?.unwrap_or_default();
    if let Ok(pid) = text.trim().parse()
        && let Ok(process) = PidFd::open(pid)
    {
        // The descriptor was opened first: if the arguments are ours now, it is the one.
        let conf = dnsmasq::conf_argument(dir)?;
        let arguments = crate::process::arguments(pid);
        if Identity::of(pid).is_some() && arguments.iter().any(|a| OsStr::new(a) == conf) {
            process.terminate(PATIENCE)?;
        }
    }
    dir.remove(file::DNSMASQ_PID)?;
    Ok(())
}

/// The address while no dnsmasq has it.
struct Queue(UdpSocket);

impl Queue {
    fn bind(listen: SocketAddr) -> Result<Self> {
        let what = || format!("cannot hold {listen} while dnsmasq restarts");
        let family = match listen {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(family, SocketType::DGRAM, flags, None).context(what)?;
        // dnsmasq sets it too; both must, to share the address.
        sockopt::set_socket_reuseaddr(&socket, true).context(what)?;
        rustix::net::bind(&socket, &listen).context(what)?;
        Ok(Self(socket.into()))
    }

    /// Asks the new dnsmasq what came here, and passes its answers on.
    fn hand_over(self, listen: SocketAddr) -> Result<()> {
        let mut buffer = [0; 4096];
        let mut waiting: Vec<(UdpSocket, SocketAddr)> = Vec::new();
        while let Ok((n, client)) = self.0.recv_from(&mut buffer) {
            let asked = UdpSocket::bind((
                match listen {
                    SocketAddr::V4(_) => "0.0.0.0",
                    SocketAddr::V6(_) => "::",
                },
                0,
            ));
            if let Ok(socket) = asked
                && waiting.len() < MAX_QUEUED
                && socket.connect(listen).is_ok()
                && socket.set_nonblocking(true).is_ok()
                && socket.send(&buffer[..n]).is_ok()
            {
                waiting.push((socket, client));
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut fds: Vec<PollFd<'_>> = waiting
                .iter()
                .map(|(socket, _)| PollFd::new(socket, PollFlags::IN))
                .collect();
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let mut ready = fds
                .iter()
                .map(|f| !f.revents().is_empty())
                .collect::<Vec<_>>()
                .into_iter();
            waiting.retain(|(socket, client)| {
                if !ready.next().unwrap_or(false) {
                    return true;
                }
                if let Ok(n) = socket.recv(&mut buffer) {
                    let _ = self.0.send_to(&buffer[..n], client);
                }
                false
            });
        }
        Ok(())
    }
}

/// The query log: dnsmasq's lines, each with its time, at most two files of [`MAX_LOG`].
struct Log {
    dir: Dir,
    file: File,
    size: u64,
    partial: Vec<u8>,
}

impl Log {
    fn open(dir: &Dir) -> Result<Self> {
        let dir = dir.try_clone()?;
        let (file, size) = open_log(&dir)?;
        Ok(Self {
            dir,
            file,
            size,
            partial: Vec::new(),
        })
    }

    /// Takes what has come through the pipe. The last line of it.
    fn take(&mut self, pipe: &mut File) -> Option<String> {
        let mut last = None;
        let mut buffer = [0; 4096];
        // Bounded: a workload that asks faster than this is written must not hold the loop.
        for _ in 0..64 {
            let n = match pipe.read(&mut buffer) {
                Ok(n @ 1..) => n,
                _ => break,
            };
            self.partial.extend_from_slice(&buffer[..n]);
            while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                let text = crate::sanitize::text(&String::from_utf8_lossy(&line[..end]));
                self.line(&text);
                last = Some(text);
            }
            if self.partial.len() > 8192 {
                self.partial.clear();
            }
        }
        last
    }

    fn line(&mut self, text: &str) {
        let line = format!("{} {text}\n", clock::rfc3339(clock::now()));
        // A full disk must not stop DNS.
        let _ = self.file.write_all(line.as_bytes());
        self.size += line.len() as u64;
        if self.size > MAX_LOG {
            let old = format!("{}.1", file::DNSMASQ_LOG);
            let _ = rustix::fs::renameat(&self.dir, file::DNSMASQ_LOG, &self.dir, &*old);
            if let Ok((file, size)) = open_log(&self.dir) {
                (self.file, self.size) = (file, size);
            }
        }
    }
}

fn open_log(dir: &Dir) -> Result<(File, u64)> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let file = dir
        .open_file(file::DNSMASQ_LOG, flags)?
        .ok_or_else(|| Error::new(format!("cannot create {}", file::DNSMASQ_LOG)))?;
    let size = file.metadata()?.len();
    Ok((file, size))
}
