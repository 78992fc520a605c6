//! Profiles: named lists of what a container may reach (CONTRACT section 3).
//!
//! One entry a line: a domain, `*.domain`, an address or a network; `#` starts a comment, blank
//! lines are skipped, and a leading `+` (the newer form) means the same as none. Ours also takes
//! `=domain`, the name without its subdomains. A user's profile
//! masks a bundled one of the same name. Any wrong line fails the whole profile: half an
//! allowlist would only surprise later.

use crate::config::read_text;
use crate::error::{Error, Result};
use crate::paths::Env;
use crate::sanitize::quoted;
use crate::validate::{self, Host};
use std::collections::BTreeSet;

include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// Largest profile read, bytes.
const MAX_BYTES: usize = 16 << 20;
const EXTENSION: &str = ".txt";

/// Reads a profile's text; `file` is the name errors give.
pub fn parse(file: &str, text: &str) -> Result<Vec<Host>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let entry = line.split('#').next().unwrap_or("").trim();
        if entry.is_empty() {
            continue;
        }
        let wrong = |why: String| Error::new(format!("{file} line {}: {why}", index + 1));
        let bare = entry.strip_prefix('+').unwrap_or(entry).trim_start();
        if let Some(denied) = bare.strip_prefix('-') {
            let denied = quoted(denied.trim_start());
            return Err(wrong(format!(
                "a profile only allows; to deny {denied}, use the verb deny on the container"
            )));
        }
        if bare.contains(char::is_whitespace) {
            return Err(wrong(format!(
                "{} is more than one entry; write one a line, and comments after #",
                quoted(bare)
            )));
        }
        let host: Host = bare.parse().map_err(|e: Error| wrong(e.to_string()))?;
        entries.push(host);
    }
    Ok(entries)
}

/// The entries of one profile.
pub fn load(env: &Env, name: &str) -> Result<Vec<Host>> {
    validate::profile_name(name)?;
    let path = env
        .config_root()?
        .join("profiles")
        .join(format!("{name}{EXTENSION}"));
    if let Some(text) = read_text(&path, MAX_BYTES)? {
        return parse(&path.display().to_string(), &text);
    }
    match BUNDLED.iter().find(|(bundled, _)| *bundled == name) {
        Some((_, text)) => parse(&format!("bundled profile {name}"), text),
        None => Err(Error::new(format!(
            "there is no profile {}; the known ones are {} (yours would be {})",
            quoted(name),
            names(env)?.join(", "),
            path.display()
        ))),
    }
}

/// The entries of several profiles, each once; of equal ones the first stays.
pub fn compose<S: AsRef<str>>(env: &Env, names: &[S]) -> Result<Vec<Host>> {
    let mut all = Vec::new();
    for name in names {
        all.append(&mut load(env, name.as_ref())?);
    }
    let mut seen = BTreeSet::new();
    let first: Vec<bool> = all.iter().map(|entry| seen.insert(entry)).collect();
    let mut first = first.into_iter();
    all.retain(|_| first.next() == Some(true));
    Ok(all)
}

/// The names of all profiles, sorted: bundled ones and the user's.
pub fn names(env: &Env) -> Result<Vec<String>> {
    let mut names: Vec<String> = BUNDLED.iter().map(|(name, _)| (*name).into()).collect();
    let dir = env.config_root()?.join("profiles");
    match std::fs::read_dir(&dir) {
        Ok(entries) => {
            for entry in entries.flatten() {
                let file = entry.file_name();
                let stem = file.to_str().and_then(|f| f.strip_suffix(EXTENSION));
                if let Some(name) = stem.and_then(|s| validate::profile_name(s).ok()) {
                    names.push(name.into());
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => {
            let why = Error::from(e);
            return Err(Error::new(format!("cannot list {}: {why}", dir.display())));
        }
    }
    crate::sort::sort(&mut names);
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Config(Env, PathBuf);

    impl Config {
        fn new(test: &str) -> Self {
            let dir = format!("shield-profile-{test}-{}", std::process::id());
            let dir = std::env::temp_dir().join(dir);
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(dir.join("profiles")).unwrap();
            let env = Env {
                shield_config_dir: Some(dir.clone().into()),
                ..Env::of_process()
            };
            Self(env, dir)
        }

        fn put(&self, name: &str, text: &str) {
            std::fs::write(self.1.join("profiles").join(name), text).unwrap();
        }
    }

    impl Drop for Config {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.1);
        }
    }

    fn texts(entries: &[Host]) -> Vec<String> {
        entries.iter().map(Host::to_string).collect()
    }

    #[test]
    fn entries_comments_and_the_newer_form_are_read() {
        let text = "\u{feff}# head\r\n\r\nGitHub.com\r\n  *.example.org  # why\n+pypi.org\n\
                    + 10.0.0.5/24\n+2001:0db8::1\n192.0.2.1#x\n";
        assert_eq!(
            texts(&parse("p", text).unwrap()),
            [
                "github.com",
                "*.example.org",
                "pypi.org",
                "10.0.0.0/24",
                "2001:db8::1",
                "192.0.2.1"
            ]
        );
        assert_eq!(parse("p", "").unwrap(), []);
    }

    #[test]
    fn a_wrong_line_is_named_with_its_cure() {
        for (line, expected) in [
            (
                "exa mple.org",
                "p.txt line 2: \"exa mple.org\" is more than one entry; write one a line, and comments after #",
            ),
            (
                "-example.org",
                "p.txt line 2: a profile only allows; to deny \"example.org\", use the verb deny on the container",
            ),
            (
                "10.0.0.0/33",
                "p.txt line 2: invalid address \"10.0.0.0/33\": not an IP address or CIDR network (examples: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32)",
            ),
            (
                "https://example.org",
                "p.txt line 2: invalid address \"https://example.org\": not an IP address or CIDR network (examples: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32)",
            ),
            (
                "a..b",
                "p.txt line 2: invalid domain name \"a..b\": it has an empty label",
            ),
            ("+", "p.txt line 2: invalid domain name \"\": it is empty"),
            (
                "b\u{fc}cher.de",
                "p.txt line 2: invalid domain name \"b cher.de\": write it in its ASCII form (xn--...)",
            ),
        ] {
            let error = parse("p.txt", &format!("ok.org\n{line}\n")).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_users_profile_masks_a_bundled_one() {
        let config = Config::new("mask");
        assert!(load(&config.0, "base").unwrap().len() > 10);
        config.put("base.txt", "only.example.org\n");
        assert_eq!(
            texts(&load(&config.0, "base").unwrap()),
            ["only.example.org"]
        );
        config.put("base.txt", "wrong..example.org\n");
        assert!(
            load(&config.0, "base").is_err(),
            "a broken mask does not fall back"
        );
    }

    #[test]
    fn composing_keeps_the_first_of_equal_entries() {
        let config = Config::new("compose");
        config.put("a.txt", "z.org\n10.0.0.1\ny.org\n");
        config.put("b.txt", "Y.org\nx.org\n10.0.0.1/32\nz.org\n*.z.org\n");
        assert_eq!(
            texts(&compose(&config.0, &["a", "b", "a"]).unwrap()),
            ["z.org", "10.0.0.1", "y.org", "x.org", "*.z.org"]
        );
    }

    #[test]
    fn names_are_those_of_both_places() {
        let config = Config::new("names");
        for file in [
            "mine.txt",
            "base.txt",
            "_bad.txt",
            "notes.md",
            ".hidden.txt",
        ] {
            config.put(file, "");
        }
        assert_eq!(
            names(&config.0).unwrap(),
            [
                "base",
                "dev-node",
                "dev-python",
                "dev-standard",
                "krun_guest",
                "mine",
                "nvidia-hpc"
            ]
        );
        let error = load(&config.0, "nope").unwrap_err().to_string();
        assert!(
            error.starts_with("there is no profile \"nope\"; the known ones are base, dev-node")
        );
        assert!(load(&config.0, "../base").is_err());
    }

    #[test]
    fn bundled_profiles_are_valid_without_repetition_and_commented() {
        assert_eq!(BUNDLED.len(), 6);
        for (name, text) in BUNDLED {
            let entries = parse(name, text).unwrap();
            let unique: BTreeSet<_> = entries.iter().collect();
            assert_eq!(unique.len(), entries.len(), "{name}");
            assert!(text.starts_with(&format!("# {name}: ")), "{name}");
            for entry in &entries {
                let Host::Domain(domain) = entry else {
                    panic!("{name}: {entry} is an address: names move, addresses get stale");
                };
                // Anybody can rent a place below these: allowing one allows everybody's.
                for rented in [
                    "amazonaws.com",
                    "s3.amazonaws.com",
                    "storage.googleapis.com",
                    "googleapis.com",
                    "cloudfront.net",
                    "github.io",
                    "r2.cloudflarestorage.com",
                    "windows.net",
                    "fastly.net",
                    "akamaiedge.net",
                    "workers.dev",
                    "pages.dev",
                    "com",
                    "org",
                    "io",
                ] {
                    assert!(!domain.covers(rented), "{name}: {entry} covers {rented}");
                }
            }
        }
    }

    #[test]
    fn the_default_profile_holds_all_of_base() {
        let config = Config::new("superset");
        let standard = load(&config.0, "dev-standard").unwrap();
        for entry in load(&config.0, "base").unwrap() {
            assert!(standard.contains(&entry), "{entry}");
        }
    }
}
