//! The outside: a network namespace behind the lab, whose hosts answer over TCP and UDP.

use super::lab::Who;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

/// What a server says to who reaches it over TCP.
pub const GREETING: &str = "terok-world\n";

/// Hosts that answer. The lab routes everything to them that is not its own.
#[derive(Debug)]
pub struct World;

impl World {
    /// Makes hosts with these addresses; each answers on `port`, TCP and UDP.
    pub fn new(hosts: &[&str], port: u16) -> Self {
        let ip = |args: &str| {
            let args: Vec<&str> = args.split_whitespace().collect();
            Who::Root.must("ip", &args)
        };
        ip("netns add world");
        ip("link add world0 type veth peer name eth0 netns world");
        ip("addr add 198.18.0.1/30 dev world0");
        ip("addr add 2001:db8:ffff::1/64 dev world0 nodad");
        ip("link set world0 up");
        ip("-n world link set lo up");
        ip("-n world addr add 198.18.0.2/30 dev eth0");
        ip("-n world addr add 2001:db8:ffff::2/64 dev eth0 nodad");
        ip("-n world link set eth0 up");
        ip("route add default via 198.18.0.2");
        ip("route add default via 2001:db8:ffff::2");
        ip("-n world route add default via 198.18.0.1");
        ip("-n world route add default via 2001:db8:ffff::1");
        for forwarding in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/{forwarding}"), "1").unwrap();
        }
        for host in hosts {
            let v6 = host.contains(':');
            ip(&format!(
                "-n world addr add {host}/{} dev lo {}",
                if v6 { 128 } else { 32 },
                if v6 { "nodad" } else { "" }
            ));
        }
        let addresses: Vec<SocketAddr> = hosts
            .iter()
            .map(|h| SocketAddr::new(h.parse::<IpAddr>().unwrap(), port))
            .collect();
        // Sockets belong to the namespace of the thread that made them.
        std::thread::spawn(move || {
            let netns = File::open("/run/netns/world").unwrap();
            nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for address in addresses {
                let tcp = TcpListener::bind(address).unwrap();
                let udp = UdpSocket::bind(address).unwrap();
                std::thread::spawn(move || {
                    for mut stream in tcp.incoming().flatten() {
                        let _ = stream.write_all(GREETING.as_bytes());
                    }
                });
                std::thread::spawn(move || {
                    let mut buffer = [0; 2048];
                    while let Ok((n, from)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(&buffer[..n], from);
                    }
                });
            }
        })
        .join()
        .unwrap();
        Self
    }
}

/// Has these hosts send a line every 10 ms to whoever connects.
pub fn stream_lines(namespace: &str, hosts: &[&str], port: u16) {
    let path = format!("/run/netns/{namespace}");
    let addresses: Vec<SocketAddr> = hosts
        .iter()
        .map(|h| SocketAddr::new(h.parse::<IpAddr>().unwrap(), port))
        .collect();
    std::thread::spawn(move || {
        let netns = File::open(path).unwrap();
        nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for address in addresses {
            let tcp = TcpListener::bind(address).unwrap();
            std::thread::spawn(move || {
                for mut stream in tcp.incoming().flatten() {
                    std::thread::spawn(move || {
                        while stream.write_all(GREETING.as_bytes()).is_ok() {
                            std::thread::sleep(std::time::Duration::from_millis(10));
                        }
                    });
                }
            });
        }
    })
    .join()
    .unwrap();
}
