//! `config.yml`: what the operator set once for all containers (CONTRACT section 3).
//!
//! A key we do not know or a value of the wrong type is an error that names file, line and key:
//! a security setting that is silently ignored is worse than none.

use crate::error::{Error, Result};
use crate::paths::Env;
use crate::sanitize::quoted;
use crate::validate;
use crate::yaml::{self, Dialect, Kind, Node};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How a container is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Whatever this host offers; today that is hooks.
    Auto,
    /// OCI hooks.
    Hook,
}

impl Mode {
    /// The word in `config.yml` and in `status`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::Hook => "hook",
        }
    }
}

/// How a container's names are resolved (CONTRACT section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Our own gate in the container's namespace.
    Gate,
    /// dnsmasq in the container's namespace.
    Dnsmasq,
    /// Once at prepare, by our own resolver.
    Dig,
    /// Once at prepare, by the host's NSS.
    Getent,
}

impl Tier {
    /// The tier's name in files, annotations and `status`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Gate => "gate",
            Tier::Dnsmasq => "dnsmasq",
            Tier::Dig => "dig",
            Tier::Getent => "getent",
        }
    }

    /// The tier of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Tier::Gate, Tier::Dnsmasq, Tier::Dig, Tier::Getent]
            .into_iter()
            .find(|t| t.name() == name)
    }
}

/// What the gate does with a name that is on no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// Answer REFUSED and ask nobody.
    Refuse,
    /// Answer, but open nothing.
    Resolve,
}

impl Unlisted {
    /// The word in `config.yml`.
    pub fn name(self) -> &'static str {
        match self {
            Unlisted::Refuse => "refuse",
            Unlisted::Resolve => "resolve",
        }
    }
}

/// The settings, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `mode`
    pub mode: Mode,
    /// `default_profiles`, valid names without repetition, at least one.
    pub default_profiles: Vec<String>,
    /// `loopback_ports`: TCP ports of the host's loopback that containers may reach.
    pub loopback_ports: Vec<u16>,
    /// `audit.enabled`
    pub audit: bool,
    /// `dns.tier`
    pub tier: Tier,
    /// `dns.unlisted`
    pub unlisted: Unlisted,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            default_profiles: vec!["dev-standard".into()],
            loopback_ports: Vec::new(),
            audit: true,
            tier: Tier::Gate,
            unlisted: Unlisted::Refuse,
        }
    }
}

/// Most ports and profiles a list may hold.
const MAX_LIST: usize = 256;

impl Config {
    /// Reads `config.yml` in the config root; the defaults where there is none.
    pub fn load(env: &Env) -> Result<Self> {
        let path = env.config_root()?.join("config.yml");
        match read_text(&path, yaml::MAX_BYTES)? {
            Some(text) => Self::parse(&path.display().to_string(), &text),
            None => Ok(Self::default()),
        }
    }

    /// Reads the text of a `config.yml`; `file` is the name errors give.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let mut config = Self::default();
        let root = match yaml::parse(file, text, Dialect::Strict)? {
            Some(root) if !root.is_nothing() => root,
            _ => return Ok(config),
        };
        let at = At { file, prefix: "" };
        for (key, value) in at.entries(&root, "the file")? {
            let word = |allowed| at.word(key, value, allowed);
            match key {
                "mode" => {
                    config.mode = match word(&["auto", "hook"])? {
                        0 => Mode::Auto,
                        _ => Mode::Hook,
                    }
                }
                "default_profiles" => config.default_profiles = at.profiles(key, value)?,
                "loopback_ports" => config.loopback_ports = at.ports(key, value)?,
                "audit" => config.audit = read_audit(file, value)?,
                "dns" => (config.tier, config.unlisted) = read_dns(file, value)?,
                _ => {
                    let known = "mode, default_profiles, loopback_ports, audit, dns";
                    return Err(at.unknown(key, &root, known));
                }
            }
        }
        Ok(config)
    }
}

fn read_audit(file: &str, node: &Node) -> Result<bool> {
    let prefix = "audit.";
    let at = At { file, prefix };
    let mut enabled = Config::default().audit;
    for (key, value) in at.entries(node, "audit")? {
        match key {
            "enabled" => enabled = at.boolean(key, value)?,
            _ => return Err(at.unknown(key, node, "audit.enabled")),
        }
    }
    Ok(enabled)
}

fn read_dns(file: &str, node: &Node) -> Result<(Tier, Unlisted)> {
    let prefix = "dns.";
    let at = At { file, prefix };
    let Config {
        mut tier,
        mut unlisted,
        ..
    } = Config::default();
    for (key, value) in at.entries(node, "dns")? {
        match key {
            "tier" => {
                tier = match at.word(key, value, &["gate", "dnsmasq", "dig", "getent"])? {
                    0 => Tier::Gate,
                    1 => Tier::Dnsmasq,
                    2 => Tier::Dig,
                    _ => Tier::Getent,
                }
            }
            "unlisted" => {
                unlisted = match at.word(key, value, &["refuse", "resolve"])? {
                    0 => Unlisted::Refuse,
                    _ => Unlisted::Resolve,
                }
            }
            _ => return Err(at.unknown(key, node, "dns.tier, dns.unlisted")),
        }
    }
    Ok((tier, unlisted))
}

/// Where we are in the file, for errors.
struct At<'a> {
    file: &'a str,
    prefix: &'a str,
}

impl At<'_> {
    fn error(&self, line: usize, key: &str, why: &str) -> Error {
        let key = crate::sanitize::text(key);
        Error::new(format!(
            "{} line {line}: {}{key}: {why}",
            self.file, self.prefix
        ))
    }

    fn wrong(&self, key: &str, value: &Node, expected: &str) -> Error {
        let why = format!("expected {expected}, found {}", value.describe());
        self.error(value.line, key, &why)
    }

    fn unknown(&self, key: &str, map: &Node, known: &str) -> Error {
        let line = match &map.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _)| k.text == key),
            _ => None,
        }
        .map_or(map.line, |(k, _)| k.line);
        self.error(
            line,
            key,
            &format!("unknown key; the known ones are {known}"),
        )
    }

    fn entries<'n>(
        &self,
        node: &'n Node,
        what: &str,
    ) -> Result<impl Iterator<Item = (&'n str, &'n Node)>> {
        match &node.kind {
            Kind::Map(entries) => Ok(entries.iter().map(|(k, v)| (k.text.as_str(), v))),
            _ => Err(Error::new(format!(
                "{} line {}: {what}: expected keys with values, found {}",
                self.file,
                node.line,
                node.describe()
            ))),
        }
    }

    /// The index in `allowed` of the word that the value is.
    fn word(&self, key: &str, value: &Node, allowed: &[&str]) -> Result<usize> {
        let found = match &value.kind {
            Kind::Plain(text) | Kind::Quoted(text) => allowed.iter().position(|w| w == text),
            _ => None,
        };
        found.ok_or_else(|| self.wrong(key, value, &format!("one of {}", allowed.join(", "))))
    }

    /// YAML 1.1 spellings included: the files of this system were read by a YAML 1.1 reader.
    fn boolean(&self, key: &str, value: &Node) -> Result<bool> {
        let word = match &value.kind {
            Kind::Plain(text) if text.len() <= 5 => text.to_ascii_lowercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(self.wrong(key, value, "true or false")),
        }
    }

    fn port(&self, key: &str, value: &Node) -> Result<u16> {
        let port = match &value.kind {
            Kind::Plain(text) => validate::port(text).ok(),
            _ => None,
        };
        port.ok_or_else(|| self.wrong(key, value, "a port from 1 to 65535"))
    }

    fn ports(&self, key: &str, value: &Node) -> Result<Vec<u16>> {
        let Kind::List(items) = &value.kind else {
            let wanted = "a port from 1 to 65535 or a list of them";
            return match self.port(key, value) {
                Ok(port) => Ok(vec![port]),
                Err(_) => Err(self.wrong(key, value, wanted)),
            };
        };
        self.unique(key, value, items, |item| self.port(key, item))
    }

    fn profiles(&self, key: &str, value: &Node) -> Result<Vec<String>> {
        let Kind::List(items) = &value.kind else {
            return Err(self.wrong(key, value, "a list of profile names"));
        };
        if items.is_empty() {
            return Err(self.error(
                value.line,
                key,
                "the list is empty; name at least one profile",
            ));
        }
        self.unique(key, value, items, |item| match &item.kind {
            Kind::Plain(text) | Kind::Quoted(text) => match validate::profile_name(text) {
                Ok(name) => Ok(name.to_owned()),
                Err(why) => Err(self.error(item.line, key, &why.to_string())),
            },
            _ => Err(self.wrong(key, item, "a profile name")),
        })
    }

    /// The items in order, each once.
    fn unique<T: PartialEq>(
        &self,
        key: &str,
        list: &Node,
        items: &[Node],
        read: impl Fn(&Node) -> Result<T>,
    ) -> Result<Vec<T>> {
        if items.len() > MAX_LIST {
            return Err(self.error(list.line, key, "the list has more than 256 entries"));
        }
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            let item = read(item)?;
            if !out.contains(&item) {
                out.push(item);
            }
        }
        Ok(out)
    }
}

/// `paths.root` of terok's own configuration: the user's file, else the system's.
pub fn paths_root(env: &Env) -> Result<Option<PathBuf>> {
    for path in env.terok_config_files() {
        let Some(text) = read_text(&path, yaml::MAX_BYTES)? else {
            continue;
        };
        if let Some(root) = parse_paths_root(&path.display().to_string(), &text)? {
            return Ok(Some(root));
        }
    }
    Ok(None)
}

fn parse_paths_root(file: &str, text: &str) -> Result<Option<PathBuf>> {
    let Some(root) = yaml::parse(file, text, Dialect::Lenient)? else {
        return Ok(None);
    };
    let Some(value) = get(&root, "paths").and_then(|paths| get(paths, "root")) else {
        return Ok(None);
    };
    match &value.kind {
        // `root:` with nothing after it is unset.
        _ if value.is_nothing() => Ok(None),
        Kind::Plain(text) | Kind::Quoted(text) if Path::new(text).is_absolute() => {
            Ok(Some(PathBuf::from(text)))
        }
        _ => Err(Error::new(format!(
            "{file} line {}: paths.root: expected an absolute path, found {}",
            value.line,
            value.describe()
        ))),
    }
}

fn get<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    match &node.kind {
        Kind::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
        _ => None,
    }
}

/// The text of a configuration file of at most `max` bytes; `None` where there is none. Links are
/// followed: people keep such files elsewhere.
pub fn read_text(path: &Path, max: usize) -> Result<Option<String>> {
    let name = quoted(&path.to_string_lossy());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            let why = Error::from(e);
            return Err(Error::new(format!("cannot open {name}: {why}")));
        }
    };
    let bytes = crate::files::read_bounded(file, max, &name)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(e) => {
            let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
                .iter()
                .filter(|&&b| b == b'\n')
                .count();
            Err(Error::new(format!("{name} line {line}: not UTF-8 text")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse("c.yml", text).unwrap()
    }

    #[test]
    fn no_keys_are_the_defaults() {
        for text in ["", "# nothing\n", "---\n", "---\n# x\n...\n", "{}\n"] {
            assert_eq!(parse(text), Config::default(), "{text:?}");
        }
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            "mode: hook\n\
             default_profiles:\n  - base\n  - \"dev-python\"\n  - base\n\
             loopback_ports: [8080, 5432, 8080]\n\
             audit:\n  enabled: no\n\
             dns: {tier: dnsmasq, unlisted: 'resolve'}\n",
        );
        let expected = Config {
            mode: Mode::Hook,
            default_profiles: vec!["base".into(), "dev-python".into()],
            loopback_ports: vec![8080, 5432],
            audit: false,
            tier: Tier::Dnsmasq,
            unlisted: Unlisted::Resolve,
        };
        assert_eq!(config, expected);
        assert_eq!(parse("loopback_ports: 80\n").loopback_ports, [80]);
        assert_eq!(parse("loopback_ports: []\n").loopback_ports, [0u16; 0]);
        assert!(parse("audit: {enabled: True}").audit);
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        for (text, expected) in [
            (
                "a: 1\n",
                "line 1: a: unknown key; the known ones are mode, default_profiles, loopback_ports, audit, dns",
            ),
            (
                "mode: hook\nMode: hook\n",
                "line 2: Mode: unknown key; the known ones are mode, default_profiles, loopback_ports, audit, dns",
            ),
            (
                "mode: bridge\n",
                "line 1: mode: expected one of auto, hook, found \"bridge\"",
            ),
            (
                "mode:\n",
                "line 1: mode: expected one of auto, hook, found nothing",
            ),
            (
                "mode: [hook]\n",
                "line 1: mode: expected one of auto, hook, found a list",
            ),
            (
                "default_profiles: base\n",
                "line 1: default_profiles: expected a list of profile names, found \"base\"",
            ),
            (
                "default_profiles: []\n",
                "line 1: default_profiles: the list is empty; name at least one profile",
            ),
            (
                "default_profiles:\n- base\n- {a: b}\n",
                "line 3: default_profiles: expected a profile name, found a mapping",
            ),
            (
                "loopback_ports: true\n",
                "line 1: loopback_ports: expected a port from 1 to 65535 or a list of them, found \"true\"",
            ),
            (
                "loopback_ports: [80, true]\n",
                "line 1: loopback_ports: expected a port from 1 to 65535, found \"true\"",
            ),
            (
                "loopback_ports:\n  - 80\n  - 0\n",
                "line 3: loopback_ports: expected a port from 1 to 65535, found \"0\"",
            ),
            (
                "loopback_ports: 65536\n",
                "line 1: loopback_ports: expected a port from 1 to 65535 or a list of them, found \"65536\"",
            ),
            (
                "loopback_ports: '80'\n",
                "line 1: loopback_ports: expected a port from 1 to 65535 or a list of them, found the string \"80\"",
            ),
            (
                "loopback_ports: 80.5\n",
                "line 1: loopback_ports: expected a port from 1 to 65535 or a list of them, found \"80.5\"",
            ),
            (
                "loopback_ports: {a: 1}\n",
                "line 1: loopback_ports: expected a port from 1 to 65535 or a list of them, found a mapping",
            ),
            (
                "audit: true\n",
                "line 1: audit: expected keys with values, found \"true\"",
            ),
            (
                "audit:\n",
                "line 1: audit: expected keys with values, found nothing",
            ),
            (
                "audit:\n  enabled: 1\n",
                "line 2: audit.enabled: expected true or false, found \"1\"",
            ),
            (
                "audit:\n  enabled: 'true'\n",
                "line 2: audit.enabled: expected true or false, found the string \"true\"",
            ),
            (
                "audit:\n  enabled: true\n  file: x\n",
                "line 3: audit.file: unknown key; the known ones are audit.enabled",
            ),
            (
                "dns:\n  tier: unbound\n",
                "line 2: dns.tier: expected one of gate, dnsmasq, dig, getent, found \"unbound\"",
            ),
            (
                "dns:\n  unlisted: drop\n",
                "line 2: dns.unlisted: expected one of refuse, resolve, found \"drop\"",
            ),
            (
                "dns: {teir: gate}\n",
                "line 1: dns.teir: unknown key; the known ones are dns.tier, dns.unlisted",
            ),
            (
                "- mode\n",
                "line 1: the file: expected keys with values, found a list",
            ),
            (
                "hook\n",
                "line 1: the file: expected keys with values, found \"hook\"",
            ),
            (
                "mode: auto\nmode: hook\n",
                "line 2: key \"mode\" is here again, it stands in line 1 already",
            ),
            (
                "<<: {mode: hook}\n",
                "line 1: <<: unknown key; the known ones are mode, default_profiles, loopback_ports, audit, dns",
            ),
            (
                "\"m\\e\": 1\n",
                "line 1: m : unknown key; the known ones are mode, default_profiles, loopback_ports, audit, dns",
            ),
        ] {
            let error = Config::parse("c.yml", text).unwrap_err().to_string();
            assert_eq!(error, format!("c.yml {expected}"), "{text:?}");
        }
        let error = Config::parse("c.yml", "default_profiles:\n- ../x\n")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("c.yml line 2: default_profiles: invalid profile name \"../x\""));
        let many = format!("loopback_ports: [{}]", "1,".repeat(300));
        assert!(Config::parse("c.yml", &many).is_err());
    }

    #[test]
    fn paths_root_is_found_among_other_peoples_keys() {
        let root = |text| parse_paths_root("t.yml", text);
        let theirs = "x: &a [1]\ny: *a\npaths:\n  build: ~/b\n  root: /srv/terok\nz: !t {}\n";
        assert_eq!(root(theirs).unwrap(), Some("/srv/terok".into()));
        for none in ["", "paths:\n", "paths: {root: }\n", "root: /x\n", "- a\n"] {
            assert_eq!(root(none).unwrap(), None, "{none:?}");
        }
        let error = root("paths:\n  root: ~/x\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "t.yml line 2: paths.root: expected an absolute path, found \"~/x\""
        );
        assert!(root("paths: [\n").is_err());
    }
}
