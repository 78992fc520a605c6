//! Where things live: CONTRACT section 3.
//!
//! The environment is read once, into a value; every function here is a pure function of that
//! value. Real root ignores HOME and the XDG variables: `sudo -E` carries a user's own, and what
//! root executes and trusts must not sit where a user can write.

use crate::error::{Context, Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the process was told about its place in the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Env {
    /// Where the fixed system paths (`/etc`, `/usr/share`, `/var/lib`, `/run`) start: `/`.
    /// Tests put a tree of their own here.
    pub root: PathBuf,
    /// Root of the machine: effective uid 0 outside any user namespace.
    pub real_root: bool,
    /// Effective uid as the parent user namespace (for podman's: the host) counts.
    pub host_uid: u32,
    /// Home directory: `$HOME`, else from the user database; always the latter for real root.
    pub home: Option<PathBuf>,
    /// `$TEROK_SHIELD_STATE_DIR`
    pub shield_state_dir: Option<OsString>,
    /// `$TEROK_SHIELD_CONFIG_DIR`
    pub shield_config_dir: Option<OsString>,
    /// `$XDG_STATE_HOME`
    pub xdg_state_home: Option<OsString>,
    /// `$XDG_CONFIG_HOME`
    pub xdg_config_home: Option<OsString>,
    /// `$XDG_DATA_HOME`
    pub xdg_data_home: Option<OsString>,
    /// `$XDG_RUNTIME_DIR`
    pub xdg_runtime_dir: Option<OsString>,
    /// `$CONTAINERS_CONF`: podman reads this file instead of all others.
    pub containers_conf: Option<OsString>,
    /// `$CONTAINERS_CONF_OVERRIDE`: podman reads this file last.
    pub containers_conf_override: Option<OsString>,
}

impl Env {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let var = |name: &str| std::env::var_os(name);
        let euid = nix::unistd::geteuid();
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let real_root = euid.is_root() && is_initial_map(&map);
        let passwd_home = || {
            let user = nix::unistd::User::from_uid(euid).ok().flatten();
            user.map(|u| u.dir).filter(|d| d.is_absolute())
        };
        let home = match var("HOME").map(PathBuf::from) {
            Some(home) if home.is_absolute() && !real_root => Some(home),
            _ => passwd_home(),
        };
        Self {
            root: PathBuf::from("/"),
            real_root,
            host_uid: outside_id(&map, euid.as_raw()),
            home,
            shield_state_dir: var("TEROK_SHIELD_STATE_DIR"),
            shield_config_dir: var("TEROK_SHIELD_CONFIG_DIR"),
            xdg_state_home: var("XDG_STATE_HOME"),
            xdg_config_home: var("XDG_CONFIG_HOME"),
            xdg_data_home: var("XDG_DATA_HOME"),
            xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
            containers_conf: var("CONTAINERS_CONF"),
            containers_conf_override: var("CONTAINERS_CONF_OVERRIDE"),
        }
    }

    /// A fixed system path, under [`Env::root`].
    pub fn system(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// State root: bundles are in `containers/<name>/` below it.
    pub fn state_root(&self) -> Result<PathBuf> {
        if let Some(dir) = own_variable("TEROK_SHIELD_STATE_DIR", &self.shield_state_dir)? {
            return Ok(dir);
        }
        if self.real_root {
            return Ok(self.system("/var/lib/terok/shield"));
        }
        let base = self.xdg(&self.xdg_state_home, ".local/state");
        Ok(base
            .context(|| "cannot find the state directory")?
            .join("terok/shield"))
    }

    /// The state bundle of a container. The name must have passed
    /// [`crate::validate::container_name`].
    pub fn bundle(&self, container: &str) -> Result<PathBuf> {
        Ok(self.state_root()?.join("containers").join(container))
    }

    /// Config root: `config.yml` and `profiles/*.txt` are below it.
    pub fn config_root(&self) -> Result<PathBuf> {
        if let Some(dir) = own_variable("TEROK_SHIELD_CONFIG_DIR", &self.shield_config_dir)? {
            return Ok(dir);
        }
        if self.real_root {
            return Ok(self.system("/etc/terok/shield"));
        }
        Ok(self.config_home()?.join("terok/shield"))
    }

    /// Where `setup` installs binary and descriptors; `paths_root` is the value of that key in
    /// terok's own configuration ([`crate::config::paths_root`]).
    pub fn hooks_dir(&self, paths_root: Option<&Path>) -> Result<PathBuf> {
        if let Some(root) = paths_root {
            return Ok(root.join("shield/hooks"));
        }
        if self.real_root {
            return Ok(self.system_hooks_dir());
        }
        let base = self.xdg(&self.xdg_data_home, ".local/share");
        Ok(base
            .context(|| "cannot find the data directory")?
            .join("terok/shield/hooks"))
    }

    /// Where real root's `setup` installs by default; it serves every user's podman.
    pub fn system_hooks_dir(&self) -> PathBuf {
        self.system("/var/lib/terok/shield/hooks")
    }

    /// terok's own configuration files, the user's first. Other keys in them are other people's.
    pub fn terok_config_files(&self) -> Vec<PathBuf> {
        let user = self.config_home().map(|d| d.join("terok/config.yml"));
        user.into_iter()
            .chain([self.system("/etc/terok/config.yml")])
            .collect()
    }

    /// Directory of the hub's event sockets.
    pub fn hub_dir(&self) -> PathBuf {
        absolute(&self.xdg_runtime_dir)
            .unwrap_or_else(|| self.system("/run/user").join(self.host_uid.to_string()))
            .join("terok/events")
    }

    /// `$XDG_CONFIG_HOME`, else `~/.config`; for real root always the latter.
    pub fn config_home(&self) -> Result<PathBuf> {
        self.xdg(&self.xdg_config_home, ".config")
            .context(|| "cannot find the configuration directory")
    }

    fn xdg(&self, variable: &Option<OsString>, below_home: &str) -> Result<PathBuf> {
        let from_variable = absolute(variable).filter(|_| !self.real_root);
        from_variable
            .or_else(|| Some(self.home.as_ref()?.join(below_home)))
            .ok_or_else(|| Error::new("HOME is not set and this user has no home; set HOME"))
    }
}

/// The XDG Base Directory specification: "All paths set in these environment variables must be
/// absolute. If an implementation encounters a relative path […] it should […] ignore it."
fn absolute(variable: &Option<OsString>) -> Option<PathBuf> {
    let path = PathBuf::from(variable.as_ref()?);
    path.is_absolute().then_some(path)
}

/// Our own variables are meant: a relative one is a mistake to report. Empty means unset.
fn own_variable(name: &str, value: &Option<OsString>) -> Result<Option<PathBuf>> {
    let Some(value) = value.as_ref().filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(value);
    if path.is_absolute() {
        return Ok(Some(path));
    }
    Err(Error::new(format!(
        "{name} is {}: use an absolute path",
        crate::sanitize::quoted(&value.to_string_lossy())
    )))
}

/// The entries of an id map (user_namespaces(7)): first inside, first outside, count.
fn id_map(map: &str) -> impl Iterator<Item = (u32, u32, u32)> {
    map.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse);
        let mut next = || fields.next()?.ok();
        Some((next()?, next()?, next()?))
    })
}

/// Whether this is the map of the initial user namespace: every id is itself.
fn is_initial_map(map: &str) -> bool {
    id_map(map).eq([(0, 0, u32::MAX)])
}

/// The id that `inside` is outside the namespace; itself where the map does not tell.
fn outside_id(map: &str, inside: u32) -> u32 {
    id_map(map)
        .find_map(|(first, outside, count)| {
            let offset = inside.checked_sub(first).filter(|o| *o < count)?;
            outside.checked_add(offset)
        })
        .unwrap_or(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ordinary user with nothing but a home.
    fn user() -> Env {
        Env {
            root: "/".into(),
            real_root: false,
            host_uid: 1000,
            home: Some("/home/u".into()),
            shield_state_dir: None,
            shield_config_dir: None,
            xdg_state_home: None,
            xdg_config_home: None,
            xdg_data_home: None,
            xdg_runtime_dir: None,
            containers_conf: None,
            containers_conf_override: None,
        }
    }

    fn root() -> Env {
        Env {
            real_root: true,
            host_uid: 0,
            home: Some("/root".into()),
            ..user()
        }
    }

    fn is(path: Result<PathBuf>, expected: &str) {
        assert_eq!(path.unwrap(), Path::new(expected));
    }

    #[test]
    fn a_user_has_the_xdg_defaults() {
        is(user().state_root(), "/home/u/.local/state/terok/shield");
        is(
            user().bundle("web"),
            "/home/u/.local/state/terok/shield/containers/web",
        );
        is(user().config_root(), "/home/u/.config/terok/shield");
        is(
            user().hooks_dir(None),
            "/home/u/.local/share/terok/shield/hooks",
        );
        assert_eq!(user().hub_dir(), Path::new("/run/user/1000/terok/events"));
    }

    #[test]
    fn xdg_variables_count_where_they_are_absolute() {
        let mut env = user();
        env.xdg_state_home = Some("/s".into());
        env.xdg_config_home = Some("relative".into());
        env.xdg_data_home = Some("".into());
        env.xdg_runtime_dir = Some("/r".into());
        is(env.state_root(), "/s/terok/shield");
        is(env.config_root(), "/home/u/.config/terok/shield");
        is(
            env.hooks_dir(None),
            "/home/u/.local/share/terok/shield/hooks",
        );
        assert_eq!(env.hub_dir(), Path::new("/r/terok/events"));
    }

    #[test]
    fn our_own_variables_come_first_and_must_be_absolute() {
        for mut env in [user(), root()] {
            env.xdg_state_home = Some("/s".into());
            env.shield_state_dir = Some("/mine".into());
            env.shield_config_dir = Some("/conf".into());
            is(env.state_root(), "/mine");
            is(env.config_root(), "/conf");
            env.shield_state_dir = Some("mine".into());
            let error = env.state_root().unwrap_err().to_string();
            assert!(error.contains("TEROK_SHIELD_STATE_DIR"), "{error}");
        }
    }

    #[test]
    fn real_root_ignores_a_users_variables() {
        let mut env = root();
        env.xdg_state_home = Some("/home/u/s".into());
        env.xdg_config_home = Some("/home/u/c".into());
        env.xdg_data_home = Some("/home/u/d".into());
        is(env.state_root(), "/var/lib/terok/shield");
        is(env.config_root(), "/etc/terok/shield");
        is(env.hooks_dir(None), "/var/lib/terok/shield/hooks");
        is(env.config_home(), "/root/.config");
    }

    #[test]
    fn the_orchestrators_root_moves_the_hooks() {
        let place = Some(Path::new("/opt/terok"));
        is(user().hooks_dir(place), "/opt/terok/shield/hooks");
        is(root().hooks_dir(place), "/opt/terok/shield/hooks");
    }

    #[test]
    fn no_home_is_a_clear_error() {
        let env = Env {
            home: None,
            ..user()
        };
        let error = env.state_root().unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot find the state directory: HOME is not set and this user has no home; set HOME"
        );
    }

    #[test]
    fn uid_0_of_a_user_namespace_is_not_real_root() {
        let podman = "         0       1001          1\n         1     165536      65536\n";
        assert!(is_initial_map("         0          0 4294967295\n"));
        assert!(!is_initial_map(podman));
        assert!(!is_initial_map("0 0 1\n"));
        assert!(!is_initial_map(""));
        assert_eq!(outside_id(podman, 0), 1001);
        assert_eq!(outside_id(podman, 2), 165537);
        assert_eq!(outside_id(podman, 70000), 70000);
        assert_eq!(outside_id("0 0 4294967295", 1000), 1000);
        assert_eq!(outside_id("garbage\n1 2", 5), 5);
    }

    #[test]
    fn this_process_has_an_environment() {
        let env = Env::of_process();
        assert_eq!(env.root, Path::new("/"));
        assert!(env.home.is_some_and(|h| h.is_absolute()));
    }
}
