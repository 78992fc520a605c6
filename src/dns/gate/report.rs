//! What the gate tells others: the feed for the event reader, and complaints for the operator.
//! All of it is bounded, for the workload decides how often there is something to tell.

use super::feed::{self, Feed};
use crate::clock;
use crate::contract::file;
use crate::dns::answer::Answer;
use crate::dns::name::Name;
use crate::files::Dir;
use rustix::fs::OFlags;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;

/// One refused name and type is told once in this time, milliseconds.
const WINDOW: u64 = 30_000;
/// Refused questions remembered for that.
const MAX_RECENT: usize = 1024;
/// Refusals told per second at most, and how many may come at once.
const RATE: u64 = 20;
const BURST: u64 = 100;
/// Length of `gate.log` after which nothing more is written to it until the next start, octets.
const MAX_LOG: u64 = 64 << 10;
/// Complaints come this far apart at least, milliseconds.
const COMPLAINT_INTERVAL: u64 = 1000;

/// The reporting end.
pub struct Report {
    feed: Option<Feed>,
    log: Option<std::fs::File>,
    pending: String,
    recent: HashMap<u64, u64>,
    hasher: RandomState,
    /// Thousandths of a refusal that may be told.
    tokens: u64,
    refilled: u64,
    complained: Option<u64>,
}

impl Report {
    /// Reports into this bundle. Where a file cannot be opened nothing is reported: the gate's
    /// answers do not depend on it.
    pub fn open(dir: Dir) -> Self {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let log = dir.open_file(file::GATE_LOG, flags).ok().flatten();
        Self {
            feed: Feed::open(dir).ok(),
            log,
            pending: String::new(),
            recent: HashMap::new(),
            hasher: RandomState::new(),
            tokens: BURST * 1000,
            refilled: 0,
            complained: None,
        }
    }

    /// A query was refused, or resolved without being allowed.
    pub fn blocked(&mut self, name: &Name, qtype: u16, now: u64) {
        let question = self.hasher.hash_one((name, qtype));
        if self
            .recent
            .get(&question)
            .is_some_and(|at| now < at + WINDOW)
        {
            return;
        }
        self.tokens = (self.tokens + (now - self.refilled) * RATE).min(BURST * 1000);
        self.refilled = now;
        if self.tokens < 1000 {
            return;
        }
        self.tokens -= 1000;
        if self.recent.len() >= MAX_RECENT {
            self.recent.retain(|_, at| now < *at + WINDOW);
        }
        if self.recent.len() < MAX_RECENT {
            self.recent.insert(question, now);
        }
        let text = name.to_text();
        match mnemonic(qtype) {
            Some(word) => feed::push_blocked(&mut self.pending, clock::now(), &text, word),
            None => {
                let word = format!("TYPE{qtype}");
                feed::push_blocked(&mut self.pending, clock::now(), &text, word);
            }
        }
    }

    /// Upstream answered.
    pub fn answered(&mut self, name: &Name, answer: &Answer) {
        let text = name.to_text();
        for addresses in answer.addresses.chunks(feed::MAX_ADDRESSES) {
            let addresses = addresses.iter().map(|(a, _)| *a);
            feed::push_answer(&mut self.pending, clock::now(), &text, addresses);
        }
    }

    /// Hands over what was reported since the last time.
    pub fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        if let Some(feed) = &mut self.feed {
            // A full disk must not stop DNS.
            let _ = feed.write(&self.pending);
        }
        self.pending.clear();
        self.pending.shrink_to(4096);
    }

    /// Something is wrong that an operator should know.
    pub fn complain(&mut self, what: &str, now: u64) {
        if self
            .complained
            .is_some_and(|at| now < at + COMPLAINT_INTERVAL)
        {
            return;
        }
        self.complained = Some(now);
        if let Some(log) = &mut self.log
            && log.metadata().is_ok_and(|m| m.len() < MAX_LOG)
        {
            let line = format!("{} {what}\n", clock::rfc3339(clock::now()));
            let _ = log.write_all(line.as_bytes());
        }
    }
}

/// A type's name, where it has a common one (IANA's registry).
fn mnemonic(qtype: u16) -> Option<&'static str> {
    Some(match qtype {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        48 => "DNSKEY",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        257 => "CAA",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_in_part_and_remembered_in_bounds() {
        let path = std::env::temp_dir().join(format!("shield-report-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let mut report = Report::open(Dir::create(&path).unwrap());
        let name = |n: u32| Name::parse(&format!("n{n}.org")).unwrap();
        for now in 0..1000u64 {
            report.blocked(&name(7), 1, now);
            for n in 0..20 {
                report.blocked(&name(now as u32 * 20 + n), 28, now);
            }
        }
        report.flush();
        let text = std::fs::read_to_string(path.join(file::DNS_FEED)).unwrap();
        let lines = text.lines().count() as u64;
        assert!((BURST..=BURST + RATE).contains(&lines), "{lines}");
        assert_eq!(text.matches("n7.org A\n").count(), 1);
        assert!(report.recent.len() <= MAX_RECENT);
        for n in 0..10 {
            report.complain("trouble", n);
        }
        let log = std::fs::read_to_string(path.join(file::GATE_LOG)).unwrap();
        assert_eq!(log.lines().count(), 1);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
