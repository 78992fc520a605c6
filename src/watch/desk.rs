//! From a logged packet to who is told of it: listeners, the audit log, the hub's queue.

use crate::audit::{self, Action};
use crate::clock;
use crate::contract::file;
use crate::files::Dir;
use crate::json::Object;
use crate::nflog::packet;
use crate::nflog::socket::Entry;
use crate::output;
use crate::watch::destinations::Destinations;
use crate::watch::dossier::Dossier;
use crate::watch::ears::Ears;
use crate::watch::event;
use crate::watch::names::Names;
use rustix::fs::AtFlags;
use std::fmt::Write;
use std::net::IpAddr;

/// Lines are handed on when so many bytes are gathered, or when the packets queued are read.
const BATCH: usize = 32 * 1024;
/// Past this size the log takes no more blocked packets, bytes: the workload decides how many
/// there are, and must neither fill the disk nor rotate the operator's own lines away.
pub const AUDIT_MAX: u64 = 64 << 20;
/// Shortest and longest time between two reports of losses, milliseconds.
const REPORT: (u64, u64) = (1000, 64_000);

/// What was not told, since the last report.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Losses {
    /// Packets the kernel could not hand over.
    packets: u64,
    /// Times its buffer overflowed: more than 0 with no packets yet means the gap is still open.
    overruns: u64,
    /// Packets too short to tell where they went.
    cut: u64,
    /// Events that made room before the hub had them.
    hub: u64,
    /// Lines the audit log did not take.
    audit: u64,
}

/// The state between packets and those who are told.
#[derive(Debug)]
pub struct Desk {
    /// The bundle.
    pub dir: Dir,
    /// The container's name, for the audit log and listeners.
    pub container: String,
    /// Whether there is a hub, or somebody in its place, to be told.
    pub hub: bool,
    /// Whether the audit log is kept.
    pub audit: bool,
    /// What is due to the hub.
    pub table: Destinations,
    /// The orchestrator's fields.
    pub dossier: Dossier,
    /// Other listeners; none where the socket could not be made.
    pub ears: Option<Ears>,
    names: Names,
    ear_lines: String,
    ear_count: u64,
    audit_lines: String,
    audit_count: u64,
    audit_full: bool,
    losses: Losses,
    report_at: Option<u64>,
    reported: u64,
    report_pause: u64,
    time: i64,
    time_text: String,
}

impl Desk {
    /// A desk for one container.
    pub fn new(
        dir: Dir,
        container: String,
        hub: bool,
        audit: bool,
        dossier: Dossier,
        names: Names,
    ) -> Self {
        Self {
            dir,
            container,
            hub,
            audit,
            table: Destinations::default(),
            dossier,
            ears: None,
            names,
            ear_lines: String::new(),
            ear_count: 0,
            audit_lines: String::new(),
            audit_count: 0,
            audit_full: false,
            losses: Losses::default(),
            report_at: None,
            reported: 0,
            report_pause: REPORT.0,
            time: 0,
            time_text: String::new(),
        }
    }

    /// Before a batch of packets: what changed since the last one.
    pub fn begin(&mut self) {
        self.names.refresh(&self.dir);
        self.dossier.refresh();
        let time = clock::now();
        if time != self.time {
            self.time = time;
            self.time_text = clock::rfc3339(time);
        }
    }

    /// One packet. `now` in milliseconds.
    pub fn packet(&mut self, entry: Entry<'_>, now: u64) {
        let Some(action) = event::packet_action(entry.prefix) else {
            return;
        };
        let Some(packet) = packet::parse(entry.payload) else {
            self.losses.cut += 1;
            return;
        };
        if is_noise(&packet.dest) {
            return;
        }
        let domain = self.names.of(&packet.dest);
        if self.ears.as_ref().is_some_and(|e| !e.is_empty()) {
            let name = domain.as_deref();
            let lines = &mut self.ear_lines;
            event::push_packet_line(
                lines,
                &self.time_text,
                action,
                &self.container,
                name,
                &packet,
            );
            self.ear_count += 1;
            if self.ear_lines.len() >= BATCH {
                self.flush_ears(now);
            }
        }
        if action != event::QUEUED || !self.hub {
            return;
        }
        let due = self.table.packet(packet, domain.clone(), now, self.time);
        if due.audit && self.audit {
            self.push_blocked(&packet, domain.as_deref());
            if self.audit_lines.len() >= BATCH {
                self.flush_audit();
            }
        }
    }

    /// The audit line of a blocked packet (CONTRACT section 6).
    fn push_blocked(&mut self, packet: &packet::Packet, domain: Option<&str>) {
        let mut object = Object::open(&mut self.audit_lines);
        object
            .plain("ts", &self.time_text)
            .text("container", &self.container)
            .plain("action", Action::Blocked.word())
            .plain("dest", packet.dest)
            .number("port", packet.port.into())
            .plain("proto", event::proto_name(packet.proto))
            .some_text("domain", domain);
        if !self.dossier.is_empty() {
            object.raw("dossier", self.dossier.json());
        }
        object.close();
        self.audit_lines.push('\n');
        self.audit_count += 1;
    }

    /// After a batch: everything gathered is handed on.
    pub fn end(&mut self, now: u64) {
        self.flush_ears(now);
        self.flush_audit();
        self.losses.hub += self.table.take_lost();
        self.schedule_report(now);
    }

    fn flush_ears(&mut self, now: u64) {
        if let Some(ears) = &mut self.ears
            && self.ear_count > 0
        {
            ears.tell(&self.ear_lines, self.ear_count, &self.container, now);
        }
        self.ear_lines.clear();
        self.ear_count = 0;
    }

    fn flush_audit(&mut self) {
        if self.audit_count == 0 {
            return;
        }
        let size = rustix::fs::statat(&self.dir, file::AUDIT_LOG, AtFlags::SYMLINK_NOFOLLOW);
        let full = size.is_ok_and(|s| s.st_size as u64 > AUDIT_MAX);
        if full && !self.audit_full {
            let _ = self.note(
                "the log is full: blocked packets are counted, not listed, until it is rotated",
            );
        }
        self.audit_full = full;
        if full || audit::append(&self.dir, &self.audit_lines).is_err() {
            self.losses.audit += self.audit_count;
        }
        self.audit_lines.clear();
        self.audit_count = 0;
    }

    /// Counts what the kernel could not hand over.
    pub fn lost(&mut self, packets: u64, overruns: u64, now: u64) {
        self.losses.packets += packets;
        self.losses.overruns += overruns;
        self.schedule_report(now);
    }

    fn schedule_report(&mut self, now: u64) {
        if self.losses != Losses::default() && self.report_at.is_none() {
            if now.saturating_sub(self.reported) > 2 * self.report_pause {
                self.report_pause = REPORT.0;
            }
            self.report_at = Some(now + self.report_pause);
            self.report_pause = (self.report_pause * 2).min(REPORT.1);
        }
    }

    /// When [`Desk::report_if_due`] is due, milliseconds.
    pub fn deadline(&self) -> Option<u64> {
        self.report_at
    }

    /// Reports losses once it is time to.
    pub fn report_if_due(&mut self, now: u64) {
        if self.report_at.is_some_and(|at| now >= at) {
            self.report(now);
        }
    }

    /// Reports what was lost: a note in the audit log, a line to the listeners.
    pub fn report(&mut self, now: u64) {
        self.report_at = None;
        self.reported = now;
        let lost = std::mem::take(&mut self.losses);
        if lost == Losses::default() {
            return;
        }
        if lost.packets + lost.overruns > 0
            && let Some(ears) = &mut self.ears
        {
            let mut line = String::new();
            let reason = "the kernel's packet buffer was full";
            event::push_lost_line(
                &mut line,
                clock::now(),
                &self.container,
                lost.packets,
                reason,
            );
            ears.tell(&line, lost.packets, &self.container, now);
        }
        if !self.hub {
            return;
        }
        let text = describe(&lost);
        if !self.audit || self.note(&text).is_err() {
            output::warn(&format!("{}: {text}", clock::rfc3339(clock::now())));
        }
    }

    fn note(&self, text: &str) -> crate::error::Result<()> {
        let mut line = String::new();
        let (time, container) = (clock::now(), &self.container);
        audit::push_line(&mut line, time, container, Action::Note, None, Some(text));
        audit::append(&self.dir, &line)
    }
}

/// `lost: 3 packets before they were read, ...`
fn describe(lost: &Losses) -> String {
    let mut text = String::from("event reader lost");
    let mut first = true;
    for (count, what) in [
        (lost.packets, "packets before they were read"),
        (lost.overruns, "times the kernel's packet buffer overflowed"),
        (lost.cut, "packets too short to tell their destination"),
        (lost.hub, "events the hub did not take in time"),
        (lost.audit, "audit lines that could not be written"),
    ] {
        if count > 0 {
            let sign = if first { ':' } else { ',' };
            let _ = write!(text, "{sign} {count} {what}");
            first = false;
        }
    }
    text
}

/// Link-local multicast (RFC 4291 section 2.7, ff02::/16): every interface that comes up sends it.
fn is_noise(dest: &IpAddr) -> bool {
    matches!(dest, IpAddr::V6(a) if a.segments()[0] == 0xff02)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(name: &str) -> (std::path::PathBuf, Desk) {
        let path = std::env::temp_dir().join(format!("shield-desk-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let dir = Dir::create(&path).unwrap();
        let dossier = Dossier::new(&dir, Default::default());
        let names = Names::new(&dir).unwrap();
        (
            path,
            Desk::new(dir, "box".into(), true, true, dossier, names),
        )
    }

    fn udp(dest: [u8; 4]) -> Vec<u8> {
        let mut p = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1];
        p.extend(dest);
        p.extend([0, 1, 0, 53]);
        p
    }

    fn log(path: &std::path::Path) -> String {
        std::fs::read_to_string(path.join(file::AUDIT_LOG)).unwrap_or_default()
    }

    #[test]
    fn only_the_terminal_deny_reaches_hub_and_audit_log() {
        let (path, mut desk) = desk("deny");
        desk.begin();
        for prefix in ["TEROK_SHIELD_DENIED: ", "TEROK_SHIELD_ALLOWED: ", "other"] {
            let payload = udp([192, 0, 2, 1]);
            desk.packet(
                Entry {
                    prefix: prefix.as_bytes(),
                    payload: &payload,
                },
                0,
            );
        }
        assert!(!desk.table.has_waiting());
        let mut noise = vec![0x60, 0, 0, 0, 0, 0, 58, 255];
        noise.extend([0; 16]);
        noise.extend("ff02::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        for payload in [udp([192, 0, 2, 1]), udp([192, 0, 2, 1]), noise] {
            desk.packet(
                Entry {
                    prefix: b"TEROK_SHIELD_BLOCKED: ",
                    payload: &payload,
                },
                0,
            );
        }
        desk.end(0);
        assert!(desk.table.next_for_hub().is_some());
        assert!(desk.table.next_for_hub().is_none());
        let log = log(&path);
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(
            log.ends_with(
                "\"container\":\"box\",\"action\":\"blocked\",\"dest\":\"192.0.2.1\",\"port\":53,\"proto\":\"udp\"}\n"
            ),
            "{log}"
        );
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn losses_are_reported_once_and_soon() {
        let (path, mut desk) = desk("loss");
        desk.lost(41, 2, 100);
        desk.lost(1, 0, 200);
        assert_eq!(desk.deadline(), Some(1100));
        desk.report_if_due(1099);
        assert_eq!(log(&path), "");
        desk.report_if_due(1100);
        assert!(log(&path).contains("lost: 42 packets before they were read, 2 times"));
        assert_eq!(desk.deadline(), None);
        desk.report(5000);
        assert_eq!(log(&path).lines().count(), 1);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_full_log_is_not_grown_by_the_workload() {
        let (path, mut desk) = desk("full");
        let file = std::fs::File::create(path.join(file::AUDIT_LOG)).unwrap();
        file.set_len(AUDIT_MAX + 1).unwrap();
        desk.begin();
        for n in 0..100 {
            let payload = udp([192, 0, 2, n]);
            desk.packet(
                Entry {
                    prefix: b"TEROK_SHIELD_BLOCKED: ",
                    payload: &payload,
                },
                0,
            );
            desk.end(0);
        }
        let size = file.metadata().unwrap().len();
        assert!(size < AUDIT_MAX + 300, "one note and no more: {size}");
        assert_eq!(desk.losses.audit, 100);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
