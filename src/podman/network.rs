//! How a container will reach the network: podman's arguments, the DNS forwarder, the gateways.
//!
//! CONTRACT section 5. A rootless container gets a user-mode stack, pasta or slirp4netns; root's
//! gets the bridge that podman sets up by itself.

use super::info::Info;
use super::value::{list, parse, text};
use crate::contract::{PASTA_DNS, PASTA_HOST_LOOPBACK};
use crate::error::{Error, Result};
use crate::ipnet::{IpNet, from_number, to_number};
use crate::sanitize::quoted;
use std::net::{IpAddr, Ipv4Addr};

/// The name under which a container reaches the host (podman adds it on bridges by itself).
const HOST_NAME: &str = "host.containers.internal";
/// slirp4netns(1): the default `--cidr`.
const SLIRP_CIDR: &str = "10.0.2.0/24";
/// slirp4netns(1) `--enable-ipv6`: the gateway.
const SLIRP_GATEWAY_V6: &str = "fd00::2";

/// The network stack a new container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// pasta(1), rootless.
    Pasta,
    /// slirp4netns(1), rootless, in this IPv4 network.
    Slirp4netns(IpNet),
    /// A bridge of the host, as root.
    Bridge,
}

impl Mode {
    /// What podman will use. `cmd_options` are `network_cmd_options` of containers.conf.
    pub fn of(info: &Info, rootless: bool, cmd_options: &[String]) -> Result<Self> {
        if !rootless {
            return Ok(Mode::Bridge);
        }
        match info.rootless_network_cmd.as_deref() {
            Some("pasta") => Ok(Mode::Pasta),
            Some("slirp4netns") => slirp_cidr(cmd_options).map(Mode::Slirp4netns),
            // podman 4 does not say. It looks for slirp4netns, and the shield for what is there.
            None if info.slirp4netns.is_some() => slirp_cidr(cmd_options).map(Mode::Slirp4netns),
            None => Ok(Mode::Pasta),
            Some(other) => Err(Error::new(format!(
                "podman's rootless network command is {}, which the shield does not know; set \
                 default_rootless_network_cmd to pasta or slirp4netns in containers.conf",
                quoted(other)
            ))),
        }
    }

    /// The stack's name.
    pub fn name(&self) -> &'static str {
        match self {
            Mode::Pasta => "pasta",
            Mode::Slirp4netns(_) => "slirp4netns",
            Mode::Bridge => "bridge",
        }
    }

    /// The arguments podman gets: `--network …`.
    pub fn podman_args(&self) -> Vec<String> {
        let (network, host) = match self {
            Mode::Bridge => return Vec::new(),
            Mode::Pasta => (
                format!("pasta:--map-host-loopback,{PASTA_HOST_LOOPBACK}"),
                PASTA_HOST_LOOPBACK.to_owned(),
            ),
            Mode::Slirp4netns(cidr) => (
                "slirp4netns:allow_host_loopback=true".to_owned(),
                nth(cidr, 2).to_string(),
            ),
        };
        vec![
            "--network".to_owned(),
            network,
            "--add-host".to_owned(),
            format!("{HOST_NAME}:{host}"),
        ]
    }

    /// The DNS forwarder the stack brings; a bridge has none of its own.
    pub fn dns(&self) -> Option<IpAddr> {
        match self {
            Mode::Pasta => PASTA_DNS.parse().ok(),
            Mode::Slirp4netns(cidr) => Some(nth(cidr, 3)),
            Mode::Bridge => None,
        }
    }

    /// Where the host's loopback (a bridge: the host) answers, as far as known before the start.
    pub fn gateways(&self) -> Vec<IpAddr> {
        match self {
            Mode::Pasta => PASTA_HOST_LOOPBACK.parse().into_iter().collect(),
            Mode::Slirp4netns(cidr) => [nth(cidr, 2)]
                .into_iter()
                .chain(SLIRP_GATEWAY_V6.parse())
                .collect(),
            Mode::Bridge => Vec::new(),
        }
    }
}

fn nth(cidr: &IpNet, n: u128) -> IpAddr {
    from_number(to_number(cidr.first()) + n, cidr.first())
}

/// The IPv4 network slirp4netns uses: the last `cidr=` among podman's options.
fn slirp_cidr(options: &[String]) -> Result<IpNet> {
    let given = options.iter().rev().find_map(|o| o.strip_prefix("cidr="));
    let text = given.unwrap_or(SLIRP_CIDR);
    // slirp4netns itself takes prefixes from 1 to 25 and needs the addresses up to base + 3.
    match text.trim().parse::<IpNet>() {
        Ok(net) if net.is_ipv4() && (1..=25).contains(&net.prefix()) => Ok(net),
        _ => Err(Error::new(format!(
            "network_cmd_options in containers.conf: cidr={} is no IPv4 network of prefix 1 to 25",
            quoted(text)
        ))),
    }
}

/// Gateways in the answer of `podman network inspect`: where a bridge's containers find the host.
pub fn bridge_gateways(network_inspect: &[u8]) -> Vec<IpAddr> {
    let Some(value) = parse(network_inspect) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for network in list(&value, &[]) {
        for subnet in list(network, &["subnets"]) {
            let gateway = text(subnet, &["gateway"]).and_then(|g| g.parse().ok());
            found.extend(gateway.filter(|g| !found.contains(g)));
        }
    }
    found
}

/// The name servers of a resolv.conf(5) that a container on a bridge can use: podman leaves out
/// the loopback ones, which mean the host's.
pub fn bridge_nameservers(resolv_conf: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in resolv_conf.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A scope (fe80::1%eth0) names an interface of the host.
        if let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) {
            let reachable = !address.is_loopback() && address != Ipv4Addr::UNSPECIFIED;
            if reachable && !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(cmd: Option<&str>, slirp: bool) -> Info {
        Info {
            rootless_network_cmd: cmd.map(str::to_owned),
            slirp4netns: slirp.then(|| "/usr/bin/slirp4netns".to_owned()),
            ..Info::default()
        }
    }

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn the_mode_is_what_podman_will_use() {
        let default: IpNet = "10.0.2.0/24".parse().unwrap();
        for (info, rootless, mode) in [
            (info(Some("pasta"), true), true, Mode::Pasta),
            (
                info(Some("slirp4netns"), true),
                true,
                Mode::Slirp4netns(default),
            ),
            (info(None, true), true, Mode::Slirp4netns(default)),
            (info(None, false), true, Mode::Pasta),
            (info(Some("pasta"), true), false, Mode::Bridge),
        ] {
            assert_eq!(Mode::of(&info, rootless, &[]).unwrap(), mode);
        }
        assert!(Mode::of(&info(Some("gvproxy"), true), true, &[]).is_err());
    }

    #[test]
    fn pasta_has_fixed_addresses() {
        let mode = Mode::Pasta;
        assert_eq!(
            mode.podman_args().join(" "),
            "--network pasta:--map-host-loopback,169.254.1.2 \
             --add-host host.containers.internal:169.254.1.2"
        );
        assert_eq!(mode.dns().unwrap().to_string(), "169.254.1.1");
        assert_eq!(mode.gateways(), ["169.254.1.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn slirp4netns_counts_from_its_network() {
        let options = options(&["cidr=10.9.0.0/24", "enable_ipv6=true", "cidr=10.1.128.7/17"]);
        let mode = Mode::of(&info(None, true), true, &options).unwrap();
        assert_eq!(
            mode.podman_args().join(" "),
            "--network slirp4netns:allow_host_loopback=true \
             --add-host host.containers.internal:10.1.128.2"
        );
        assert_eq!(mode.dns().unwrap().to_string(), "10.1.128.3");
        let gateways: Vec<_> = mode.gateways().iter().map(IpAddr::to_string).collect();
        assert_eq!(gateways, ["10.1.128.2", "fd00::2"]);
    }

    #[test]
    fn a_network_slirp4netns_would_refuse_is_refused() {
        for bad in [
            "cidr=",
            "cidr=10.0.2.0/26",
            "cidr=fd00::/64",
            "cidr=10.0.2.0",
            "cidr=x",
        ] {
            let error = Mode::of(&info(None, true), true, &options(&[bad])).unwrap_err();
            assert!(error.to_string().contains("network_cmd_options"), "{error}");
        }
    }

    #[test]
    fn roots_bridge_needs_no_arguments() {
        assert_eq!(Mode::Bridge.podman_args(), [""; 0]);
        let answer = r#"[{"name":"podman","subnets":[{"subnet":"10.88.0.0/16","gateway":"10.88.0.1"},
            {"subnet":"fd00:1::/64","gateway":"fd00:1::1"},{"subnet":"10.1.0.0/24"}]}]"#;
        let gateways = bridge_gateways(answer.as_bytes());
        let gateways: Vec<_> = gateways.iter().map(IpAddr::to_string).collect();
        assert_eq!(gateways, ["10.88.0.1", "fd00:1::1"]);
        assert_eq!(bridge_gateways(b"garbage"), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_bridge_uses_the_hosts_name_servers_but_not_its_loopback() {
        let text = "# x\nnameserver 127.0.0.53\n nameserver 192.0.2.1 \nnameserver ::1\n\
                    nameserver\nnameserver x\noptions edns0\nnameserver 2001:db8::1\nnameserver 192.0.2.1\n";
        let found: Vec<_> = bridge_nameservers(text)
            .iter()
            .map(IpAddr::to_string)
            .collect();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1"]);
    }
}
