//! Verbs around a container's start: prepare, run, resolve.

use super::{Global, parse};
use crate::contract::file;
use crate::error::{Error, Result};
use crate::lists::Lists;
use crate::output;
use crate::shield::{change, prepare, resolve as names, run_args};
use crate::validate;
use argh::FromArgs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

#[derive(FromArgs)]
/// Writes a container's bundle and prints the podman arguments that shield it.
#[argh(
    name = "prepare",
    example = "terok-shield prepare web\neval podman run $(terok-shield prepare web) docker.io/library/debian:12 bash"
)]
struct Prepare {
    /// profiles, separated by commas (default: default_profiles of config.yml)
    #[argh(option)]
    profiles: Option<String>,
    /// print a JSON array instead of a shell-quoted line
    #[argh(switch)]
    json: bool,
    /// the container's name
    #[argh(positional)]
    container: String,
}

#[derive(FromArgs)]
/// Runs podman run, shielded. What follows -- is podman's: options, image, command.
#[argh(
    name = "run",
    example = "terok-shield run web -- --rm -it docker.io/library/debian:12 bash\nterok-shield run web --profiles base,dev-python -- -d localhost/agent",
    note = "Options of podman that would lift the shield are refused."
)]
struct Run {
    /// profiles, separated by commas (default: default_profiles of config.yml)
    #[argh(option)]
    profiles: Option<String>,
    /// the container's name
    #[argh(positional)]
    container: String,
}

#[derive(FromArgs)]
/// Resolves the domains of a container's profiles; answers younger than an hour are kept.
#[argh(name = "resolve", example = "terok-shield resolve web --force")]
struct Resolve {
    /// ask again whatever the age of the last answers
    #[argh(switch)]
    force: bool,
    /// the container's name
    #[argh(positional)]
    container: String,
}

fn profile_names(list: Option<&str>) -> Result<Option<Vec<String>>> {
    let Some(list) = list else { return Ok(None) };
    let names = list
        .split(',')
        .map(|name| validate::profile_name(name.trim()).map(String::from));
    names.collect::<Result<Vec<_>>>().map(Some)
}

/// `terok-shield prepare`
pub fn prepare(global: &Global, args: &[&str]) -> Result<()> {
    let args: Prepare = parse("prepare", args)?;
    let profiles = profile_names(args.profiles.as_deref())?;
    let podman = prepare::prepare(&global.env, &args.container, profiles)?;
    let words: Vec<String> = match args.json {
        true => podman.iter().map(|word| json_word(word)).collect(),
        false => podman.iter().map(|word| shell_word(word)).collect(),
    };
    output::line(&match args.json {
        true => format!("[{}]", words.join(",")),
        false => words.join(" "),
    })
}

/// Arguments are ours, and exact: none may be cut.
fn json_word(word: &str) -> String {
    let mut out = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A word as sh(1) reads it back.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', "'\"'\"'"))
}

/// `terok-shield run`
pub fn run(global: &Global, args: &[&str]) -> Result<()> {
    let split = args.iter().position(|word| *word == "--");
    let (ours, podman) = match split {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &args[args.len()..]),
    };
    let args: Run = parse("run", ours)?;
    run_args::check(podman, &prepare::protected_places(&global.env)?)?;
    let profiles = profile_names(args.profiles.as_deref())?;
    let shielding = prepare::prepare(&global.env, &args.container, profiles)?;
    let failed = Command::new("podman")
        .arg("run")
        .args(shielding)
        .args(podman)
        .exec();
    Err(Error::new(format!(
        "cannot execute podman: {}",
        Error::from(failed)
    )))
}

/// Answers younger than this are kept.
const CACHE: Duration = Duration::from_secs(3600);

/// `terok-shield resolve`
pub fn resolve(global: &Global, args: &[&str]) -> Result<()> {
    let args: Resolve = parse("resolve", args)?;
    let container = global.container(&args.container)?;
    let bundle = &container.bundle;
    let lists = Lists::read(bundle)?;
    let written = bundle.dir().modified(file::PROFILE_ALLOWED)?;
    let fresh = written
        .and_then(|at| SystemTime::now().duration_since(at).ok())
        .is_some_and(|age| age < CACHE);
    let mut nets = lists.profile_allowed;
    if args.force || !fresh || nets.is_empty() {
        let found = names::resolve(
            &lists.profile_domains,
            names::tier_of(&container)?,
            names::OF_PROFILES,
        )?;
        for (name, why) in &found.failed {
            output::warn(&format!("Warning: {name} did not resolve: {why}"));
        }
        // What the profiles name by address is not of DNS: it stays.
        nets = prepare::authored(&global.env, bundle)?;
        nets.extend(
            found
                .nets
                .into_iter()
                .filter(|net| !nets.contains(net))
                .collect::<Vec<_>>(),
        );
        change::set_profile_addresses(&container, nets.clone())?;
    }
    let forced = if args.force { " (forced)" } else { "" };
    let mut out = format!(
        "Resolved {} IPs for {}{forced}\n",
        nets.len(),
        args.container
    );
    for net in &nets {
        out.push_str(&format!("  {net}\n"));
    }
    output::text(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for (word, quoted) in [
            ("--name", "--name"),
            ("a=b c", "'a=b c'"),
            ("", "''"),
            ("it's", "'it'\"'\"'s'"),
            ("$(x)", "'$(x)'"),
        ] {
            assert_eq!(shell_word(word), quoted);
        }
        assert_eq!(json_word("a\"b\\\n"), "\"a\\\"b\\\\\\u000a\"");
    }
}
