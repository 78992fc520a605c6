//! Names only the host's name service switch knows (LDAP, mDNS, a VPN's resolver): asked through
//! the host's own `getent`, since our libc is linked statically and has no NSS.

use super::name::Name;
use super::resolver::{Resolved, Why};
use crate::files::read_bounded;
use crate::process::PidFd;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Programs running at a time.
const MAX_CHILDREN: usize = 16;
/// Longest output read: some hundred addresses.
const MAX_OUTPUT: usize = 64 << 10;
/// getent's exit code for a name it does not find.
const NOT_FOUND: i32 = 2;
/// Where `getent` is looked for; the caller's environment is not asked.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Whether the host has a `getent`.
pub fn is_available() -> bool {
    PATH.split(':')
        .any(|dir| std::path::Path::new(dir).join("getent").is_file())
}

/// As [`super::resolver::resolve`], by the host's `getent ahosts`.
pub fn resolve(names: &[Name], at_most: Duration) -> Resolved {
    let end = Instant::now() + at_most;
    let mut results = Vec::with_capacity(names.len());
    for some in names.chunks(MAX_CHILDREN) {
        let children: Vec<_> = some.iter().map(start).collect();
        for (name, child) in some.iter().zip(children) {
            let result = child.map_or(Err(Why::Unreachable), |child| finish(child, end));
            results.push((*name, result));
        }
    }
    results
}

fn start(name: &Name) -> Option<Child> {
    // A name begins with no hyphen, so it is no option; and it passes no shell.
    Command::new("getent")
        .args(["ahosts", &name.to_text()])
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

fn finish(mut child: Child, end: Instant) -> Result<Vec<IpAddr>, Why> {
    let left = end.saturating_duration_since(Instant::now());
    let ended = PidFd::open(child.id() as i32).is_ok_and(|process| process.wait(left));
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Why::Timeout);
    }
    let output = child.stdout.take();
    let status = child.wait().map_err(|_| Why::Unreachable)?;
    match status.code() {
        Some(0) => {}
        Some(NOT_FOUND) => return Err(Why::NoSuchName),
        _ => return Err(Why::Unreachable),
    }
    let bytes = output
        .and_then(|o| read_bounded(o, MAX_OUTPUT, "getent's output").ok())
        .ok_or(Why::Malformed)?;
    let addresses = parse(&String::from_utf8_lossy(&bytes));
    if addresses.is_empty() {
        return Err(Why::NoAddress);
    }
    Ok(addresses)
}

/// The addresses of `getent ahosts`: one line for each socket type, the address first.
fn parse(text: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        let word = line.split_ascii_whitespace().next().unwrap_or_default();
        if let Ok(address) = word.parse()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_taken_once() {
        let text =
            "192.0.2.1      STREAM a.org\n192.0.2.1      DGRAM\n2001:db8::1 RAW\nnonsense\n\n";
        assert_eq!(
            parse(text),
            ["192.0.2.1", "2001:db8::1"].map(|a| a.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn the_hosts_file_is_known_to_getent_and_nonsense_is_not() {
        let names = ["localhost", "no-such-name.invalid"].map(|n| Name::parse(n).unwrap());
        let got = resolve(&names, Duration::from_secs(10));
        assert!(got[0].1.as_ref().unwrap().iter().all(IpAddr::is_loopback));
        assert!(got[1].1.is_err());
    }
}
