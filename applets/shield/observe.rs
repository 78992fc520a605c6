//! Verbs that only look: status, rules, preview, profiles, logs, check-environment.

use super::{Global, parse};
use crate::bundle::Bundle;
use crate::config::Config;
use crate::contract::file;
use crate::dns::service;
use crate::error::Result;
use crate::json::{Object, push_text};
use crate::lists::Lists;
use crate::nft::kernel::Detail;
use crate::nft::model::Element;
use crate::nft::policy::{self, Posture};
use crate::nft::text;
use crate::shield::environment::Environment;
use crate::shield::observe::{self, Origin};
use crate::shield::prepare;
use crate::{VERSION, output, profile, sanitize};
use argh::FromArgs;
use miniserde::{Deserialize, json};
use std::fmt::Write;

#[derive(FromArgs)]
/// The state of a container (up, down, disengaged, quarantine, offline, error), or of this host.
#[argh(
    name = "status",
    example = "terok-shield status\nterok-shield status web"
)]
struct Status {
    /// print a JSON object
    #[argh(switch)]
    json: bool,
    /// the container's name; without it, the host's state
    #[argh(positional)]
    container: Option<String>,
}

#[derive(FromArgs)]
/// The live rules of a container in nft syntax, and where its addresses came from.
#[argh(name = "rules", example = "terok-shield rules web")]
struct Rules {
    /// print a JSON object
    #[argh(switch)]
    json: bool,
    /// the container's name
    #[argh(positional)]
    container: String,
}

#[derive(FromArgs)]
/// The rules that a posture would apply to a new container.
#[argh(
    name = "preview",
    example = "terok-shield preview\nterok-shield preview --down --all"
)]
struct Preview {
    /// the bypass instead of the enforcing rules
    #[argh(switch)]
    down: bool,
    /// with --down: private ranges open too
    #[argh(switch)]
    all: bool,
}

#[derive(FromArgs)]
/// The names of the profiles, bundled and your own.
#[argh(name = "profiles", example = "terok-shield profiles")]
struct Profiles {
    /// print a JSON array
    #[argh(switch)]
    json: bool,
}

#[derive(FromArgs)]
/// The last lines of the audit log, of one container or of all merged by time.
#[argh(
    name = "logs",
    example = "terok-shield logs\nterok-shield logs --container web -n 200"
)]
struct Logs {
    /// the container's name; without it, all of them
    #[argh(option)]
    container: Option<String>,
    /// how many lines (default 50)
    #[argh(option, short = 'n', default = "50")]
    lines: usize,
}

#[derive(FromArgs)]
/// Whether this host can shield containers, and what to do if not.
#[argh(name = "check-environment", example = "terok-shield check-environment")]
struct CheckEnvironment {
    /// print a JSON object
    #[argh(switch)]
    json: bool,
}

/// `terok-shield status`
pub fn status(global: &Global, args: &[&str]) -> Result<()> {
    let args: Status = parse("status", args)?;
    let Some(name) = &args.container else {
        return host_status(global, args.json);
    };
    let container = global.container(name)?;
    let live = observe::live(&container, Detail::NoElements)?;
    if let Some(problem) = &live.problem {
        output::warn(&format!("Warning: the rules cannot be read: {problem}"));
    }
    if !args.json {
        return output::line(live.word());
    }
    let mut out = String::new();
    let mut object = Object::open(&mut out);
    object.text("container", name).text("state", live.word());
    object.text("posture", container.bundle.posture()?.word());
    object.truth("running", container.running()?.is_some());
    object.some_text(
        "tier",
        container.bundle.read_line(file::DNS_TIER)?.as_deref(),
    );
    object.some_text("dns", service::health(&container.bundle)?);
    object.close();
    output::line(&out)
}

fn host_status(global: &Global, as_json: bool) -> Result<()> {
    let config = Config::load(&global.env)?;
    let environment = Environment::look(&global.env);
    if as_json {
        return output::line(&environment.json(&global.env, &config)?);
    }
    let mut out = String::new();
    let _ = writeln!(out, "Version: {VERSION}");
    let _ = writeln!(out, "Podman: {}", environment.podman_words());
    let _ = writeln!(out, "Mode: {}", config.mode.name());
    let _ = writeln!(out, "Hooks: {}", environment.hooks());
    let _ = writeln!(out, "Health: {}", environment.health());
    let _ = writeln!(
        out,
        "Audit: {}",
        if config.audit { "enabled" } else { "disabled" }
    );
    let _ = writeln!(out, "Profiles: {}", profile::names(&global.env)?.join(", "));
    for hint in environment.hints() {
        let _ = writeln!(out, "{hint}");
    }
    output::text(&out)
}

/// `terok-shield rules`
pub fn rules(global: &Global, args: &[&str]) -> Result<()> {
    let args: Rules = parse("rules", args)?;
    let container = global.container(&args.container)?;
    let lists = Lists::read(&container.bundle)?;
    let live = observe::live(&container, Detail::Full)?;
    let listing = live.rules.as_ref().map(text::render).unwrap_or_default();
    let mut origins = Vec::new();
    for set in live.rules.iter().flat_map(|r| &r.sets) {
        for element in &set.elements {
            origins.push((
                set.name.as_str(),
                *element,
                observe::origin(&lists, set, element),
            ));
        }
    }
    if args.json {
        let mut out = String::new();
        let elements = origins.iter().map(|(set, element, origin)| {
            let mut one = String::new();
            let mut object = Object::open(&mut one);
            object
                .text("set", set)
                .text("element", &element_text(element));
            object.text("origin", origin.word());
            if let Some(left) = element.expires.or(element.timeout) {
                object.number("expires_ms", left);
            }
            object.close();
            one
        });
        let elements = format!("[{}]", elements.collect::<Vec<_>>().join(","));
        Object::open(&mut out)
            .text("container", &args.container)
            .text("state", live.word())
            .raw("elements", &elements)
            .close();
        return output::line(&out);
    }
    let mut out = format!("State: {}\n", live.word());
    if let Some(problem) = &live.problem {
        let _ = writeln!(
            out,
            "# the rules cannot be read: {}",
            sanitize::text(problem)
        );
    }
    out.push_str(&listing);
    if !origins.is_empty() {
        out.push_str("\n# where the elements came from:\n");
    }
    for (set, element, origin) in origins {
        let left = match (origin, element.expires) {
            (_, Some(ms)) => format!(", {} s left", ms.div_ceil(1000)),
            (Origin::Learned, None) => String::from(", no timeout"),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "# {set} {}: {}{left}",
            element_text(&element),
            origin.word()
        );
    }
    output::text(&out)
}

fn element_text(element: &Element) -> String {
    let mut out = String::new();
    // How long it lives is said in our own words.
    text::element(
        &mut out,
        &Element {
            timeout: None,
            expires: None,
            ..*element
        },
    );
    out
}

/// `terok-shield preview`
pub fn preview(global: &Global, args: &[&str]) -> Result<()> {
    let args: Preview = parse("preview", args)?;
    let (posture, words) = match (args.down, args.all) {
        (false, false) => (Posture::Up, "enforce"),
        (true, false) => (Posture::Down, "bypass"),
        (true, true) => (Posture::Disengaged, "bypass (all traffic)"),
        (false, true) => return Err(crate::error::Error::usage("--all goes with --down")),
    };
    let inputs = prepare::preview_inputs(&global.env)?;
    let rules = text::render(&policy::compile(posture, &inputs));
    output::text(&format!("# Ruleset preview ({words}):\n{rules}"))
}

/// `terok-shield profiles`
pub fn profiles(global: &Global, args: &[&str]) -> Result<()> {
    let args: Profiles = parse("profiles", args)?;
    let names = profile::names(&global.env)?;
    if !args.json {
        return output::text(&names.iter().map(|n| format!("{n}\n")).collect::<String>());
    }
    let quoted: Vec<String> = names.iter().map(|n| json_text(n)).collect();
    output::line(&format!("[{}]", quoted.join(",")))
}

fn json_text(text: &str) -> String {
    let mut out = String::new();
    push_text(&mut out, text);
    out
}

#[derive(Deserialize)]
struct Stamped {
    ts: Option<String>,
}

/// `terok-shield logs`
pub fn logs(global: &Global, args: &[&str]) -> Result<()> {
    let args: Logs = parse("logs", args)?;
    let bundles = match &args.container {
        Some(name) => vec![global.container(name)?.bundle],
        None => all_bundles(global)?,
    };
    let mut lines = Vec::new();
    for bundle in bundles {
        let Some(tail) = bundle.dir().read_tail(file::AUDIT_LOG, LOG_TAIL)? else {
            continue;
        };
        let text = String::from_utf8_lossy(&tail);
        for line in text.lines() {
            // A line another program garbled is not an audit line.
            if let Ok(Stamped { ts: Some(ts) }) = json::from_str(line) {
                lines.push((ts, sanitize::line(line)));
            }
        }
    }
    crate::sort::sort_by(&mut lines, |a, b| a.0.cmp(&b.0));
    let skip = lines.len().saturating_sub(args.lines);
    let mut out = String::new();
    for (_, line) in &lines[skip..] {
        out.push_str(line);
        out.push('\n');
    }
    output::text(&out)
}

/// How much of a log's end is read.
const LOG_TAIL: u64 = 8 << 20;

/// Every bundle below the state root; a directory that is none is passed over.
pub fn all_bundles(global: &Global) -> Result<Vec<Bundle>> {
    let root = global.env.state_root()?.join("containers");
    let Ok(entries) = std::fs::read_dir(&root) else {
        return Ok(Vec::new());
    };
    Ok(entries
        .flatten()
        .filter_map(|e| Bundle::open(&e.path()).ok())
        .collect())
}

/// `terok-shield check-environment`
pub fn check_environment(global: &Global, args: &[&str]) -> Result<()> {
    let args: CheckEnvironment = parse("check-environment", args)?;
    let config = Config::load(&global.env)?;
    let environment = Environment::look(&global.env);
    if args.json {
        return output::line(&environment.json(&global.env, &config)?);
    }
    let mut out = String::new();
    let _ = writeln!(out, "podman_version={}", environment.podman_words());
    let _ = writeln!(out, "hooks={}", environment.hooks());
    let _ = writeln!(out, "health={}", environment.health());
    let _ = writeln!(out, "dns_tier={}", config.tier.name());
    for hint in environment.hints() {
        let _ = writeln!(out, "{hint}");
    }
    output::text(&out)
}
