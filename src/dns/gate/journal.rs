//! What the gate opened, in a file: a gate that was killed leaves elements in the kernel, and the
//! next one must know which names earned them, to close them when the operator denies a name.
//!
//! `<address> <unix seconds of expiry> <name>[ <alias>...]` a line, in `gate.learned`.

use crate::clock;
use crate::contract::file;
use crate::dns::name::Name;
use crate::error::{Context, Error, Result};
use crate::files::Dir;
use rustix::fs::OFlags;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;

/// Size at which the file is written anew with what still lives.
const FULL: u64 = 2 << 20;
/// Largest file read: a rewritten one and what came after.
const MAX_READ: usize = 8 << 20;

/// A line, read.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// The open address.
    pub address: IpAddr,
    /// How long it may still be open, seconds.
    pub left: u32,
    /// The name that earned it, wire form.
    pub name: Box<[u8]>,
    /// The aliases on the way, wire form.
    pub via: Box<[Box<[u8]>]>,
}

/// The journal's writing end.
#[derive(Debug)]
pub struct Journal {
    dir: Option<Dir>,
    file: Option<File>,
    size: u64,
    pending: String,
    restart: bool,
}

impl Journal {
    /// The journal of this bundle.
    pub fn new(dir: Dir) -> Self {
        Self {
            dir: Some(dir),
            ..Self::none()
        }
    }

    /// A journal that keeps nothing.
    pub fn none() -> Self {
        Self {
            dir: None,
            file: None,
            size: 0,
            pending: String::new(),
            restart: false,
        }
    }

    /// The lines that have not expired. What cannot be read is skipped: at worst an address stays
    /// open until it expires, as it would have.
    pub fn load(&mut self) -> Vec<Line> {
        let text = match &self.dir {
            Some(dir) => dir.read_text(file::GATE_LEARNED, MAX_READ),
            None => Ok(None),
        };
        let text = text.ok().flatten().unwrap_or_default();
        self.size = text.len() as u64;
        let now = clock::now();
        text.lines().filter_map(|line| parse(line, now)).collect()
    }

    /// Notes an opening; [`Journal::flush`] writes it.
    pub fn push(&mut self, address: IpAddr, seconds: u32, name: &[u8], via: &[Box<[u8]>]) {
        if self.dir.is_none() {
            return;
        }
        let until = clock::now() + i64::from(seconds);
        let _ = write!(self.pending, "{address} {until}");
        for wire in std::iter::once(name).chain(via.iter().map(|v| &**v)) {
            self.pending.push(' ');
            self.pending.push_str(&hex_or_text(wire));
        }
        self.pending.push('\n');
    }

    /// Whether it is time for [`Journal::restart`].
    pub fn is_full(&self) -> bool {
        self.size + self.pending.len() as u64 > FULL
    }

    /// Begins anew: what is pushed from now on replaces the file.
    pub fn restart(&mut self) {
        self.pending.clear();
        self.restart = true;
    }

    /// Writes what was pushed.
    pub fn flush(&mut self) -> Result<()> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        if self.restart {
            dir.write(file::GATE_LEARNED, self.pending.as_bytes())?;
            self.restart = false;
            self.file = None;
            self.size = self.pending.len() as u64;
        } else if !self.pending.is_empty() {
            if self.file.is_none() {
                let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
                self.file = dir.open_file(file::GATE_LEARNED, flags)?;
            }
            self.file
                .as_mut()
                .ok_or_else(|| Error::new(format!("cannot create {}", file::GATE_LEARNED)))?
                .write_all(self.pending.as_bytes())
                .context(|| format!("cannot append to {}", file::GATE_LEARNED))?;
            self.size += self.pending.len() as u64;
        }
        self.pending.clear();
        self.pending.shrink_to(4096);
        Ok(())
    }
}

/// A name as text where it reads back the same, else its octets as `#hex`.
fn hex_or_text(wire: &[u8]) -> String {
    let text = Name::from_wire(wire).map(|n| n.to_text());
    match text {
        Some(text) if Name::parse(&text).is_ok_and(|n| n.wire() == wire) => text,
        _ => wire.iter().fold(String::from("#"), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        }),
    }
}

fn read_name(word: &str) -> Option<Box<[u8]>> {
    let Some(hex) = word.strip_prefix('#') else {
        return Some(Name::parse(word).ok()?.wire().into());
    };
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let octet = |p: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok();
    let wire: Option<Vec<u8>> = pairs.iter().map(octet).collect();
    Some(Name::from_wire(&wire?)?.wire().into())
}

fn parse(line: &str, now: i64) -> Option<Line> {
    let mut words = line.split(' ');
    let address = words.next()?.parse().ok()?;
    let until: i64 = words.next()?.parse().ok()?;
    let left = u32::try_from(until.checked_sub(now)?).ok()?;
    let name = read_name(words.next()?)?;
    let via: Option<Vec<Box<[u8]>>> = words.map(read_name).collect();
    Some(Line {
        address,
        left,
        name,
        via: via?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back_and_expired_ones_do_not() {
        let path = std::env::temp_dir().join(format!("shield-journal-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let mut journal = Journal::new(Dir::create(&path).unwrap());
        assert!(journal.load().is_empty());
        let odd = b"\x03a b\x00";
        let address = "192.0.2.7".parse().unwrap();
        journal.push(address, 60, Name::parse("a.org").unwrap().wire(), &[]);
        journal.push(address, 60, odd, &[Box::from(&b"\x01b\0"[..])]);
        journal.flush().unwrap();
        journal.push(address, 0, odd, &[]);
        journal.flush().unwrap();
        let lines = Journal::new(Dir::open(&path).unwrap()).load();
        assert_eq!(*lines[0].name, *Name::parse("a.org").unwrap().wire());
        assert_eq!(*lines[1].name, odd[..]);
        assert_eq!(*lines[1].via[0], b"\x01b\0"[..]);
        assert!((58..=60).contains(&lines[0].left));

        journal.restart();
        journal.push(address, 60, odd, &[]);
        journal.flush().unwrap();
        journal.push(address, 60, odd, &[]);
        journal.flush().unwrap();
        assert_eq!(Journal::new(Dir::open(&path).unwrap()).load().len(), 2);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn nonsense_is_skipped() {
        for bad in [
            "",
            "x",
            "192.0.2.1",
            "192.0.2.1 x a.org",
            "192.0.2.1 99999999999999 a.org",
            "192.0.2.1 100 #0",
            "192.0.2.1 100 #zz",
            "192.0.2.1 100 a..b",
            "192.0.2.1 -100 a.org",
        ] {
            assert_eq!(parse(bad, 0), None, "{bad}");
        }
    }
}
