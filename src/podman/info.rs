//! `podman info -f json`, of podman 4.3 to 5.x.

use super::run::Podman;
use super::value::{boolean, get, parse, text};
use crate::error::{Error, Result};
use crate::sanitize;
use miniserde::json::Value;
use std::fmt;

/// A podman version; what follows the third number is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads `5.4.0-rc1`; `None` if it does not start with two numbers.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let mut number = || {
            let part = parts.next()?;
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part[..digits].parse().ok()
        };
        Some(Self(number()?, number()?, number().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What we want to know of the host's podman. A field podman does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// `version.Version`
    pub version: Option<Version>,
    /// `host.security.rootless`
    pub rootless: Option<bool>,
    /// `host.rootlessNetworkCmd`: `pasta` or `slirp4netns`; podman 5 and later.
    pub rootless_network_cmd: Option<String>,
    /// `host.slirp4netns.executable`: where it is, if it is installed.
    pub slirp4netns: Option<String>,
    /// `host.pasta.executable`: where it is, if podman looks for it (4.4 and later).
    pub pasta: Option<String>,
    /// `host.ociRuntime.name`: `crun`, `runc`, `krun`.
    pub runtime: Option<String>,
    /// `host.networkBackend`: `netavark` or `cni`.
    pub network_backend: Option<String>,
    /// `host.serviceIsRemote`: podman runs on another machine, where our hooks are not.
    pub remote: bool,
    /// `host.security.apparmorEnabled`
    pub apparmor: bool,
}

impl Info {
    /// Asks podman.
    pub fn ask(podman: &Podman) -> Result<Self> {
        Self::parse(&podman.stdout(&["info", "-f", "json"])?)
    }

    /// Reads podman's answer.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let value = parse(bytes).filter(|v| matches!(v, Value::Object(_)));
        let Some(value) = value else {
            return Err(Error::new(format!(
                "podman info did not answer with a JSON object but with \"{}\"; \
                 does podman info -f json work?",
                sanitize::bytes(bytes.get(..80).unwrap_or(bytes))
            )));
        };
        let host = |path: &[&str]| -> Option<String> {
            text(get(&value, &["host"])?, path).map(str::to_owned)
        };
        Ok(Self {
            version: text(&value, &["version", "Version"]).and_then(Version::parse),
            rootless: boolean(&value, &["host", "security", "rootless"]),
            rootless_network_cmd: host(&["rootlessNetworkCmd"]),
            slirp4netns: host(&["slirp4netns", "executable"]),
            pasta: host(&["pasta", "executable"]),
            runtime: host(&["ociRuntime", "name"]),
            network_backend: host(&["networkBackend"]),
            remote: boolean(&value, &["host", "serviceIsRemote"]) == Some(true),
            apparmor: boolean(&value, &["host", "security", "apparmorEnabled"]) == Some(true),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4_3: &str = r#"{"host":{"arch":"amd64","networkBackend":"netavark",
        "ociRuntime":{"name":"crun","version":"crun version 1.8.1\ncommit: f8a0"},
        "serviceIsRemote":false,"security":{"apparmorEnabled":false,"rootless":true},
        "slirp4netns":{"executable":"/usr/bin/slirp4netns"}},
        "version":{"APIVersion":"4.3.1","Version":"4.3.1","Built":0}}"#;
    const V5_4: &str = r#"{"host":{"networkBackend":"netavark","rootlessNetworkCmd":"pasta",
        "ociRuntime":{"name":"crun"},"pasta":{"executable":"/usr/bin/pasta","version":""},
        "security":{"apparmorEnabled":true,"rootless":true},
        "slirp4netns":{"executable":"","package":"","version":""}},
        "version":{"APIVersion":"5.4.0","Version":"5.4.0-dev","Built":1739232000}}"#;

    #[test]
    fn podman_4_and_5_are_understood() {
        let old = Info::parse(V4_3.as_bytes()).unwrap();
        assert_eq!(old.version, Some(Version(4, 3, 1)));
        assert_eq!(old.rootless, Some(true));
        assert_eq!(old.rootless_network_cmd, None);
        assert_eq!(old.slirp4netns.as_deref(), Some("/usr/bin/slirp4netns"));
        assert_eq!(old.pasta, None);
        let new = Info::parse(V5_4.as_bytes()).unwrap();
        assert_eq!(new.version, Some(Version(5, 4, 0)));
        assert_eq!(new.rootless_network_cmd.as_deref(), Some("pasta"));
        assert_eq!(new.slirp4netns, None, "an empty path is not installed");
        assert_eq!(new.pasta.as_deref(), Some("/usr/bin/pasta"));
        assert!(new.apparmor && !new.remote);
    }

    #[test]
    fn missing_and_mistyped_fields_are_not_there() {
        for text in [
            "{}",
            r#"{"host":null,"version":[]}"#,
            r#"{"host":{"security":7,"rootlessNetworkCmd":{},"ociRuntime":"crun"},"version":{"Version":5}}"#,
            r#"{"version":{"Version":"dev"}}"#,
        ] {
            assert_eq!(
                Info::parse(text.as_bytes()).unwrap(),
                Info::default(),
                "{text}"
            );
        }
    }

    #[test]
    fn garbage_is_an_error_that_shows_it() {
        for bytes in [
            &b""[..],
            b"[]",
            b"host:\n  arch: amd64",
            b"{\"host\":",
            b"\xff\x1b[2J",
            b"null",
        ] {
            let error = Info::parse(bytes).unwrap_err().to_string();
            assert!(error.contains("podman info did not answer"), "{error}");
            assert!(error.is_ascii() && !error.contains('\n'), "{error}");
        }
        assert!(
            Info::parse("[".repeat(1 << 20).as_bytes()).is_err(),
            "nesting is bounded"
        );
        assert!(Info::parse("{\"a\":".repeat(1 << 18).as_bytes()).is_err());
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version::parse("4.10.0") > Version::parse("4.9.4"));
        assert_eq!(Version::parse("5.2"), Some(Version(5, 2, 0)));
        assert_eq!(Version::parse("5.0.0-rc1").unwrap().to_string(), "5.0.0");
        for bad in ["", "5", "x.y", ".1", "99999999999.1"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }
}
