//! A container's network namespace with the real rules and a tier's server, and another one
//! outside with its upstream and every address that upstream tells.
#![allow(dead_code)]

use crate::dns_support::{Asked, Log, Temp, Upstream, name};
use crate::netns::run;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use terok_shield::contract;
use terok_shield::dns::gate::spawn;
use terok_shield::dns::ready;
use terok_shield::dns::wire::build::{Ask, query};
use terok_shield::dns::wire::{Message, Section, rdata};
use terok_shield::files::Dir;
use terok_shield::nft::kernel::{Detail, Nft};
use terok_shield::nft::model::Family;
use terok_shield::nft::policy::{Inputs, Learning, Posture, compile};

/// Where the gate listens and where upstream does.
pub const GATE: &str = "127.0.0.1:53";
pub const UPSTREAM: &str = "10.77.0.1";

/// A process that ends with its value.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Asked, not killed: a keeper has a dnsmasq to end.
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The namespace of a container, whose gate serves it, and the world outside.
pub struct World {
    pub bundle: Temp,
    pub log: Log,
    pub server: Running,
}

/// What runs outside, on 10.77.0.1 and every address of the documentation and benchmark ranges.
pub fn outside(
    dnsmasq: Option<String>,
    tell: &mpsc::Sender<i32>,
    go: &mpsc::Receiver<()>,
) -> (Log, Option<Running>) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    tell.send(nix::unistd::gettid().as_raw()).unwrap();
    go.recv().unwrap();
    for command in [
        "link set lo up",
        "addr add 10.77.0.1/24 dev v1",
        "-6 addr add fd77::1/64 dev v1 nodad",
        "link set v1 up",
        "route add local 198.18.0.0/15 dev lo",
        "route add local 198.51.100.0/24 dev lo",
        "route add local 203.0.113.0/24 dev lo",
        "route add local 10.0.0.0/16 dev lo",
        "route add local 169.254.169.254 dev lo",
        "-6 route add local 2001:db8:1::/48 dev lo",
    ] {
        ip(command);
    }
    for port in [443, 853] {
        // Takes IPv4 too.
        let listener = TcpListener::bind(format!("[::]:{port}")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
    }
    match dnsmasq {
        None => (Upstream::start_on(&format!("{UPSTREAM}:53")).log, None),
        Some(config) => (Log::default(), Some(start_dnsmasq(&config))),
    }
}

pub fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 64];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

pub fn start_dnsmasq(arguments: &str) -> Running {
    let child = Command::new("dnsmasq")
        .args([
            "-C",
            "/dev/null",
            "-k",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ])
        .args(["--pid-file=", "--user=root", "--listen-address", UPSTREAM])
        .args(arguments.split_whitespace())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's dnsmasq is needed");
    ready::wait_for(
        format!("{UPSTREAM}:53").parse().unwrap(),
        Duration::from_secs(5),
    )
    .unwrap();
    Running(child)
}

pub fn ip(command: &str) {
    run("ip", &command.split_whitespace().collect::<Vec<_>>());
}

pub fn rules(posture: Posture, learning: Learning) {
    let inputs = Inputs {
        learning,
        forwarder: Some(UPSTREAM.parse().unwrap()),
        ..Inputs::default()
    };
    Nft::open()
        .unwrap()
        .replace(&compile(posture, &inputs))
        .unwrap();
}

impl World {
    /// Builds both namespaces. The calling thread is inside the container's.
    pub fn new(label: &str, learning: Learning, dnsmasq: Option<&str>) -> (Self, Option<Running>) {
        let (tell, told) = mpsc::channel();
        let (say_go, go) = mpsc::channel();
        let config = dnsmasq.map(str::to_string);
        let world = std::thread::spawn(move || outside(config, &tell, &go));
        let tid = told.recv().unwrap().to_string();
        run(
            "ip",
            &[
                "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", &tid,
            ],
        );
        for command in [
            "addr add 10.77.0.2/24 dev v0",
            "-6 addr add fd77::2/64 dev v0 nodad",
            "link set v0 up",
            "route add default via 10.77.0.1",
            "-6 route add default via fd77::1",
        ] {
            ip(command);
        }
        say_go.send(()).unwrap();
        let (log, outside) = world.join().unwrap();
        for address in ["10.77.0.1", "fd77::1"] {
            wait_until("the link", || connect(address.parse().unwrap()).is_ok());
        }

        rules(Posture::Up, learning);
        let bundle = Temp::new(label);
        bundle.write("profile.domains", "ok.test\n");
        bundle.write("upstream.dns", UPSTREAM);
        let server = start_server(&bundle, learning);
        (
            Self {
                bundle,
                log,
                server,
            },
            outside,
        )
    }

    pub fn dir(&self) -> Dir {
        Dir::open(self.bundle.path()).unwrap()
    }

    pub fn asked(&self, qname: &str) -> Vec<Asked> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|a| a.name == qname).cloned().collect()
    }

    pub fn worker(&self) -> i32 {
        let status = spawn::status(&self.dir()).unwrap();
        let digits = status.split("\"pid\":").nth(1).unwrap();
        digits.split(',').next().unwrap().parse().unwrap()
    }
}

pub fn start_server(bundle: &Temp, learning: Learning) -> Running {
    let child = Command::new(env!("CARGO_BIN_EXE_terok-shield"))
        .arg("dns-gate")
        .arg(format!("--bundle={}", bundle.path().display()))
        .args((learning == Learning::Dnsmasq).then_some("--dnsmasq=keep"))
        .spawn()
        .unwrap();
    let gate = Running(child);
    let dir = Dir::open(bundle.path()).unwrap();
    wait_until("the server", || spawn::status(&dir).is_ok());
    ready::wait_for(GATE.parse().unwrap(), Duration::from_secs(5)).unwrap();
    gate
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what} did not come"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A stub resolver with a socket of its own.
pub struct Stub(pub UdpSocket);

impl Stub {
    pub fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(GATE).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        Self(socket)
    }

    pub fn ask(&self, qname: &str, qtype: u16) -> (u16, Vec<IpAddr>) {
        let ask = Ask {
            edns: true,
            ..Ask::default()
        };
        self.0
            .send(&query(1, name(qname).wire(), qtype, &ask))
            .unwrap();
        let mut buffer = [0; 2048];
        let n = self
            .0
            .recv(&mut buffer)
            .unwrap_or_else(|e| panic!("{qname}: {e}"));
        let message = Message::new(&buffer[..n]).unwrap();
        let (_, end) = message.question().unwrap();
        let answers = message
            .records(end)
            .flatten()
            .filter(|r| r.section == Section::Answer);
        (
            message.rcode(),
            answers.filter_map(|r| rdata::address(&r)).collect(),
        )
    }
}

/// Connects to port 443; `Err` is what the first packet met.
pub fn connect(address: IpAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::new(address, 443), Duration::from_millis(500))
}

/// Addresses in both learned sets, and their timeouts in seconds.
pub fn learned(sets: [&str; 2]) -> Vec<(String, u64)> {
    let held = Nft::open()
        .unwrap()
        .dump(Family::Inet, contract::TABLE, Detail::Full)
        .unwrap()
        .unwrap();
    let elements = sets
        .iter()
        .flat_map(|s| held.set(s).unwrap().elements.clone());
    elements
        .map(|e| (e.first.to_string(), e.timeout.unwrap_or(0) / 1000))
        .collect()
}
