//! Answers kept for as long as they live, bounded by number and by size.

use crate::dns::answer::{Answer, Key};
use crate::dns::name::MAX_NAME;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Most answers kept.
const MAX_ENTRIES: usize = 2048;
/// Most memory for them, octets.
const MAX_BYTES: usize = 768 << 10;
/// What an answer costs beside its contents: map entry, queue entry, key, reference counts.
const OVERHEAD: usize = 300;
/// Longest packed key.
const PACKED: usize = MAX_NAME + 3;

struct Entry {
    answer: Rc<Answer>,
    /// When it was fetched and when it ends, milliseconds of the gate's clock.
    since: u64,
    until: u64,
    /// Asked for since the hand last passed.
    used: bool,
}

/// The cache. Full, it gives up what was not asked for since its hand last passed (second chance).
#[derive(Default)]
pub struct Cache {
    entries: HashMap<Rc<[u8]>, Entry>,
    hand: VecDeque<Rc<[u8]>>,
    bytes: usize,
}

/// The key as few octets: a [`Key`] by value would make an entry ten times as large.
fn pack<'a>(key: &Key, space: &'a mut [u8; PACKED]) -> &'a [u8] {
    let wire = key.name.wire();
    let [high, low] = key.qtype.to_be_bytes();
    let flags = u8::from(key.dnssec_ok) | u8::from(key.checking_disabled) << 1;
    space[..wire.len()].copy_from_slice(wire);
    space[wire.len()..wire.len() + 3].copy_from_slice(&[high, low, flags]);
    &space[..wire.len() + 3]
}

fn weight(answer: &Answer) -> usize {
    OVERHEAD
        + answer.message.len()
        + size_of_val(&*answer.ttls)
        + size_of_val(&*answer.addresses)
        + size_of_val(&*answer.via)
}

impl Cache {
    /// The living answer to `key`, and its age in seconds.
    pub fn get(&mut self, key: &Key, now: u64) -> Option<(Rc<Answer>, u32)> {
        let entry = self.entries.get_mut(pack(key, &mut [0; PACKED]))?;
        if entry.until <= now {
            return None;
        }
        entry.used = true;
        let age = (now.saturating_sub(entry.since) / 1000) as u32;
        Some((Rc::clone(&entry.answer), age))
    }

    /// Keeps an answer for its lifetime.
    pub fn put(&mut self, key: &Key, answer: Rc<Answer>, now: u64) {
        let weight_new = weight(&answer);
        if answer.lifetime == 0 || weight_new > MAX_BYTES / 8 {
            return;
        }
        let key: Rc<[u8]> = pack(key, &mut [0; PACKED]).into();
        let entry = Entry {
            until: now + u64::from(answer.lifetime) * 1000,
            since: now,
            used: false,
            answer,
        };
        self.bytes += weight_new;
        match self.entries.insert(Rc::clone(&key), entry) {
            Some(old) => self.bytes -= weight(&old.answer),
            None => self.hand.push_back(key),
        }
        self.shrink(now);
    }

    fn shrink(&mut self, now: u64) {
        // Each round removes an entry or takes its mark away, so two rounds at most.
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some(key) = self.hand.pop_front() else {
                return;
            };
            match self.entries.get_mut(&key) {
                Some(entry) if entry.used && entry.until > now => {
                    entry.used = false;
                    self.hand.push_back(key);
                }
                _ => {
                    if let Some(old) = self.entries.remove(&key) {
                        self.bytes -= weight(&old.answer);
                    }
                }
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Number of answers kept, ended ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::name::Name;

    fn key(n: usize) -> Key {
        Key {
            name: Name::parse(&format!("n{n}.org")).unwrap(),
            qtype: 1,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    fn answer(lifetime: u32, size: usize) -> Rc<Answer> {
        Rc::new(Answer {
            message: vec![0; size].into(),
            ttls: Box::default(),
            rcode: 0,
            addresses: Box::default(),
            via: Box::default(),
            lifetime,
        })
    }

    #[test]
    fn an_answer_ages_and_ends() {
        let mut cache = Cache::default();
        cache.put(&key(1), answer(5, 10), 1000);
        assert_eq!(cache.get(&key(1), 3999).unwrap().1, 2);
        assert!(cache.get(&key(1), 6000).is_none());
        cache.put(&key(2), answer(0, 10), 1000);
        assert!(cache.get(&key(2), 1000).is_none());
    }

    #[test]
    fn numbers_and_bytes_are_bounded_and_what_is_used_stays() {
        let mut cache = Cache::default();
        for n in 0..10_000 {
            cache.put(&key(n), answer(500, 20), 0);
            assert!(cache.get(&key(0), 1).is_some(), "asked for every time");
        }
        assert!(cache.len() <= MAX_ENTRIES && cache.bytes <= MAX_BYTES);
        assert_eq!(cache.hand.len(), cache.len());
        for n in 0..200 {
            cache.put(&key(n), answer(500, 60_000), 0);
        }
        assert!(cache.bytes <= MAX_BYTES);
        let sum: usize = cache.entries.values().map(|e| weight(&e.answer)).sum();
        assert_eq!(sum, cache.bytes);
    }
}
