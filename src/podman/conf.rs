//! containers.conf: which files podman reads, and the hooks directories they amount to.
//!
//! containers.conf(5): `$CONTAINERS_CONF` alone if set; else `/usr/share/containers`, then
//! `/etc/containers` and its `containers.conf.d/*.conf`, then, rootless only, the same below the
//! user's configuration; `$CONTAINERS_CONF_OVERRIDE` last in either case. A later file's list
//! replaces an earlier one's, unless it says `{append=true}` (podman 5).

use super::conf_text::{CREATED, Text};
use crate::config::read_text;
use crate::error::{Context, Error, Result};
use crate::files::Dir;
use crate::paths::Env;
use rustix::fs::{Gid, Mode, Uid};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest file read, bytes: podman's own, all comments, has 24 KiB.
const MAX_BYTES: usize = 1 << 20;
/// Most drop-in files in one directory.
const MAX_DROP_INS: usize = 256;
/// What podman uses where no file says anything (oci-hooks(5)).
pub const DEFAULT_HOOKS_DIRS: [&str; 2] = [
    "/usr/share/containers/oci/hooks.d",
    "/etc/containers/oci/hooks.d",
];

/// One file podman reads.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Its text; `None` if it does not exist.
    text: Option<String>,
    /// Whether it is ours to edit: not the distribution's, and not root's for a user.
    editable: bool,
}

/// All the files, first read first.
#[derive(Debug)]
pub struct Conf {
    files: Vec<File>,
    /// Index of the file that a new setting goes to.
    main: usize,
}

/// What [`Conf::register`] or [`Conf::unregister`] did to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It says what was wanted already.
    Unchanged(PathBuf),
    /// It was edited or created.
    Edited(PathBuf),
    /// It held nothing but our lines and is gone.
    Removed(PathBuf),
}

impl Conf {
    /// Reads them as podman run by this user would.
    pub fn load(env: &Env) -> Result<Self> {
        let mut files = Vec::new();
        let main;
        if let Some(path) = set(&env.containers_conf) {
            files.push(named_by("CONTAINERS_CONF", &path)?);
            main = 0;
        } else {
            files.push(read(
                env.system("/usr/share/containers/containers.conf"),
                false,
            )?);
            let system = env.system("/etc/containers/containers.conf");
            files.push(read(system.clone(), env.real_root)?);
            drop_ins(&system, env.real_root, &mut files)?;
            if env.real_root {
                main = 1;
            } else {
                let user = env.config_home()?.join("containers/containers.conf");
                main = files.len();
                files.push(read(user.clone(), true)?);
                drop_ins(&user, true, &mut files)?;
            }
        }
        if let Some(path) = set(&env.containers_conf_override) {
            files.push(named_by("CONTAINERS_CONF_OVERRIDE", &path)?);
        }
        Ok(Self { files, main })
    }

    /// The hooks directories podman will look into, first looked into first.
    pub fn hooks_dirs(&self) -> Result<Vec<String>> {
        self.hooks_dirs_before(self.files.len())
    }

    /// The `network_cmd_options` in effect.
    pub fn network_cmd_options(&self) -> Result<Vec<String>> {
        let mut options = Vec::new();
        for file in &self.files {
            let name = file.path.display().to_string();
            let text = Text::parse(&name, file.text.as_deref().unwrap_or(""))?;
            if let Some(set) = text.network_cmd_options() {
                options = set;
            }
        }
        Ok(options)
    }

    fn hooks_dirs_before(&self, end: usize) -> Result<Vec<String>> {
        let mut dirs: Vec<String> = DEFAULT_HOOKS_DIRS.map(str::to_owned).to_vec();
        let mut append = false;
        for file in &self.files[..end] {
            let name = file.path.display().to_string();
            let text = Text::parse(&name, file.text.as_deref().unwrap_or(""))?;
            let Some(mut set) = text.hooks_dir() else {
                continue;
            };
            // The attribute stays in force for later files that do not say otherwise.
            append = set.append.unwrap_or(append);
            if append {
                dirs.append(&mut set.dirs);
            } else {
                dirs = set.dirs;
            }
        }
        Ok(dirs)
    }

    /// Whether podman looks into `dir`.
    pub fn holds(&self, dir: &Path) -> Result<bool> {
        Ok(self.hooks_dirs()?.iter().any(|d| Path::new(d) == dir))
    }

    /// Makes podman look into `dir` as well, in one file of this user's.
    pub fn register(&mut self, dir: &Path) -> Result<Change> {
        let dir = utf8(dir)?;
        // The last file that has the key wins, so that is the one to add to. One that is not ours
        // comes before all that are, and is masked by repeating its list.
        let mut chosen = self.main;
        for (index, file) in self.files.iter().enumerate().skip(self.main) {
            let name = file.path.display().to_string();
            let text = Text::parse(&name, file.text.as_deref().unwrap_or(""))?;
            if file.editable && text.hooks_dir().is_some() {
                chosen = index;
            }
        }
        let base = self.hooks_dirs_before(chosen)?;
        let file = &self.files[chosen];
        let name = file.path.display().to_string();
        let before = file.text.clone().unwrap_or_else(|| CREATED.to_owned());
        let after = Text::parse(&name, &before)?.with(dir, &base)?;
        let change = self.replace(chosen, after)?;
        if !self.holds(Path::new(dir))? {
            return Err(Error::new(format!(
                "{name} has {dir} in hooks_dir now, but a later file overrides it; remove \
                 hooks_dir from that one"
            )));
        }
        Ok(change)
    }

    /// Takes `dir` out of every file of this user's.
    pub fn unregister(&mut self, dir: &Path) -> Result<Vec<Change>> {
        let dir = utf8(dir)?;
        let mut changes = Vec::new();
        for index in 0..self.files.len() {
            let file = &self.files[index];
            let (true, Some(before)) = (file.editable, &file.text) else {
                continue;
            };
            let name = file.path.display().to_string();
            let base = self.hooks_dirs_before(index)?;
            let after = Text::parse(&name, before)?.without(dir, &base)?;
            if after != *before {
                changes.push(self.replace(index, after)?);
            }
        }
        Ok(changes)
    }

    /// Writes a file's new text; links are followed to where the operator keeps the file.
    fn replace(&mut self, index: usize, text: String) -> Result<Change> {
        let file = &mut self.files[index];
        let path = file.path.clone();
        if file.text.as_ref() == Some(&text) {
            return Ok(Change::Unchanged(path));
        }
        let target = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(Error::new(format!("{} is no file name", path.display())));
        };
        let name = utf8(Path::new(name))?;
        let what = || format!("cannot edit {}", path.display());
        let before = std::fs::metadata(&target).ok();
        if before.is_none() {
            create_parents(parent, !file.path.starts_with("/etc")).context(what)?;
        }
        let dir = Dir::open(parent).context(what)?;
        let _lock = dir.lock(Duration::from_secs(10)).context(what)?;
        // Somebody else may have edited it since it was read.
        if read_text(&target, MAX_BYTES)? != file.text {
            return Err(Error::new(format!(
                "{} changed while it was being edited; run setup again",
                path.display()
            )));
        }
        if text == CREATED {
            dir.remove(name).context(what)?;
            file.text = None;
            return Ok(Change::Removed(path));
        }
        let mode = before.as_ref().map_or(0o644, |m| m.mode() & 0o777);
        dir.write_mode(name, text.as_bytes(), Mode::from_raw_mode(mode))
            .context(what)?;
        if let Some(owner) = before {
            let owned = std::fs::metadata(&target).context(what)?;
            if (owned.uid(), owned.gid()) != (owner.uid(), owner.gid()) {
                let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
                rustix::fs::chownat(
                    &dir,
                    name,
                    Some(uid),
                    Some(gid),
                    rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
                )
                .context(what)?;
            }
        }
        file.text = Some(text);
        Ok(Change::Edited(path))
    }
}

fn set(variable: &Option<OsString>) -> Option<PathBuf> {
    let value = variable.as_ref().filter(|v| !v.is_empty())?;
    Some(PathBuf::from(value))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(format!(
            "{} is not UTF-8, which containers.conf has to be",
            path.display()
        ))
    })
}

fn read(path: PathBuf, editable: bool) -> Result<File> {
    let text = read_text(&path, MAX_BYTES)?;
    Ok(File {
        path,
        text,
        editable,
    })
}

/// A file that a variable names has to exist: podman insists on it.
fn named_by(variable: &str, path: &Path) -> Result<File> {
    let file = read(path.to_owned(), true)?;
    if file.text.is_some() {
        return Ok(file);
    }
    Err(Error::new(format!(
        "{variable} names {}, which does not exist; podman does not start like this: unset it or \
         create the file",
        path.display()
    )))
}

/// The drop-in files of `<main>.d`, in order of their names.
fn drop_ins(main: &Path, editable: bool, files: &mut Vec<File>) -> Result<()> {
    let mut dir = main.as_os_str().to_owned();
    dir.push(".d");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "conf") && !path.is_dir())
        .collect();
    if paths.len() > MAX_DROP_INS {
        return Err(Error::new(format!(
            "{} holds more than {MAX_DROP_INS} files: refused",
            Path::new(&dir).display()
        )));
    }
    crate::sort::sort(&mut paths);
    for path in paths {
        files.push(read(path, editable)?);
    }
    Ok(())
}

/// Creates missing directories: for everybody to read below /etc, else for the user alone.
fn create_parents(path: &Path, private: bool) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(if private { 0o700 } else { 0o755 })
        .create(path)?;
    Ok(())
}
