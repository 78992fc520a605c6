//! Verbs that stay: watch, simple-clearance.

use super::{Global, parse};
use crate::clearance::{self, Verdict, Verdicts};
use crate::error::{Context, Error, Result};
use crate::watch::live;
use crate::watch::view::{self, Filter};
use argh::FromArgs;
use std::ffi::OsString;
use std::process::{Command, Stdio};

#[derive(FromArgs)]
/// What happens to a container as it happens: packets, refused queries, changes of its shield.
#[argh(
    name = "watch",
    example = "terok-shield watch web\nterok-shield watch --since 2h --filter domain=example.org web\nterok-shield watch --filter source=nflog web | jq .dest",
    note = "Columns on a terminal, JSON lines in a pipe. Ends with Ctrl-C."
)]
struct Watch {
    /// JSON lines even on a terminal
    #[argh(switch)]
    json: bool,
    /// past events, too: since a time (RFC 3339), or for so long (90s, 15m, 2h, 1d)
    #[argh(option, from_str_fn(since))]
    since: Option<i64>,
    /// only events with source=dns|audit|nflog, action=WORD or domain=NAME; can be repeated
    #[argh(option)]
    filter: Vec<String>,
    /// the container's name
    #[argh(positional)]
    container: String,
}

fn since(text: &str) -> Result<i64, String> {
    view::parse_since(text).map_err(|e| e.to_string())
}

/// `terok-shield watch`
pub fn watch(global: &Global, args: &[&str]) -> Result<()> {
    let args: Watch = parse("watch", args)?;
    let mut filter = Filter::default();
    for text in &args.filter {
        filter.add(text)?;
    }
    let container = global.container(&args.container)?;
    let options = live::Options {
        json: args.json,
        since: args.since,
        filter,
    };
    live::run(&container.bundle, &container.name, &options)
}

#[derive(FromArgs)]
/// Asks about each destination a container is kept from: allow it, deny it, or leave it.
#[argh(
    name = "simple-clearance",
    example = "terok-shield simple-clearance web",
    note = "Single keys on a terminal; in a pipe, one word a line: allow, deny, timed, port, domain,\ndeny-domain, skip, quit."
)]
struct SimpleClearance {
    /// the container's name
    #[argh(positional)]
    container: String,
}

/// `terok-shield simple-clearance`
pub fn simple_clearance(global: &Global, args: &[&str]) -> Result<()> {
    let args: SimpleClearance = parse("simple-clearance", args)?;
    let container = global.container(&args.container)?;
    let mut verbs = Verbs {
        before: match (&global.env.shield_state_dir, global.state_dir_given) {
            (Some(dir), true) => vec!["--state-dir".into(), dir.clone()],
            _ => Vec::new(),
        },
        container: container.name.clone(),
    };
    clearance::run(&container.bundle, &container.name, &mut verbs)
}

/// Carries verdicts out by the verbs themselves, each in a process of its own: a verb enters the
/// container's namespaces, and from there neither the next one nor a resolver could work.
struct Verbs {
    before: Vec<OsString>,
    container: String,
}

impl Verdicts for Verbs {
    fn carry_out(&mut self, verdict: &Verdict) -> Result<String> {
        let words: Vec<&str> = match verdict {
            Verdict::Allow(target) => vec!["allow", &self.container, target],
            Verdict::AllowFor(target, time) => {
                vec!["allow", "--for", time, &self.container, target]
            }
            Verdict::Deny(target) => vec!["deny", &self.container, target],
        };
        let program = std::env::current_exe().map_err(Error::from)?;
        let done = Command::new(program)
            .arg("shield")
            .args(&self.before)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context(|| "cannot carry the verdict out")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
        if done.status.success() {
            Ok(text(&done.stdout))
        } else {
            let said = text(&done.stderr);
            Err(Error::new(said.trim_start_matches("Error: ").to_string()))
        }
    }
}
