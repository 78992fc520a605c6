//! Verbs that change a running shield: allow, deny, up, down, quarantine.

use super::{Global, parse};
use crate::error::{Error, Result};
use crate::json::Object;
use crate::nft::policy::{self, Posture};
use crate::output;
use crate::sanitize;
use crate::shield::change::{self, Outcome, Resolved};
use crate::shield::resolve::resolve_target;
use crate::validate::{Host, Target};
use argh::FromArgs;
use std::time::Duration;

#[derive(FromArgs)]
/// Lets a container reach a domain, an address, a network, or one port of it.
#[argh(
    name = "allow",
    example = "terok-shield allow web crates.io\nterok-shield allow web 192.0.2.0/24\nterok-shield allow web db.example.org:5432\nterok-shield allow web 192.0.2.7:53/udp\nterok-shield allow --for 15m web example.org",
    note = "A domain covers its subdomains; =name is that name only, *.name its subdomains only.\nThe cloud metadata addresses are never opened."
)]
struct Allow {
    /// for how long, such as 30s, 15m, 2h or 1d; then the kernel closes it by itself
    #[argh(option, long = "for", from_str_fn(duration))]
    lasting: Option<Duration>,
    /// print the result as a JSON object
    #[argh(switch)]
    json: bool,
    /// the container's name
    #[argh(positional)]
    container: String,
    /// domain, IP address or network, each but the last also with :port or :port/udp
    #[argh(positional)]
    target: String,
}

#[derive(FromArgs)]
/// Keeps a container from a domain, an address or a network, and cuts what flows to it.
#[argh(
    name = "deny",
    example = "terok-shield deny web example.org\nterok-shield deny web 192.0.2.0/24"
)]
struct Deny {
    /// print the result as a JSON object
    #[argh(switch)]
    json: bool,
    /// the container's name
    #[argh(positional)]
    container: String,
    /// domain, IP address or network; with a port, a service allowed before is taken back
    #[argh(positional)]
    target: String,
}

#[derive(FromArgs)]
/// Enforces: only what is allowed gets out, and what flows elsewhere is cut.
#[argh(name = "up", example = "terok-shield up web")]
struct Up {
    /// refuse if the container's id is not this one
    #[argh(option)]
    container_id: Option<String>,
    /// the container's name
    #[argh(positional)]
    container: String,
}

#[derive(FromArgs)]
/// Lets everything out and logs it; private ranges and denied addresses stay closed.
#[argh(
    name = "down",
    example = "terok-shield down web\nterok-shield down --all web"
)]
struct Down {
    /// open the private ranges too
    #[argh(switch)]
    all: bool,
    /// refuse if the container's id is not this one
    #[argh(option)]
    container_id: Option<String>,
    /// the container's name
    #[argh(positional)]
    container: String,
}

#[derive(FromArgs)]
/// Cuts all traffic but loopback, established connections too, until `up` or `down`.
#[argh(name = "quarantine", example = "terok-shield quarantine web")]
struct Quarantine {
    /// the container's name
    #[argh(positional)]
    container: String,
}

/// `terok-shield allow`
pub fn allow(global: &Global, args: &[&str]) -> Result<()> {
    let args: Allow = parse("allow", args)?;
    let container = global.container(&args.container)?;
    let target: Target = args.target.parse()?;
    if let Host::Net(net) = &target.host
        && net.is_host()
        && policy::touches_hard_floor(net)
    {
        return Err(Error::new(format!(
            "{net} is a cloud metadata address: no verb opens it"
        )));
    }
    let what = resolve_target(&container, target)?;
    let outcome = change::allow(&container, &what, args.lasting)?;
    let text = format!(
        "Allowed {} -> {} for {}",
        what.target,
        addresses(&what),
        args.container
    );
    print(args.json, &args.container, &what, &outcome, text)
}

/// `terok-shield deny`
pub fn deny(global: &Global, args: &[&str]) -> Result<()> {
    let args: Deny = parse("deny", args)?;
    let container = global.container(&args.container)?;
    let what = resolve_target(&container, args.target.parse()?)?;
    let outcome = change::deny(&container, &what)?;
    let text = format!(
        "Denied {} ({}) for {}",
        what.target,
        addresses(&what),
        args.container
    );
    print(args.json, &args.container, &what, &outcome, text)
}

/// `ip, ip`; a name that the tier follows may have none at the moment.
fn addresses(what: &Resolved) -> String {
    match what.nets.as_slice() {
        [] => "no address yet".into(),
        nets => change::join(nets),
    }
}

fn print(json: bool, name: &str, what: &Resolved, outcome: &Outcome, text: String) -> Result<()> {
    if !json {
        return output::line(&text);
    }
    let mut out = String::new();
    Object::open(&mut out)
        .text("container", name)
        .text("target", &what.target.to_string())
        .texts(
            "addresses",
            &what
                .nets
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        )
        .truth("running", outcome.running)
        .number("cut", outcome.cut.into())
        .text("posture", outcome.posture.word())
        .close();
    output::line(&out)
}

/// `terok-shield up`
pub fn up(global: &Global, args: &[&str]) -> Result<()> {
    let args: Up = parse("up", args)?;
    posture(
        global,
        &args.container,
        args.container_id.as_deref(),
        Posture::Up,
    )?;
    output::line(&format!("Shield up for {}", args.container))
}

/// `terok-shield down`
pub fn down(global: &Global, args: &[&str]) -> Result<()> {
    let args: Down = parse("down", args)?;
    let (to, suffix) = match args.all {
        true => (Posture::Disengaged, " (all traffic)"),
        false => (Posture::Down, ""),
    };
    posture(global, &args.container, args.container_id.as_deref(), to)?;
    output::line(&format!("Shield down for {}{suffix}", args.container))
}

/// `terok-shield quarantine`
pub fn quarantine(global: &Global, args: &[&str]) -> Result<()> {
    let args: Quarantine = parse("quarantine", args)?;
    posture(global, &args.container, None, Posture::Quarantine)?;
    output::line(&format!(
        "Shield QUARANTINED for {} — all traffic dropped",
        args.container
    ))
}

fn posture(global: &Global, name: &str, id: Option<&str>, to: Posture) -> Result<()> {
    let container = global.container(name)?;
    if let Some(id) = id {
        container.check_id(id)?;
    }
    change::set_posture(&container, to)?;
    Ok(())
}

/// A length of time: a number and s, m, h or d.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || {
        format!(
            "{} is no length of time: write 30s, 15m, 2h or 1d",
            sanitize::quoted(text)
        )
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    // A year: beyond that, allow it for good.
    number
        .checked_mul(unit)
        .filter(|&secs| (1..=366 * 86_400).contains(&secs))
        .map(Duration::from_secs)
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_or_refused() {
        for (text, secs) in [("3s", 3), ("15m", 900), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        for bad in [
            "",
            "15",
            "m",
            "-1s",
            "1.5h",
            "0s",
            "1w",
            "999999d",
            "99999999999999999999s",
            "1 s",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
