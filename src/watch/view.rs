//! Which events a person wants to see, and how they look on a terminal.

use crate::clock;
use crate::error::{Error, Result};
use crate::sanitize;
use crate::watch::event::{Event, Source, proto_name};
use std::fmt::Write;

/// What `--filter KEY=VALUE` lets through; several of one key widen it, several keys narrow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    sources: Vec<String>,
    actions: Vec<String>,
    domains: Vec<String>,
}

impl Filter {
    /// Adds one `source=…`, `action=…` or `domain=…`; a domain covers its subdomains.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let value = value.to_ascii_lowercase();
        match key {
            "source" if Source::of(&value).is_some() => self.sources.push(value),
            "action" if !value.is_empty() => self.actions.push(value),
            "domain" if !value.is_empty() => self.domains.push(value),
            "source" => return Err(Error::usage("--filter source= takes dns, audit or nflog")),
            _ => {
                return Err(Error::usage(
                    "--filter takes source=VALUE, action=VALUE or domain=VALUE",
                ));
            }
        }
        Ok(())
    }

    /// Whether an event passes.
    pub fn passes(&self, event: &Event) -> bool {
        let any = |wanted: &[String], is: &str| wanted.is_empty() || wanted.iter().any(|w| w == is);
        any(&self.sources, &event.source)
            && any(&self.actions, &event.action)
            && (self.domains.is_empty() || super::dns_log::covered(&event.domain, &self.domains))
    }
}

/// Reads `--since`: an RFC 3339 time, or how long ago: `90s`, `15m`, `2h`, `1d`.
pub fn parse_since(text: &str) -> Result<i64> {
    if let Some(time) = clock::parse_rfc3339(text) {
        return Ok(time);
    }
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3600,
        Some(b'd') => 86_400,
        _ => 0,
    };
    let digits = text.get(..text.len().saturating_sub(1)).unwrap_or("");
    match digits.parse::<u32>() {
        Ok(n) if unit > 0 => Ok(clock::now() - i64::from(n) * unit),
        _ => Err(Error::usage(
            "--since takes a time such as 2026-11-23T18:00:00Z, or a duration such as 15m, 2h, 1d",
        )),
    }
}

/// Appends an event as a line for a person: time, action, destination, name, the rest.
pub fn push_row(out: &mut String, event: &Event, colour: bool) {
    let time = clock::rfc3339(event.time);
    let (on, off) = if colour {
        (colour_of(&event.action), "\x1b[0m")
    } else {
        ("", "")
    };
    let action = sanitize::text(&event.action);
    let _ = write!(
        out,
        "{}Z  {on}{action:<19}{off}  {:<42}",
        time.get(11..19).unwrap_or(""),
        place(event)
    );
    for (label, text) in [
        ("", &event.domain),
        ("", &event.query_type),
        ("", &event.detail),
    ] {
        if !text.is_empty() {
            let _ = write!(out, "  {label}{}", sanitize::text(text));
        }
    }
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// `192.0.2.7:443/tcp`, `[2001:db8::7]:53/udp`.
pub fn place(event: &Event) -> String {
    let mut out = sanitize::text(&event.dest);
    if event.port != 0 {
        if out.contains(':') {
            out = format!("[{out}]");
        }
        let _ = write!(out, ":{}", event.port);
    }
    if let (1.., Ok(proto)) = (event.proto, u8::try_from(event.proto)) {
        let _ = write!(out, "/{}", proto_name(proto));
    }
    out
}

fn colour_of(action: &str) -> &'static str {
    match action {
        "queued_connection" | "blocked" | "blocked_query" => "\x1b[33m",
        "blocked_connection" | "denied" | "private_range" | "error" | "shield_quarantine" => {
            "\x1b[31m"
        }
        "allowed" | "allowed_connection" | "shield_up" => "\x1b[32m",
        "bypass_connection" | "shield_down" => "\x1b[35m",
        _ => "\x1b[36m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            time: 1_795_456_800,
            source: "nflog".into(),
            action: "queued_connection".into(),
            container: "box".into(),
            domain: "www.example.com".into(),
            dest: "2001:db8::7".into(),
            port: 443,
            proto: 6,
            ..Event::default()
        }
    }

    #[test]
    fn filters_widen_within_a_key_and_narrow_across() {
        let mut f = Filter::default();
        assert!(f.passes(&event()));
        f.add("source=dns").unwrap();
        assert!(!f.passes(&event()));
        f.add("source=nflog").unwrap();
        f.add("domain=Example.com").unwrap();
        assert!(f.passes(&event()));
        f.add("action=blocked").unwrap();
        assert!(!f.passes(&event()));
        for bad in ["", "x", "source=tcp", "colour=red", "action="] {
            assert_eq!(f.add(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn since_takes_a_time_or_how_long_ago() {
        assert_eq!(parse_since("2026-11-23T18:00:00Z").unwrap(), 1_795_456_800);
        let ago = clock::now() - parse_since("2h").unwrap();
        assert!((7200..7202).contains(&ago));
        for bad in ["", "h", "2", "-2h", "2 h", "2w", "99999999999d", "é"] {
            assert!(parse_since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_row_is_columns_and_nothing_a_terminal_obeys() {
        let mut out = String::new();
        push_row(&mut out, &event(), false);
        assert_eq!(
            out,
            "18:00:00Z  queued_connection    [2001:db8::7]:443/tcp                       www.example.com\n"
        );
        let mut hostile = event();
        hostile.domain = "a\x1b[2Jb\u{202e}c\r\n".into();
        hostile.action = "\x1b]0;x\x07".into();
        let mut out = String::new();
        push_row(&mut out, &hostile, false);
        assert!(
            out.trim_end().bytes().all(|b| (0x20..0x7f).contains(&b)),
            "{out:?}"
        );
    }
}
