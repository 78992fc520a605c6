//! The dnsmasq tier in a network namespace with the real rules. Needs root and Debian's dnsmasq.

#[path = "common/netns.rs"]
#[allow(dead_code)] // the differential tests use the rest
mod netns;

mod dns_support;
#[path = "dns_support/world.rs"]
mod world;

use netns::{fresh, run};
use std::time::{Duration, Instant};
use terok_shield::contract::set::{ALLOW_V4, ALLOW_V6};
use terok_shield::dns::gate::spawn;
use terok_shield::nft::policy::Learning;
use world::{Stub, World, connect};

fn pid(world: &World) -> i32 {
    let text = std::fs::read_to_string(world.bundle.path().join("dnsmasq.pid")).unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn names_resolve_and_their_addresses_are_in_the_allow_sets() {
    fresh(|| {
        let (world, _) = World::new("dm-sets", Learning::Dnsmasq, None);
        let stub = Stub::new();
        let (_, v4) = stub.ask("plain.ok.test", 1);
        let (_, v6) = stub.ask("v6.ok.test", 28);
        assert!(connect(v4[0]).is_ok() && connect(v6[0]).is_ok());
        let sets = run("nft", &["list", "table", "inet", "terok_shield"]);
        assert!(sets.contains(&v4[0].to_string()) && sets.contains(&v6[0].to_string()));
        // An unlisted name resolves, and opens nothing.
        let (_, other) = stub.ask("ttl5.example", 1);
        assert!(connect(other[0]).is_err());
        let log = std::fs::read_to_string(world.bundle.path().join("dnsmasq.log")).unwrap();
        assert!(
            log.contains("]: query[A] plain.ok.test from 127.0.0.1"),
            "{log}"
        );
        assert_eq!(world::learned([ALLOW_V4, ALLOW_V6]).len(), 2);
    });
}

#[test]
fn a_thousand_rounds_for_comparison_with_the_gate() {
    fresh(|| {
        let (_world, _) = World::new("dm-rounds", Learning::Dnsmasq, None);
        let stub = Stub::new();
        let begun = Instant::now();
        let mut refused = 0;
        for n in 0..1000 {
            let (code, addresses) = stub.ask(&format!("rot{n}.ok.test"), 1);
            assert_eq!(code, 0);
            refused += u32::from(connect(addresses[0]).is_err());
        }
        eprintln!(
            "dnsmasq: 1,000 rounds, {refused} refused, {:?}",
            begun.elapsed()
        );
        assert_eq!(refused, 0);
        // It puts private addresses into the set; the rules before it refuse them all the same.
        for address in stub.ask("mixed.ok.test", 1).1 {
            let public = address.to_string() == "198.51.100.77";
            let local = address.is_loopback();
            assert!(local || connect(address).is_ok() == public, "{address}");
        }
    });
}

#[test]
fn a_changed_list_takes_effect_and_no_query_is_lost() {
    fresh(|| {
        let (world, _) = World::new("dm-reload", Learning::Dnsmasq, None);
        let busy = std::thread::spawn(|| {
            let stub = Stub::new();
            let begun = Instant::now();
            let mut answered = 0;
            while begun.elapsed() < Duration::from_secs(4) {
                assert_eq!(stub.ask(&format!("n{answered}.ok.test"), 1).0, 0);
                answered += 1;
            }
            answered
        });
        let stub = Stub::new();
        for n in 0..3 {
            let domain = format!("rot{n}.example");
            let (_, before) = stub.ask(&domain, 1);
            assert!(connect(before[0]).is_err());
            let old = pid(&world);
            world.bundle.write("live.domains", &format!("{domain}\n"));
            spawn::reload(&world.dir()).unwrap();
            assert_ne!(pid(&world), old);
            let (_, after) = stub.ask(&domain, 1);
            assert!(connect(after[0]).is_ok());
            world.bundle.write("denied.domains", &format!("{domain}\n"));
            spawn::reload(&world.dir()).unwrap();
            assert!(stub.ask(&domain, 1).1.is_empty(), "denied");
        }
        assert!(busy.join().unwrap() > 100);
        world.bundle.write("live.domains", "not a domain\n");
        let error = spawn::reload(&world.dir()).unwrap_err().to_string();
        assert!(error.contains("live.domains line 1"), "{error}");
        assert_eq!(stub.ask("plain.ok.test", 1).0, 0, "goes on as before");
    });
}

#[test]
fn a_killed_dnsmasq_is_replaced_and_ends_with_its_keeper() {
    fresh(|| {
        let (world, _) = World::new("dm-killed", Learning::Dnsmasq, None);
        let kill = |pid: i32, signal| {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        };
        let old = pid(&world);
        kill(old, nix::sys::signal::Signal::SIGKILL);
        let killed = Instant::now();
        world::wait_until("another dnsmasq", || pid(&world) != old);
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{:?}",
            killed.elapsed()
        );
        assert_eq!(Stub::new().ask("plain.ok.test", 1).0, 0);
        let now = pid(&world);
        kill(
            world.server.0.id() as i32,
            nix::sys::signal::Signal::SIGTERM,
        );
        world::wait_until("its end", || {
            !std::path::Path::new(&format!("/proc/{now}")).exists()
        });
    });
}
