//! The operator's command line: a table of verbs, each one struct and one `exec`.

mod control;
mod launch;
mod observe;
mod setup;
mod stream;

use crate::error::{Error, Result};
use crate::paths::Env;
use crate::podman::info::Info;
use crate::podman::run::Podman;
use crate::shield::{Container, locate};
use crate::{VERSION, output, sanitize};
use argh::{EarlyExit, FromArgs};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// What holds for every verb.
pub(super) struct Global {
    /// The process's environment, with `--state-dir` in it where given.
    env: Env,
    /// Whether `--state-dir` was given: then no other place is looked at.
    state_dir_given: bool,
}

/// A verb.
struct Verb {
    name: &'static str,
    about: &'static str,
    exec: fn(&Global, &[&str]) -> Result<()>,
}

/// CONTRACT section 5, in the order in which one meets them.
static VERBS: &[Verb] = &[
    Verb {
        name: "setup",
        about: "install the hooks on this host, or remove them",
        exec: setup::setup,
    },
    Verb {
        name: "run",
        about: "podman run, shielded",
        exec: launch::run,
    },
    Verb {
        name: "prepare",
        about: "print the podman arguments that shield a container",
        exec: launch::prepare,
    },
    Verb {
        name: "resolve",
        about: "resolve a container's profiles again",
        exec: launch::resolve,
    },
    Verb {
        name: "allow",
        about: "let a container reach a domain, address or port",
        exec: control::allow,
    },
    Verb {
        name: "deny",
        about: "keep a container from a domain or address, and cut what flows",
        exec: control::deny,
    },
    Verb {
        name: "up",
        about: "enforce: only what is allowed gets out",
        exec: control::up,
    },
    Verb {
        name: "down",
        about: "let everything but private ranges out, and log it",
        exec: control::down,
    },
    Verb {
        name: "quarantine",
        about: "cut all traffic but loopback",
        exec: control::quarantine,
    },
    Verb {
        name: "block",
        about: "the same as quarantine",
        exec: control::quarantine,
    },
    Verb {
        name: "status",
        about: "the state of a container, or of this host",
        exec: observe::status,
    },
    Verb {
        name: "rules",
        about: "the live rules of a container",
        exec: observe::rules,
    },
    Verb {
        name: "preview",
        about: "the rules a posture would apply",
        exec: observe::preview,
    },
    Verb {
        name: "profiles",
        about: "the names of the profiles",
        exec: observe::profiles,
    },
    Verb {
        name: "logs",
        about: "the audit log",
        exec: observe::logs,
    },
    Verb {
        name: "watch",
        about: "what happens to a container, as it happens",
        exec: stream::watch,
    },
    Verb {
        name: "simple-clearance",
        about: "decide at this terminal about what a container is kept from",
        exec: stream::simple_clearance,
    },
    Verb {
        name: "check-environment",
        about: "whether this host can shield containers",
        exec: observe::check_environment,
    },
    Verb {
        name: "completions",
        about: "shell completions for bash, zsh or fish",
        exec: setup::completions,
    },
];

/// Runs the verb that the arguments name.
pub fn exec(args: &[OsString]) -> Result<ExitCode> {
    let mut words = Vec::with_capacity(args.len());
    for arg in args {
        words.push(arg.to_str().ok_or_else(|| {
            Error::usage(format!(
                "argument {} is not UTF-8",
                sanitize::quoted(&arg.to_string_lossy())
            ))
        })?);
    }
    let mut global = Global {
        env: Env::of_process(),
        state_dir_given: false,
    };
    let mut rest = words.as_slice();
    while let Some((first, after)) = rest.split_first() {
        match *first {
            "--version" | "-V" => return version().map(|()| ExitCode::SUCCESS),
            "--help" | "-h" | "help" if after.is_empty() => return Err(Error::help(help())),
            "help" => return run_verb(&global, after[0], &["--help"]),
            "--state-dir" => {
                let (dir, after) = after
                    .split_first()
                    .ok_or_else(|| Error::usage("--state-dir takes a directory"))?;
                global.set_state_dir(dir)?;
                rest = after;
            }
            _ => match first.strip_prefix("--state-dir=") {
                Some(dir) => {
                    global.set_state_dir(dir)?;
                    rest = after;
                }
                None => return run_verb(&global, first, after),
            },
        }
    }
    Err(Error::usage(format!("no verb given; {}", verbs())))
}

fn run_verb(global: &Global, name: &str, args: &[&str]) -> Result<ExitCode> {
    let verb = VERBS
        .iter()
        .find(|v| v.name == name)
        .ok_or_else(|| unknown(name))?;
    (verb.exec)(global, args)?;
    Ok(ExitCode::SUCCESS)
}

impl Global {
    /// The shield of a container.
    fn container(&self, name: &str) -> Result<Container> {
        locate::container(&self.env, name, self.state_dir_given)
    }

    fn set_state_dir(&mut self, dir: &str) -> Result<()> {
        let path = PathBuf::from(dir);
        if !path.is_absolute() {
            return Err(Error::usage(format!(
                "--state-dir {} is not an absolute path",
                sanitize::quoted(dir)
            )));
        }
        self.env.shield_state_dir = Some(path.into_os_string());
        self.state_dir_given = true;
        Ok(())
    }
}

/// Parses a verb's arguments; `--help` is no failure.
fn parse<T: FromArgs>(verb: &str, args: &[&str]) -> Result<T> {
    T::from_args(&["terok-shield", verb], args).map_err(|EarlyExit { output, status }| match status
    {
        Ok(()) => Error::help(output),
        Err(()) => Error::usage(output.trim_end().to_string()),
    })
}

fn version() -> Result<()> {
    output::line(&format!("terok-shield {VERSION}"))?;
    let podman = Info::ask(&Podman::default()).map(|info| info.version);
    output::line(&match podman {
        Ok(Some(version)) => format!("podman {version}"),
        Ok(None) => "podman of unknown version".into(),
        Err(e) => format!("podman not found ({e})"),
    })
}

fn help() -> String {
    let mut out = String::from(
        "Usage: terok-shield [--state-dir DIR] VERB [ARGUMENTS]\n\n\
         Default-deny egress for podman containers that run untrusted code.\n\nVerbs:\n",
    );
    for verb in VERBS {
        out.push_str(&format!("  {:18}{}\n", verb.name, verb.about));
    }
    out.push_str(
        "\nOptions:\n  \
         --state-dir DIR   where the bundles are (default: $TEROK_SHIELD_STATE_DIR, or by XDG)\n  \
         --version         our version, then podman's\n  \
         --help            this text; after a verb, that verb's\n\n\
         Examples:\n  \
         terok-shield setup\n  \
         terok-shield run web -- docker.io/library/debian:12 bash\n  \
         terok-shield allow web crates.io\n  \
         terok-shield allow --for 15m web 192.0.2.7:5432\n  \
         terok-shield watch web\n\n",
    );
    out.push_str(&super::help());
    out
}

fn verbs() -> String {
    let names: Vec<&str> = VERBS.iter().map(|v| v.name).collect();
    format!("the verbs are: {}", names.join(" "))
}

/// A near miss gets the verb that was meant.
fn unknown(name: &str) -> Error {
    let near = VERBS
        .iter()
        .map(|v| (distance(name, v.name), v.name))
        .min()
        .filter(|&(d, meant)| d <= 1 + meant.len() / 4);
    let shown = sanitize::quoted(name);
    Error::usage(match near {
        Some((_, meant)) => format!("unknown verb {shown}; did you mean {meant}?"),
        None => format!("unknown verb {shown}; {}", verbs()),
    })
}

/// Levenshtein distance, of short words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(64)], b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_told_what_was_meant() {
        for (typed, meant) in [
            ("alow", "allow"),
            ("statsu", "status"),
            ("quarantin", "quarantine"),
            ("dwon", "down"),
        ] {
            assert!(
                unknown(typed)
                    .to_string()
                    .ends_with(&format!("did you mean {meant}?")),
                "{typed}"
            );
        }
        assert!(
            unknown("frobnicate")
                .to_string()
                .contains("the verbs are: setup")
        );
        assert!(unknown("\u{1b}[31m").to_string().is_ascii());
    }
}
