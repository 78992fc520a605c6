//! The names of destinations, learned from what the DNS tier wrote down.

use crate::contract::file;
use crate::error::Result;
use crate::files::Dir;
use crate::watch::dns_log::{self, Answers};
use crate::watch::domain_cache::DomainCache;
use crate::watch::follow::{Follower, From};
use std::net::IpAddr;
use std::rc::Rc;

/// How much of a log that was there before us is read, bytes.
const BEFORE: u64 = 256 * 1024;
/// Bytes read between two batches of packets: a workload that floods the resolver must not keep
/// us from its packets.
const BUDGET: usize = 256 * 1024;

/// The followed logs and what they taught.
#[derive(Debug)]
pub struct Names {
    dnsmasq: Follower,
    answers: Answers,
    feed: Follower,
    cache: DomainCache,
}

impl Names {
    /// Follows the bundle's DNS logs, whichever its tier writes.
    pub fn new(dir: &Dir) -> Result<Self> {
        Ok(Self {
            dnsmasq: Follower::new(dir, file::DNSMASQ_LOG, From::Last(BEFORE))?,
            answers: Answers::default(),
            feed: Follower::new(dir, file::DNS_FEED, From::Last(BEFORE))?,
            cache: DomainCache::default(),
        })
    }

    /// Learns what was written since the last call. What cannot be read teaches nothing.
    pub fn refresh(&mut self, dir: &Dir) {
        let (answers, cache) = (&mut self.answers, &mut self.cache);
        let _ = self.dnsmasq.read(dir, BUDGET, |line| {
            if let Ok(line) = std::str::from_utf8(line)
                && let Some((address, name)) = answers.line(line)
            {
                cache.learn(address, name);
            }
        });
        let _ = self.feed.read(dir, BUDGET, |line| {
            if let Ok(line) = std::str::from_utf8(line) {
                dns_log::feed_answers(line, |address, name| cache.learn(address, name));
            }
        });
    }

    /// The name `address` was last looked up by.
    pub fn of(&self, address: &IpAddr) -> Option<Rc<str>> {
        self.cache.name(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tiers_logs_teach_names() {
        let path = std::env::temp_dir().join(format!("shield-names-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let dir = Dir::create(&path).unwrap();
        let mut names = Names::new(&dir).unwrap();
        dir.append(
            file::DNSMASQ_LOG,
            b"x dnsmasq[1]: reply a.example is 192.0.2.1\nx dnsmasq[1]: reply \xff is 192.0.2.9\n",
        )
        .unwrap();
        dir.append(
            file::DNS_FEED,
            b"7 answer b.example 192.0.2.2 2001:db8::2\n",
        )
        .unwrap();
        names.refresh(&dir);
        let name = |a: &str| names.of(&a.parse().unwrap());
        assert_eq!(name("192.0.2.1").as_deref(), Some("a.example"));
        assert_eq!(name("2001:db8::2").as_deref(), Some("b.example"));
        assert_eq!(name("192.0.2.9"), None);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
