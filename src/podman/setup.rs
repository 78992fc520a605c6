//! `setup`: hooks installed and registered, or removed again. Idempotent and symmetric.

use super::conf::{Change, Conf};
use super::hooks_dir;
use crate::config;
use crate::error::{Error, Result};
use crate::paths::Env;
use std::path::{Path, PathBuf};

/// The binary that runs now.
pub const SELF: &str = "/proc/self/exe";

/// For whom to set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's podman on this machine, root's included: needs root.
    Root,
    /// This user's podman.
    User,
}

impl Scope {
    /// What `--root`, `--user` or neither of them means for this user.
    pub fn choose(env: &Env, root: bool, user: bool) -> Result<Self> {
        match (root, user, env.real_root) {
            (true, true, _) => Err(Error::usage("--root and --user exclude each other")),
            (true, _, false) => Err(Error::new(
                "--root installs for the whole machine and needs root; run: sudo terok-shield setup",
            )),
            (_, true, true) => Err(Error::new(
                "--user makes no sense as root: root's podman reads no user's containers.conf; \
                 run it as that user, or without --user",
            )),
            (_, _, true) => Ok(Scope::Root),
            (_, _, false) => Ok(Scope::User),
        }
    }
}

/// The hooks directory that `setup` uses: `paths.root` of terok's configuration, else ours.
pub fn hooks_dir(env: &Env) -> Result<PathBuf> {
    env.hooks_dir(config::paths_root(env)?.as_deref())
}

/// Installs the hooks and tells podman of them. What was done, a line each.
pub fn install(env: &Env, scope: Scope, binary: &Path) -> Result<Vec<String>> {
    let dir = hooks_dir(env)?;
    // Read first: an unreadable containers.conf must not leave half a setup.
    let mut conf = Conf::load(env)?;
    conf.hooks_dirs()?;
    let installed = hooks_dir::install(&dir, binary, scope == Scope::Root)?;
    let mut said = vec![format!(
        "Hooks {} {}",
        if installed {
            "installed in"
        } else {
            "are current in"
        },
        dir.display()
    )];
    said.push(match conf.register(&dir)? {
        Change::Unchanged(file) => format!("Already registered in {}", file.display()),
        Change::Edited(file) | Change::Removed(file) => {
            format!("Registered in {}", file.display())
        }
    });
    hooks_dir::check(env, &dir, binary)?.require()?;
    Ok(said)
}

/// Removes what [`install`] did. What was done, a line each.
pub fn uninstall(env: &Env) -> Result<Vec<String>> {
    let dir = hooks_dir(env)?;
    let mut said = Vec::new();
    // Unregistered first: podman must not find a directory with half the descriptors.
    for change in Conf::load(env)?.unregister(&dir)? {
        said.push(match change {
            Change::Removed(file) => format!("Removed {}", file.display()),
            Change::Edited(file) | Change::Unchanged(file) => {
                format!("Unregistered in {}", file.display())
            }
        });
    }
    if hooks_dir::uninstall(&dir)? {
        said.push(format!("Hooks removed from {}", dir.display()));
    }
    if said.is_empty() {
        said.push("Nothing was installed".into());
    }
    Ok(said)
}

/// Follows the whole chain for this user: see [`hooks_dir::check`].
pub fn check(env: &Env) -> Result<hooks_dir::Check> {
    hooks_dir::check(env, &hooks_dir(env)?, Path::new(SELF))
}
