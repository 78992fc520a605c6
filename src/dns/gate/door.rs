//! Which addresses the firewall holds open because a name was answered with them, for how long,
//! and for which names.
//!
//! The promise: when an answer leaves the gate, each of its addresses that may be opened is in the
//! kernel's set for at least [`GRACE`] beyond the answer's time to live, and [`FLOOR`] in any case.
//! The kernel is asked only where what it holds falls short. What it holds is known as long as
//! nobody else changed the ruleset, which its generation number tells: after a change of posture
//! the sets may be empty, and everything is armed anew.

use super::journal::Journal;
use super::lists::{Lists, Verdict};
use crate::dns::answer::Answer;
use crate::dns::name::Name;
use crate::error::{Error, Result};
use crate::ipnet::IpNet;
use crate::nft::policy::{is_private, touches_hard_floor};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

/// How long an address stays open beyond its time to live, seconds: resolvers and programs use
/// answers a little longer than they should.
pub const GRACE: u32 = 30;
/// Shortest time an address is opened for, seconds.
pub const FLOOR: u32 = 60;
/// Longest, seconds.
pub const CAP: u32 = 86_400;
/// Added when arming, seconds, so that answers in quick succession need not arm each time.
pub const SLACK: u32 = 10;
/// What is told to clients never outlives what is open.
const _: () = assert!(crate::dns::answer::MAX_TTL + GRACE + SLACK <= CAP);
/// Most addresses open at a time. With the kernel's own bound on the sets, what a hostile zone
/// can cost.
const MAX_LEASES: usize = 14_000;
/// Most (address, name) pairs.
const MAX_PAIRS: usize = 28_000;
/// How often an opening is repeated when somebody else changes the ruleset meanwhile.
const MAX_ROUNDS: usize = 5;

/// Opens and closes addresses in the kernel.
pub trait Opener {
    /// Adds each address to the learned set of its family with a timeout in seconds, or gives one
    /// that is there the new timeout. Returns after the kernel has acknowledged all of them, with
    /// the number of changes to the ruleset that it took.
    fn open(&mut self, elements: &[(IpAddr, u32)]) -> Result<u32>;
    /// Removes the addresses, those that are there, and ends the flows to them.
    fn close(&mut self, addresses: &[IpAddr]) -> Result<()>;
    /// A number that grows by one with every change of the ruleset by anybody; `None` if that
    /// cannot be told.
    fn generation(&mut self) -> Option<u32>;
}

/// A name that was answered, and the aliases its answer went through.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    name: Box<[u8]>,
    via: Box<[Box<[u8]>]>,
}

impl Origin {
    fn may_stay(&self, lists: &Lists) -> bool {
        lists.verdict_of_wire(&self.name) == Verdict::Allowed
            && self
                .via
                .iter()
                .all(|v| lists.verdict_of_wire(v) != Verdict::Denied)
    }
}

/// One open address. Times are milliseconds of the gate's clock.
#[derive(Debug)]
struct Lease {
    /// Until when the kernel surely holds it; 0 if that is unknown.
    armed: u64,
    /// After when it surely does not.
    until: u64,
    /// Who earned it.
    origins: Vec<Rc<Origin>>,
}

/// One answer about to be given to a client.
#[derive(Debug, Clone, Copy)]
pub struct Earning<'a> {
    /// The name that was asked for.
    pub name: &'a Name,
    /// The answer.
    pub answer: &'a Answer,
    /// Its age, seconds; 0 when it has just come from upstream.
    pub age: u32,
}

/// The addresses that are open.
pub struct Door {
    opener: Box<dyn Opener>,
    journal: Journal,
    leases: HashMap<IpAddr, Lease>,
    origins: HashMap<Box<[u8]>, Rc<Origin>>,
    pairs: usize,
    generation: Option<u32>,
}

/// Whether an address learned from DNS may be opened: a global unicast address outside the private
/// ranges and the hard floor, in any of its spellings.
pub fn is_openable(addr: IpAddr) -> bool {
    let net = IpNet::from(addr);
    if is_private(&net) || touches_hard_floor(&net) {
        return false;
    }
    match addr {
        // 0/8, 127/8 and everything from multicast up (RFC 6890).
        IpAddr::V4(a) => !matches!(a.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(a) => is_openable_v6(a),
    }
}

fn is_openable_v6(addr: Ipv6Addr) -> bool {
    match addr.segments() {
        // ::/96: unspecified, loopback, the v4-compatible spelling.
        [0, 0, 0, 0, 0, 0, ..] => false,
        // 6to4 (RFC 3056) leads to the IPv4 address in it.
        [0x2002, high, low, ..] => {
            is_openable(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into())
        }
        // fec0::/10 (RFC 3879), multicast.
        [0xfec0..=0xffff, ..] => false,
        _ => true,
    }
}

/// How long the kernel must hold an address of this time to live, seconds.
fn needed(ttl: u32, age: u32) -> u32 {
    (ttl.saturating_sub(age) + GRACE).clamp(FLOOR, CAP - SLACK)
}

impl Door {
    /// Takes over what an earlier gate left in the journal: it may be open still.
    pub fn new(opener: Box<dyn Opener>, mut journal: Journal, now: u64) -> Self {
        let mut door = Self {
            opener,
            leases: HashMap::new(),
            origins: HashMap::new(),
            pairs: 0,
            generation: None,
            journal: Journal::none(),
        };
        for line in journal.load().into_iter().take(MAX_PAIRS) {
            let until = now + u64::from(line.left.min(CAP)) * 1000;
            let origin = door.origin(&line.name, line.via);
            let lease = door.leases.entry(line.address).or_insert(Lease {
                armed: 0,
                until,
                origins: Vec::new(),
            });
            lease.until = lease.until.max(until);
            if !lease.origins.contains(&origin) {
                lease.origins.push(origin);
                door.pairs += 1;
            }
        }
        door.journal = journal;
        door
    }

    /// Number of addresses open or open until lately.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Makes sure that every address of these answers that may be opened is open.
    ///
    /// # Errors
    /// The kernel refused, or too many are open: none of these answers may be given.
    pub fn admit(&mut self, earnings: &[Earning<'_>], now: u64) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            self.notice_changes();
            let due = self.due(earnings, now);
            if due.is_empty() {
                // Known addresses, but perhaps of a name that had not earned them yet.
                return self.remember(earnings, &[], now);
            }
            self.remember(earnings, &due, now)?;
            let changes = self.opener.open(&due)?;
            for (address, seconds) in &due {
                if let Some(lease) = self.leases.get_mut(address) {
                    lease.armed = now + u64::from(*seconds) * 1000;
                    lease.until = lease.until.max(lease.armed);
                }
            }
            // That many steps further are our own. More: somebody replaced the table between our
            // looking and now, perhaps after our elements went in.
            let expected = self.generation.map(|g| g.wrapping_add(changes));
            self.generation = self.opener.generation();
            if self.generation.is_none() || self.generation == expected {
                return Ok(());
            }
            self.disarm();
        }
        Err(Error::new(
            "cannot open addresses: the ruleset changes all the time",
        ))
    }

    /// Looks whether the kernel's ruleset is still the one we armed.
    fn notice_changes(&mut self) {
        let generation = self.opener.generation();
        if generation.is_none() || generation != self.generation {
            self.disarm();
            self.generation = generation;
        }
    }

    fn disarm(&mut self) {
        self.leases.values_mut().for_each(|lease| lease.armed = 0);
    }

    /// The addresses the kernel must hear of, and their timeouts.
    fn due(&self, earnings: &[Earning<'_>], now: u64) -> Vec<(IpAddr, u32)> {
        let mut due: Vec<(IpAddr, u32)> = Vec::new();
        for earning in earnings {
            for &(address, ttl) in &*earning.answer.addresses {
                let needed = needed(ttl, earning.age);
                let armed = self.leases.get(&address).map_or(0, |l| l.armed);
                if armed >= now + u64::from(needed) * 1000 || !is_openable(address) {
                    continue;
                }
                // Never shorter than what another name was promised.
                let left = (armed.saturating_sub(now) / 1000) as u32;
                let timeout = (needed + SLACK).max(left);
                match due.iter_mut().find(|(a, _)| *a == address) {
                    Some((_, other)) => *other = timeout.max(*other),
                    None => due.push((address, timeout)),
                }
            }
        }
        due
    }

    /// Writes down who earns what, in memory and, before the kernel hears of it, in the journal.
    fn remember(
        &mut self,
        earnings: &[Earning<'_>],
        due: &[(IpAddr, u32)],
        now: u64,
    ) -> Result<()> {
        let mut lines = Vec::new();
        for earning in earnings {
            if earning.age > 0 && due.is_empty() {
                continue;
            }
            let via = || earning.answer.via.iter().map(|n| n.wire().into()).collect();
            let origin = self.origin(earning.name.wire(), via());
            for &(address, ttl) in &*earning.answer.addresses {
                if !is_openable(address) {
                    continue;
                }
                self.make_room(now)?;
                let seconds = due
                    .iter()
                    .find(|(a, _)| *a == address)
                    .map_or(needed(ttl, earning.age), |(_, s)| *s);
                let until = now + u64::from(seconds) * 1000;
                let lease = self.leases.entry(address).or_insert(Lease {
                    armed: 0,
                    until,
                    origins: Vec::with_capacity(1),
                });
                lease.until = lease.until.max(until);
                let known = lease.origins.contains(&origin);
                if !known {
                    lease.origins.push(Rc::clone(&origin));
                    self.pairs += 1;
                }
                if !known || !due.is_empty() {
                    lines.push((address, seconds, Rc::clone(&origin)));
                }
            }
        }
        for (address, seconds, origin) in &lines {
            self.journal
                .push(*address, *seconds, &origin.name, &origin.via);
        }
        if self.journal.is_full() {
            self.rewrite_journal(now);
        }
        self.journal.flush()
    }

    fn rewrite_journal(&mut self, now: u64) {
        self.prune(now);
        self.journal.restart();
        for (address, lease) in &self.leases {
            let left = (lease.until.saturating_sub(now) / 1000) as u32;
            for origin in &lease.origins {
                self.journal.push(*address, left, &origin.name, &origin.via);
            }
        }
    }

    fn origin(&mut self, name: &[u8], via: Box<[Box<[u8]>]>) -> Rc<Origin> {
        if let Some(origin) = self.origins.get(name).filter(|o| o.via == via) {
            return Rc::clone(origin);
        }
        let origin = Rc::new(Origin {
            name: name.into(),
            via,
        });
        self.origins.insert(name.into(), Rc::clone(&origin));
        origin
    }

    fn make_room(&mut self, now: u64) -> Result<()> {
        if self.leases.len() < MAX_LEASES && self.pairs < MAX_PAIRS {
            return Ok(());
        }
        self.prune(now);
        if self.leases.len() < MAX_LEASES && self.pairs < MAX_PAIRS {
            return Ok(());
        }
        Err(Error::new(format!(
            "cannot open another address: {} are open",
            self.leases.len()
        )))
    }

    /// Forgets the addresses that have expired in the kernel, and names without any.
    fn prune(&mut self, now: u64) {
        self.leases.retain(|_, lease| lease.until > now);
        self.pairs = self.leases.values().map(|l| l.origins.len()).sum();
        self.origins.retain(|_, o| Rc::strong_count(o) > 1);
    }

    /// Closes every address that no name earns any more under these lists. Returns how many.
    pub fn enforce(&mut self, lists: &Lists, now: u64) -> Result<usize> {
        self.prune(now);
        let mut closed = Vec::new();
        for (address, lease) in &mut self.leases {
            if lease.origins.iter().any(|o| !o.may_stay(lists)) {
                lease.origins.retain(|o| o.may_stay(lists));
                if lease.origins.is_empty() {
                    closed.push(*address);
                }
            }
        }
        if !closed.is_empty() {
            self.opener.close(&closed)?;
            // Only now: had it failed, the next attempt must find them again.
            for address in &closed {
                self.leases.remove(address);
            }
        }
        self.prune(now);
        self.rewrite_journal(now);
        self.journal.flush()?;
        Ok(closed.len())
    }
}

#[cfg(test)]
mod tests;
