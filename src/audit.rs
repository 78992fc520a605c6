//! The audit log: one JSON line for each thing that was done to a container's shield.
//!
//! A line is appended in one write, so writers need no lock and no reader sees half a line. A log
//! that cannot be written warns and never stops an operation: it records, it does not protect.

use crate::clock;
use crate::contract::file;
use crate::error::Result;
use crate::files::Dir;
use crate::json::Object;

/// What was done (CONTRACT section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The ruleset was applied to a starting container.
    Setup,
    /// A destination was allowed.
    Allowed,
    /// A destination was denied.
    Denied,
    /// The shield went up.
    ShieldUp,
    /// The shield went down, wholly or but for the private ranges.
    ShieldDown,
    /// All traffic was cut.
    ShieldQuarantine,
    /// Something an auditor wants to know.
    Note,
    /// A packet was blocked.
    Blocked,
    /// Something failed.
    Error,
}

impl Action {
    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::ShieldUp => "shield_up",
            Self::ShieldDown => "shield_down",
            Self::ShieldQuarantine => "shield_quarantine",
            Self::Note => "note",
            Self::Blocked => "blocked",
            Self::Error => "error",
        }
    }
}

/// One container's audit log.
#[derive(Debug, Clone, Copy)]
pub struct Audit<'a> {
    /// The bundle.
    pub dir: &'a Dir,
    /// The container as lines name it.
    pub container: &'a str,
    /// `audit.enabled`: nothing is written where it is off.
    pub enabled: bool,
}

impl Audit<'_> {
    /// Appends a line; a failure is a warning on stderr.
    pub fn write(&self, action: Action, dest: Option<&str>, detail: Option<&str>) {
        if !self.enabled {
            return;
        }
        let mut line = String::new();
        push_line(
            &mut line,
            clock::now(),
            self.container,
            action,
            dest,
            detail,
        );
        if let Err(e) = append(self.dir, &line) {
            eprintln!("Warning: {e}");
        }
    }
}

/// Appends the line of one action, newline included, to `out`. `time` in seconds since 1970.
pub fn push_line(
    out: &mut String,
    time: i64,
    container: &str,
    action: Action,
    dest: Option<&str>,
    detail: Option<&str>,
) {
    Object::open(out)
        .plain("ts", clock::rfc3339(time))
        .text("container", container)
        .plain("action", action.word())
        .some_text("dest", dest)
        .some_text("detail", detail)
        .close();
    out.push('\n');
}

/// Appends whole lines to the log in one write.
pub fn append(dir: &Dir, lines: &str) -> Result<()> {
    dir.append(file::AUDIT_LOG, lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn line(dest: Option<&str>, detail: Option<&str>) -> String {
        let mut out = String::new();
        push_line(
            &mut out,
            1_795_456_800,
            "box",
            Action::Allowed,
            dest,
            detail,
        );
        out
    }

    #[test]
    fn lines_have_the_contracts_shape() {
        assert_eq!(
            line(Some("192.0.2.7"), None),
            "{\"ts\":\"2026-11-23T18:00:00+00:00\",\"container\":\"box\",\"action\":\"allowed\",\"dest\":\"192.0.2.7\"}\n"
        );
        assert_eq!(
            line(None, Some("a\nb\"")),
            "{\"ts\":\"2026-11-23T18:00:00+00:00\",\"container\":\"box\",\"action\":\"allowed\",\"detail\":\"a b\\\"\"}\n"
        );
    }

    #[test]
    fn lines_are_appended_to_a_private_file_and_links_are_not_followed() {
        let path = std::env::temp_dir().join(format!("shield-audit-{}", std::process::id()));
        let dir = Dir::create(&path).unwrap();
        let audit = Audit {
            dir: &dir,
            container: "box",
            enabled: true,
        };
        audit.write(Action::Setup, None, None);
        audit.write(Action::Note, None, Some("two"));
        Audit {
            enabled: false,
            ..audit
        }
        .write(Action::Error, None, None);
        let log = path.join("audit.jsonl");
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("\"action\":\"note\",\"detail\":\"two\"}\n"));
        let mode = std::fs::metadata(&log).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        std::fs::remove_file(&log).unwrap();
        let outside = path.join("outside");
        std::fs::write(&outside, "").unwrap();
        std::os::unix::fs::symlink(&outside, &log).unwrap();
        audit.write(Action::Note, None, Some("lost, and only a warning"));
        assert_eq!(std::fs::read(&outside).unwrap(), b"");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
