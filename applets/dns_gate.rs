//! `dns-gate`: the name server inside a container's network namespace. nft-hook starts it.

use crate::dns::gate::kernel;
use crate::dns::gate::server::Sockets;
use crate::dns::gate::spawn::{inherited, keep_dnsmasq, supervise, work};
use crate::error::{Error, Result};
use crate::files::Dir;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: dns-gate (--bundle=DIR | --bundle-fd=N) [--listen=ADDRESS:PORT]";

/// Where resolv.conf of a shielded container points.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// Serves until SIGTERM.
pub fn exec(args: &[OsString]) -> Result<ExitCode> {
    let mut bundle = None;
    let mut listen = LISTEN;
    let mut ready = None;
    let mut worker = None;
    let mut dnsmasq = false;
    for arg in args {
        let wrong = || Error::usage(format!("cannot read {}; {USAGE}", super::quoted(arg)));
        let (key, value) = arg
            .to_str()
            .and_then(|a| a.split_once('='))
            .ok_or_else(wrong)?;
        let number = || value.parse::<RawFd>().map_err(|_| wrong());
        match key {
            "--bundle" => bundle = Some(Dir::open(Path::new(value))?),
            "--bundle-fd" => bundle = Some(Dir::from_fd(inherited(number()?)?)?),
            "--listen" => listen = value.parse().map_err(|_| wrong())?,
            "--ready-fd" => ready = Some(inherited(number()?)?),
            // The dnsmasq tier: dnsmasq serves, this process keeps it.
            "--dnsmasq" => dnsmasq = true,
            // Between the supervisor and its worker: three sockets and the supervisor's pid.
            "--worker" => worker = Some(four(value).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        }
    }
    let dir = bundle.ok_or_else(|| Error::usage(USAGE))?;
    match worker {
        None if dnsmasq => keep_dnsmasq(dir, listen, ready)?,
        None => supervise(&dir, listen, ready)?,
        Some([udp, tcp, control, supervisor]) => {
            let sockets = Sockets {
                udp: inherited(udp)?,
                tcp: inherited(tcp)?,
                control: inherited(control)?,
            };
            work(dir, sockets, supervisor, ready, kernel::opener)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn four(value: &str) -> Option<[i32; 4]> {
    let numbers: Option<Vec<i32>> = value.split(',').map(|n| n.parse().ok()).collect();
    numbers?.try_into().ok()
}
