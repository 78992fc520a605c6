//! Every change of a container's shield: one atomic batch in the kernel, then the bundle's files,
//! under the bundle's lock.
//!
//! The kernel goes first, so that what a verb reported as done is done. A verb that is killed
//! between the two leaves a kernel that is ahead of the files; the next verb brings both to what
//! the files say plus its own change, and never to a laxer posture than either of them had.

use super::Container;
use crate::audit::Action;
use crate::bundle;
use crate::conntrack;
use crate::contract::{self, set};
use crate::dns::service;
use crate::error::{Context, Result};
use crate::hub;
use crate::ipnet::IpNet;
use crate::lists::{Lists, Settings, Timed, TimedService};
use crate::netns;
use crate::nft::classify::{State, classify};
use crate::nft::kernel::{Detail, Nft};
use crate::nft::model::{Family, Ruleset};
use crate::nft::policy::{self, Inputs, Learning, Posture};
use crate::process::PidFd;
use crate::validate::{Host, Proto, Target};
use std::net::IpAddr;
use std::time::Duration;

/// What a change came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the container runs, so that the kernel was changed too.
    pub running: bool,
    /// Flows that were cut.
    pub cut: u32,
    /// The posture in force afterwards.
    pub posture: Posture,
}

/// A target with the addresses it stands for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What the operator typed.
    pub target: Target,
    /// Its addresses: itself, or what its name resolved to.
    pub nets: Vec<IpNet>,
}

/// Which live flows a change ends.
enum Cut {
    None,
    /// Those to these networks.
    To(Vec<IpNet>),
    /// Those that the new rules would not let out.
    Unlisted,
    /// All but loopback.
    All,
}

/// Lets a target out, for good or for a time.
pub fn allow(c: &Container, what: &Resolved, lasting: Option<Duration>) -> Result<Outcome> {
    let deadline = lasting.map(|d| bundle::now().saturating_add(d.as_secs().max(1)));
    let outcome = change(c, None, Cut::None, |lists, settings| {
        lists.deny.retain(|net| !what.nets.contains(net));
        match (&what.target.service, deadline) {
            (Some((proto, port)), _) => add_services(lists, what, *proto, *port, deadline),
            (None, Some(deadline)) => {
                lists.timed.retain(|t| !what.nets.contains(&t.net));
                lists
                    .timed
                    .extend(what.nets.iter().map(|&net| Timed { net, deadline }));
            }
            (None, None) => {
                if let Host::Domain(domain) = &what.target.host {
                    lists.denied_domains.retain(|d| d != domain);
                    add_new(&mut lists.live_domains, [domain.clone()]);
                }
                if pins_addresses(&what.target, settings) {
                    add_new(&mut lists.live_allowed, what.nets.iter().copied());
                }
            }
        }
    })?;
    if lasting.is_none() && what.target.service.is_none() {
        learn_now(c, what)?;
    }
    let target = what.target.to_string();
    c.log(
        Action::Allowed,
        Some(&target),
        detail(what, deadline).as_deref(),
    );
    for net in what.nets.iter().filter(|net| policy::is_private(net)) {
        let note = "a private address, opened because the operator wrote it";
        c.log(Action::Note, Some(&net.to_string()), Some(note));
    }
    Ok(outcome)
}

/// Keeps a target in, and cuts what flows to it.
pub fn deny(c: &Container, what: &Resolved) -> Result<Outcome> {
    let outcome = change(c, None, Cut::To(what.nets.clone()), |lists, settings| {
        if let Some((proto, port)) = what.target.service {
            lists.services.retain(|s| {
                s.proto != proto || s.port != port || !what.nets.contains(&s.addr.into())
            });
            return;
        }
        if let Host::Domain(domain) = &what.target.host {
            lists.live_domains.retain(|d| d != domain);
            add_new(&mut lists.denied_domains, [domain.clone()]);
        }
        lists.live_allowed.retain(|net| !what.nets.contains(net));
        lists.timed.retain(|t| !what.nets.contains(&t.net));
        if pins_addresses(&what.target, settings) {
            add_new(&mut lists.deny, what.nets.iter().copied());
        }
    })?;
    let target = what.target.to_string();
    c.log(Action::Denied, Some(&target), detail(what, None).as_deref());
    Ok(outcome)
}

/// Puts the shield into a posture.
pub fn set_posture(c: &Container, posture: Posture) -> Result<Outcome> {
    let cut = match posture {
        Posture::Quarantine => Cut::All,
        Posture::Up => Cut::Unlisted,
        Posture::Down | Posture::Disengaged => Cut::None,
    };
    let outcome = change(c, Some(posture), cut, |_, _| ())?;
    let (action, detail, event) = match posture {
        Posture::Up => (Action::ShieldUp, None, Some(hub::Change::Up)),
        Posture::Down => (Action::ShieldDown, None, Some(hub::Change::Down)),
        Posture::Disengaged => (
            Action::ShieldDown,
            Some("all traffic"),
            Some(hub::Change::Disengaged),
        ),
        Posture::Quarantine => (Action::ShieldQuarantine, None, None),
    };
    c.log(action, None, detail);
    if let Some(event) = event {
        c.tell_hub(event);
    }
    Ok(outcome)
}

/// Replaces the addresses that the profiles' names resolved to.
pub fn set_profile_addresses(c: &Container, nets: Vec<IpNet>) -> Result<Outcome> {
    change(c, None, Cut::None, |lists, _| lists.profile_allowed = nets)
}

/// Under the gate a domain is opened as it is asked for; its addresses of today are not its
/// addresses of tomorrow, nor only its own.
fn pins_addresses(target: &Target, settings: &Settings) -> bool {
    !matches!(target.host, Host::Domain(_)) || settings.learning != Learning::Gate
}

/// Under the gate, opens what a newly allowed name resolves to now, for programs that hold an
/// answer from before.
fn learn_now(c: &Container, what: &Resolved) -> Result<()> {
    if let Host::Domain(domain) = &what.target.host {
        service::learn(&c.bundle, domain, &what.nets)?;
    }
    Ok(())
}

fn detail(what: &Resolved, deadline: Option<u64>) -> Option<String> {
    let mut text = match what.target.host {
        Host::Domain(_) => join(&what.nets),
        Host::Net(_) => String::new(),
    };
    if let Some(deadline) = deadline {
        let sep = if text.is_empty() { "" } else { " " };
        text.push_str(&format!(
            "{sep}until {}",
            crate::clock::rfc3339(deadline as i64)
        ));
    }
    (!text.is_empty()).then_some(text)
}

/// `ip, ip`, as the verbs print addresses.
pub fn join(nets: &[IpNet]) -> String {
    nets.iter()
        .map(IpNet::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn add_new<T: PartialEq>(list: &mut Vec<T>, entries: impl IntoIterator<Item = T>) {
    for entry in entries {
        if !list.contains(&entry) {
            list.push(entry);
        }
    }
}

fn add_services(
    lists: &mut Lists,
    what: &Resolved,
    proto: Proto,
    port: u16,
    deadline: Option<u64>,
) {
    let hosts = what.nets.iter().filter(|net| net.is_host());
    for addr in hosts.map(IpNet::first) {
        lists
            .services
            .retain(|s| (s.addr, s.proto, s.port) != (addr, proto, port));
        lists.services.push(TimedService {
            addr,
            proto,
            port,
            deadline,
        });
    }
}

/// The one way a shield changes.
fn change(
    c: &Container,
    posture: Option<Posture>,
    cut: Cut,
    edit: impl FnOnce(&mut Lists, &Settings),
) -> Result<Outcome> {
    let _lock = c.bundle.lock()?;
    let before = Lists::read(&c.bundle)?;
    let settings = Settings::read(&c.bundle)?;
    let stored = c.bundle.posture()?;
    let now = bundle::now();
    let mut lists = before.clone();
    lists.drop_expired(now);
    edit(&mut lists, &settings);

    let inputs = lists.inputs(&settings, now);
    let mut outcome = Outcome {
        running: false,
        cut: 0,
        posture: posture.unwrap_or(stored),
    };
    if let Some(init) = c.running()? {
        outcome = enact(&init, posture, stored, &inputs, cut)?;
    }
    lists.write(&c.bundle, Some(&before))?;
    c.bundle.write_ruleset(
        outcome.posture,
        &policy::compile(outcome.posture, &lasting(inputs)),
    )?;
    let names =
        lists.domains() != before.domains() || lists.denied_domains != before.denied_domains;
    if outcome.running && (names || outcome.posture != stored) {
        service::reload(&c.bundle).context(|| "the rules are changed, but not the names")?;
    }
    Ok(outcome)
}

/// Without what ends by itself: the text does not know when it will be applied, so the hook adds
/// the rest of those grants' time from the lists.
fn lasting(mut inputs: Inputs) -> Inputs {
    inputs.allow.retain(|g| g.remaining.is_none());
    inputs.services.retain(|s| s.remaining.is_none());
    inputs
}

/// Brings the kernel to what is meant, in one batch, and cuts what must end.
fn enact(
    init: &PidFd,
    posture: Option<Posture>,
    stored: Posture,
    inputs: &Inputs,
    cut: Cut,
) -> Result<Outcome> {
    netns::enter_as_operator(init)?;
    let mut nft = Nft::open()?;
    // Rules we cannot read are not ours to keep: they are replaced.
    let held = nft
        .dump(Family::Inet, contract::TABLE, Detail::Full)
        .ok()
        .flatten();
    let posture = posture.unwrap_or_else(|| match held.as_ref().map(classify) {
        Some(State::Quarantine) => Posture::Quarantine,
        Some(State::Up) => stored.min(Posture::Up),
        Some(State::Down) => stored.min(Posture::Down),
        _ => stored,
    });
    let meant = policy::compile(posture, inputs);
    match &held {
        Some(held) => nft.transition(held, &meant, &|name| is_learned(name, inputs.learning))?,
        None => nft.replace(&meant)?,
    }
    let cut = match cut {
        Cut::None => 0,
        Cut::All => conntrack::cut_all()?,
        Cut::To(nets) => conntrack::cut(&|addr| nets.iter().any(|n| n.contains(&addr.into())))?,
        Cut::Unlisted => {
            let open = Open::of(&meant, held.as_ref(), inputs);
            conntrack::cut(&|addr| !addr.is_loopback() && !open.contains(addr))?
        }
    };
    Ok(Outcome {
        running: true,
        cut,
        posture,
    })
}

/// Whether a set's elements are the tier's, not ours.
fn is_learned(name: &str, learning: Learning) -> bool {
    match learning {
        Learning::Nobody => false,
        Learning::Gate => name == set::LEARNED_V4 || name == set::LEARNED_V6,
        Learning::Dnsmasq => name == set::ALLOW_V4 || name == set::ALLOW_V6,
    }
}

/// The destinations that an enforcing ruleset lets out, for judging flows from before it.
struct Open {
    /// Ascending; they may overlap.
    ranges: Vec<(IpAddr, IpAddr)>,
    deny: Vec<IpNet>,
}

impl Open {
    fn of(meant: &Ruleset, held: Option<&Ruleset>, inputs: &Inputs) -> Self {
        let authored = meant.sets.iter();
        let learned = held.into_iter().flat_map(|h| &h.sets);
        let learned = learned.filter(|s| is_learned(&s.name, inputs.learning));
        let denying = [set::DENY_V4, set::DENY_V6];
        let mut ranges: Vec<(IpAddr, IpAddr)> = authored
            .chain(learned)
            .filter(|s| !denying.contains(&s.name.as_str()))
            .flat_map(|s| s.elements.iter().map(|e| (e.first, e.last)))
            .chain(
                inputs
                    .forwarder
                    .iter()
                    .chain(&inputs.gateways)
                    .map(|&a| (a, a)),
            )
            .collect();
        crate::sort::sort(&mut ranges);
        Self {
            ranges,
            deny: inputs.deny.clone(),
        }
    }

    fn contains(&self, addr: IpAddr) -> bool {
        self.ranges
            .iter()
            .take_while(|(first, _)| *first <= addr)
            .any(|(_, last)| addr <= *last)
            && !self.deny.iter().any(|net| net.contains(&addr.into()))
    }
}
