//! The gate in a network namespace with the real rules, between real clients and real and hostile
//! upstreams in another namespace. Needs root, Debian's nft, dnsmasq, dig, python3, musl-gcc.

#[path = "common/netns.rs"]
#[allow(dead_code)] // the differential tests use the rest
mod netns;

mod dns_support;
#[path = "dns_support/world.rs"]
mod world;

use dns_support::{Temp, name};
use netns::{fresh, run};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use terok_shield::contract::set::{LEARNED_V4, LEARNED_V6};
use terok_shield::dns::gate::spawn;
use terok_shield::dns::wire::build::{Ask, query};
use terok_shield::dns::wire::rcode;
use terok_shield::nft::policy::{Learning, Posture};
use world::{Stub, UPSTREAM, World, connect};

fn learned() -> Vec<(String, u64)> {
    world::learned([LEARNED_V4, LEARNED_V6])
}

/// Runs a program as the workload would be: no CAP_NET_ADMIN, no CAP_NET_RAW, resolv.conf pointing
/// at the gate.
fn inside(bundle: &Temp, command: &str) -> Output {
    bundle.write(
        "resolv.conf.test",
        "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n",
    );
    let script = format!(
        "mount --bind {}/resolv.conf.test /etc/resolv.conf && \
         exec setpriv --bounding-set=-net_admin,-net_raw --inh-caps=-all sh -c '{command}'",
        bundle.path().display()
    );
    Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn ten_thousand_rounds_never_meet_a_closed_door() {
    fresh(|| {
        let (_world, _) = World::new("rounds", Learning::Gate, None);
        let stub = Stub::new();
        let begun = Instant::now();
        let mut connections = 0;
        for n in 0..10_000u32 {
            // Fresh addresses each time, TTL 1; chains of 8 across zones; 60 records over TCP; IPv6.
            let (qname, qtype) = match n % 8 {
                0 => (format!("rotchain{}.ok.test", n % 64), 1),
                1 => (format!("rotv6x{}.ok.test", n % 64), 28),
                2 => ("rot.ok.test".into(), 1),
                3 if n % 80 == 3 => ("big.ok.test".into(), 1),
                4 => ("mixed.ok.test".into(), 1),
                _ => (format!("rot{n}.ok.test"), 1),
            };
            let (code, addresses) = stub.ask(&qname, qtype);
            assert_eq!(code, 0, "{qname}");
            for address in &addresses {
                let private = ["10.0.0.5", "169.254.169.254", "127.0.0.1"];
                if private.contains(&address.to_string().as_str()) {
                    continue;
                }
                connect(*address).unwrap_or_else(|e| panic!("round {n}: {qname} {address}: {e}"));
                connections += 1;
            }
        }
        let took = begun.elapsed();
        assert!(connections >= 9_000);
        eprintln!("10,000 rounds, {connections} connections, 0 refused, {took:?}");
        // Not one private address in the kernel, and none of them answers.
        for (address, _) in learned() {
            assert!(
                !address.starts_with("10.") && !address.starts_with("169.254."),
                "{address}"
            );
        }
        for never in ["10.0.0.5", "169.254.169.254"] {
            let error = connect(never.parse().unwrap()).unwrap_err();
            assert!(
                matches!(
                    error.raw_os_error(),
                    Some(libc::EHOSTUNREACH | libc::EACCES)
                ) || error.kind() == std::io::ErrorKind::TimedOut,
                "{error:?}"
            );
        }
    });
}

#[test]
fn a_real_dnsmasq_upstream_with_rotating_records() {
    fresh(|| {
        let mut config = String::from("--port=53 --cache-size=0 --local-ttl=1");
        for n in 1..=30 {
            config.push_str(&format!(
                " --host-record=many.ok.test,198.51.100.{n},2001:db8:1::{n:x},1"
            ));
        }
        config
            .push_str(" --address=/meta.ok.test/169.254.169.254 --address=/priv.ok.test/10.0.0.5");
        config.push_str(" --address=/map.ok.test/::ffff:10.0.0.5");
        for n in 0..8 {
            config.push_str(&format!(" --cname=c{n}.ok.test,c{}.ok.test", n + 1));
        }
        config.push_str(" --host-record=c8.ok.test,203.0.113.8,1");
        let (_world, _server) = World::new("dnsmasq-upstream", Learning::Gate, Some(&config));
        let stub = Stub::new();
        for n in 0..500 {
            let (qname, qtype) =
                [("many.ok.test", 1), ("many.ok.test", 28), ("c0.ok.test", 1)][n % 3];
            let (code, addresses) = stub.ask(qname, qtype);
            assert_eq!((code, addresses.is_empty()), (0, false), "{qname}");
            for address in addresses.iter().take(2) {
                connect(*address).unwrap_or_else(|e| panic!("{qname} {address}: {e}"));
            }
        }
        for (qname, qtype) in [
            ("meta.ok.test", 1),
            ("priv.ok.test", 1),
            ("map.ok.test", 28),
        ] {
            let (_, addresses) = stub.ask(qname, qtype);
            assert_eq!(addresses.len(), 1, "{qname}");
            assert!(connect(addresses[0]).is_err(), "{qname}");
        }
    });
}

#[test]
fn real_clients_resolve_and_connect_through_the_gate() {
    fresh(|| {
        let (world, _) = World::new("clients", Learning::Gate, None);
        let source = world.bundle.path().join("resolve.c");
        let binary = world.bundle.path().join("resolve");
        std::fs::write(&source, MUSL_CLIENT).unwrap();
        run(
            "musl-gcc",
            &[
                "-static",
                "-o",
                binary.to_str().unwrap(),
                source.to_str().unwrap(),
            ],
        );
        for (what, command, expected) in [
            ("dig", "dig +short plain.ok.test".to_string(), "198.51.100.1"),
            ("dig over TCP", "dig +tcp +short big.ok.test | wc -l".into(), "60"),
            ("dig AAAA", "dig +short AAAA v6.ok.test".into(), "2001:db8:1::1"),
            ("dig, blocked", "dig evil.example".into(), "EDE: 15 (Blocked)"),
            (
                "glibc",
                "python3 -c \"import socket; socket.create_connection((\\\"glibc.ok.test\\\", 443), 3); print(\\\"fine\\\")\"".into(),
                "fine",
            ),
            (
                "glibc, 60 records over TCP",
                "python3 -c \"import socket; print(len({a[4][0] for a in socket.getaddrinfo(\\\"big.ok.test\\\", 443, socket.AF_INET)}))\"".into(),
                "60",
            ),
            ("glibc, blocked", "getent ahosts evil.example || echo none".into(), "none"),
            ("musl", format!("{} musl.ok.test", binary.display()), "connected"),
            ("musl, chain", format!("{} chain8.ok.test", binary.display()), "connected"),
            ("musl, blocked", format!("{} evil.example", binary.display()), "no address"),
        ] {
            let said = text(&inside(&world.bundle, &command));
            assert!(said.contains(expected), "{what}: {said}");
        }
        assert!(world.asked("evil.example").is_empty());
    });
}

const MUSL_CLIENT: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
    struct addrinfo *a, hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET};
    if (argc < 2 || getaddrinfo(argv[1], "443", &hints, &a)) return puts("no address");
    int s = socket(a->ai_family, SOCK_STREAM, 0);
    return puts(connect(s, a->ai_addr, a->ai_addrlen) ? "refused" : "connected") < 0;
}
"#;

#[test]
fn no_question_of_the_workload_reaches_upstream_by_another_way() {
    fresh(|| {
        let (world, _) = World::new("leaks", Learning::Gate, None);
        for command in [
            format!("dig +tries=1 +time=1 @{UPSTREAM} secret1.leak.test"),
            format!("dig +tries=1 +time=1 +tcp @{UPSTREAM} secret2.leak.test"),
            "dig +tries=1 +time=1 @198.51.100.1 secret3.leak.test".into(),
            "dig +tries=1 +time=1 @fd77::1 secret4.leak.test".into(),
            "dig +tries=1 +time=1 secret5.leak.test".into(),
            "dig +tries=1 +time=1 +tcp secret6.leak.test".into(),
        ] {
            let said = text(&inside(&world.bundle, &command));
            assert!(!said.contains("NOERROR"), "{command}: {said}");
        }
        let forged = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                      s.setsockopt(socket.SOL_SOCKET, 36, 0x7e0c0053)";
        world.bundle.write("forge.py", forged);
        let said = text(&inside(
            &world.bundle,
            &format!("python3 {}/forge.py", world.bundle.path().display()),
        ));
        assert!(
            said.contains("PermissionError"),
            "the mark cannot be forged: {said}"
        );
        // An allowed address does not open DNS or DNS over TLS to it.
        let stub = Stub::new();
        let (_, addresses) = stub.ask("plain.ok.test", 1);
        assert!(connect(addresses[0]).is_ok());
        let tls = SocketAddr::new(addresses[0], 853);
        assert!(TcpStream::connect_timeout(&tls, Duration::from_millis(1500)).is_err());
        let log = world.log.lock().unwrap();
        assert!(log.iter().all(|a| !a.name.contains("secret")), "{log:?}");
    });
}

#[test]
fn elements_live_as_long_as_their_answers_and_connections_outlive_them() {
    fresh(|| {
        let (world, _) = World::new("lifetimes", Learning::Gate, None);
        let stub = Stub::new();
        let (_, addresses) = stub.ask("ttl5.ok.test", 1);
        assert_eq!(
            learned(),
            [(addresses[0].to_string(), 70)],
            "floor and slack"
        );
        let mut used = connect(addresses[0]).unwrap();
        let element = format!("{{ {} }}", addresses[0]);
        run(
            "nft",
            &[
                "delete",
                "element",
                "inet",
                "terok_shield",
                "learned_v4",
                &element,
            ],
        );
        assert!(connect(addresses[0]).is_err(), "expired");
        used.write_all(b"still").unwrap();
        let mut back = [0; 5];
        used.read_exact(&mut back).unwrap();
        // Cached, and armed again: the gate saw that somebody changed the sets.
        assert_eq!(stub.ask("ttl5.ok.test", 1).1, addresses);
        assert!(connect(addresses[0]).is_ok());
        assert_eq!(world.asked("ttl5.ok.test").len(), 1, "from the cache");
        // A posture change that empties the sets is noticed too.
        world::rules(Posture::Up, Learning::Gate);
        assert!(learned().is_empty());
        assert_eq!(stub.ask("ttl5.ok.test", 1).1, addresses);
        assert!(connect(addresses[0]).is_ok());
    });
}

#[test]
fn allow_and_deny_act_at_once_and_lose_no_query() {
    fresh(|| {
        let (world, _) = World::new("reload-live", Learning::Gate, None);
        let busy = std::thread::spawn(|| {
            let stub = Stub::new();
            let begun = Instant::now();
            let mut answered = 0;
            while begun.elapsed() < Duration::from_secs(2) {
                assert_eq!(stub.ask(&format!("rot{answered}.ok.test"), 1).0, 0);
                answered += 1;
            }
            answered
        });
        let stub = Stub::new();
        for n in 0..20 {
            let domain = format!("live{n}.example");
            assert_eq!(stub.ask(&domain, 1).0, rcode::REFUSED);
            world.bundle.write("live.domains", &format!("{domain}\n"));
            spawn::reload(&world.dir()).unwrap();
            let (code, addresses) = stub.ask(&format!("rot.{domain}"), 1);
            assert_eq!(code, 0);
            let mut used = connect(addresses[0]).unwrap();
            world.bundle.write("denied.domains", &format!("{domain}\n"));
            spawn::reload(&world.dir()).unwrap();
            assert_eq!(stub.ask(&format!("rot.{domain}"), 1).0, rcode::REFUSED);
            assert!(connect(addresses[0]).is_err(), "closed with its name");
            let wait = Some(Duration::from_millis(100));
            used.set_read_timeout(wait).unwrap();
            let _ = used.write_all(b"cut");
            assert!(used.read(&mut [0; 3]).is_err(), "its connections are cut");
        }
        assert!(busy.join().unwrap() > 100);
    });
}

#[test]
fn a_killed_gate_is_back_within_a_second_and_opens_nothing_meanwhile() {
    fresh(|| {
        let (world, _) = World::new("killed", Learning::Gate, None);
        let stub = Stub::new();
        assert_eq!(stub.ask("plain.ok.test", 1).0, 0);
        let before = learned();
        for _ in 0..5 {
            let worker = world.worker();
            // Stopped first, so that what comes meanwhile finds nobody; then gone.
            let pid = nix::unistd::Pid::from_raw(worker);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
            let asked = query(9, name("rot.ok.test").wire(), 1, &Ask::default());
            stub.0.send(&asked).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(learned(), before, "nothing opens");
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            let killed = Instant::now();
            // The query that waited is answered by the next worker: the socket outlived it.
            let mut buffer = [0; 512];
            stub.0.recv(&mut buffer).unwrap();
            assert!(
                killed.elapsed() < Duration::from_secs(1),
                "{:?}",
                killed.elapsed()
            );
            assert_ne!(world.worker(), worker);
            // What the dead one opened is still known, and closed when its name is denied.
            let elements = learned();
            world.bundle.write("denied.domains", "rot.ok.test\n");
            spawn::reload(&world.dir()).unwrap();
            assert_eq!(learned().len(), elements.len() - 1);
            world.bundle.write("denied.domains", "");
            spawn::reload(&world.dir()).unwrap();
        }
        drop(world.server);
    });
}

#[test]
fn the_worker_holds_one_capability_and_little_memory() {
    fresh(|| {
        let (world, _) = World::new("confined", Learning::Gate, None);
        let stub = Stub::new();
        for n in 0..2000 {
            assert_eq!(stub.ask(&format!("many{n}.ok.test"), 1).0, 0);
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.worker())).unwrap();
        let field = |key: &str| {
            let line = status.lines().find(|l| l.starts_with(key)).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().to_string()
        };
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            assert_eq!(
                u64::from_str_radix(&field(set), 16).unwrap(),
                1 << 12,
                "{set}"
            );
        }
        assert_eq!(field("CapInh:"), "0000000000000000");
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2", "filtering");
        let anonymous: u64 = field("RssAnon:").parse().unwrap();
        assert!(anonymous < 4096, "{anonymous} KiB with 2,000 names cached");
        eprintln!("worker: {anonymous} KiB of its own with 2,000 names");
    });
}
