//! simple-clearance, driven through a pseudo-terminal and through a pipe: each verdict is verified
//! by a packet. Needs root.

use nix::pty::openpty;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{self, LocalModes, Winsize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use terok_shield::bundle::Bundle;
use terok_shield::nft::kernel::Nft;
use terok_shield::nft::policy::Posture;
use terok_shield::process::Identity;

const NAME: &str = "box";

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(
        done.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// A stand-in for a container: a bundle, and a network namespace with a process and our rules,
/// which this thread is in afterwards.
struct Contained {
    root: PathBuf,
    init: Child,
    outside: File,
    socket: UdpSocket,
}

impl Contained {
    fn new(test: &str) -> Self {
        let root = std::env::temp_dir().join(format!("shield-clear-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let path = root.join("containers").join(NAME);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .unwrap();
        let outside = File::open("/proc/thread-self/ns/net").unwrap();
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        run("ip", &["link", "set", "lo", "up"]);
        run(
            "ip",
            &["link", "add", "v0", "type", "veth", "peer", "name", "v1"],
        );
        run("ip", &["address", "add", "192.0.2.1/24", "dev", "v0"]);
        run("ip", &["link", "set", "v0", "up"]);
        run("ip", &["link", "set", "v1", "up"]);
        run("ip", &["route", "add", "default", "dev", "v0"]);
        let init = Command::new("sleep").arg("1000").spawn().unwrap();
        let bundle = Bundle::open(&path).unwrap();
        let rules = bundle.compile(Posture::Up).unwrap();
        let _lock = bundle.lock().unwrap();
        bundle.write_ruleset(Posture::Up, &rules).unwrap();
        let identity = Identity::of(init.id() as i32).unwrap();
        bundle.record_container("0123456789ab", identity).unwrap();
        Nft::open().unwrap().replace(&rules).unwrap();
        std::fs::write(
            path.join("dns.feed"),
            "7 answer named.example 198.51.100.30\n",
        )
        .unwrap();
        Self {
            root,
            init,
            outside,
            socket: UdpSocket::bind("0.0.0.0:0").unwrap(),
        }
    }

    /// Whether a datagram gets out: a refused one fails at once.
    fn gets_out(&self, dest: &str) -> bool {
        self.socket.send_to(b"x", dest).is_ok()
    }

    fn bundle(&self) -> PathBuf {
        self.root.join("containers").join(NAME)
    }

    /// Starts something in the namespace this thread came from.
    fn outside(&self, command: &mut Command) -> Child {
        let fd = self.outside.try_clone().unwrap();
        std::thread::scope(|s| {
            s.spawn(move || {
                setns(fd, CloneFlags::CLONE_NEWNET).unwrap();
                command.spawn().unwrap()
            })
            .join()
            .unwrap()
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_terok-shield"));
        command
            .args(["shield", "--state-dir"])
            .arg(&self.root)
            .args(["simple-clearance", NAME])
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env("XDG_RUNTIME_DIR", "/nonexistent")
            .env("HOME", &self.root);
        command
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Reads from a descriptor until the text stands in what was read.
struct Screen {
    fd: OwnedFd,
    text: String,
    seen: usize,
}

impl Screen {
    fn new(fd: impl Into<OwnedFd>) -> Self {
        Self {
            fd: fd.into(),
            text: String::new(),
            seen: 0,
        }
    }

    /// Reads what comes within a moment; all there is.
    fn read(&mut self) -> &str {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0 {
            let mut buffer = [0; 4096];
            let n = rustix::io::read(&self.fd, &mut buffer).unwrap_or(0);
            self.text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        &self.text
    }

    /// Waits for `wanted` after what was waited for before.
    fn wait_for(&mut self, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(at) = self.text[self.seen..].find(wanted) {
                self.seen += at + wanted.len();
                return;
            }
            self.read();
            assert!(
                Instant::now() < deadline,
                "no {wanted:?} in {:?}",
                &self.text[self.seen..]
            );
        }
    }
}

/// simple-clearance on a terminal of its own.
struct Session {
    child: Child,
    screen: Screen,
    slave: OwnedFd,
}

impl Session {
    fn start(c: &Contained) -> Self {
        let pty = openpty(None, None).unwrap();
        // Else the session would hold its own terminal's other end open.
        for fd in [&pty.master, &pty.slave] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).unwrap();
        }
        let mut command = c.command();
        command
            .stdin(pty.slave.try_clone().unwrap())
            .stdout(pty.slave.try_clone().unwrap())
            .stderr(pty.slave.try_clone().unwrap());
        let child = c.outside(&mut command);
        let mut session = Self {
            child,
            screen: Screen::new(pty.master),
            slave: pty.slave,
        };
        session.screen.wait_for("Waiting for what box is kept from");
        session.warm_up(c);
        session
    }

    /// Waits until it hears of packets, and puts the one that showed it aside.
    fn warm_up(&mut self, c: &Contained) {
        let asked = "box wants 198.51.100.250:9/udp";
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.screen.read().contains(asked) {
            assert!(Instant::now() < deadline, "it hears nothing");
            assert!(!c.gets_out("198.51.100.250:9"));
        }
        self.screen.wait_for(asked);
        self.press(b"s");
        self.screen.wait_for("skipped");
    }

    fn press(&self, keys: &[u8]) {
        // Keys typed before a question is shown are dropped, so a person's pace is kept.
        std::thread::sleep(Duration::from_millis(50));
        rustix::io::write(&self.screen.fd, keys).unwrap();
    }

    fn is_raw(&self) -> bool {
        let modes = termios::tcgetattr(self.slave.as_fd()).unwrap().local_modes;
        !modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ECHO)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended_well(&mut self) {
        assert!(self.child.wait().unwrap().success());
        assert!(!self.is_raw(), "the terminal was left raw");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_answer_on_a_terminal_is_a_verdict_that_packets_obey() {
    let c = Contained::new("keys");
    let mut s = Session::start(&c);
    assert!(s.is_raw());

    for _ in 0..3 {
        assert!(!c.gets_out("198.51.100.7:53"));
    }
    s.screen.wait_for("box wants 198.51.100.7:53/udp");
    s.screen.wait_for("tried 3 times");
    // Garbage, an arrow key and a resize answer nothing.
    s.press(b"\x1b[A");
    s.screen.wait_for("a allow 198.51.100.7");
    s.press(b"z");
    s.screen.wait_for("a allow 198.51.100.7");
    let size = Winsize {
        ws_row: 10,
        ws_col: 20,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    termios::tcsetwinsize(&s.screen.fd, size).unwrap();
    s.signal(Signal::WINCH);
    assert!(!c.gets_out("198.51.100.7:53"));
    s.screen.wait_for("tried 4 times");
    s.press(b"a");
    s.screen.wait_for("Allowed 198.51.100.7");
    assert!(c.gets_out("198.51.100.7:53"));

    assert!(!c.gets_out("198.51.100.8:53"));
    s.screen.wait_for("box wants 198.51.100.8:53/udp");
    s.press(b"d");
    s.screen.wait_for("Denied 198.51.100.8");
    assert!(!c.gets_out("198.51.100.8:53"));

    assert!(!c.gets_out("198.51.100.9:53"));
    s.screen.wait_for("box wants 198.51.100.9:53/udp");
    s.press(b"p");
    s.screen.wait_for("Allowed 198.51.100.9:53/udp");
    assert!(c.gets_out("198.51.100.9:53"));
    assert!(!c.gets_out("198.51.100.9:54"));
    s.screen.wait_for("box wants 198.51.100.9:54/udp");
    s.press(b"s");
    s.screen.wait_for("skipped");
    assert!(!c.gets_out("198.51.100.9:54"));

    assert!(!c.gets_out("198.51.100.10:53"));
    s.screen.wait_for("box wants 198.51.100.10:53/udp");
    s.press(b"t");
    s.screen.wait_for("Allowed 198.51.100.10");
    assert!(c.gets_out("198.51.100.10:53"));
    let timed = std::fs::read_to_string(c.bundle().join("live.timed")).unwrap();
    assert!(timed.starts_with("198.51.100.10 "), "{timed}");

    assert!(!c.gets_out("198.51.100.30:53"));
    s.screen
        .wait_for("box wants 198.51.100.30:53/udp (named.example)");
    s.press(b"q");
    s.ended_well();
}

#[test]
fn a_signal_or_a_hang_up_leaves_the_terminal_sane_and_nobody_behind() {
    let c = Contained::new("signals");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut s = Session::start(&c);
        assert!(!c.gets_out("198.51.100.7:53"));
        s.screen.wait_for("box wants 198.51.100.7:53/udp");
        s.signal(signal);
        s.ended_well();
        assert!(
            !c.bundle().join("events.sock").exists(),
            "its reader stayed"
        );
    }
    let mut s = Session::start(&c);
    // The window is closed: the terminal's other end goes away.
    s.screen = Screen::new(File::open("/dev/null").unwrap());
    let deadline = Instant::now() + Duration::from_secs(5);
    while s.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it outlives its terminal");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn in_a_pipe_answers_are_lines_and_the_hub_is_respected() {
    let c = Contained::new("pipe");
    let mut command = c.command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = c.outside(&mut command);
    let mut screen = Screen::new(child.stdout.take().unwrap());
    let mut answers = child.stdin.take().unwrap();
    screen.wait_for("Waiting for");
    while !screen.read().contains("box wants") {
        assert!(!c.gets_out("198.51.100.7:53"));
    }
    screen.wait_for("box wants 198.51.100.7:53/udp");
    answers.write_all(b"nonsense\nallow\n").unwrap();
    screen.wait_for("Allowed 198.51.100.7");
    assert!(c.gets_out("198.51.100.7:53"));
    drop(answers);
    assert!(!c.gets_out("198.51.100.8:53"));
    assert!(
        child.wait().unwrap().success(),
        "the end of input is an end"
    );

    // The hub's name, owned on a session bus of our own.
    let bus = SessionBus::start();
    let _hub = bus.own("org.terok.Shield1");
    let mut command = c.command();
    command
        .env("DBUS_SESSION_BUS_ADDRESS", &bus.address)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let refused = c.outside(&mut command).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("Error: the hub (org.terok.Shield1"),
        "{said}"
    );
}

/// A real dbus-daemon.
struct SessionBus {
    daemon: Child,
    address: String,
}

impl SessionBus {
    fn start() -> Self {
        let mut daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let out = daemon.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut address).unwrap();
        Self {
            daemon,
            address: address.trim().to_string(),
        }
    }

    /// Owns a name for as long as the connection lives.
    fn own(&self, name: &str) -> UnixStream {
        let path = self.address.strip_prefix("unix:path=").unwrap();
        let path = path.split(',').next().unwrap();
        let mut stream = UnixStream::connect(path).unwrap();
        let uid = rustix::process::getuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        write!(stream, "\0AUTH EXTERNAL {hex}\r\n").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut answer = String::new();
        reader.read_line(&mut answer).unwrap();
        assert!(answer.starts_with("OK "), "{answer}");
        write!(stream, "BEGIN\r\n").unwrap();
        stream.write_all(&message(1, "Hello", b"", &[])).unwrap();
        let mut body = string(name);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(0u32.to_le_bytes());
        stream
            .write_all(&message(2, "RequestName", b"su", &body))
            .unwrap();
        // The second answer, or the signal about it, names what we own.
        let mut seen: Vec<u8> = Vec::new();
        while !seen.windows(name.len()).any(|w| w == name.as_bytes()) {
            let mut buffer = [0; 1024];
            let n = reader.read(&mut buffer).unwrap();
            assert!(n > 0);
            seen.extend(&buffer[..n]);
        }
        stream
    }
}

impl Drop for SessionBus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u32).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out.push(0);
    out
}

/// A method call to the bus itself.
fn message(serial: u32, member: &str, signature: &[u8], body: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    let bus = "org.freedesktop.DBus";
    for (code, kind, value) in [
        (1, b'o', "/org/freedesktop/DBus"),
        (2, b's', bus),
        (3, b's', member),
        (6, b's', bus),
    ] {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([code, 1, kind, 0]);
        fields.extend(string(value));
    }
    if !signature.is_empty() {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([8, 1, b'g', 0, signature.len() as u8]);
        fields.extend(signature);
        fields.push(0);
    }
    let mut m = vec![b'l', 1, 0, 1];
    m.extend((body.len() as u32).to_le_bytes());
    m.extend(serial.to_le_bytes());
    m.extend((fields.len() as u32).to_le_bytes());
    m.extend(fields);
    m.resize(m.len().next_multiple_of(8), 0);
    m.extend(body);
    m
}
