//! Follows a growing log file of the bundle: new lines only, across rotation and truncation.

use crate::error::Result;
use crate::files::Dir;
use rustix::fs::{AtFlags, OFlags};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

/// A longer line is dropped up to its end.
const MAX_LINE: usize = 8 * 1024;

/// Where following begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Everything that is there.
    Start,
    /// What comes from now on.
    End,
    /// The last so many bytes, from the first whole line in them.
    Last(u64),
}

/// A followed file. It need not exist yet.
#[derive(Debug)]
pub struct Follower {
    name: &'static str,
    file: Option<File>,
    at: u64,
    partial: Vec<u8>,
    skipping: bool,
}

impl Follower {
    /// Follows the file `name` of the directory. A file that appears later is read from its start.
    pub fn new(dir: &Dir, name: &'static str, from: From) -> Result<Self> {
        let file = dir.open_file(name, OFlags::RDONLY)?;
        let size = match &file {
            Some(file) => file.metadata()?.len(),
            None => 0,
        };
        let at = match from {
            From::Start => 0,
            From::End => size,
            From::Last(bytes) => size.saturating_sub(bytes),
        };
        Ok(Self {
            name,
            file,
            at,
            partial: Vec::new(),
            skipping: at != 0 && from != From::End,
        })
    }

    /// Hands new whole lines to `each`, reading at most `budget` bytes; whether there may be more.
    pub fn read(&mut self, dir: &Dir, budget: usize, mut each: impl FnMut(&[u8])) -> Result<bool> {
        let mut left = budget;
        loop {
            if self.drain(&mut left, &mut each)? {
                return Ok(true);
            }
            if !self.turn_over(dir)? {
                return Ok(false);
            }
        }
    }

    /// Reads the open file to its end; whether the budget ended first.
    fn drain(&mut self, left: &mut usize, each: &mut impl FnMut(&[u8])) -> Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        if file.metadata()?.len() < self.at {
            // Truncated in place: what is there now is new.
            self.at = 0;
            self.partial.clear();
            self.skipping = false;
        }
        let mut buffer = [0u8; 4096];
        loop {
            let want = buffer.len().min(*left);
            if want == 0 {
                return Ok(true);
            }
            let got = match &self.file {
                Some(file) => file.read_at(&mut buffer[..want], self.at)?,
                None => 0,
            };
            if got == 0 {
                return Ok(false);
            }
            self.at += got as u64;
            *left -= got;
            self.feed(&buffer[..got], each);
        }
    }

    fn feed(&mut self, mut bytes: &[u8], each: &mut impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (head, tail) = (&bytes[..end], &bytes[end + 1..]);
            if !self.skipping && self.partial.is_empty() {
                each(head);
            } else if !self.skipping && self.partial.len() + head.len() <= MAX_LINE {
                self.partial.extend(head);
                each(&self.partial);
            }
            self.partial.clear();
            self.skipping = false;
            bytes = tail;
        }
        if self.partial.len() + bytes.len() > MAX_LINE {
            self.partial = Vec::new();
            self.skipping = true;
        } else if !self.skipping {
            self.partial.extend(bytes);
        }
    }

    /// Opens the file that now has our name, if it is another one; whether it was.
    fn turn_over(&mut self, dir: &Dir) -> Result<bool> {
        let now = match rustix::fs::statat(dir, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => (stat.st_dev, stat.st_ino),
            Err(_) => return Ok(false),
        };
        if let Some(file) = &self.file {
            let meta = file.metadata()?;
            if (meta.dev(), meta.ino()) == now {
                return Ok(false);
            }
        }
        let Some(file) = dir.open_file(self.name, OFlags::RDONLY)? else {
            return Ok(false);
        };
        self.file = Some(file);
        self.at = 0;
        self.partial.clear();
        self.skipping = false;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(f: &mut Follower, dir: &Dir) -> Vec<String> {
        let mut seen = Vec::new();
        let more = f
            .read(dir, usize::MAX, |l| {
                seen.push(String::from_utf8_lossy(l).into_owned())
            })
            .unwrap();
        assert!(!more);
        seen
    }

    #[test]
    fn lines_are_seen_once_across_rotation_and_truncation() {
        let path = std::env::temp_dir().join(format!("shield-follow-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let dir = Dir::create(&path).unwrap();
        let log = path.join("log");
        let mut f = Follower::new(&dir, "log", From::End).unwrap();
        assert_eq!(lines(&mut f, &dir), [""; 0]);
        dir.append("log", b"one\ntw").unwrap();
        assert_eq!(lines(&mut f, &dir), ["one"]);
        dir.append("log", b"o\n").unwrap();
        assert_eq!(lines(&mut f, &dir), ["two"]);
        dir.append("log", b"three\n").unwrap();
        std::fs::rename(&log, path.join("log.1")).unwrap();
        dir.append("log", b"four\n").unwrap();
        assert_eq!(lines(&mut f, &dir), ["three", "four"]);
        std::fs::write(&log, "5\n").unwrap();
        assert_eq!(lines(&mut f, &dir), ["5"]);
        std::fs::remove_file(&log).unwrap();
        assert_eq!(lines(&mut f, &dir), [""; 0]);
        dir.append("log", b"six\n").unwrap();
        assert_eq!(lines(&mut f, &dir), ["six"]);

        dir.append("log", &[b'x'; 100_000]).unwrap();
        dir.append("log", b"\nseven\n").unwrap();
        assert_eq!(lines(&mut f, &dir), ["seven"], "a giant line is dropped");
        let mut tail = Follower::new(&dir, "log", From::Last(9)).unwrap();
        assert_eq!(lines(&mut tail, &dir), ["seven"]);
        let mut all = Follower::new(&dir, "log", From::Start).unwrap();
        let mut seen = 0;
        assert!(
            all.read(&dir, 4, |_| seen += 1).unwrap(),
            "the budget holds"
        );
        assert_eq!(seen, 1);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
