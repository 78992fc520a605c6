//! The probe against real rejects, drops, answers and silence, in both families.

#[path = "common/netns.rs"]
#[allow(dead_code)] // each test uses a part
mod netns;

use std::net::{Ipv6Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// Two ends of a cable in one namespace: what is sent to 198.51.100.0/24 and 2001:db8:1::/64
/// leaves, and nobody is there to answer.
fn with_a_way_out(rules: &str) {
    netns::run(
        "ip",
        &[
            "link", "add", "out0", "type", "veth", "peer", "name", "out1",
        ],
    );
    for link in ["out0", "out1"] {
        netns::run("ip", &["link", "set", link, "up"]);
    }
    for (address, gateway) in [
        ("203.0.113.1/24", "203.0.113.254"),
        ("2001:db8::1/64", "2001:db8::fe"),
    ] {
        netns::run("ip", &["address", "add", address, "dev", "out0"]);
        netns::run(
            "ip",
            &[
                "neigh",
                "add",
                gateway,
                "lladdr",
                "02:00:00:00:00:01",
                "dev",
                "out0",
            ],
        );
        let family = if gateway.contains(':') { "-6" } else { "-4" };
        netns::run("ip", &[family, "route", "add", "default", "via", gateway]);
    }
    netns::nft_load(&format!(
        "table inet t {{\n chain o {{\n type filter hook output priority filter; policy accept;\n{rules}\n }}\n}}\n"
    ));
}

fn probe(args: &[&str]) -> (Option<i32>, String, Duration) {
    let begin = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_terok-shield"))
        .arg("probe")
        .args(args)
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text, begin.elapsed())
}

#[test]
fn a_local_reject_shows_as_the_icmp_error_it_made_and_at_once() {
    netns::fresh(|| {
        with_a_way_out(
            "ip daddr 198.51.100.1 reject with icmpx admin-prohibited
             ip daddr 198.51.100.2 reject with icmp host-prohibited
             ip daddr 198.51.100.3 reject with icmp net-prohibited
             ip daddr 198.51.100.4 reject with icmp net-unreachable
             ip daddr 198.51.100.5 reject with icmp prot-unreachable
             ip6 daddr 2001:db8:1::1 reject with icmpx admin-prohibited
             ip6 daddr 2001:db8:1::2 reject with icmpx no-route
             ip6 daddr 2001:db8:1::3 reject with icmpv6 addr-unreachable
             ip6 daddr 2001:db8:1::4 reject with icmpv6 port-unreachable
             ip6 daddr 2001:db8:1::5 reject with icmpv6 policy-fail
             ip6 daddr 2001:db8:1::6 reject with icmpv6 reject-route",
        );
        // Host, type, code, name, errno (EHOSTUNREACH 113, ENETUNREACH 101, ENOPROTOOPT 92,
        // EACCES 13, ECONNREFUSED 111).
        for (host, kind, code, name, errno) in [
            ("198.51.100.1", 3, 13, "admin-prohibited", 113),
            ("198.51.100.2", 3, 10, "host-admin-prohibited", 113),
            ("198.51.100.3", 3, 9, "net-admin-prohibited", 101),
            ("198.51.100.4", 3, 0, "net-unreachable", 101),
            ("198.51.100.5", 3, 2, "protocol-unreachable", 92),
            ("2001:db8:1::1", 1, 1, "admin-prohibited", 13),
            ("2001:db8:1::2", 1, 0, "no-route", 101),
            ("2001:db8:1::3", 1, 3, "address-unreachable", 113),
            ("2001:db8:1::4", 1, 4, "port-unreachable", 111),
            ("2001:db8:1::5", 1, 5, "source-policy-failed", 13),
            ("2001:db8:1::6", 1, 6, "reject-route", 13),
        ] {
            let (exit, text, took) = probe(&[host]);
            assert_eq!(
                text,
                format!(
                    "{{\"host\":\"{host}\",\"port\":443,\"result\":\"icmp-error\",\
                     \"icmp_type\":{kind},\"icmp_code\":{code},\
                     \"icmp_code_name\":\"{name}\",\"errno\":{errno}}}\n"
                )
            );
            assert_eq!(exit, Some(0));
            assert!(took < Duration::from_secs(1), "{host} took {took:?}");
        }
    });
}

#[test]
fn a_drop_and_silence_are_a_timeout_of_three_seconds() {
    netns::fresh(|| {
        with_a_way_out("ip6 daddr 2001:db8:1::1 drop");
        for host in ["2001:db8:1::1", "198.51.100.9"] {
            let (exit, text, took) = probe(&[host, "53"]);
            assert_eq!(
                text,
                format!("{{\"host\":\"{host}\",\"port\":53,\"result\":\"timeout\"}}\n")
            );
            assert_eq!(exit, Some(0));
            assert!((3.0..4.0).contains(&took.as_secs_f64()), "{took:?}");
        }
    });
}

#[test]
fn an_answer_is_open_and_a_closed_port_is_port_unreachable() {
    netns::fresh(|| {
        let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 4711)).unwrap();
        let answer = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            for _ in 0..3 {
                let (len, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..len], from).unwrap();
            }
        });
        for host in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let (exit, text, _) = probe(&[host, "4711"]);
            assert_eq!(
                text,
                format!("{{\"host\":\"{host}\",\"port\":4711,\"result\":\"open\"}}\n")
            );
            assert_eq!(exit, Some(0));
        }
        answer.join().unwrap();
        for (host, kind, code) in [
            ("127.0.0.1", 3, 3),
            ("::1", 1, 4),
            ("::ffff:127.0.0.1", 3, 3),
        ] {
            let (_, text, _) = probe(&[host, "9"]);
            assert!(
                text.contains(&format!(
                    "\"icmp_type\":{kind},\"icmp_code\":{code},\"icmp_code_name\":\"port-unreachable\",\"errno\":111}}"
                )),
                "{text}"
            );
        }
    });
}

#[test]
fn what_cannot_be_sent_at_all_is_an_error_and_exit_1() {
    netns::fresh(|| {
        for (host, why) in [
            (
                "198.51.100.1",
                "cannot reach 198.51.100.1: Network is unreachable",
            ),
            (
                "2001:db8:1::1",
                "cannot reach 2001:db8:1::1: Network is unreachable",
            ),
            ("not a name", "cannot resolve not a name"),
        ] {
            let (exit, text, _) = probe(&[host]);
            assert_eq!(text, format!("{{\"error\":\"{why}\"}}\n"));
            assert_eq!(exit, Some(1));
        }
    });
}
