//! The dnsmasq tier: its configuration, and whether this host's dnsmasq can serve it.

use crate::contract::{self, file, set};
use crate::error::{Context, Error, Result};
use crate::files::{Dir, read_bounded};
use crate::validate::{Domain, Scope};
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where dnsmasq is looked for; a hook's environment is not asked.
const DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
];
/// Largest list read, octets.
const MAX_LIST: usize = 4 << 20;
/// Most of dnsmasq's words read, octets.
const MAX_WORDS: u64 = 64 << 10;

/// Why dnsmasq cannot serve a container here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It is not installed.
    Missing,
    /// It was built without `--nftset` (before 2.87, or by the distribution's choice).
    NoNftset,
    /// It may not read the bundle: AppArmor, or another confinement.
    Confined,
    /// It does not accept the configuration; its own words.
    Rejects(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("dnsmasq is not installed"),
            Self::NoNftset => f.write_str("dnsmasq is built without nftset"),
            Self::Confined => f.write_str(
                "dnsmasq may not read the container's bundle (AppArmor? allow it in /etc/apparmor.d/local/usr.sbin.dnsmasq)",
            ),
            Self::Rejects(words) => write!(f, "dnsmasq rejects its configuration: {words}"),
        }
    }
}

/// The host's dnsmasq.
pub fn find() -> Option<PathBuf> {
    DIRECTORIES
        .iter()
        .map(|dir| Path::new(dir).join("dnsmasq"))
        .find(|path| path.is_file())
}

/// Whether the host's dnsmasq can serve this bundle, found by asking it. The bundle's
/// `dnsmasq.conf` must be there.
pub fn check(dir: &Dir) -> Result<Result<(), Unusable>> {
    match find() {
        None => Ok(Err(Unusable::Missing)),
        Some(program) => check_program(&program, dir),
    }
}

/// As [`check`], of this program.
pub fn check_program(program: &Path, dir: &Dir) -> Result<Result<(), Unusable>> {
    let (_, version) = ask(program, &["--version".into()])?;
    let has = |word: &str| version.split_ascii_whitespace().any(|w| w == word);
    if !has("nftset") {
        return Ok(Err(Unusable::NoNftset));
    }
    let (passed, words) = ask(program, &["--test".into(), conf_argument(dir)?])?;
    // By its behaviour, not by the profiles that are loaded: they say little of what they do.
    Ok(if passed {
        Ok(())
    } else if words.contains("ermission denied") || words.contains("cannot read") {
        Err(Unusable::Confined)
    } else {
        let line = words.lines().next().unwrap_or("it gives no reason");
        Err(Unusable::Rejects(crate::sanitize::text(line)))
    })
}

fn ask(program: &Path, arguments: &[OsString]) -> Result<(bool, String)> {
    let what = || format!("cannot run {}", program.display());
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(what)?;
    // It says little: neither pipe fills while the other is read.
    let mut words = Vec::new();
    let pipes = [
        child.stdout.take().map(OwnedFd::from),
        child.stderr.take().map(OwnedFd::from),
    ];
    for pipe in pipes.into_iter().flatten() {
        let pipe = File::from(pipe).take(MAX_WORDS);
        words.extend(read_bounded(pipe, MAX_WORDS as usize, "dnsmasq's words")?);
    }
    let status = child.wait().context(what)?;
    let words = String::from_utf8_lossy(&words).into_owned();
    Ok((status.success(), words))
}

/// The bundle's path, from its descriptor: dnsmasq takes paths only.
fn path_of(dir: &Dir) -> Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    std::fs::read_link(link).context(|| "cannot find the bundle's path")
}

/// The argument that names the bundle's configuration.
pub fn conf_argument(dir: &Dir) -> Result<OsString> {
    let mut argument = OsString::from("--conf-file=");
    argument.push(path_of(dir)?.join(file::DNSMASQ_CONF));
    Ok(argument)
}

fn list(dir: &Dir, name: &str) -> Result<Vec<Domain>> {
    let text = dir.read_text(name, MAX_LIST)?.unwrap_or_default();
    let lines = text.lines().map(str::trim).enumerate();
    let domains = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    domains
        .map(|(n, line)| {
            line.parse()
                .context(|| format!("cannot read {name} line {}", n + 1))
        })
        .collect()
}

/// Writes `dnsmasq.conf` from the bundle's lists and forwarder.
///
/// # Errors
/// A list or the forwarder cannot be read or understood.
pub fn write_config(dir: &Dir, listen: SocketAddr) -> Result<()> {
    let mut allowed = list(dir, file::PROFILE_DOMAINS)?;
    allowed.extend(list(dir, file::LIVE_DOMAINS)?);
    let denied = list(dir, file::DENIED_DOMAINS)?;
    let upstream = dir.read_text(file::UPSTREAM_DNS, 4096)?.unwrap_or_default();
    let upstream: Vec<IpAddr> = upstream
        .lines()
        .filter_map(|l| l.trim().parse().ok())
        .collect();
    if upstream.is_empty() {
        return Err(Error::new(format!(
            "{} names no DNS server for dnsmasq",
            file::UPSTREAM_DNS
        )));
    }
    let text = config(&allowed, &denied, &upstream, listen, is_real_root());
    dir.write(file::DNSMASQ_CONF, text.as_bytes())
}

/// The configuration's text. As root of the host dnsmasq changes to its own user; in a rootless
/// container's user namespace that user may not exist, and its root is nobody special.
///
/// A `=name` gets no `nftset`, which would cover its subdomains too: it is open by what it resolved
/// to at prepare. A denied name is answered as absent.
fn config(
    allowed: &[Domain],
    denied: &[Domain],
    upstream: &[IpAddr],
    listen: SocketAddr,
    real_root: bool,
) -> String {
    let mut text = format!(
        "# Written by terok-shield; changed by its verbs, read at every start.\n\
         listen-address={}\nport={}\nbind-interfaces\nno-resolv\nno-hosts\nno-poll\n\
         cache-size=0\nlog-queries\nlog-facility=-\npid-file=\nlocal=/invalid/\n",
        listen.ip(),
        listen.port()
    );
    if !real_root {
        text.push_str("user=root\ngroup=root\n");
    }
    for address in upstream {
        let _ = writeln!(text, "server={address}");
    }
    for domain in denied {
        let _ = writeln!(text, "local=/{}/", domain.name());
    }
    let mut seen = std::collections::BTreeSet::new();
    let table = contract::TABLE;
    for domain in allowed {
        let name = domain.name();
        if domain.scope() != Scope::Exact && !denied.contains(domain) && seen.insert(name) {
            // Both families in one option: of two, dnsmasq 2.90 forgets the second.
            let _ = writeln!(
                text,
                "nftset=/{name}/4#inet#{table}#{},6#inet#{table}#{}",
                set::ALLOW_V4,
                set::ALLOW_V6
            );
        }
    }
    text
}

/// Whether uid 0 here is uid 0 of the host: every id maps to itself (user_namespaces(7)).
fn is_real_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(texts: &[&str]) -> Vec<Domain> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn the_configuration_is_the_contracts() {
        let text = config(
            &domains(&[
                "Example.org",
                "*.star.org",
                "=exact.org",
                "example.org",
                "gone.org",
            ]),
            &domains(&["gone.org", "sub.example.org"]),
            &["192.0.2.1".parse().unwrap()],
            "127.0.0.1:53".parse().unwrap(),
            true,
        );
        for line in [
            "listen-address=127.0.0.1",
            "bind-interfaces",
            "no-resolv",
            "no-hosts",
            "server=192.0.2.1",
            "cache-size=0",
            "nftset=/example.org/4#inet#terok_shield#allow_v4,6#inet#terok_shield#allow_v6",
            "local=/sub.example.org/",
            "local=/gone.org/",
        ] {
            assert_eq!(
                text.lines().filter(|l| *l == line).count(),
                1,
                "{line}\n{text}"
            );
        }
        assert!(!text.contains("exact.org") && !text.contains("user="));
        assert_eq!(text.matches("nftset=").count(), 2);
    }

    /// A program of this text, and a bundle.
    fn stand_in(label: &str, script: &str) -> (PathBuf, Dir) {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("shield-{label}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let dir = Dir::create(&path).unwrap();
        let program = path.join("dnsmasq");
        std::fs::write(&program, format!("#!/bin/sh\n{script}")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        (program, dir)
    }

    #[test]
    fn a_confined_old_or_stubborn_dnsmasq_is_found_by_asking_it() {
        let options =
            "case $1 in --version) echo 'Compile time options: IPv6 nftset'; exit;; esac\n";
        for (label, script, expected) in [
            ("good", format!("{options}exit 0"), Ok(())),
            (
                "old",
                "echo 'Compile time options: IPv6 no-nftset'".to_string(),
                Err(Unusable::NoNftset),
            ),
            (
                "confined",
                format!("{options}echo 'dnsmasq: cannot read /x: Permission denied' >&2; exit 3"),
                Err(Unusable::Confined),
            ),
            (
                "stubborn",
                format!("{options}echo 'dnsmasq: bad option' >&2; exit 1"),
                Err(Unusable::Rejects("dnsmasq: bad option".into())),
            ),
        ] {
            let (program, dir) = stand_in(label, &script);
            assert_eq!(check_program(&program, &dir).unwrap(), expected, "{label}");
            std::fs::remove_dir_all(program.parent().unwrap()).unwrap();
        }
    }
}
