//! The destinations a container was kept from: what is due to whom, in a table of fixed size.
//!
//! A destination is its domain where one is known, else its address. It is told to the hub once
//! per [`WINDOW`], counted from a delivery that succeeded, and to the audit log in a window of its
//! own. The workload chooses how many destinations there are, so the least recently seen one makes
//! room; if the hub had not had it, that is counted as a loss.
//!
//! The table is the queue towards the hub as well: an entry that waits stands in a list, and a
//! repeat of what waits already merges with it. So a slow hub costs no more memory than a quick one.

use crate::nflog::packet::Packet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// Most destinations remembered.
pub const CAPACITY: usize = 4096;
/// How long a destination that was told is not told again, milliseconds.
pub const WINDOW: u64 = 30_000;

/// Entries looked at to find one that makes room.
const SECOND_CHANCES: usize = 16;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Domain(Rc<str>),
}

/// One destination.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The packet the next event speaks of.
    pub packet: Packet,
    /// Its name, sanitised.
    pub domain: Option<Rc<str>>,
    /// Number of the event.
    pub number: u64,
    /// When the packet came, seconds since 1970.
    pub time: i64,
    key: Key,
    delivered: Option<u64>,
    audited: Option<u64>,
    waiting: bool,
    // Seen again since it last made its way through the table.
    again: bool,
    seen: Links,
    queue: Links,
}

/// Neighbours in a list of entries.
#[derive(Debug, Clone, Copy)]
struct Links {
    before: u32,
    after: u32,
}

const UNLINKED: Links = Links {
    before: NONE,
    after: NONE,
};

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List {
    first: NONE,
    last: NONE,
};

/// Which list of an entry's two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Seen,
    Queue,
}

/// What is due after a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The audit log should have a line.
    pub audit: bool,
    /// The hub should have an event: it waits in the queue now.
    pub hub: bool,
}

/// A delivery under way: which entry, and which event of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    slot: u32,
    number: u64,
}

/// The table.
#[derive(Debug)]
pub struct Destinations {
    entries: Vec<Destination>,
    index: HashMap<Key, u32>,
    seen: List,
    queue: List,
    count: u64,
    lost: u64,
}

impl Default for Destinations {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            index: HashMap::new(),
            seen: EMPTY,
            queue: EMPTY,
            count: 0,
            lost: 0,
        }
    }
}

impl Destinations {
    /// Notes a packet. `now` in milliseconds of a clock that never goes back, `time` in seconds
    /// since 1970.
    pub fn packet(&mut self, packet: Packet, domain: Option<Rc<str>>, now: u64, time: i64) -> Due {
        let key = match &domain {
            Some(name) => Key::Domain(name.clone()),
            None => Key::Address(packet.dest),
        };
        let slot = match self.index.get(&key) {
            Some(&slot) => {
                self.unlink(Which::Seen, slot);
                self.entries[slot as usize].again = true;
                slot
            }
            None => self.insert(key, packet),
        };
        self.append(Which::Seen, slot);
        let entry = &mut self.entries[slot as usize];
        let due = |at: Option<u64>| at.is_none_or(|at| now.saturating_sub(at) >= WINDOW);
        let audit = due(entry.audited);
        if audit {
            entry.audited = Some(now);
        }
        let hub = !entry.waiting && due(entry.delivered);
        if hub {
            self.count += 1;
            entry.number = self.count;
            entry.packet = packet;
            entry.domain = domain;
            entry.time = time;
            entry.delivered = None;
            entry.waiting = true;
            self.append(Which::Queue, slot);
        }
        Due { audit, hub }
    }

    /// A slot for a new destination: a fresh one, or that of the least recently seen.
    fn insert(&mut self, key: Key, packet: Packet) -> u32 {
        let entry = Destination {
            packet,
            domain: None,
            number: 0,
            time: 0,
            key: key.clone(),
            delivered: None,
            audited: None,
            waiting: false,
            again: false,
            seen: UNLINKED,
            queue: UNLINKED,
        };
        let slot = if self.entries.len() < CAPACITY {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            let slot = self.victim();
            self.unlink(Which::Seen, slot);
            if self.entries[slot as usize].waiting {
                self.unlink(Which::Queue, slot);
            }
            let old = std::mem::replace(&mut self.entries[slot as usize], entry);
            // It waited, or was on its way and not confirmed: the hub has not had it.
            if old.number != 0 && old.delivered.is_none() {
                self.lost += 1;
            }
            self.index.remove(&old.key);
            slot
        };
        self.index.insert(key, slot);
        slot
    }

    /// The entry that makes room: the least recently seen, but one that was seen repeatedly gets
    /// a second round. A flood names each destination once; a program that wants to get through
    /// tries again.
    fn victim(&mut self) -> u32 {
        for _ in 0..SECOND_CHANCES {
            let slot = self.seen.first;
            if !std::mem::take(&mut self.entries[slot as usize].again) {
                break;
            }
            self.unlink(Which::Seen, slot);
            self.append(Which::Seen, slot);
        }
        self.seen.first
    }

    /// Takes the event that has waited longest.
    pub fn next_for_hub(&mut self) -> Option<(Ticket, &Destination)> {
        let slot = self.queue.first;
        if slot == NONE {
            return None;
        }
        self.unlink(Which::Queue, slot);
        let entry = &mut self.entries[slot as usize];
        // Still `waiting`: until it is delivered a repeat merges with it.
        let ticket = Ticket {
            slot,
            number: entry.number,
        };
        Some((ticket, entry))
    }

    /// Whether anything waits for the hub.
    pub fn has_waiting(&self) -> bool {
        self.queue.first != NONE
    }

    /// The hub was handed this event.
    pub fn delivered(&mut self, ticket: Ticket, now: u64) {
        if let Some(entry) = self.of(ticket) {
            entry.waiting = false;
            entry.delivered = Some(now);
        }
    }

    /// This event did not reach the hub: it goes to the end of the queue.
    pub fn returned(&mut self, ticket: Ticket) {
        if self.of(ticket).is_some() {
            self.append(Which::Queue, ticket.slot);
        }
    }

    fn of(&mut self, ticket: Ticket) -> Option<&mut Destination> {
        self.entries
            .get_mut(ticket.slot as usize)
            .filter(|e| e.number == ticket.number && e.waiting)
    }

    /// The hub is a new one: what the old one was told at `since` or later waits again, with the
    /// same numbers.
    pub fn tell_again(&mut self, since: u64) {
        let mut slot = self.seen.first;
        while slot != NONE {
            let entry = &mut self.entries[slot as usize];
            let next = entry.seen.after;
            if !entry.waiting && entry.delivered.is_some_and(|at| at >= since) {
                entry.waiting = true;
                entry.delivered = None;
                self.append(Which::Queue, slot);
            }
            slot = next;
        }
    }

    /// Events that made room before the hub had them, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn links(&mut self, which: Which, slot: u32) -> &mut Links {
        let entry = &mut self.entries[slot as usize];
        match which {
            Which::Seen => &mut entry.seen,
            Which::Queue => &mut entry.queue,
        }
    }

    fn list(&mut self, which: Which) -> &mut List {
        match which {
            Which::Seen => &mut self.seen,
            Which::Queue => &mut self.queue,
        }
    }

    fn append(&mut self, which: Which, slot: u32) {
        let last = self.list(which).last;
        *self.links(which, slot) = Links {
            before: last,
            after: NONE,
        };
        if last == NONE {
            self.list(which).first = slot;
        } else {
            self.links(which, last).after = slot;
        }
        self.list(which).last = slot;
    }

    /// Takes an entry out of a list; one that is in none stays as it is.
    fn unlink(&mut self, which: Which, slot: u32) {
        let Links { before, after } = *self.links(which, slot);
        if before == NONE && self.list(which).first != slot {
            return;
        }
        *self.links(which, slot) = UNLINKED;
        match before {
            NONE => self.list(which).first = after,
            _ => self.links(which, before).after = after,
        }
        match after {
            NONE => self.list(which).last = before,
            _ => self.links(which, after).before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn packet(n: u32) -> Packet {
        Packet {
            dest: Ipv4Addr::from(n).into(),
            proto: 6,
            port: 443,
        }
    }

    fn deliver_all(table: &mut Destinations, now: u64) -> Vec<(u32, u64)> {
        let mut told = Vec::new();
        while let Some((ticket, entry)) = table.next_for_hub() {
            let IpAddr::V4(a) = entry.packet.dest else {
                panic!("only IPv4 here")
            };
            told.push((u32::from(a), entry.number));
            table.delivered(ticket, now);
        }
        told
    }

    #[test]
    fn a_destination_is_told_once_per_window_of_its_delivery() {
        let mut t = Destinations::default();
        let both = Due {
            audit: true,
            hub: true,
        };
        let neither = Due {
            audit: false,
            hub: false,
        };
        assert_eq!(t.packet(packet(1), None, 0, 0), both);
        assert_eq!(t.packet(packet(1), None, 1, 0), neither, "merges");
        assert_eq!(deliver_all(&mut t, 20_000), [(1, 1)]);
        let audit_only = Due {
            audit: true,
            hub: false,
        };
        assert_eq!(t.packet(packet(1), None, 30_000, 0), audit_only);
        assert_eq!(t.packet(packet(1), None, 49_999, 0), neither);
        let hub_only = Due {
            audit: false,
            hub: true,
        };
        assert_eq!(t.packet(packet(1), None, 50_000, 0), hub_only);
        assert_eq!(deliver_all(&mut t, 50_000), [(1, 2)]);
    }

    #[test]
    fn addresses_of_one_domain_are_one_destination() {
        let mut t = Destinations::default();
        let name: Rc<str> = "cdn.example".into();
        assert!(t.packet(packet(1), Some(name.clone()), 0, 0).hub);
        assert!(!t.packet(packet(2), Some(name), 0, 0).hub);
        assert!(t.packet(packet(2), None, 0, 0).hub);
    }

    #[test]
    fn what_did_not_arrive_waits_again_and_a_new_hub_is_told_again() {
        let mut t = Destinations::default();
        t.packet(packet(1), None, 0, 0);
        let (ticket, _) = t.next_for_hub().unwrap();
        assert!(!t.packet(packet(1), None, 40_000, 0).hub, "under way");
        t.returned(ticket);
        assert_eq!(deliver_all(&mut t, 50_000), [(1, 1)]);
        t.tell_again(50_000);
        assert_eq!(deliver_all(&mut t, 60_000), [(1, 1)], "the same number");
        t.tell_again(60_001);
        assert_eq!(deliver_all(&mut t, 95_000), [], "told before");
    }

    #[test]
    fn the_table_is_bounded_and_what_it_drops_undelivered_is_counted() {
        let mut t = Destinations::default();
        for n in 0..3 * CAPACITY as u32 {
            assert!(t.packet(packet(n), None, 0, 0).hub);
        }
        assert_eq!(t.entries.len(), CAPACITY);
        assert_eq!(t.index.len(), CAPACITY);
        assert_eq!(t.take_lost(), 2 * CAPACITY as u64);
        let told = deliver_all(&mut t, 0);
        assert_eq!(told.len(), CAPACITY);
        assert_eq!(told[0].0, 2 * CAPACITY as u32, "oldest first");
        for n in 0..CAPACITY as u32 {
            t.packet(packet(n), None, 1, 0);
        }
        assert_eq!(t.take_lost(), 0, "delivered ones leave without loss");
    }

    #[test]
    fn a_destination_that_is_tried_again_outlives_a_flood_of_single_ones() {
        let mut t = Destinations::default();
        let size = CAPACITY as u32;
        t.packet(packet(0), None, 0, 0);
        t.packet(packet(0), None, 0, 0);
        for n in 1..2 * size - 1 {
            t.packet(packet(n), None, 0, 0);
        }
        assert!(!t.packet(packet(0), None, 0, 0).hub, "still there");
        for n in 3 * size..6 * size {
            t.packet(packet(n), None, 0, 0);
        }
        assert!(t.packet(packet(0), None, 0, 0).hub, "forgotten in the end");
    }

    proptest! {
        /// Every packet's destination is delivered, waits, or was counted lost.
        #[test]
        fn nothing_vanishes(steps in proptest::collection::vec((0u8..6, 0u32..9000), 1..400)) {
            let mut t = Destinations::default();
            // Nearly full, so that evictions happen among the steps.
            for n in 0..CAPACITY as u32 - 100 {
                t.packet(packet(n), None, 0, 0);
            }
            deliver_all(&mut t, 0);
            let (mut due, mut told, mut lost, mut under_way) = (0u64, 0u64, 0u64, Vec::new());
            for (i, (what, n)) in steps.into_iter().enumerate() {
                let now = i as u64 * 500;
                match what {
                    0..=2 => due += u64::from(t.packet(packet(n), None, now, 0).hub),
                    3 => under_way.extend(t.next_for_hub().map(|(ticket, _)| ticket)),
                    4 => if let Some(ticket) = under_way.pop() {
                        told += u64::from(t.of(ticket).is_some());
                        t.delivered(ticket, now);
                    },
                    _ => if let Some(ticket) = under_way.pop() { t.returned(ticket) },
                }
                lost += t.take_lost();
            }
            let on_the_way = under_way.into_iter().filter(|k| t.of(*k).is_some()).count() as u64;
            let waiting = deliver_all(&mut t, 0).len() as u64;
            prop_assert_eq!(due, told + lost + waiting + on_the_way);
        }
    }
}
