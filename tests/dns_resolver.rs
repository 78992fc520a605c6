//! The static resolver against the misbehaving upstream.

mod dns_support;

use dns_support::{Upstream, name};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use terok_shield::dns::name::Name;
use terok_shield::dns::resolv_conf::Servers;
use terok_shield::dns::resolver::{Why, resolve};

fn servers(addresses: &[SocketAddr]) -> Servers {
    let mut servers = Servers::parse("options timeout:1 attempts:2");
    servers.addresses = addresses.to_vec();
    servers
}

fn one(upstream: &Upstream, label: &str) -> Result<Vec<String>, Why> {
    let names = [name(&format!("{label}.ok.test"))];
    let got = resolve(
        &names,
        &servers(&[upstream.address]),
        Duration::from_secs(10),
    );
    let (_, result) = got.into_iter().next().unwrap();
    result.map(|all| all.iter().map(|a| a.to_string()).collect())
}

#[test]
fn three_hundred_names_take_about_as_long_as_the_slowest() {
    let upstream = Upstream::start("127.0.0.1");
    let mut names: Vec<Name> = (0..297).map(|n| name(&format!("n{n}.ok.test"))).collect();
    names.insert(10, name("slow.ok.test"));
    names.insert(20, name("nx.ok.test"));
    names.insert(30, name("servfail.ok.test"));
    let begun = Instant::now();
    let got = resolve(
        &names,
        &servers(&[upstream.address]),
        Duration::from_secs(10),
    );
    let took = begun.elapsed();
    assert!(
        took < Duration::from_millis(900),
        "{took:?}; the slowest takes 300 ms"
    );
    assert_eq!(got.len(), 300);
    for ((name, result), asked) in got.iter().zip(&names) {
        assert_eq!(name, asked, "in the order given");
        match name.to_text().as_str() {
            "nx.ok.test" => assert_eq!(*result, Err(Why::NoSuchName)),
            "servfail.ok.test" => assert_eq!(*result, Err(Why::Refused(2))),
            text => assert_eq!(result.as_ref().unwrap().len(), 2, "{text}"),
        }
    }
}

#[test]
fn good_and_bad_answers_are_told_apart() {
    let upstream = Upstream::start("127.0.0.1");
    let good = |addresses: &[&str]| {
        Ok(addresses
            .iter()
            .map(|a| a.to_string())
            .collect::<Vec<String>>())
    };
    for (label, expected) in [
        ("plain", good(&["198.51.100.1", "2001:db8:1::2"])),
        ("chain8", good(&["198.51.100.8"])),
        ("dangling", good(&["198.51.100.1", "2001:db8:1::2"])),
        ("lost", good(&["198.51.100.1", "2001:db8:1::2"])),
        ("wrongid", good(&["198.51.100.1"])),
        ("formerredns", good(&["198.51.100.1", "2001:db8:1::2"])),
        ("lowercase", good(&["198.51.100.1"])),
        ("nx", Err(Why::NoSuchName)),
        ("nodata", Err(Why::NoAddress)),
        ("refused", Err(Why::Refused(5))),
        ("ptrloop", Err(Why::Malformed)),
        ("silent", Err(Why::Timeout)),
    ] {
        let begun = Instant::now();
        let got = one(&upstream, label);
        assert!(begun.elapsed() < Duration::from_secs(3), "{label}");
        match (&got, &expected) {
            // These answer AAAA questions with the A record, or not at all.
            (Ok(got), Ok(expected)) => {
                assert!(expected.iter().all(|e| got.contains(e)), "{label}: {got:?}");
            }
            _ => assert_eq!(got, expected, "{label}"),
        }
    }
    assert_eq!(one(&upstream, "big").unwrap().len(), 60, "over TCP");
}

#[test]
fn the_next_server_and_the_deadline_are_kept() {
    let upstream = Upstream::start("127.0.0.1");
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let both = servers(&[dead.local_addr().unwrap(), upstream.address]);
    let got = resolve(&[name("a.ok.test")], &both, Duration::from_secs(10));
    assert!(got[0].1.is_ok());
    let silent = servers(&[dead.local_addr().unwrap()]);
    let begun = Instant::now();
    let got = resolve(&[name("a.ok.test")], &silent, Duration::from_millis(200));
    assert_eq!(got[0].1, Err(Why::Timeout));
    assert!(begun.elapsed() < Duration::from_millis(400));
    let closed = dead.local_addr().unwrap();
    drop(dead);
    let got = resolve(
        &[name("a.ok.test")],
        &servers(&[closed]),
        Duration::from_secs(5),
    );
    assert_eq!(got[0].1, Err(Why::Unreachable));
}
