//! Whether this host can shield containers.

use crate::config::Config;
use crate::error::Result;
use crate::json::Object;
use crate::paths::Env;
use crate::podman::hooks_dir::{Check, Health, Hooks};
use crate::podman::info::{Info, Version};
use crate::podman::run::Podman;
use crate::podman::setup;
use crate::{VERSION, profile};

/// The oldest podman this is tested with.
const OLDEST: Version = Version(4, 3, 0);

/// What was found.
#[derive(Debug)]
pub struct Environment {
    podman: Result<Info>,
    check: Result<Check>,
}

impl Environment {
    /// Looks at podman and at the hooks.
    pub fn look(env: &Env) -> Self {
        Self {
            podman: Info::ask(&Podman::default()),
            check: setup::check(env),
        }
    }

    /// podman's version, or that it is not there.
    pub fn podman_words(&self) -> String {
        match &self.podman {
            Ok(Info {
                version: Some(version),
                ..
            }) => version.to_string(),
            Ok(_) => "unknown".into(),
            Err(_) => "not found".into(),
        }
    }

    /// The word after `hooks:`.
    pub fn hooks(&self) -> &'static str {
        self.check
            .as_ref()
            .map_or(Hooks::NotInstalled, |c| c.hooks)
            .word()
    }

    /// The word after `health:`.
    pub fn health(&self) -> &'static str {
        self.check
            .as_ref()
            .map_or(Health::SetupNeeded, |c| c.health)
            .word()
    }

    /// What to do, a sentence each.
    pub fn hints(&self) -> Vec<String> {
        let mut hints = Vec::new();
        match &self.podman {
            Err(e) => hints.push(format!("Hint: podman does not answer: {e}")),
            Ok(info) if info.remote => {
                hints.push(
                    "Hint: podman runs containers on another machine; set up the shield there"
                        .into(),
                );
            }
            Ok(info) if info.version.is_some_and(|v| v < OLDEST) => {
                hints.push(format!("Hint: podman {OLDEST} or later is needed"));
            }
            Ok(_) => {}
        }
        match &self.check {
            Err(e) => hints.push(format!("Hint: {e}")),
            Ok(check) => hints.extend(check.problem.iter().map(|p| format!("Hint: {p}"))),
        }
        hints
    }

    /// All of it as one JSON object.
    pub fn json(&self, env: &Env, config: &Config) -> Result<String> {
        let mut out = String::new();
        Object::open(&mut out)
            .text("version", VERSION)
            .text("podman_version", &self.podman_words())
            .text("mode", config.mode.name())
            .text("hooks", self.hooks())
            .text("health", self.health())
            .raw("audit", if config.audit { "true" } else { "false" })
            .text("dns_tier", config.tier.name())
            .texts("profiles", &profile::names(env)?)
            .texts("hints", &self.hints())
            .close();
        Ok(out)
    }
}
