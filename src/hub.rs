//! The hub: a service of the operator that receives events, one JSON object a line.
//!
//! A hub that is missing, slow or broken never delays or fails anything: every step is
//! non-blocking and [`TIMEOUT`] bounds the whole.

use crate::error::Result;
use crate::json::Object;
use crate::unix;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connect and send happen within this, or not at all.
pub const TIMEOUT: Duration = Duration::from_millis(500);
/// A line is shorter than this.
pub const MAX_LINE: usize = 64 * 1024;

/// What a verb tells the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `up`
    Up,
    /// `down`
    Down,
    /// `down --all`
    Disengaged,
}

/// Where one container's hub listens.
#[derive(Debug, Clone)]
pub struct Paths {
    candidates: Vec<(PathBuf, Age)>,
}

/// Which generation of the hub a path belongs to; one word of the protocol differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// `…/events/<id12>.sock`
    Old,
    /// `…/events/<id12>/ingester.sock`
    New,
}

impl Paths {
    /// The paths of a container by the first 12 hex digits of its id.
    pub fn of(id12: &str) -> Self {
        Self::under(&runtime_dir(), id12)
    }

    fn under(runtime: &Path, id12: &str) -> Self {
        let events = runtime.join("terok/events");
        Self {
            candidates: vec![
                (events.join(id12).join("ingester.sock"), Age::New),
                (events.join(format!("{id12}.sock")), Age::Old),
            ],
        }
    }

    /// One given path.
    pub fn explicit(path: PathBuf) -> Self {
        let age = match path.file_name() {
            Some(name) if name == "ingester.sock" => Age::New,
            _ => Age::Old,
        };
        Self {
            candidates: vec![(path, age)],
        }
    }

    /// The paths, newest first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        self.candidates.iter().map(|(path, _)| path.as_path())
    }

    /// Connects to the newest path that exists, without waiting.
    pub fn connect(&self) -> rustix::io::Result<(OwnedFd, Age)> {
        for (path, age) in &self.candidates {
            match unix::connect(path) {
                Ok(fd) if unix::peer_is_trusted(&fd) => return Ok((fd, *age)),
                Ok(_) => return Err(Errno::PERM),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Errno::NOENT)
    }
}

/// `$XDG_RUNTIME_DIR` if it is absolute, else `/run/user/<uid as the host sees it>`.
fn runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if dir.is_absolute() => dir,
        _ => PathBuf::from(format!("/run/user/{}", host_uid())),
    }
}

/// Our effective uid as the parent of our user namespace sees it: podman's rootless hooks run as
/// uid 0 of a namespace that maps it to the operator.
pub fn host_uid() -> u32 {
    let uid = rustix::process::geteuid().as_raw();
    match std::fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => map_outside(&map, uid).unwrap_or(uid),
        Err(_) => uid,
    }
}

/// user_namespaces(7): lines of first uid inside, first uid outside, length.
fn map_outside(map: &str, uid: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().map(str::parse::<u32>);
        let mut next = || words.next()?.ok();
        let (inside, outside, count) = (next()?, next()?, next()?);
        let distance = uid.checked_sub(inside).filter(|d| *d < count)?;
        outside.checked_add(distance)
    })
}

/// The line of a verb, newline included. `dossier` is a JSON object.
fn change_line(change: Change, age: Age, container: &str, dossier: Option<&str>) -> String {
    let word = match (change, age) {
        (Change::Up, _) => "shield_up",
        (Change::Down, _) => "shield_down",
        (Change::Disengaged, Age::New) => "shield_disengaged",
        (Change::Disengaged, Age::Old) => "shield_down_all",
    };
    let mut line = String::new();
    let mut object = Object::open(&mut line);
    object.plain("type", word).text("container", container);
    if let Some(dossier) = dossier.filter(|d| d.len() < MAX_LINE - 1024) {
        object.raw("dossier", dossier);
    }
    object.close();
    line.push('\n');
    line
}

/// Tells the hub of a changed posture, once; whether it was told. Never takes longer than
/// [`TIMEOUT`]. `dossier` is a JSON object made by [`crate::json`].
pub fn tell_change(paths: &Paths, change: Change, container: &str, dossier: Option<&str>) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    let (fd, age) = loop {
        match paths.connect() {
            Ok(connected) => break connected,
            // The hub is there but busy: unix sockets do not tell when to try again.
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(_) => return false,
        }
    };
    let line = change_line(change, age, container, dossier);
    send_until(&fd, line.as_bytes(), deadline).is_ok()
}

/// Sends all bytes by `deadline`.
pub fn send_until(fd: &OwnedFd, mut bytes: &[u8], deadline: Instant) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::net::send(fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_writable(fd, deadline)?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn wait_writable(fd: &OwnedFd, deadline: Instant) -> Result<(), Errno> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Errno::TIMEDOUT);
    }
    let timeout = Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&timeout)) {
        Ok(0) => Err(Errno::TIMEDOUT),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("shield-hub-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("terok/events/0123456789ab")).unwrap();
            Self(path)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn uids_are_mapped_to_the_outside() {
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(map_outside(rootless, 0), Some(1000));
        assert_eq!(map_outside(rootless, 5), Some(100_004));
        assert_eq!(map_outside(rootless, 70_000), None);
        assert_eq!(map_outside("0 0 4294967295", 1000), Some(1000));
        for bad in ["", "x", "0 0", "0 4294967295 9\n"] {
            assert_eq!(map_outside(bad, 1), None, "{bad:?}");
        }
    }

    #[test]
    fn the_newer_path_wins_where_it_exists() {
        let t = Temp::new("paths");
        let paths = Paths::under(&t.0, "0123456789ab");
        assert_eq!(paths.connect().unwrap_err(), Errno::NOENT);
        let events = t.0.join("terok/events");
        let _old = UnixListener::bind(events.join("0123456789ab.sock")).unwrap();
        assert_eq!(paths.connect().unwrap().1, Age::Old);
        let _new = UnixListener::bind(events.join("0123456789ab/ingester.sock")).unwrap();
        assert_eq!(paths.connect().unwrap().1, Age::New);
    }

    #[test]
    fn each_generation_of_hub_hears_its_own_word() {
        let t = Temp::new("words");
        let paths = Paths::under(&t.0, "0123456789ab");
        let events = t.0.join("terok/events");
        let heard = |listener: &UnixListener| {
            let mut text = String::new();
            listener
                .accept()
                .unwrap()
                .0
                .read_to_string(&mut text)
                .unwrap();
            text
        };
        let old = UnixListener::bind(events.join("0123456789ab.sock")).unwrap();
        assert!(tell_change(&paths, Change::Disengaged, "box", None));
        assert_eq!(
            heard(&old),
            "{\"type\":\"shield_down_all\",\"container\":\"box\"}\n"
        );
        let new = UnixListener::bind(events.join("0123456789ab/ingester.sock")).unwrap();
        assert!(tell_change(
            &paths,
            Change::Disengaged,
            "box",
            Some("{\"a\":\"b\"}")
        ));
        assert_eq!(
            heard(&new),
            "{\"type\":\"shield_disengaged\",\"container\":\"box\",\"dossier\":{\"a\":\"b\"}}\n"
        );
    }

    #[test]
    fn a_missing_or_stalled_hub_costs_at_most_the_timeout() {
        let t = Temp::new("stalled");
        let paths = Paths::under(&t.0, "0123456789ab");
        let start = Instant::now();
        assert!(!tell_change(&paths, Change::Up, "box", None));
        assert!(start.elapsed() < Duration::from_millis(50));
        let _never_accepts =
            UnixListener::bind(t.0.join("terok/events/0123456789ab.sock")).unwrap();
        let (fd, _) = paths.connect().unwrap();
        let much = vec![b'x'; 4 << 20];
        let start = Instant::now();
        assert_eq!(
            send_until(&fd, &much, start + TIMEOUT),
            Err(Errno::TIMEDOUT)
        );
        assert!(start.elapsed() < TIMEOUT + Duration::from_millis(200));
    }
}
