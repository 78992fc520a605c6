//! What the gate tells the event reader and `watch`: a file of lines in the bundle.
//!
//! ```text
//! <unix seconds> answer <queried name> <address>[ <address>...]
//! <unix seconds> blocked <queried name> <query type>
//! ```
//!
//! The queried name, not the end of its CNAME chain: it is what a person recognises. Lines are
//! appended whole. A file that passes [`MAX`] is renamed to `dns.feed.1` and a new one begun, so
//! that a workload's queries fill at most twice that much; followers notice the new inode.

use crate::contract::file;
use crate::error::{Context, Error, Result};
use crate::files::Dir;
use rustix::fs::OFlags;
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;

/// Bytes after which a new file is begun.
pub const MAX: u64 = 1 << 20;
/// Most addresses one line names.
pub const MAX_ADDRESSES: usize = 64;

/// One line, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A name was answered with these addresses.
    Answer {
        /// Seconds since 1970.
        time: i64,
        /// The queried name.
        name: &'a str,
        /// The answer's addresses.
        addresses: Vec<IpAddr>,
    },
    /// A query was refused by policy.
    Blocked {
        /// Seconds since 1970.
        time: i64,
        /// The queried name.
        name: &'a str,
        /// `A`, `AAAA`, `TYPE65`, ...
        query_type: &'a str,
    },
}

fn push_head(out: &mut String, time: i64, kind: &str, name: &str) {
    let _ = write!(out, "{time} {kind} ");
    // One word whatever the workload asked for: the fields are divided by spaces.
    out.extend(
        name.chars()
            .take(255)
            .map(|c| if c.is_ascii_graphic() { c } else { '?' }),
    );
    if name.is_empty() {
        out.push('.');
    }
}

/// Appends the line of an answer to `out`. `time` in seconds since 1970.
pub fn push_answer(
    out: &mut String,
    time: i64,
    name: &str,
    addresses: impl IntoIterator<Item = IpAddr>,
) {
    push_head(out, time, "answer", name);
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        let _ = write!(out, " {address}");
    }
    out.push('\n');
}

/// Appends the line of a refused query to `out`.
pub fn push_blocked(out: &mut String, time: i64, name: &str, query_type: impl Display) {
    push_head(out, time, "blocked", name);
    let _ = writeln!(out, " {query_type}");
}

/// Reads one line; `None` if it is none of ours.
pub fn parse(line: &str) -> Option<Record<'_>> {
    let mut words = line.split(' ');
    let time = words.next()?.parse().ok()?;
    let kind = words.next()?;
    let name = words.next().filter(|n| !n.is_empty())?;
    match kind {
        "answer" => {
            let addresses: Option<Vec<IpAddr>> = words
                .take(MAX_ADDRESSES)
                .map(|word| word.parse().ok())
                .collect();
            Some(Record::Answer {
                time,
                name,
                addresses: addresses?,
            })
        }
        "blocked" => Some(Record::Blocked {
            time,
            name,
            query_type: words.next()?,
        }),
        _ => None,
    }
}

/// The feed's writing end.
#[derive(Debug)]
pub struct Feed {
    dir: Dir,
    file: File,
    size: u64,
}

impl Feed {
    /// Opens the bundle's feed for appending; the directory stays open, for rotation.
    pub fn open(dir: Dir) -> Result<Self> {
        let (file, size) = open(&dir)?;
        Ok(Self { dir, file, size })
    }

    /// Appends whole lines, and begins a new file when this one is full.
    pub fn write(&mut self, lines: &str) -> Result<()> {
        self.file
            .write_all(lines.as_bytes())
            .context(|| format!("cannot append to {}", file::DNS_FEED))?;
        self.size += lines.len() as u64;
        if self.size > MAX {
            let old = format!("{}.1", file::DNS_FEED);
            rustix::fs::renameat(&self.dir, file::DNS_FEED, &self.dir, &*old)
                .context(|| format!("cannot rotate {}", file::DNS_FEED))?;
            (self.file, self.size) = open(&self.dir)?;
        }
        Ok(())
    }
}

fn open(dir: &Dir) -> Result<(File, u64)> {
    let file = dir
        .open_file(
            file::DNS_FEED,
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
        )?
        .ok_or_else(|| Error::new(format!("cannot create {}", file::DNS_FEED)))?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut out = String::new();
        let addresses: Vec<IpAddr> = ["192.0.2.7", "2001:db8::7"]
            .map(|a| a.parse().unwrap())
            .into();
        push_answer(&mut out, 7, "example.com", addresses.clone());
        push_blocked(&mut out, 8, "a b\n\u{202e}", "AAAA");
        push_blocked(&mut out, 9, "", "NS");
        let records: Vec<_> = out.lines().map(parse).collect();
        assert_eq!(
            records,
            [
                Some(Record::Answer {
                    time: 7,
                    name: "example.com",
                    addresses
                }),
                Some(Record::Blocked {
                    time: 8,
                    name: "a?b??",
                    query_type: "AAAA"
                }),
                Some(Record::Blocked {
                    time: 9,
                    name: ".",
                    query_type: "NS"
                }),
            ]
        );
    }

    #[test]
    fn a_full_feed_is_rotated_and_nothing_is_lost() {
        let path = std::env::temp_dir().join(format!("shield-feed-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let mut feed = Feed::open(Dir::create(&path).unwrap()).unwrap();
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..1100 {
            feed.write(&line).unwrap();
        }
        let size = |name: &str| std::fs::metadata(path.join(name)).unwrap().len();
        assert_eq!(size("dns.feed.1") + size("dns.feed"), 1100 * 1024);
        assert!(size("dns.feed.1") <= MAX + 1024);
        std::fs::remove_dir_all(&path).unwrap();
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in "[ 0-9a-z.:]{0,60}") {
            let _ = parse(&line);
        }
    }
}
