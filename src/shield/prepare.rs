//! Preparing a container: its bundle, and the podman arguments that make podman use it.

use super::Container;
use super::resolve;
use crate::audit::Action;
use crate::bundle::Bundle;
use crate::config::{Config, Tier};
use crate::contract::{self, annotation, file, hook_file};
use crate::dns::{dnsmasq, gate};
use crate::error::{Error, Result};
use crate::files::Dir;
use crate::ipnet::IpNet;
use crate::lists::{Lists, Settings};
use crate::nft::policy::{self, Inputs, Learning, Posture};
use crate::paths::Env;
use crate::podman::conf::Conf;
use crate::podman::info::Info;
use crate::podman::network::{self, Mode};
use crate::podman::run::Podman;
use crate::podman::{hooks_dir, setup};
use crate::profile;
use crate::validate::{self, Domain, Host};
use rustix::fs::Mode as FileMode;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// What a new container's network will look like from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    mode: Mode,
    /// Where its DNS queries go.
    dns: Option<IpAddr>,
    gateways: Vec<IpAddr>,
}

impl Network {
    /// Asks podman.
    pub fn find(env: &Env, podman: &Podman) -> Result<Self> {
        let info = Info::ask(podman)?;
        if info.remote {
            return Err(Error::new(
                "podman runs containers on another machine, where no hook of ours is",
            ));
        }
        let rootless = info.rootless.unwrap_or(!env.real_root);
        let mode = Mode::of(&info, rootless, &Conf::load(env)?.network_cmd_options()?)?;
        let (mut dns, mut gateways) = (mode.dns(), mode.gateways());
        if mode == Mode::Bridge {
            gateways = podman
                .stdout(&["network", "inspect", "podman"])
                .map(|answer| network::bridge_gateways(&answer))
                .unwrap_or_default();
            let resolv_conf = std::fs::read_to_string(env.system("/etc/resolv.conf"));
            let servers = network::bridge_nameservers(&resolv_conf.unwrap_or_default());
            dns = servers.first().or(gateways.first()).copied();
        }
        Ok(Self {
            mode,
            dns,
            gateways,
        })
    }
}

/// What profiles name, by kind.
struct Entries {
    nets: Vec<IpNet>,
    domains: Vec<Domain>,
}

fn entries(env: &Env, profiles: &[String]) -> Result<Entries> {
    let mut out = Entries {
        nets: Vec::new(),
        domains: Vec::new(),
    };
    for host in profile::compose(env, profiles)? {
        match host {
            Host::Net(net) => out.nets.push(net),
            Host::Domain(domain) => out.domains.push(domain),
        }
    }
    Ok(out)
}

/// Writes the bundle of a new container and returns podman's arguments, `--name` last.
///
/// What an operator denied a container of this name stays denied; what was allowed at run time,
/// and the posture, belonged to the container before.
pub fn prepare(env: &Env, name: &str, profiles: Option<Vec<String>>) -> Result<Vec<String>> {
    validate::container_name(name)?;
    let config = Config::load(env)?;
    setup::check(env)?.require()?;
    let profiles = profiles.unwrap_or_else(|| config.default_profiles.clone());
    let mut entries = entries(env, &profiles)?;
    let network = Network::find(env, &Podman::default())?;
    let path = env.bundle(name)?;
    Dir::create(&path)?;
    let container = Container {
        name: name.into(),
        bundle: Bundle::open(&path)?,
        audit: config.audit,
    };
    let plan = Plan {
        tier: usable_tier(&container, &config, &network, &entries)?,
        dns_address: dns_address(&profiles),
        profiles,
        network,
        config,
    };
    if plan.tier != Tier::Gate {
        let found = resolve::resolve(&entries.domains, plan.tier, resolve::OF_PROFILES)?;
        for (name, why) in &found.failed {
            crate::output::warn(&format!("Warning: {name} did not resolve: {why}"));
        }
        entries.nets.extend(found.nets);
    }
    write_bundle(env, &container, &plan, entries)?;
    let joined = plan.profiles.join(":");
    container.log(Action::Setup, None, Some(&format!("profiles {joined}")));
    podman_args(&container, &plan)
}

/// What prepare decided for a container.
struct Plan {
    profiles: Vec<String>,
    config: Config,
    network: Network,
    tier: Tier,
    /// Where the tier's own server listens.
    dns_address: IpAddr,
}

/// A krun guest has a loopback of its own and reaches its host's namespace by another address.
fn dns_address(profiles: &[String]) -> IpAddr {
    let krun = profiles.iter().any(|name| name == "krun_guest");
    let address = krun.then(|| contract::KRUN_DNS.parse().ok()).flatten();
    address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The configured tier; the gate, which needs no program of the host, where dnsmasq cannot serve.
fn usable_tier(
    c: &Container,
    config: &Config,
    network: &Network,
    entries: &Entries,
) -> Result<Tier> {
    let dir = c.bundle.dir();
    let _lock = c.bundle.lock()?;
    refuse_running(c)?;
    dir.remove(file::DNSMASQ_CONF)?;
    if config.tier != Tier::Dnsmasq {
        return Ok(config.tier);
    }
    write_forwarder(&c.bundle, network.dns)?;
    c.bundle
        .write_list(file::PROFILE_DOMAINS, &entries.domains)?;
    dnsmasq::write_config(dir, (Ipv4Addr::LOCALHOST, 53).into())?;
    let Err(why) = dnsmasq::check(dir)? else {
        return Ok(Tier::Dnsmasq);
    };
    dir.remove(file::DNSMASQ_CONF)?;
    let note = format!("the gate serves DNS instead of dnsmasq: {why}");
    crate::output::warn(&format!("Warning: {note}"));
    c.log(Action::Note, None, Some(&note));
    Ok(Tier::Gate)
}

fn refuse_running(c: &Container) -> Result<()> {
    match c.bundle.living_init()? {
        None => Ok(()),
        Some(_) => Err(Error::new(format!(
            "container {} is running: stop it, or choose another name",
            c.name
        ))),
    }
}

fn write_forwarder(bundle: &Bundle, forwarder: Option<IpAddr>) -> Result<()> {
    let line = forwarder.map_or(String::new(), |a| format!("{a}\n"));
    bundle.dir().write(file::UPSTREAM_DNS, line.as_bytes())
}

fn write_bundle(env: &Env, c: &Container, plan: &Plan, entries: Entries) -> Result<()> {
    let bundle = &c.bundle;
    let _lock = bundle.lock()?;
    refuse_running(c)?;
    let config = &plan.config;
    let settings = settings(config, plan.tier, &plan.network);
    let lists = Lists {
        profile_allowed: entries.nets,
        profile_domains: entries.domains,
        live_allowed: Vec::new(),
        live_domains: Vec::new(),
        timed: Vec::new(),
        services: Vec::new(),
        deny: bundle.read_list(file::DENY_LIST)?,
        denied_domains: bundle.read_list(file::DENIED_DOMAINS)?,
    };
    bundle.write_list(file::PROFILES, &plan.profiles)?;
    let line = |text: String| format!("{text}\n");
    let dir = bundle.dir();
    write_forwarder(bundle, settings.forwarder)?;
    dir.write(file::DNS_TIER, line(plan.tier.name().into()).as_bytes())?;
    bundle.write_list(file::LOOPBACK_PORTS, &settings.loopback_ports)?;
    bundle.write_list(file::GATEWAYS, &settings.gateways)?;
    if serves_dns(plan.tier) {
        // The workload reads it under whatever user it runs; the directory keeps others out.
        let text = format!("nameserver {}\noptions edns0\n", plan.dns_address);
        dir.write_mode(
            file::RESOLV_CONF,
            text.as_bytes(),
            FileMode::from_raw_mode(0o644),
        )?;
    }
    if plan.tier == Tier::Gate {
        let unlisted = match config.unlisted {
            crate::config::Unlisted::Refuse => gate::settings::Unlisted::Refuse,
            crate::config::Unlisted::Resolve => gate::settings::Unlisted::Resolve,
        };
        dir.write(
            file::GATE_CONF,
            gate::settings::conf_text(unlisted, false).as_bytes(),
        )?;
    }
    lists.write(bundle, None)?;
    if plan.tier == Tier::Dnsmasq {
        dnsmasq::write_config(dir, (plan.dns_address, 53).into())?;
    }
    let hooks = dir.create_subdir(file::HOOKS)?;
    for (name, applet, stage) in hook_file::DESCRIPTORS {
        let text = hooks_dir::descriptor(&setup::hooks_dir(env)?, applet, stage)?;
        hooks.write(name, text.as_bytes())?;
    }
    dir.append(file::HOOK_ERROR_LOG, b"")?;
    let inputs = lists.inputs(&settings, crate::bundle::now());
    bundle.write_ruleset(Posture::Up, &policy::compile(Posture::Up, &inputs))
}

/// Whether the tier's server runs inside the container's namespace.
fn serves_dns(tier: Tier) -> bool {
    matches!(tier, Tier::Gate | Tier::Dnsmasq)
}

fn settings(config: &Config, tier: Tier, network: &Network) -> Settings {
    Settings {
        learning: match tier {
            Tier::Gate => Learning::Gate,
            Tier::Dnsmasq => Learning::Dnsmasq,
            Tier::Dig | Tier::Getent => Learning::Nobody,
        },
        forwarder: network.dns,
        loopback_ports: config.loopback_ports.clone(),
        gateways: network.gateways.clone(),
    }
}

/// What the profiles of a bundle name by address.
pub fn authored(env: &Env, bundle: &Bundle) -> Result<Vec<IpNet>> {
    let profiles: Vec<String> = bundle.read_list(file::PROFILES)?;
    Ok(entries(env, &profiles)?.nets)
}

/// The inputs that a container prepared now, with the default profiles, would have.
pub fn preview_inputs(env: &Env) -> Result<Inputs> {
    let config = Config::load(env)?;
    let network = Network::find(env, &Podman::default())?;
    let entries = entries(env, &config.default_profiles)?;
    let lists = Lists {
        profile_allowed: entries.nets,
        ..Lists::default()
    };
    Ok(lists.inputs(
        &settings(&config, config.tier, &network),
        crate::bundle::now(),
    ))
}

fn podman_args(c: &Container, plan: &Plan) -> Result<Vec<String>> {
    let dir = c.bundle.path().to_str().filter(|p| !p.contains([':', ',']));
    let dir = dir.ok_or_else(|| {
        Error::new(format!(
            "the bundle's path {} cannot stand in a podman argument; choose another --state-dir",
            c.bundle.path().display()
        ))
    })?;
    let mut args = plan.network.mode.podman_args();
    if serves_dns(plan.tier) {
        let volume = format!("{dir}/{}:/etc/resolv.conf:ro,Z", file::RESOLV_CONF);
        args.extend(["--volume".into(), volume]);
    }
    let upstream = plan.network.dns.map_or(String::new(), |a| a.to_string());
    for (key, value) in [
        (annotation::PROFILES, plan.profiles.join(":").as_str()),
        (annotation::NAME, &c.name),
        (annotation::STATE_DIR, dir),
        (annotation::VERSION, &contract::BUNDLE_VERSION.to_string()),
        (
            annotation::AUDIT_ENABLED,
            if plan.config.audit { "true" } else { "false" },
        ),
        (annotation::UPSTREAM_DNS, &upstream),
        (annotation::DNS_TIER, plan.tier.name()),
        (
            annotation::CRUN_HOOKS_STDERR,
            &format!("{dir}/{}", file::HOOK_ERROR_LOG),
        ),
    ] {
        args.extend(["--annotation".into(), format!("{key}={value}")]);
    }
    for capability in ["NET_ADMIN", "NET_RAW"] {
        args.extend(["--cap-drop".into(), capability.into()]);
    }
    args.extend(["--name".into(), c.name.clone()]);
    Ok(args)
}

/// The shield's own places on the host, and podman's: no mount of a workload may reach them.
pub fn protected_places(env: &Env) -> Result<Vec<PathBuf>> {
    let mut places = vec![
        env.state_root()?,
        env.config_root()?,
        setup::hooks_dir(env)?,
        env.hub_dir(),
        env.system("/etc/containers"),
        env.system("/usr/share/containers"),
        env.system("/var/lib/containers"),
        env.system("/run/containers"),
    ];
    if !env.real_root {
        places.push(env.config_home()?.join("containers"));
        places.extend(env.home.as_ref().map(|h| h.join(".local/share/containers")));
        places.push(
            env.system("/run/user")
                .join(env.host_uid.to_string())
                .join("containers"),
        );
    }
    Ok(places)
}
