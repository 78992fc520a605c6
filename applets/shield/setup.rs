//! Verbs about this host: setup, completions.

use super::{Global, parse};
use crate::error::{Error, Result};
use crate::output;
use crate::podman::setup as host;
use crate::sanitize;
use argh::FromArgs;
use std::path::Path;

#[derive(FromArgs)]
/// Installs the hooks and tells podman of them, or takes both away again. Safe to repeat.
#[argh(
    name = "setup",
    example = "terok-shield setup\nsudo terok-shield setup --root\nterok-shield setup --uninstall"
)]
struct Setup {
    /// for everybody's podman on this machine (needs root, and is what root gets)
    #[argh(switch)]
    root: bool,
    /// for this user's podman
    #[argh(switch)]
    user: bool,
    /// remove what setup installed
    #[argh(switch)]
    uninstall: bool,
}

#[derive(FromArgs)]
/// Prints the completions of a shell, to be sourced.
#[argh(
    name = "completions",
    example = "source <(terok-shield completions bash)"
)]
struct Completions {
    /// bash, zsh or fish
    #[argh(positional)]
    shell: String,
}

/// `terok-shield setup`
pub fn setup(global: &Global, args: &[&str]) -> Result<()> {
    let args: Setup = parse("setup", args)?;
    let scope = host::Scope::choose(&global.env, args.root, args.user)?;
    let said = match args.uninstall {
        true => host::uninstall(&global.env)?,
        false => host::install(&global.env, scope, Path::new(host::SELF))?,
    };
    said.iter().try_for_each(|line| output::line(line))
}

/// `terok-shield completions`
pub fn completions(global: &Global, args: &[&str]) -> Result<()> {
    let args: Completions = parse("completions", args)?;
    let text = match args.shell.as_str() {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        // What the completions themselves ask: the containers that run now.
        "containers" => return output::text(&running(global)?),
        other => {
            return Err(Error::usage(format!(
                "no completions for {}: use bash, zsh or fish",
                sanitize::quoted(other)
            )));
        }
    };
    output::text(text)
}

/// The names of running shielded containers, one a line, from the bundles alone: asking podman
/// would take a second of the person's patience at every Tab.
fn running(global: &Global) -> Result<String> {
    let mut names = String::new();
    for bundle in super::observe::all_bundles(global)? {
        if bundle.living_init()?.is_some()
            && let Some(name) = bundle.path().file_name()
        {
            names.push_str(&sanitize::text(&name.to_string_lossy()));
            names.push('\n');
        }
    }
    Ok(names)
}

const BASH: &str = include_str!("../../completions/terok-shield.bash");
const ZSH: &str = include_str!("../../completions/terok-shield.zsh");
const FISH: &str = include_str!("../../completions/terok-shield.fish");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applets::shield::VERBS;

    #[test]
    fn completions_and_manual_know_every_verb() {
        let manual = include_str!("../../man/terok-shield.1");
        for verb in VERBS {
            for (text, what) in [(BASH, "bash"), (ZSH, "zsh"), (FISH, "fish")] {
                let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
                assert!(
                    words.any(|word| word == verb.name),
                    "{} in {what}",
                    verb.name
                );
            }
            let escaped = verb.name.replace('-', "\\-");
            assert!(
                manual.contains(&format!("\n.B {escaped}")),
                "{} in the manual",
                verb.name
            );
        }
    }
}
