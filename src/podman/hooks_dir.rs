//! The hooks directory: four descriptors and the binary they name (CONTRACT section 2).
//!
//! podman skips, silently, a descriptor whose binary is gone, and then starts the container
//! unprotected. So the binary is a copy beside the descriptors, which no package update removes,
//! and [`check`] follows the whole chain before anything is promised.

use super::conf::Conf;
use crate::contract::{annotation, hook_file};
use crate::error::{Context, Error, Result};
use crate::files::Dir;
use crate::paths::Env;
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest binary copied, bytes; a debug build has some 20 MiB.
const MAX_BINARY: usize = 256 << 20;
/// Largest descriptor read, bytes.
const MAX_DESCRIPTOR: usize = 4096;

/// Where hooks are registered, as `status` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hooks {
    /// Root's directory.
    GlobalSystem,
    /// The user's directory.
    GlobalUser,
    /// Nowhere.
    NotInstalled,
}

impl Hooks {
    /// The word after `hooks:`.
    pub fn word(self) -> &'static str {
        match self {
            Hooks::GlobalSystem => "global-system",
            Hooks::GlobalUser => "global-user",
            Hooks::NotInstalled => "not-installed",
        }
    }
}

/// Whether the hooks would run, as `status` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The whole chain is in order.
    Ok,
    /// podman looks into no directory of ours.
    SetupNeeded,
    /// podman looks into one whose content is not what this binary installs.
    StaleHooks,
}

impl Health {
    /// The word after `health:`.
    pub fn word(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::SetupNeeded => "setup-needed",
            Health::StaleHooks => "stale-hooks",
        }
    }
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Where.
    pub hooks: Hooks,
    /// In what state.
    pub health: Health,
    /// The directory meant, if any is registered.
    pub dir: Option<PathBuf>,
    /// What is wrong, with the cure; `None` if nothing is.
    pub problem: Option<String>,
}

impl Check {
    /// The error that keeps `prepare` and `run` from promising what would not hold.
    pub fn require(&self) -> Result<()> {
        match &self.problem {
            None => Ok(()),
            Some(problem) => Err(Error::new(problem.clone())),
        }
    }
}

/// The text of one descriptor (oci-hooks(5), schema 1.0.0), the same to the byte every time.
pub fn descriptor(dir: &Path, applet: &str, stage: &str) -> Result<String> {
    let path = dir.join(hook_file::BINARY);
    let Some(path) = path.to_str().filter(|p| !p.chars().any(char::is_control)) else {
        return Err(Error::new(format!(
            "{} has characters that a hook descriptor cannot hold",
            path.display()
        )));
    };
    let path = path.replace('\\', "\\\\").replace('"', "\\\"");
    // The key is a regular expression: its dots stand for themselves, and it is all of the key.
    let key = annotation::PROFILES.replace('.', "\\\\.");
    Ok(format!(
        "{{\"version\":\"1.0.0\",\"hook\":{{\"path\":\"{path}\",\"args\":[\"{applet}\",\"{stage}\"]}},\
         \"when\":{{\"annotations\":{{\"^{key}$\":\".*\"}}}},\"stages\":[\"{stage}\"]}}\n"
    ))
}

/// Installs into `dir`: first the binary, then the descriptors that name it. Whether anything
/// had to be written.
pub fn install(dir: &Path, binary: &Path, for_everybody: bool) -> Result<bool> {
    let what = || format!("cannot install hooks in {}", dir.display());
    create(dir, for_everybody).context(what)?;
    let open = Dir::open(dir).context(what)?;
    trusted(&open).context(what)?;
    let _lock = open.lock(Duration::from_secs(10)).context(what)?;
    let mut changed = false;
    if !runnable(&open) || !same_binary(&open, binary).unwrap_or(false) {
        let source = File::open(binary).context(what)?;
        let bytes = crate::files::read_bounded(source, MAX_BINARY, "the running binary")?;
        open.write_mode(hook_file::BINARY, &bytes, Mode::from_raw_mode(0o755))
            .context(what)?;
        changed = true;
    }
    for (file, applet, stage) in hook_file::DESCRIPTORS {
        let text = descriptor(dir, applet, stage)?;
        if open.read(file, MAX_DESCRIPTOR).ok().flatten().as_deref() != Some(text.as_bytes()) {
            open.write_mode(file, text.as_bytes(), Mode::from_raw_mode(0o644))
                .context(what)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Removes what [`install`] installed, and the directory if nothing else is in it. Whether there
/// was anything.
pub fn uninstall(dir: &Path) -> Result<bool> {
    let what = || format!("cannot remove hooks from {}", dir.display());
    if std::fs::symlink_metadata(dir).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(false);
    }
    let open = Dir::open(dir).context(what)?;
    let mut changed = false;
    for (file, ..) in hook_file::DESCRIPTORS {
        changed |= open.remove(file).context(what)?;
    }
    changed |= open.remove(hook_file::BINARY).context(what)?;
    // Fails where the operator keeps something of his own in it, and that is as it should be.
    let _ = std::fs::remove_dir(dir);
    Ok(changed)
}

/// Follows the chain: directory registered, descriptors ours and current, not masked by a later
/// directory, binary there, executable and the same as `binary`.
pub fn check(env: &Env, user_dir: &Path, binary: &Path) -> Result<Check> {
    let dirs = Conf::load(env)?.hooks_dirs()?;
    let system_dir = env.system_hooks_dir();
    // podman: of two descriptors of one name the later directory's counts.
    let at = dirs
        .iter()
        .rposition(|d| Path::new(d) == user_dir || Path::new(d) == system_dir);
    let Some(at) = at else {
        return Ok(Check {
            hooks: Hooks::NotInstalled,
            health: Health::SetupNeeded,
            dir: None,
            problem: Some(
                "podman does not look into the shield's hooks directory, so a container would \
                 start unprotected; run: terok-shield setup"
                    .into(),
            ),
        });
    };
    let dir = PathBuf::from(&dirs[at]);
    let problem = inspect(&dir, binary)
        .err()
        .map(|e| e.to_string())
        .or_else(|| masked(&dirs[at + 1..]));
    Ok(Check {
        hooks: if env.real_root || dir == system_dir || is_roots(&dir) {
            Hooks::GlobalSystem
        } else {
            Hooks::GlobalUser
        },
        health: if problem.is_some() {
            Health::StaleHooks
        } else {
            Health::Ok
        },
        problem: problem.map(|why| {
            format!(
                "the hooks in {} would not protect: {why}; run: terok-shield setup",
                dir.display()
            )
        }),
        dir: Some(dir),
    })
}

/// Whether root installed the directory: `paths.root` may name one for the whole machine.
fn is_roots(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(dir).is_ok_and(|m| m.uid() == 0)
}

/// What is wrong with an installed directory.
fn inspect(dir: &Path, binary: &Path) -> Result<()> {
    let open = Dir::open(dir)?;
    trusted(&open)?;
    for (file, applet, stage) in hook_file::DESCRIPTORS {
        match open.read(file, MAX_DESCRIPTOR)? {
            None => return Err(Error::new(format!("{file} is missing"))),
            Some(text) if text == descriptor(dir, applet, stage)?.as_bytes() => {}
            Some(_) => {
                return Err(Error::new(format!(
                    "{file} is not what this version installs"
                )));
            }
        }
    }
    let name = hook_file::BINARY;
    rustix::fs::accessat(&open, name, Access::EXEC_OK, AtFlags::EACCESS)
        .context(|| format!("{name} beside the descriptors cannot be executed"))?;
    if !same_binary(&open, binary)? {
        return Err(Error::new(format!(
            "{name} beside the descriptors is not the one that is running now"
        )));
    }
    Ok(())
}

/// A later directory whose descriptor podman takes instead of ours.
fn masked(later: &[String]) -> Option<String> {
    later.iter().find_map(|dir| {
        let (file, ..) = hook_file::DESCRIPTORS
            .iter()
            .find(|(file, ..)| Path::new(dir).join(file).symlink_metadata().is_ok())?;
        Some(format!("{dir}/{file} takes their place, remove it"))
    })
}

/// Root's or ours, and nobody else's to write: what is in it runs with our rights.
fn trusted(dir: &Dir) -> Result<()> {
    let stat = dir.stat()?;
    let euid = rustix::process::geteuid().as_raw();
    if stat.st_uid != euid && stat.st_uid != 0 {
        return Err(Error::new(format!(
            "the directory belongs to uid {}",
            stat.st_uid
        )));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(Error::new(
            "others than its owner can write to the directory",
        ));
    }
    Ok(())
}

/// Whether the installed binary has the mode that [`install`] gives it.
fn runnable(dir: &Dir) -> bool {
    rustix::fs::statat(dir, hook_file::BINARY, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & 0o7777 == 0o755)
}

/// Whether the installed binary has the bytes of `binary`; an error where there is none.
fn same_binary(dir: &Dir, binary: &Path) -> Result<bool> {
    let name = hook_file::BINARY;
    let mut installed = dir
        .open_file(name, OFlags::RDONLY)?
        .ok_or_else(|| Error::new(format!("{name} beside the descriptors is missing")))?;
    let stat = rustix::fs::fstat(&installed)?;
    if stat.st_mode & 0o022 != 0 {
        return Err(Error::new(format!(
            "others than its owner can write to {name}"
        )));
    }
    let mut running = File::open(binary).context(|| "cannot read the running binary")?;
    let own = rustix::fs::fstat(&running)?;
    if (stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino) {
        return Ok(true);
    }
    if stat.st_size != own.st_size {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = installed.read(&mut a)?;
        if n == 0 {
            return Ok(running.read(&mut b)? == 0);
        }
        if running.read_exact(&mut b[..n]).is_err() || a[..n] != b[..n] {
            return Ok(false);
        }
    }
}

/// Creates the directory. Root's serves every user's podman, which must be able to pass through
/// what we create on the way; a bundle directory beside it stays closed by its own mode.
fn create(dir: &Path, for_everybody: bool) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    let mode = if for_everybody { 0o755 } else { 0o700 };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)?;
    if for_everybody {
        // Whatever the umask, and whoever created it before: the directory itself to list, the
        // two above it to pass through.
        for (place, wanted) in dir.ancestors().zip([0o055, 0o011, 0o011]) {
            let meta = std::fs::symlink_metadata(place)?;
            if meta.is_dir() && meta.uid() == 0 && meta.mode() & wanted != wanted {
                let open = meta.mode() & 0o7777 | wanted;
                std::fs::set_permissions(place, PermissionsExt::from_mode(open))?;
            }
        }
    }
    Ok(())
}
