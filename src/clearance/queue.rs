//! Destinations that wait for a verdict: each once, however often it is tried.

use super::Verdict;
use crate::watch::event::Event;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Most destinations that wait; the workload decides how many there are.
pub const CAPACITY: usize = 256;
/// How long a skipped destination is not asked about again.
pub const SKIPPED: Duration = Duration::from_secs(60);

/// One destination that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Where to.
    pub dest: IpAddr,
    /// Port; 0 where the protocol has none.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// The name it was looked up by, or empty.
    pub domain: String,
    /// How often it was tried.
    pub times: u64,
}

impl Question {
    fn is_same(&self, other: &Self) -> bool {
        (self.dest, self.port, self.proto) == (other.dest, other.port, other.proto)
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Question>,
    skipped: VecDeque<(Question, Instant)>,
    dropped: u64,
}

impl Queue {
    /// Takes in a packet that waits for a verdict.
    pub fn add(&mut self, event: &Event) {
        let Ok(dest) = event.dest.parse() else {
            return;
        };
        let question = Question {
            dest,
            port: u16::try_from(event.port).unwrap_or(0),
            proto: u8::try_from(event.proto).unwrap_or(0),
            domain: event.domain.clone(),
            times: 1,
        };
        if let Some(known) = self.waiting.iter_mut().find(|q| q.is_same(&question)) {
            known.times += 1;
            if known.domain.is_empty() {
                known.domain = question.domain;
            }
            return;
        }
        self.skipped.retain(|(_, at)| at.elapsed() < SKIPPED);
        if self.skipped.iter().any(|(q, _)| q.is_same(&question)) {
            return;
        }
        if self.waiting.len() < CAPACITY {
            self.waiting.push_back(question);
        } else {
            self.dropped += 1;
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The one to ask about.
    pub fn first(&self) -> Option<&Question> {
        self.waiting.front()
    }

    /// Puts the first one aside.
    pub fn skip(&mut self) {
        if let Some(question) = self.waiting.pop_front() {
            if self.skipped.len() >= CAPACITY {
                self.skipped.pop_front();
            }
            self.skipped.push_back((question, Instant::now()));
        }
    }

    /// Takes out the first one, which was decided, and all others the verdict decides as well.
    pub fn settle(&mut self, verdict: &Verdict) {
        let Some(first) = self.waiting.pop_front() else {
            return;
        };
        let (Verdict::Allow(target) | Verdict::AllowFor(target, _) | Verdict::Deny(target)) =
            verdict;
        let (dest, domain) = (first.dest.to_string(), first.domain.as_str());
        if *target == dest {
            self.waiting.retain(|q| q.dest != first.dest);
        } else if !domain.is_empty() && target == domain {
            self.waiting.retain(|q| q.domain != domain);
        }
    }

    /// Destinations that found no room since the last call; a further attempt asks again.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(dest: &str, port: u64, domain: &str) -> Event {
        Event {
            dest: dest.into(),
            port,
            proto: 6,
            domain: domain.into(),
            ..Event::default()
        }
    }

    #[test]
    fn repeats_merge_and_one_verdict_settles_all_it_decides() {
        let mut q = Queue::default();
        for _ in 0..3 {
            q.add(&event("192.0.2.1", 443, ""));
        }
        q.add(&event("192.0.2.1", 80, "a.example"));
        q.add(&event("192.0.2.2", 80, "a.example"));
        q.add(&event("nonsense", 80, ""));
        assert_eq!((q.len(), q.first().unwrap().times), (3, 3));
        q.settle(&Verdict::Allow("192.0.2.1".into()));
        assert_eq!(q.len(), 1);
        q.add(&event("192.0.2.3", 80, "a.example"));
        q.settle(&Verdict::Deny("a.example".into()));
        assert!(q.is_empty());
        q.add(&event("192.0.2.4", 80, ""));
        q.add(&event("192.0.2.4", 81, ""));
        q.settle(&Verdict::Allow("192.0.2.4:80/tcp".into()));
        assert_eq!(
            q.first().unwrap().port,
            81,
            "another port is another question"
        );
    }

    #[test]
    fn what_is_skipped_rests_and_the_queue_is_bounded() {
        let mut q = Queue::default();
        q.add(&event("192.0.2.1", 443, ""));
        q.skip();
        q.add(&event("192.0.2.1", 443, ""));
        assert!(q.is_empty());
        for n in 0..CAPACITY as u64 + 5 {
            q.add(&event("192.0.2.9", n, ""));
        }
        assert_eq!(
            (q.len(), q.take_dropped(), q.take_dropped()),
            (CAPACITY, 5, 0)
        );
    }
}
