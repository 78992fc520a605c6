//! One event as `watch` and the reader's other listeners see it: a JSON line.

use crate::clock;
use crate::contract::log_prefix;
use crate::json::Object;
use crate::nflog::packet::Packet;
use miniserde::json::{Number, Value};
use std::fmt::Display;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The DNS tier.
    Dns,
    /// The audit log.
    Audit,
    /// A logged packet.
    Nflog,
}

impl Source {
    /// The word in the line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Audit => "audit",
            Self::Nflog => "nflog",
        }
    }

    /// The source of this word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Dns, Self::Audit, Self::Nflog]
            .into_iter()
            .find(|s| s.word() == word)
    }
}

/// What the ruleset did with a packet, by the prefix its rule logs. `None`: not our rule.
pub fn packet_action(prefix: &[u8]) -> Option<&'static str> {
    [
        (log_prefix::BLOCKED, QUEUED),
        (log_prefix::DENIED, "blocked_connection"),
        (log_prefix::PRIVATE, "private_range"),
        (log_prefix::ALLOWED, "allowed_connection"),
        (log_prefix::BYPASS, "bypass_connection"),
    ]
    .into_iter()
    .find(|(p, _)| prefix.starts_with(p.trim_end().as_bytes()))
    .map(|(_, action)| action)
}

/// The action of a packet that waits for somebody's verdict: the terminal deny.
pub const QUEUED: &str = "queued_connection";
/// The action of a refused query.
pub const BLOCKED_QUERY: &str = "blocked_query";

/// An event, its texts not yet sanitised. Empty texts and zero numbers are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Seconds since 1970.
    pub time: i64,
    /// `dns`, `audit` or `nflog`.
    pub source: String,
    /// What happened.
    pub action: String,
    /// Container name.
    pub container: String,
    /// Domain name.
    pub domain: String,
    /// DNS query type.
    pub query_type: String,
    /// Destination.
    pub dest: String,
    /// Free text.
    pub detail: String,
    /// Destination port.
    pub port: u64,
    /// IP protocol number.
    pub proto: u64,
}

impl Event {
    /// Appends the event as a line, newline included.
    pub fn push_line(&self, out: &mut String) {
        let mut object = Object::open(out);
        object
            .plain("ts", clock::rfc3339(self.time))
            .text("source", &self.source)
            .text("action", &self.action)
            .text("container", &self.container)
            .some_text("domain", Some(&self.domain))
            .some_text("query_type", Some(&self.query_type))
            .some_text("dest", Some(&self.dest))
            .some_text("detail", Some(&self.detail));
        for (key, value) in [("port", self.port), ("proto", self.proto)] {
            if value != 0 {
                object.number(key, value);
            }
        }
        object.close();
        out.push('\n');
    }

    /// Reads an event line, or a line of the audit log; `None` if it is neither.
    pub fn parse(line: &str) -> Option<Self> {
        let Value::Object(object) = miniserde::json::from_str(line).ok()? else {
            return None;
        };
        let text = |key: &str| match object.get(key) {
            Some(Value::String(s)) => s.clone(),
            _ => String::new(),
        };
        let number = |key: &str| match object.get(key) {
            Some(Value::Number(Number::U64(n))) => *n,
            // The audit log names the protocols it knows.
            Some(Value::String(s)) => proto_number(s),
            _ => 0,
        };
        let action = text("action");
        if action.is_empty() {
            return None;
        }
        let source = match text("source") {
            s if s.is_empty() => Source::Audit.word().to_string(),
            s => s,
        };
        Some(Self {
            time: clock::parse_rfc3339(&text("ts"))?,
            source,
            action,
            container: text("container"),
            domain: text("domain"),
            query_type: text("query_type"),
            dest: text("dest"),
            detail: text("detail"),
            port: number("port"),
            proto: number("proto"),
        })
    }
}

/// The line of a logged packet, written without an [`Event`] between: this runs once a packet.
/// `domain` is sanitised.
pub fn push_packet_line(
    out: &mut String,
    time: impl Display,
    action: &str,
    container: &str,
    domain: Option<&str>,
    packet: &Packet,
) {
    let mut object = Object::open(out);
    object
        .plain("ts", time)
        .plain("source", Source::Nflog.word())
        .plain("action", action)
        .text("container", container)
        .some_text("domain", domain)
        .plain("dest", packet.dest);
    for (key, value) in [
        ("port", u64::from(packet.port)),
        ("proto", u64::from(packet.proto)),
    ] {
        if value != 0 {
            object.number(key, value);
        }
    }
    object.close();
    out.push('\n');
}

/// The line that says how much a listener did not get, and why.
pub fn push_lost_line(out: &mut String, time: i64, container: &str, count: u64, reason: &str) {
    Object::open(out)
        .plain("type", "lost")
        .plain("ts", clock::rfc3339(time))
        .text("container", container)
        .number("count", count)
        .text("reason", reason)
        .close();
    out.push('\n');
}

/// `tcp`, `udp`, else the number.
pub fn proto_name(proto: u8) -> String {
    match proto {
        6 => "tcp".into(),
        17 => "udp".into(),
        n => n.to_string(),
    }
}

fn proto_number(name: &str) -> u64 {
    match name {
        "tcp" => 6,
        "udp" => 17,
        n => n.parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_line_reads_back_as_the_event_it_says() {
        let packet = Packet {
            dest: "2001:db8::7".parse().unwrap(),
            proto: 17,
            port: 53,
        };
        let mut line = String::new();
        let time = clock::rfc3339(1_795_456_800);
        push_packet_line(&mut line, time, QUEUED, "box", Some("a.example"), &packet);
        assert_eq!(
            line,
            concat!(
                r#"{"ts":"2026-11-23T18:00:00+00:00","source":"nflog","action":"queued_connection","#,
                r#""container":"box","domain":"a.example","dest":"2001:db8::7","port":53,"proto":17}"#,
                "\n"
            )
        );
        let event = Event::parse(line.trim_end()).unwrap();
        let mut again = String::new();
        event.push_line(&mut again);
        assert_eq!(again, line);
    }

    #[test]
    fn audit_lines_are_events_and_keep_their_action() {
        let line = r#"{"ts":"2026-11-23T18:00:00+00:00","container":"box","action":"blocked","dest":"192.0.2.7","port":443,"proto":"tcp","domain":"a\u001b[31m.example"}"#;
        let event = Event::parse(line).unwrap();
        assert_eq!((event.source.as_str(), event.proto), ("audit", 6));
        let mut out = String::new();
        event.push_line(&mut out);
        assert_eq!(
            out,
            "{\"ts\":\"2026-11-23T18:00:00+00:00\",\"source\":\"audit\",\"action\":\"blocked\",\"container\":\"box\",\"domain\":\"a [31m.example\",\"dest\":\"192.0.2.7\",\"port\":443,\"proto\":6}\n"
        );
        for bad in [
            "",
            "[]",
            "{}",
            "{\"action\":\"x\"}",
            "{\"ts\":\"x\",\"action\":\"y\"}",
        ] {
            assert_eq!(Event::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_our_own_prefixes_are_events() {
        assert_eq!(packet_action(b"TEROK_SHIELD_BLOCKED: "), Some(QUEUED));
        assert_eq!(
            packet_action(b"TEROK_SHIELD_BYPASS: "),
            Some("bypass_connection")
        );
        assert_eq!(packet_action(b"OTHER: "), None);
        assert_eq!(packet_action(b""), None);
    }
}
