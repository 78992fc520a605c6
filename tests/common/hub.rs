//! A hub stand-in that behaves like the real one: it takes one JSON object a line, drops lines
//! with missing fields, refuses peers of another user, and can stall, restart, or read one byte
//! at a time.

use miniserde::json::{Number, Value};
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One accepted event.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: Instant,
    pub kind: String,
    pub container: String,
    pub id: String,
    pub dest: String,
    pub domain: String,
    pub reason: String,
    pub port: u64,
    pub proto: u64,
    pub dossier: Vec<(String, String)>,
    pub line: String,
}

#[derive(Default)]
struct Shared {
    // Split into lines only: what is in them is looked at by who asks, not during a flood.
    heard: Mutex<Vec<(Instant, Vec<u8>)>>,
    events: Mutex<Vec<Event>>,
    refused: Mutex<Vec<String>>,
    stalled: AtomicBool,
    byte_wise: AtomicBool,
    stop: AtomicBool,
}

/// A running hub. Dropping it ends it and removes its socket.
pub struct Hub {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    pub fn start(path: &Path) -> Self {
        let mut hub = Self {
            path: path.to_path_buf(),
            shared: Arc::default(),
            thread: None,
        };
        hub.resume();
        hub
    }

    /// Ends the service, connections and all, as a crash does: nothing is read to its end.
    pub fn kill(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = std::fs::remove_file(&self.path);
    }

    /// Starts the service (again); what it has heard so far is kept for the test to read.
    pub fn resume(&mut self) {
        self.shared.stop.store(false, Ordering::SeqCst);
        let _ = std::fs::remove_file(&self.path);
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent).unwrap();
        }
        let listener = UnixListener::bind(&self.path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = self.shared.clone();
        self.thread = Some(std::thread::spawn(move || serve(&listener, &shared)));
    }

    pub fn stall(&self, on: bool) {
        self.shared.stalled.store(on, Ordering::SeqCst);
    }

    pub fn one_byte_at_a_time(&self, on: bool) {
        self.shared.byte_wise.store(on, Ordering::SeqCst);
    }

    pub fn events(&self) -> Vec<Event> {
        self.shared.judge();
        self.shared.events.lock().unwrap().clone()
    }

    pub fn of_kind(&self, kind: &str) -> Vec<Event> {
        let mut events = self.events();
        events.retain(|e| e.kind == kind);
        events
    }

    /// Lines that the real hub would have dropped.
    pub fn refused(&self) -> Vec<String> {
        self.shared.judge();
        self.shared.refused.lock().unwrap().clone()
    }

    /// Waits until `done` holds for what was heard; panics with what was heard after `limit`.
    pub fn wait_for(&self, limit: Duration, what: &str, done: impl Fn(&[Event]) -> bool) {
        let deadline = Instant::now() + limit;
        loop {
            self.shared.judge();
            if done(&self.shared.events.lock().unwrap()) {
                return;
            }
            if Instant::now() > deadline {
                let events = self.events();
                let tail: Vec<_> = events.iter().rev().take(3).map(|e| &e.line).collect();
                panic!(
                    "{what}: not within {limit:?}; {} events, last: {tail:#?}",
                    events.len()
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn judge(&self) {
        let mut events = self.events.lock().unwrap();
        for (at, line) in std::mem::take(&mut *self.heard.lock().unwrap()) {
            let line = String::from_utf8_lossy(&line).into_owned();
            match accept(&line, at) {
                Some(event) => events.push(event),
                None => self.refused.lock().unwrap().push(line),
            }
        }
    }
}

struct Peer {
    stream: UnixStream,
    line: Vec<u8>,
}

fn serve(listener: &UnixListener, shared: &Shared) {
    let mut peers: Vec<Peer> = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    while !shared.stop.load(Ordering::SeqCst) {
        let mut idle = true;
        if shared.stalled.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        if let Ok((stream, _)) = listener.accept() {
            let uid = rustix::net::sockopt::socket_peercred(&stream).unwrap().uid;
            if uid == rustix::process::geteuid() {
                stream.set_nonblocking(true).unwrap();
                peers.push(Peer {
                    stream,
                    line: Vec::new(),
                });
            } else {
                shared.refused.lock().unwrap().push(format!("peer {uid:?}"));
            }
        }
        let chunk = match shared.byte_wise.load(Ordering::SeqCst) {
            true => 1,
            false => buffer.len(),
        };
        peers.retain_mut(|peer| match peer.stream.read(&mut buffer[..chunk]) {
            Ok(0) => false,
            Ok(n) => {
                idle = false;
                peer.take(&buffer[..n], shared);
                true
            }
            Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
        });
        if idle {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Peer {
    fn take(&mut self, bytes: &[u8], shared: &Shared) {
        self.line.extend(bytes);
        let Some(end) = self.line.iter().rposition(|&b| b == b'\n') else {
            return;
        };
        let rest = self.line.split_off(end + 1);
        let lines = std::mem::replace(&mut self.line, rest);
        let mut heard = shared.heard.lock().unwrap();
        let now = Instant::now();
        heard.extend(
            lines[..end]
                .split(|&b| b == b'\n')
                .map(|l| (now, l.to_vec())),
        );
    }
}

/// The hub's validation: every field of the kind must be there and of its type.
fn accept(line: &str, at: Instant) -> Option<Event> {
    if line.len() >= 64 * 1024 || !line.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return None;
    }
    let Value::Object(object) = miniserde::json::from_str(line).ok()? else {
        return None;
    };
    let text = |key: &str| match object.get(key) {
        Some(Value::String(s)) => Some(s.clone()),
        _ => None,
    };
    let number = |key: &str| match object.get(key) {
        Some(Value::Number(Number::U64(n))) => Some(*n),
        _ => None,
    };
    let kind = text("type")?;
    let mut event = Event {
        at,
        container: text("container")?,
        id: String::new(),
        dest: String::new(),
        domain: String::new(),
        reason: String::new(),
        port: 0,
        proto: 0,
        dossier: Vec::new(),
        line: line.to_string(),
        kind,
    };
    match event.kind.as_str() {
        "container_started" | "shield_up" | "shield_down" | "shield_disengaged"
        | "shield_down_all" => {}
        "container_exited" => event.reason = text("reason")?,
        "pending" => {
            event.id = text("id")?;
            event.dest = text("dest")?;
            event.dest.parse::<std::net::IpAddr>().ok()?;
            event.port = number("port")?;
            event.proto = number("proto")?;
            event.domain = text("domain")?;
            terok_shield::clock::parse_rfc3339(&text("ts")?)?;
            let Some(Value::Object(dossier)) = object.get("dossier") else {
                return None;
            };
            for (key, value) in dossier {
                let Value::String(value) = value else {
                    return None;
                };
                event.dossier.push((key.clone(), value.clone()));
            }
        }
        _ => return None,
    }
    Some(event)
}
