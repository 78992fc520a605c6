//! The OCI runtime's word about a container, which an image's author may have shaped.
//!
//! Format: OCI runtime specification, "State". The annotations in it come from whoever built the
//! image or typed the command, so every value is checked before it means anything.

use crate::contract::{self, annotation};
use crate::error::{Error, Result};
use crate::files;
use miniserde::{Deserialize, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most a state may weigh: annotations of a megabyte are real, ten are an attack.
const MAX_STATE: usize = 4 << 20;

/// Where in a container's life a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// After the namespaces exist, before the workload.
    CreateRuntime,
    /// After the container was deleted.
    Poststop,
}

impl Stage {
    /// The specification's word.
    pub fn word(self) -> &'static str {
        match self {
            Stage::CreateRuntime => "createRuntime",
            Stage::Poststop => "poststop",
        }
    }

    /// The stage a hook's first argument names; `createRuntime` without one.
    pub fn from_args(args: &[OsString]) -> Result<Self> {
        match args {
            [] => Ok(Stage::CreateRuntime),
            [one] if one == "createRuntime" => Ok(Stage::CreateRuntime),
            [one] if one == "poststop" => Ok(Stage::Poststop),
            _ => Err(Error::usage(
                "a hook takes one argument: createRuntime or poststop",
            )),
        }
    }
}

/// What we use of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The container's id, 64 lower-case hex digits.
    pub id: String,
    /// The init process; absent at poststop.
    pub pid: Option<i32>,
    /// All annotations, unchecked.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Raw {
    id: String,
    pid: Option<i64>,
    annotations: Option<BTreeMap<String, String>>,
}

impl State {
    /// Reads the state a runtime writes to a hook's standard input.
    pub fn read(input: impl Read) -> Result<Self> {
        let bytes = files::read_bounded(input, MAX_STATE, "the OCI state on standard input")?;
        Self::parse(&bytes)
    }

    /// Parses the state's JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |why: &str| Error::new(format!("the OCI state on standard input {why}"));
        if bytes.is_empty() {
            return Err(bad("is empty"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad("is not UTF-8"))?;
        let raw: Raw = json::from_str(text)
            .map_err(|_| bad("is not a JSON object with a text `id` and annotations of text"))?;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if raw.id.len() != 64 || !raw.id.bytes().all(hex) {
            return Err(bad("has an `id` that is not 64 hex digits"));
        }
        let pid = match raw.pid {
            // crun writes 0 for a container that is gone.
            None | Some(0) => None,
            Some(n) => Some(
                i32::try_from(n)
                    .ok()
                    .filter(|&n| n > 1)
                    .ok_or_else(|| bad(&format!("has a `pid` that is no container's: {n}")))?,
            ),
        };
        Ok(Self {
            id: raw.id,
            pid,
            annotations: raw.annotations.unwrap_or_default(),
        })
    }

    /// The id's first 12 digits, by which hubs and logs know the container.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The value of an annotation; an error that names it if it is missing.
    pub fn annotation(&self, key: &str) -> Result<&str> {
        self.annotations
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| Error::new(format!("the container has no annotation {key}")))
    }

    /// Refuses bundles of another layout.
    pub fn check_version(&self) -> Result<()> {
        let version = self.annotation(annotation::VERSION)?;
        if version == contract::BUNDLE_VERSION.to_string() {
            return Ok(());
        }
        Err(Error::new(format!(
            "the bundle has version {:?}, this terok-shield reads {}: prepare the container again",
            crate::sanitize::text(version),
            contract::BUNDLE_VERSION
        )))
    }

    /// The path of the state bundle, lexically sound; what it names is still to be checked.
    pub fn state_dir(&self) -> Result<PathBuf> {
        let text = self.annotation(annotation::STATE_DIR)?;
        check_state_dir(Path::new(text))?;
        // Without trailing slashes, which would make O_NOFOLLOW follow the last component.
        Ok(Path::new(text).components().collect())
    }
}

/// System directories no bundle is in, or is.
const SYSTEM: [&str; 11] = [
    "/etc", "/proc", "/sys", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/root",
];

/// Refuses a path that no bundle may have. Called before and after the path is resolved.
pub fn check_state_dir(path: &Path) -> Result<()> {
    let shown = || crate::sanitize::text(&path.to_string_lossy());
    let refuse = |why: &str| {
        Err(Error::new(format!(
            "annotation {}: {} {why}",
            annotation::STATE_DIR,
            shown()
        )))
    };
    if !path.is_absolute() {
        return refuse("is not an absolute path");
    }
    if path
        .components()
        .any(|c| c == std::path::Component::ParentDir)
        || path.parent().is_none()
    {
        return refuse("is no plain directory path");
    }
    match SYSTEM.iter().find(|dir| path.starts_with(dir)) {
        Some(dir) => refuse(&format!("is in the system directory {dir}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_runtime_s_state_is_read() {
        let text = format!(
            r#"{{"ociVersion":"1.0","id":"{ID}","pid":42,"status":"created","bundle":"/b","root":"/r","annotations":{{"terok.shield.version":"14","a":"b"}}}}"#
        );
        let state = State::read(text.as_bytes()).unwrap();
        assert_eq!((state.short_id(), state.pid), ("001122334455", Some(42)));
        assert!(state.check_version().is_ok());
        assert!(
            state
                .annotation("none")
                .unwrap_err()
                .to_string()
                .contains("none")
        );
        let stopped = State::parse(format!(r#"{{"id":"{ID}"}}"#).as_bytes()).unwrap();
        assert_eq!((stopped.pid, stopped.annotations.len()), (None, 0));
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let long = format!(r#"{{"id":"{ID}","x":"{}"}}"#, "a".repeat(10 << 20));
        for bad in [
            "",
            "{",
            "[]",
            "null",
            "\"x\"",
            "{}",
            r#"{"id":"12"}"#,
            r#"{"id":12}"#,
            &format!(r#"{{"id":"{ID}","pid":-1}}"#),
            &format!(r#"{{"id":"{ID}","pid":1}}"#),
            &format!(r#"{{"id":"{ID}","pid":99999999999}}"#),
            &format!(r#"{{"id":"{ID}","annotations":{{"a":1}}}}"#),
            &format!(r#"{{"id":"{}/../../../"}}"#, "a".repeat(54)),
            &long,
        ] {
            assert!(State::read(bad.as_bytes()).is_err(), "{:.60}", bad);
        }
        assert!(State::parse(b"\xff").is_err());
        assert!(State::parse("[".repeat(1 << 20).as_bytes()).is_err());
    }

    #[test]
    fn paths_no_bundle_may_have_are_refused() {
        for bad in [
            "",
            "relative/x",
            "/",
            "//",
            "/etc",
            "/etc/x",
            "/proc/self",
            "/lib64/x",
            "/root/x",
            "/home/u/../../etc",
            "/usr/../home/u/x",
            "/boot/",
            "//etc//x",
        ] {
            assert!(check_state_dir(Path::new(bad)).is_err(), "{bad}");
        }
        for good in [
            "/home/u/.local/state/terok/shield/containers/web",
            "/var/lib/terok/x",
            "/etcetera/x",
            "/rootless",
        ] {
            assert!(check_state_dir(Path::new(good)).is_ok(), "{good}");
        }
    }
}
