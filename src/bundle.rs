//! The state bundle: one directory that says everything about a container's shield.

use crate::contract::file;
use crate::error::{Context, Error, Result};
use crate::files::{Dir, Lock, MAX_FILE};
use crate::lists::{Lists, Settings};
use crate::netns::NetnsId;
use crate::nft::model::Ruleset;
use crate::nft::policy::{self, Inputs, Learning, Posture};
use crate::nft::text;
use crate::oci;
use crate::process::Identity;
use crate::sanitize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most a file of one line may weigh.
const MAX_LINE: usize = 4096;

/// How long a verb or hook waits for another one on the same bundle.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// An open bundle.
#[derive(Debug)]
pub struct Bundle {
    dir: Dir,
    path: PathBuf,
}

/// Seconds since the epoch, by the wall clock: deadlines survive a reboot.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

impl Bundle {
    /// Opens a bundle that an annotation or an operator names, after checking everything that
    /// CONTRACT section 2 demands of the directory.
    pub fn open(path: &Path) -> Result<Self> {
        oci::check_state_dir(path)?;
        let path: PathBuf = path.components().collect();
        let dir = Dir::open(&path)?;
        let refuse = |why: &str| {
            let shown = sanitize::text(&path.to_string_lossy());
            Err(Error::new(format!(
                "state directory {shown} {why}: refused"
            )))
        };
        let stat = dir.stat()?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return refuse("belongs to another user");
        }
        if stat.st_mode & 0o022 != 0 {
            return refuse("is writable by its group or by everybody (chmod 700 it)");
        }
        // The descriptor's own path: what the name led to, whatever links it passed on the way.
        let resolved = std::fs::read_link(format!("/proc/self/fd/{}", raw_fd(&dir)))
            .context(|| "cannot resolve the state directory (is /proc mounted?)")?;
        oci::check_state_dir(&resolved)?;
        Ok(Self { dir, path })
    }

    /// The directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The path it was opened by, for programs that take one.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serialises changes: verbs and hooks hold this while they read, decide and write.
    pub fn lock(&self) -> Result<Lock> {
        self.dir.lock(LOCK_WAIT)
    }

    /// A file of one line, without its newline; `None` if missing or blank.
    pub fn read_line(&self, name: &str) -> Result<Option<String>> {
        let text = self.dir.read_text(name, MAX_LINE)?;
        Ok(text.map(|t| t.trim().to_string()).filter(|t| !t.is_empty()))
    }

    /// A list, one entry a line; blank lines and `#` comments are skipped.
    pub fn read_list<T>(&self, name: &str) -> Result<Vec<T>>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.dir.read_text(name, MAX_FILE)? else {
            return Ok(Vec::new());
        };
        parse_list(name, &text, |line| {
            line.parse::<T>().map_err(|e| e.to_string())
        })
    }

    /// Replaces a list. The caller holds the lock.
    pub fn write_list<T: std::fmt::Display>(&self, name: &str, entries: &[T]) -> Result<()> {
        use std::fmt::Write;
        let mut text = String::with_capacity(entries.len() * 16);
        for entry in entries {
            let _ = writeln!(text, "{entry}");
        }
        self.dir.write(name, text.as_bytes())
    }

    /// The posture that the next start restores.
    pub fn posture(&self) -> Result<Posture> {
        match self.read_line(file::POSTURE)? {
            None => Ok(Posture::Up),
            Some(word) => Posture::from_word(&word).ok_or_else(|| {
                Error::new(format!(
                    "{} holds {}, not a posture (up, down, disengaged, quarantine)",
                    file::POSTURE,
                    sanitize::quoted(&word)
                ))
            }),
        }
    }

    /// Who fills the sets at run time, by the tier's name.
    pub fn learning(&self) -> Result<Learning> {
        Ok(match self.read_line(file::DNS_TIER)?.as_deref() {
            Some("gate") => Learning::Gate,
            Some("dnsmasq") => Learning::Dnsmasq,
            _ => Learning::Nobody,
        })
    }

    /// The rules the files mean at this moment, in this posture.
    pub fn compile(&self, posture: Posture) -> Result<Ruleset> {
        match posture {
            // A blackout must not depend on lists that may not be readable.
            Posture::Quarantine => Ok(policy::compile(posture, &Inputs::default())),
            _ => {
                let inputs = Lists::read(self)?.inputs(&Settings::read(self)?, now());
                Ok(policy::compile(posture, &inputs))
            }
        }
    }

    /// The rules the next start applies: the text of `ruleset.nft`.
    pub fn ruleset(&self) -> Result<Ruleset> {
        let bytes = self.dir.read(file::RULESET, MAX_FILE)?.ok_or_else(|| {
            Error::new(format!(
                "the bundle has no {}: prepare the container again",
                file::RULESET
            ))
        })?;
        text::parse_bytes(&bytes).map_err(|e| Error::new(format!("{} {e}", file::RULESET)))
    }

    /// Writes the text the next start applies, and the posture. The caller holds the lock.
    pub fn write_ruleset(&self, posture: Posture, ruleset: &Ruleset) -> Result<()> {
        self.dir
            .write(file::RULESET, text::render(ruleset).as_bytes())?;
        self.dir
            .write(file::POSTURE, format!("{posture}\n").as_bytes())
    }

    /// The id of the container this bundle last belonged to, as recorded.
    pub fn container_id(&self) -> Result<Option<String>> {
        self.read_line(file::CONTAINER_ID)
    }

    /// The recorded init process, if it still lives.
    pub fn living_init(&self) -> Result<Option<Identity>> {
        let line = self.read_line(file::CONTAINER_INIT)?;
        Ok(line
            .as_deref()
            .and_then(Identity::parse)
            .filter(Identity::is_alive))
    }

    /// Records whose bundle this is from now on. The caller holds the lock.
    pub fn record_container(&self, short_id: &str, init: Identity) -> Result<()> {
        self.dir
            .write_record(file::CONTAINER_INIT, init.to_string().as_bytes())?;
        self.dir
            .write_record(file::CONTAINER_ID, format!("{short_id}\n").as_bytes())
    }

    /// The network namespace the rules were last applied in, as recorded.
    pub fn recorded_netns(&self) -> Result<Option<NetnsId>> {
        let line = self.read_line(file::CONTAINER_NETNS)?;
        Ok(line
            .as_deref()
            .and_then(|l| l.split_once(' '))
            .and_then(|(dev, ino)| {
                Some(NetnsId {
                    dev: dev.parse().ok()?,
                    ino: ino.parse().ok()?,
                })
            }))
    }

    /// Records the network namespace. The caller holds the lock.
    pub fn record_netns(&self, netns: NetnsId) -> Result<()> {
        self.dir.write_record(
            file::CONTAINER_NETNS,
            format!("{} {}\n", netns.dev, netns.ino).as_bytes(),
        )
    }
}

fn raw_fd(dir: &Dir) -> i32 {
    use std::os::fd::{AsFd, AsRawFd};
    dir.as_fd().as_raw_fd()
}

/// Parses the lines of a list; the error names file and line.
fn parse_list<T, E: std::fmt::Display>(
    name: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = parse(line).map_err(|e| {
            Error::new(format!(
                "{name} line {}: {}: {e}",
                number + 1,
                sanitize::quoted(line)
            ))
        })?;
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_policy_compiles_survives_the_text() {
        use crate::nft::intervals::Grant;
        for learning in [Learning::Nobody, Learning::Dnsmasq, Learning::Gate] {
            for posture in [
                Posture::Quarantine,
                Posture::Up,
                Posture::Down,
                Posture::Disengaged,
            ] {
                let inputs = policy::Inputs {
                    learning,
                    forwarder: Some("169.254.1.1".parse().unwrap()),
                    loopback_ports: vec![8080, 22],
                    gateways: vec!["169.254.1.2".parse().unwrap()],
                    allow: ["192.0.2.0/24", "192.0.2.7", "10.0.0.0/30", "2001:db8::1"]
                        .map(|n| Grant {
                            net: n.parse().unwrap(),
                            remaining: None,
                        })
                        .to_vec(),
                    deny: vec!["10.0.0.1".parse().unwrap()],
                    services: vec![],
                };
                let meant = policy::compile(posture, &inputs);
                let said = text::render(&meant);
                let read = text::parse(&said).unwrap_or_else(|e| panic!("{e}\n{said}"));
                crate::nft::verify::equal(&meant, &read, &|_| false)
                    .unwrap_or_else(|e| panic!("{e}\n{said}"));
            }
        }
    }
}
