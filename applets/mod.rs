//! The applets: argv[0], then the first argument, choose one from a static table.
//!
//! An applet is a function from its arguments to an exit code; the link and the first argument
//! reach the same function. How an error ends the process travels in the error.

mod dns_gate;
mod install;
mod nflog_reader;
mod nft_hook;
mod probe;
mod reader_hook;
mod shield;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use crate::error::{Error, Kind, Result};
use crate::{VERSION, output, sanitize};

/// One applet of the binary.
struct Applet {
    /// What `--list` prints and OCI hook descriptors name.
    name: &'static str,
    /// Other basenames of argv[0] that reach it.
    aliases: &'static [&'static str],
    /// One line for `--help`.
    about: &'static str,
    /// Runs it; the arguments begin after the applet's own name.
    exec: fn(&[OsString]) -> Result<ExitCode>,
}

/// CONTRACT section 1. A new applet is one entry.
static APPLETS: &[Applet] = &[
    Applet {
        name: "shield",
        // The bare name is no alias: there the first argument may be an applet.
        aliases: &[],
        about: "the operator's command line",
        exec: shield::exec,
    },
    Applet {
        name: "dns-gate",
        aliases: &[],
        about: "the name server inside a container's network namespace",
        exec: dns_gate::exec,
    },
    Applet {
        name: "nft-hook",
        aliases: &["terok-shield-hook"],
        about: "OCI hook: apply the ruleset, start and stop DNS; fails closed",
        exec: nft_hook::exec,
    },
    Applet {
        name: "nflog-reader",
        aliases: &[],
        about: "stream the blocked connections of one container",
        exec: nflog_reader::exec,
    },
    Applet {
        name: "reader-hook",
        aliases: &["terok-shield-bridge-hook"],
        about: "OCI hook: start and stop the event reader; never fails",
        exec: reader_hook::exec,
    },
    Applet {
        name: "probe",
        aliases: &["shield-probe", "shield_probe"],
        about: "inside a container: what exactly happens to a packet",
        exec: probe::exec,
    },
];

/// The applet that owns the command line where neither argv[0] nor the first argument names one.
const DEFAULT: &str = "shield";
/// The binary's own name.
const BARE: &str = "terok-shield";

/// Runs the applet that the command line names.
pub fn main() -> ExitCode {
    match dispatch(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// Says on the right stream what ended the applet, and gives its exit code.
fn report(error: &Error) -> ExitCode {
    match error.kind() {
        Kind::Help => {
            if let Err(gone) = output::text(&error.to_string()) {
                return ExitCode::from(gone.exit_code());
            }
        }
        Kind::ReaderGone => {}
        _ => output::warn(&format!("Error: {error}")),
    }
    ExitCode::from(error.exit_code())
}

/// argv[0]'s basename, else the first argument, else the default applet. A renamed binary, and an
/// empty argv, count as the bare name.
fn dispatch(argv: &[OsString]) -> Result<ExitCode> {
    let (called, rest) = match argv.split_first() {
        Some((called, rest)) => (basename(called), rest),
        None => (OsStr::new(""), argv),
    };
    // Under the bare name the first argument is an applet or a verb; under any other the applet
    // is settled.
    if let Some(applet) = find(called).filter(|_| called != BARE) {
        return (applet.exec)(rest);
    }
    let Some((first, after)) = rest.split_first() else {
        return match find(OsStr::new(DEFAULT)) {
            Some(shield) => (shield.exec)(rest),
            None => Err(Error::usage(format!("no applet given; {}", known()))),
        };
    };
    if let Some(applet) = find(first) {
        return (applet.exec)(after);
    }
    match first.to_str() {
        Some("--list") => list(after),
        Some("--install") => install::exec(after),
        _ => match find(OsStr::new(DEFAULT)) {
            Some(shield) => (shield.exec)(rest),
            None => without_default(first),
        },
    }
}

fn without_default(first: &OsStr) -> Result<ExitCode> {
    match first.to_str() {
        Some("--version") => {
            output::line(&format!("terok-shield {VERSION}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Some("--help" | "-h" | "help") => Err(Error::help(help())),
        _ => Err(Error::usage(format!(
            "unknown applet {}; {}",
            quoted(first),
            known()
        ))),
    }
}

/// How the binary itself is used, for `--help`: the applets and the two options beside them.
pub fn help() -> String {
    let mut out = String::from(
        "Usage: terok-shield APPLET [ARGUMENTS]\n       \
         terok-shield --list | --install DIR [--symbolic] [--force]\n\n\
         Applets (also by a link of that name):\n",
    );
    for applet in APPLETS {
        out.push_str(&format!("  {:14}{}\n", applet.name, applet.about));
    }
    out
}

/// `--list`: one name a line.
fn list(args: &[OsString]) -> Result<ExitCode> {
    if let Some(extra) = args.first() {
        return Err(Error::usage(format!(
            "--list takes no argument, got {}",
            quoted(extra)
        )));
    }
    let mut out = String::new();
    for applet in APPLETS {
        out.push_str(applet.name);
        out.push('\n');
    }
    output::text(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// Every name that reaches an applet, for links.
fn link_names() -> impl Iterator<Item = &'static str> {
    APPLETS
        .iter()
        .flat_map(|a| std::iter::once(a.name).chain(a.aliases.iter().copied()))
}

/// Parses an applet's arguments into its argh struct. `--help` comes back as an error of
/// [`Kind::Help`], which is printed to stdout and exits 0; anything wrong is a usage error.
pub fn parse<T: argh::FromArgs>(name: &str, args: &[OsString]) -> Result<T> {
    let mut texts = Vec::with_capacity(args.len());
    for arg in args {
        texts.push(
            arg.to_str()
                .ok_or_else(|| Error::usage(format!("argument {} is not UTF-8", quoted(arg))))?,
        );
    }
    T::from_args(&[name], &texts).map_err(|exit| match exit.status {
        Ok(()) => Error::help(exit.output),
        Err(()) => {
            // argh says it in several lines; ours is one.
            let lines: Vec<&str> = exit.output.lines().map(str::trim).collect();
            Error::usage(sanitize::text(lines.join(" ").trim()))
        }
    })
}

fn known() -> String {
    let names: Vec<&str> = APPLETS.iter().map(|a| a.name).collect();
    format!("the applets are: {}", names.join(" "))
}

fn find(name: &OsStr) -> Option<&'static Applet> {
    APPLETS
        .iter()
        .find(|a| name == a.name || a.aliases.iter().any(|alias| name == *alias))
}

/// What follows the last slash; a login shell's leading `-` is not part of a name.
fn basename(path: &OsStr) -> &OsStr {
    std::path::Path::new(path).file_name().unwrap_or(path)
}

/// An argument as it may stand in a message: it need not be UTF-8, nor printable.
fn quoted(arg: &OsStr) -> String {
    sanitize::quoted(&arg.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(argv: &[&str]) -> Result<ExitCode> {
        dispatch(&argv.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn names_and_aliases_are_unique() {
        let mut names: Vec<&str> = link_names().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn an_unknown_applet_is_a_usage_error_that_names_the_known_ones() {
        if find(OsStr::new(DEFAULT)).is_some() {
            return;
        }
        let error = run(&["terok-shield", "nonsense"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("\"nonsense\""), "{error}");
        assert!(error.to_string().contains("probe"), "{error}");
    }

    #[test]
    fn the_bare_name_leads_to_every_applet() {
        let error = run(&["/usr/bin/terok-shield", "dns-gate", "nonsense"]).unwrap_err();
        assert!(error.to_string().contains("dns-gate"), "{error}");
    }

    #[test]
    fn list_refuses_an_argument() {
        assert_eq!(run(&["x", "--list", "more"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn basename_takes_what_follows_the_last_slash() {
        for (path, name) in [
            ("/usr/bin/probe", "probe"),
            ("probe", "probe"),
            ("./a/probe", "probe"),
            ("", ""),
            ("/", "/"),
        ] {
            assert_eq!(basename(OsStr::new(path)), OsStr::new(name));
        }
    }
}
