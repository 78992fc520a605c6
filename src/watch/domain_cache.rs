//! Which name a destination address was looked up by: a table of fixed size.
//!
//! The workload chooses how many names it looks up, so the least recently learned pair makes
//! room. A name is sanitised when it enters.

use crate::sanitize;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

/// Most addresses remembered.
pub const CAPACITY: usize = 4096;

/// Address to name, first in, first out.
#[derive(Debug, Default)]
pub struct DomainCache {
    names: HashMap<IpAddr, (Rc<str>, u64)>,
    // A re-learned address stands here twice; the number tells the live mention from the stale.
    order: VecDeque<(IpAddr, u64)>,
    count: u64,
    last: Option<Rc<str>>,
}

impl DomainCache {
    /// Notes that `address` was an answer to a query for `name`.
    pub fn learn(&mut self, address: IpAddr, name: &str) {
        let name = self.shared(name);
        self.count += 1;
        self.names.insert(address, (name, self.count));
        self.order.push_back((address, self.count));
        while self.names.len() > CAPACITY || self.order.len() > 2 * CAPACITY {
            let Some((oldest, number)) = self.order.pop_front() else {
                return;
            };
            if self.names.get(&oldest).is_some_and(|(_, n)| *n == number) {
                self.names.remove(&oldest);
            }
        }
    }

    /// The answers of one query share one copy of its name.
    fn shared(&mut self, name: &str) -> Rc<str> {
        let name = sanitize::text(name.strip_suffix('.').unwrap_or(name)).to_ascii_lowercase();
        match &self.last {
            Some(last) if **last == *name => last.clone(),
            _ => {
                let name: Rc<str> = name.into();
                self.last = Some(name.clone());
                name
            }
        }
    }

    /// The name that `address` was last looked up by.
    pub fn name(&self, address: &IpAddr) -> Option<Rc<str>> {
        self.names.get(address).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    #[test]
    fn the_last_name_counts_and_is_clean() {
        let mut cache = DomainCache::default();
        cache.learn(ip(1), "old.example");
        cache.learn(ip(1), "New.example.");
        cache.learn(ip(2), "a\x1b]0;b");
        assert_eq!(cache.name(&ip(1)).as_deref(), Some("new.example"));
        assert_eq!(cache.name(&ip(2)).as_deref(), Some("a ]0;b"));
        assert_eq!(cache.name(&ip(3)), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_fresh_stays() {
        let mut cache = DomainCache::default();
        for n in 0..50_000 {
            cache.learn(ip(n), &format!("n{n}.example"));
            cache.learn(ip(1), "often.example");
        }
        assert!(cache.names.len() <= CAPACITY);
        assert!(cache.order.len() <= 2 * CAPACITY);
        assert_eq!(cache.name(&ip(1)).as_deref(), Some("often.example"));
        assert!(cache.name(&ip(49_999)).is_some());
        assert_eq!(cache.name(&ip(2)), None);
    }
}
