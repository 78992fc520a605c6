//! Rulesets to and from the real kernel, side by side with Debian's nft. Needs root.

#[path = "common/listing.rs"]
mod listing;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/rulesets.rs"]
mod rulesets;

use listing::{assert_same_listing, nft_json};
use netns::{fresh, nft_load};
use nix::errno::Errno;
use rulesets::{grants, inputs};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};
use terok_shield::contract::TABLE;
use terok_shield::nft::kernel::{Detail, NetlinkError, Nft};
use terok_shield::nft::model::{Element, Expr, Family, Policy, Rule, Ruleset, Set, Transport};
use terok_shield::nft::policy::{Inputs, Learning, Posture, compile};
use terok_shield::nft::verify::{State, classify, equal};

/// Every kind of set, element and expression of the model, as nft writes it.
const EVERYTHING: &str = include_str!("data/everything.nft");

fn dump(nft: &mut Nft) -> Ruleset {
    let held = nft.dump(Family::Inet, TABLE, Detail::Full).unwrap();
    held.expect("the table is there")
}

/// A set of a ruleset, to change it.
fn set_mut<'a>(ruleset: &'a mut Ruleset, name: &str) -> &'a mut Set {
    let found = ruleset.sets.iter_mut().find(|s| s.name == name);
    found.unwrap_or_else(|| panic!("no set {name}"))
}

fn nothing(_: &str) -> bool {
    false
}

fn address(text: &str) -> Element {
    let addr = text.parse().unwrap();
    Element::range(addr, addr)
}

#[test]
fn what_nft_loaded_we_read_and_load_so_that_nft_lists_the_same() {
    for (family, word) in [
        (Family::Inet, "inet"),
        (Family::Ip, "ip"),
        (Family::Ip6, "ip6"),
    ] {
        let (theirs, ruleset) = fresh(move || {
            nft_load(EVERYTHING);
            let ruleset = Nft::open().unwrap().dump(family, "t", Detail::Full);
            (nft_json(word, "t"), ruleset.unwrap().unwrap())
        });
        let (ours, ruleset, again) = fresh(move || {
            let mut nft = Nft::open().unwrap();
            nft.replace(&ruleset).unwrap();
            let again = nft.dump(family, "t", Detail::Full).unwrap().unwrap();
            (nft_json(word, "t"), ruleset, again)
        });
        assert_same_listing(&theirs, &ours);
        assert_eq!(equal(&ruleset, &again, &nothing), Ok(()));
    }
}

#[test]
fn what_we_load_we_read_back_equal_in_every_posture() {
    for (name, ruleset) in rulesets::all() {
        fresh(move || {
            let mut nft = Nft::open().unwrap();
            nft.replace(&ruleset).unwrap();
            let held = dump(&mut nft);
            assert_eq!(equal(&ruleset, &held, &nothing), Ok(()), "{name}");
            assert_ne!(classify(&held), State::Error, "{name}");
            let brief = nft.dump(Family::Inet, TABLE, Detail::NoElements).unwrap();
            assert_eq!(classify(&brief.unwrap()), classify(&held), "{name}");
        });
    }
}

#[test]
fn every_posture_becomes_every_other_in_one_step() {
    let all: Vec<_> = rulesets::all().into_iter().step_by(2).collect();
    fresh(move || {
        let mut nft = Nft::open().unwrap();
        for (from_name, from) in &all {
            for (to_name, to) in &all {
                nft.replace(from).unwrap();
                let held = dump(&mut nft);
                nft.transition(&held, to, &nothing)
                    .unwrap_or_else(|e| panic!("{from_name} to {to_name}: {e}"));
                let held = dump(&mut nft);
                assert_eq!(
                    equal(to, &held, &nothing),
                    Ok(()),
                    "{from_name} to {to_name}"
                );
            }
        }
    });
}

#[test]
fn what_nft_loaded_becomes_what_is_meant() {
    fresh(|| {
        // nft leaves out the end of 192.0.2.0/25, because the next element begins there.
        nft_load(&format!(
            "table inet {TABLE} {{
               set allow_v4 {{ type ipv4_addr; flags interval,timeout
                 elements = {{ 192.0.2.0/25, 192.0.2.128/25, 198.51.100.1 timeout 1h }}; }};
               chain output {{ type filter hook output priority 0; policy drop
                 ip daddr @allow_v4 accept; }}; }}"
        ));
        let mut nft = Nft::open().unwrap();
        let held = dump(&mut nft);
        let mut meant = held.clone();
        let set = set_mut(&mut meant, "allow_v4");
        set.elements = vec![Element::from(
            "192.0.2.128/25"
                .parse::<terok_shield::ipnet::IpNet>()
                .unwrap(),
        )];
        nft.transition(&held, &meant, &nothing).unwrap();
        assert_eq!(equal(&meant, &dump(&mut nft), &nothing), Ok(()));
        // The first range is really gone, not merely unlisted.
        assert!(!netns::run("nft", &["list", "ruleset"]).contains("192.0.2.0/25"));
    });
}

#[test]
fn a_transition_leaves_what_is_kept_and_rearms_what_changed() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let up = compile(Posture::Up, &inputs(Learning::Gate, 3));
        nft.replace(&up).unwrap();
        let learned = Element {
            timeout: Some(600_000),
            ..address("192.0.2.77")
        };
        let set = up.set("learned_v4").unwrap();
        nft.learn(Family::Inet, TABLE, set, &[learned]).unwrap();
        let keep = |name: &str| name.starts_with("learned");
        let held = dump(&mut nft);
        let down = compile(Posture::Down, &inputs(Learning::Gate, 5));
        nft.transition(&held, &down, &keep).unwrap();
        let held = dump(&mut nft);
        assert_eq!(equal(&down, &held, &keep), Ok(()));
        assert_eq!(held.set("learned_v4").unwrap().elements.len(), 1);
        // Without keeping, what nobody meant goes.
        nft.transition(&held, &down, &nothing).unwrap();
        assert_eq!(equal(&down, &dump(&mut nft), &nothing), Ok(()));
        // A changed timeout is set anew; an equal one is not touched.
        let mut meant = down.clone();
        let allow = set_mut(&mut meant, "allow_v4");
        for element in &mut allow.elements {
            element.timeout = element.timeout.map(|_| 1_000_000);
        }
        let held = dump(&mut nft);
        nft.transition(&held, &meant, &nothing).unwrap();
        assert_eq!(equal(&meant, &dump(&mut nft), &nothing), Ok(()));
        let before = netns::run("nft", &["-a", "list", "chain", "inet", TABLE, "output"]);
        let held = dump(&mut nft);
        nft.transition(&held, &meant, &nothing).unwrap();
        let after = netns::run("nft", &["-a", "list", "chain", "inet", TABLE, "output"]);
        assert_eq!(before, after, "rules that stay keep their handles");
    });
}

#[test]
fn a_refused_transaction_changes_nothing_and_names_the_culprit() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let good = compile(Posture::Up, &inputs(Learning::Nobody, 10));
        nft.replace(&good).unwrap();
        let mut overlapping = good.clone();
        let set = set_mut(&mut overlapping, "deny_v4");
        set.elements.push(address("198.51.100.129"));
        let error = nft.replace(&overlapping).unwrap_err();
        assert_eq!(
            error,
            NetlinkError::Rejected {
                what: "elements of set deny_v4".into(),
                errno: Errno::EEXIST
            }
        );
        let mut too_small = good.clone();
        set_mut(&mut too_small, "allow_v6").size = Some(1);
        assert!(matches!(
            nft.replace(&too_small),
            Err(NetlinkError::Rejected { what, errno: Errno::ENFILE }) if what.ends_with("allow_v6")
        ));
        let mut undeclared = good.clone();
        undeclared.sets.retain(|s| s.name != "deny_v6");
        let error = nft.replace(&undeclared).unwrap_err().to_string();
        assert!(
            error.contains("of chain output: set \"deny_v6\" is not declared"),
            "{error}"
        );
        let held = dump(&mut nft);
        assert_eq!(equal(&good, &held, &nothing), Ok(()));
        let mut stale = held.clone();
        stale.sets.push(Set {
            name: "ghost".into(),
            ..stale.sets[0].clone()
        });
        assert_eq!(
            nft.transition(&stale, &good, &nothing),
            Err(NetlinkError::Rejected {
                what: "set ghost".into(),
                errno: Errno::ENOENT
            })
        );
        assert_eq!(equal(&good, &dump(&mut nft), &nothing), Ok(()));
    });
}

#[test]
fn what_is_no_element_of_its_set_is_never_sent() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let good = compile(Posture::Up, &inputs(Learning::Gate, 0));
        let backwards = Element::range("1.1.1.2".parse().unwrap(), "1.1.1.1".parse().unwrap());
        let range = Element::range("1.1.1.1".parse().unwrap(), "1.1.1.2".parse().unwrap());
        let timed = |ms| Element {
            timeout: Some(ms),
            ..address("1.1.1.1")
        };
        for (set, element) in [
            ("allow_v4", address("::1")),
            ("allow_v4", backwards),
            ("learned_v4", range),
            ("deny_v4", timed(1000)),
            ("allow_v4", timed(0)),
            ("service_v4", address("1.1.1.1")),
            (
                "allow_v4",
                Element {
                    service: Some((6, 1)),
                    ..address("1.1.1.1")
                },
            ),
        ] {
            let mut bad = good.clone();
            set_mut(&mut bad, set).elements = vec![element];
            let error = nft.replace(&bad).unwrap_err();
            assert!(
                matches!(&error, NetlinkError::Unsupported { what } if what.contains(set)),
                "{error}"
            );
        }
        assert_eq!(nft.dump(Family::Inet, TABLE, Detail::Full), Ok(None));
    });
}

#[test]
fn learned_elements_live_anew_and_expire() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let up = compile(Posture::Up, &inputs(Learning::Gate, 0));
        nft.replace(&up).unwrap();
        for set in ["learned_v4", "allow_v4"] {
            let set = up.set(set).unwrap();
            let mut element = Element {
                timeout: Some(10_000),
                ..address("192.0.2.1")
            };
            nft.learn(Family::Inet, TABLE, set, &[element]).unwrap();
            element.timeout = Some(60_000);
            nft.learn(Family::Inet, TABLE, set, &[element]).unwrap();
            let find = |nft: &mut Nft| {
                let held = dump(nft);
                let elements = &held.set(&set.name).unwrap().elements;
                elements.iter().find(|e| e.first == element.first).copied()
            };
            let held = find(&mut nft).unwrap();
            assert_eq!(held.timeout, Some(60_000));
            assert!(held.expires.unwrap() > 59_000);
            element.timeout = Some(100);
            nft.learn(Family::Inet, TABLE, set, &[element]).unwrap();
            assert!(find(&mut nft).is_some());
            std::thread::sleep(Duration::from_millis(150));
            assert_eq!(find(&mut nft), None);
            // Absent ones are no error to forget, and do not keep others.
            nft.learn(
                Family::Inet,
                TABLE,
                set,
                &[Element {
                    timeout: Some(60_000),
                    ..element
                }],
            )
            .unwrap();
            nft.forget(Family::Inet, TABLE, set, &[address("192.0.2.9"), element])
                .unwrap();
            assert_eq!(find(&mut nft), None);
        }
        let gone = Set {
            name: "gone".into(),
            ..up.set("learned_v4").unwrap().clone()
        };
        assert_eq!(
            nft.learn(Family::Inet, TABLE, &gone, &[address("192.0.2.1")]),
            Err(NetlinkError::Rejected {
                what: "elements of set gone".into(),
                errno: Errno::ENOENT
            })
        );
    });
}

#[test]
fn forgetting_a_range_that_nft_loaded_next_to_another_really_removes_it() {
    fresh(|| {
        nft_load(&format!(
            "table inet {TABLE} {{ set s {{ type ipv4_addr; flags interval
               elements = {{ 192.0.2.0/25, 192.0.2.128/25 }}; }}; }}"
        ));
        let mut nft = Nft::open().unwrap();
        let held = dump(&mut nft);
        let set = held.set("s").unwrap();
        nft.forget(Family::Inet, TABLE, set, &set.elements[..1])
            .unwrap();
        let left = netns::run("nft", &["list", "ruleset"]);
        assert!(
            left.contains("192.0.2.128/25") && !left.contains("192.0.2.0/25"),
            "{left}"
        );
    });
}

#[test]
fn what_others_put_there_is_never_overlooked() {
    let foreign = [
        ("add rule inet T output counter jump side", "jump"),
        (
            "add rule inet T output limit rate 1/second accept",
            "\"limit\"",
        ),
        (
            "add rule inet T output ip saddr 1.2.3.4 accept",
            "combination",
        ),
        (
            "add rule inet T output ip daddr != 1.2.3.4 accept",
            "combination",
        ),
        (
            "add rule inet T output ip daddr != @deny_v4 accept",
            "inverted lookup",
        ),
        (
            "add rule inet T output meta nfproto ipv4 accept",
            "combination",
        ),
        ("add rule inet T output log level debug", "log statement"),
        (
            "add rule inet T output log group 1 snaplen 10",
            "log statement",
        ),
        (
            "add rule inet T output meta mark set 1 accept",
            "expression \"immediate\"",
        ),
        ("add set inet T other { type inet_service; }", "key"),
        (
            "add set inet T dyn { type ipv4_addr; flags dynamic; }",
            "another kind",
        ),
        (
            "add map inet T m { type ipv4_addr : verdict; }",
            "another kind",
        ),
        ("add counter inet T c", "stateful objects"),
        (
            "add chain inet T nat { type nat hook output priority 0; }",
            "another type",
        ),
        (
            "add chain inet T pre { type filter hook prerouting priority 0; }",
            "another type",
        ),
        ("add table inet T { flags dormant; }", "flags"),
    ];
    for (command, word) in foreign {
        fresh(move || {
            let mut nft = Nft::open().unwrap();
            let up = compile(Posture::Up, &inputs(Learning::Nobody, 0));
            nft.replace(&up).unwrap();
            let side = format!("add chain inet {TABLE} side");
            netns::run("nft", &[&side]);
            netns::run("nft", &[&command.replace(" T ", &format!(" {TABLE} "))]);
            let error = nft.dump(Family::Inet, TABLE, Detail::NoElements);
            match error {
                Err(NetlinkError::Foreign { what }) => {
                    assert!(
                        what.contains(word) || word.contains("immediate"),
                        "{command}: {what}"
                    );
                }
                other => panic!("{command}: {other:?}"),
            }
        });
    }
}

#[test]
fn a_dormant_table_is_no_protection_and_is_replaced() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let up = compile(Posture::Up, &Inputs::default());
        nft.replace(&up).unwrap();
        netns::run(
            "nft",
            &[&format!("add table inet {TABLE} {{ flags dormant; }}")],
        );
        let held = nft.dump(Family::Inet, TABLE, Detail::Full);
        assert!(
            matches!(held, Err(NetlinkError::Foreign { .. })),
            "{held:?}"
        );
        nft.replace(&up).unwrap();
        assert_eq!(equal(&up, &dump(&mut nft), &nothing), Ok(()));
    });
}

#[test]
fn other_tables_are_neither_read_nor_touched() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        assert_eq!(nft.dump(Family::Inet, TABLE, Detail::Full), Ok(None));
        nft_load(EVERYTHING);
        nft_load(&format!(
            "table ip {TABLE} {{ chain c {{ limit rate 1/second accept; }}; }}"
        ));
        assert_eq!(nft.dump(Family::Inet, TABLE, Detail::Full), Ok(None));
        let before = nft_json("inet", "t");
        let up = compile(Posture::Up, &Inputs::default());
        nft.replace(&up).unwrap();
        assert_eq!(equal(&up, &dump(&mut nft), &nothing), Ok(()));
        assert_same_listing(&before, &nft_json("inet", "t"));
    });
}

/// What the kernel says to one UDP packet.
fn send(to: &str) -> Result<(), Errno> {
    let to: std::net::SocketAddr = to.parse().unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    match socket.send_to(b"x", to) {
        Ok(_) => Ok(()),
        Err(e) => Err(Errno::from_raw(e.raw_os_error().unwrap())),
    }
}

/// A way out: an interface as default route of both families.
fn way_out() {
    for line in [
        "link add out type veth peer name far",
        "link set out arp off",
        "link set far up",
        "addr add 192.0.2.254/32 dev out",
        "addr add 2001:db8:ffff::1/128 dev out nodad",
        "link set out up",
        "route add default dev out",
        "-6 route add default dev out",
    ] {
        netns::run("ip", &line.split(' ').collect::<Vec<_>>());
    }
}

#[test]
fn packets_meet_what_was_meant() {
    fresh(|| {
        way_out();
        let mut nft = Nft::open().unwrap();
        let refused = Err(Errno::EPERM);
        let load = |nft: &mut Nft, posture| {
            let ruleset = compile(posture, &inputs(Learning::Gate, 2));
            match nft.dump(Family::Inet, TABLE, Detail::Full).unwrap() {
                None => nft.replace(&ruleset).unwrap(),
                Some(held) => nft.transition(&held, &ruleset, &nothing).unwrap(),
            }
        };
        load(&mut nft, Posture::Up);
        assert_eq!(send("2.0.0.0:1234"), Ok(()));
        assert_eq!(send("2.0.0.1:1234"), refused);
        assert_eq!(send("[2001:db8::2]:1"), Ok(()));
        assert_eq!(send("[2001:db8::3]:1"), refused);
        assert_eq!(send("198.51.100.1:5"), Ok(()));
        assert_eq!(
            send("198.51.100.128:5"),
            refused,
            "denied inside what is allowed"
        );
        assert_eq!(send("10.1.2.3:5"), Ok(()), "the operator wrote it");
        assert_eq!(send("10.1.3.3:5"), refused);
        assert_eq!(send("[2001:db8::9]:123"), Ok(()), "a single service");
        assert_eq!(send("[2001:db8::9]:124"), refused);
        assert_eq!(send("169.254.169.254:80"), refused);
        assert_eq!(send("127.0.0.1:9"), Ok(()));
        load(&mut nft, Posture::Down);
        assert_eq!(send("2.0.0.1:1234"), Ok(()));
        assert_eq!(send("10.1.3.3:5"), refused);
        load(&mut nft, Posture::Disengaged);
        assert_eq!(send("10.1.3.3:5"), Ok(()));
        load(&mut nft, Posture::Quarantine);
        assert_eq!(send("2.0.0.0:1234"), refused);
        assert_eq!(send("127.0.0.1:9"), Ok(()));
        load(&mut nft, Posture::Up);
        assert_eq!(send("203.0.113.7:9"), Ok(()), "until its time is up");
        let allow = compile(Posture::Up, &Inputs::default());
        let brief = Element {
            timeout: Some(50),
            ..address("203.0.113.7")
        };
        let set = allow.set("allow_v4").unwrap();
        nft.learn(Family::Inet, TABLE, set, &[brief]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(send("203.0.113.7:9"), refused);
    });
}

/// What became of a flood of packets that all of some rulesets allow, or all refuse.
struct Flood {
    sent: u64,
    leaked: u64,
    dropped: u64,
}

/// Three rulesets that agree on some packets.
fn postures() -> [Ruleset; 3] {
    [
        compile(Posture::Up, &inputs(Learning::Nobody, 2)),
        compile(Posture::Up, &inputs(Learning::Nobody, 2000)),
        compile(Posture::Down, &inputs(Learning::Nobody, 2)),
    ]
}

/// Floods while `step` goes from ruleset to ruleset.
fn flood(rulesets: [Ruleset; 3], step: fn(&mut Nft, &Ruleset)) -> Flood {
    fresh(move || {
        way_out();
        let mut nft = Nft::open().unwrap();
        nft.replace(&rulesets[0]).unwrap();
        // Allowed in all three, refused in all three.
        let allowed = "198.51.100.1:9";
        let refused = ["10.1.3.3:9", "169.254.169.254:9", "198.51.100.129:9"];
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            let flood = s.spawn(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let (mut sent, mut leaked, mut dropped) = (0, 0, 0);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    dropped += u64::from(socket.send_to(b"x", allowed).is_err());
                    for to in refused {
                        leaked += u64::from(socket.send_to(b"x", to).is_ok());
                    }
                    sent += 4;
                }
                Flood {
                    sent,
                    leaked,
                    dropped,
                }
            });
            let end = Instant::now() + Duration::from_secs(3);
            // A panic here must not leave the flood running.
            let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                while Instant::now() < end {
                    for next in rulesets.iter().cycle().skip(1).take(3) {
                        step(&mut nft, next);
                    }
                }
            }));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let result = flood.join().unwrap();
            stepped.unwrap();
            result
        })
    })
}

#[test]
fn a_flood_never_meets_anything_between_two_postures() {
    let flood = flood(postures(), |nft, next| {
        let held = dump(nft);
        nft.transition(&held, next, &nothing).unwrap();
    });
    assert!(flood.sent > 10_000, "only {} packets", flood.sent);
    assert_eq!((flood.leaked, flood.dropped), (0, 0), "of {}", flood.sent);
}

#[test]
fn a_flood_never_leaks_through_a_staged_transition() {
    let flood = flood(postures(), |nft, next| {
        nft.limit_message(24 * 1024);
        let held = dump(nft);
        nft.transition(&held, next, &nothing).unwrap();
    });
    assert!(flood.sent > 10_000, "only {} packets", flood.sent);
    assert_eq!(flood.leaked, 0, "of {}", flood.sent);
    assert!(flood.dropped > 0, "it was never staged");
}

#[test]
fn a_flood_never_leaks_where_rules_and_denies_change_at_once() {
    // The refused address is refused for not being allowed first, then for being denied.
    let with = |posture, allow: &str, deny: &[&str]| {
        let grant = terok_shield::nft::intervals::Grant {
            net: allow.parse().unwrap(),
            remaining: None,
        };
        let inputs = Inputs {
            allow: vec![grant],
            deny: deny.iter().map(|d| d.parse().unwrap()).collect(),
            ..Inputs::default()
        };
        compile(posture, &inputs)
    };
    let rulesets = [
        with(Posture::Up, "198.51.100.0/25", &[]),
        with(Posture::Down, "198.51.100.0/25", &["198.51.100.128/25"]),
        with(Posture::Up, "198.51.100.0/24", &["198.51.100.129"]),
    ];
    let flood = flood(rulesets, |nft, next| {
        let held = dump(nft);
        nft.transition(&held, next, &nothing).unwrap();
    });
    assert!(flood.sent > 10_000, "only {} packets", flood.sent);
    assert_eq!(flood.leaked, 0, "of {}", flood.sent);
}

#[test]
fn a_flood_never_leaks_between_chains_that_rely_on_their_policy() {
    let mut rulesets = postures();
    for ruleset in &mut rulesets {
        let output = &mut ruleset.chains[0];
        if output.base.unwrap().policy == Policy::Drop {
            output.rules.pop();
            output
                .rules
                .retain(|r| !matches!(r.0.last(), Some(Expr::Reject(_))));
            let denied = Expr::DaddrSet {
                v6: false,
                set: "deny_v4".into(),
            };
            let deny = Rule(vec![denied, Expr::Drop]);
            output.rules.insert(1, deny);
        }
    }
    let flood = flood(rulesets, |nft, next| {
        let held = dump(nft);
        nft.transition(&held, next, &nothing).unwrap();
    });
    assert!(flood.sent > 10_000, "only {} packets", flood.sent);
    assert_eq!(flood.leaked, 0, "of {}", flood.sent);
}

#[test]
fn a_hundred_thousand_elements_load_and_are_read_back() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let inputs = Inputs {
            allow: grants(100_000),
            ..Inputs::default()
        };
        let meant = compile(Posture::Up, &inputs);
        nft.replace(&meant).unwrap();
        let held = dump(&mut nft);
        assert_eq!(equal(&meant, &held, &nothing), Ok(()));
        assert_eq!(held.set("allow_v4").unwrap().elements.len(), 50_000);
    });
}

#[test]
fn what_exceeds_a_message_is_staged_and_closed_at_every_step() {
    fresh(|| {
        way_out();
        let mut nft = Nft::open().unwrap();
        nft.limit_message(32 * 1024);
        let meant = compile(Posture::Up, &inputs(Learning::Gate, 5000));
        nft.replace(&meant).unwrap();
        let keep = |name: &str| name.starts_with("learned");
        assert_eq!(equal(&meant, &dump(&mut nft), &nothing), Ok(()));
        let learned = Element {
            timeout: Some(600_000),
            ..address("192.0.2.77")
        };
        let set = meant.set("learned_v4").unwrap();
        nft.learn(Family::Inet, TABLE, set, &[learned]).unwrap();
        // As large a change: it is staged too, and keeps what was learned.
        let more = compile(Posture::Down, &inputs(Learning::Gate, 9000));
        let held = dump(&mut nft);
        nft.transition(&held, &more, &keep).unwrap();
        let held = dump(&mut nft);
        assert_eq!(equal(&more, &held, &keep), Ok(()));
        let kept = held.set("learned_v4").unwrap().elements[0];
        assert!(kept.expires.is_some_and(|e| e > 590_000 && e < 600_000));
        // A failure on the way leaves a table that drops everything.
        let mut bad = compile(Posture::Disengaged, &inputs(Learning::Gate, 5000));
        let overlap = address("198.51.100.129");
        set_mut(&mut bad, "deny_v4").elements.push(overlap);
        nft.replace(&bad).unwrap_err();
        let held = dump(&mut nft);
        assert!(held.chains.iter().all(|c| {
            c.rules == [Rule(vec![Expr::Drop])] && c.base.unwrap().policy == Policy::Drop
        }));
        assert_eq!(send("2.0.0.0:1"), Err(Errno::EPERM));
        // Rules must go at once: more of them than a message takes are refused.
        nft.limit_message(8 * 1024);
        let error = nft.replace(&meant).unwrap_err();
        assert!(
            matches!(error, NetlinkError::TooLarge { allowed: 8192, .. }),
            "{error}"
        );
    });
}

#[test]
fn a_dump_is_of_one_moment_however_often_the_table_changes() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let a = compile(Posture::Up, &inputs(Learning::Nobody, 500));
        let b = compile(Posture::Disengaged, &inputs(Learning::Gate, 700));
        nft.replace(&a).unwrap();
        let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let mut nft = Nft::open().unwrap();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for next in [&b, &a] {
                        nft.replace(next).unwrap();
                        std::thread::sleep(Duration::from_millis(15));
                    }
                }
            });
            let unequal =
                (0..200).find_map(|_| match nft.dump(Family::Inet, TABLE, Detail::Full) {
                    Ok(Some(held))
                        if equal(&a, &held, &nothing).is_ok()
                            || equal(&b, &held, &nothing).is_ok() =>
                    {
                        None
                    }
                    Err(NetlinkError::Unsteady { .. }) => None,
                    other => Some(format!("{other:?}")),
                });
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(unequal, None);
        });
    });
}

#[test]
fn without_the_capability_the_kernel_refuses_and_we_say_so() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        drop_net_admin();
        let up = compile(Posture::Up, &Inputs::default());
        // The table's existence is asked first, and that alone is refused.
        let error = nft.replace(&up).unwrap_err();
        assert_eq!(
            error,
            NetlinkError::Rejected {
                what: "the table".into(),
                errno: Errno::EPERM
            }
        );
        assert!(error.to_string().contains("CAP_NET_ADMIN"));
    });
}

/// Takes CAP_NET_ADMIN off the calling thread.
fn drop_net_admin() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_ADMIN);
    set_capabilities(None, sets).unwrap();
}

#[test]
fn rules_that_say_the_same_in_another_way_are_equal() {
    fresh(|| {
        nft_load(&format!(
            "table inet {TABLE} {{ chain output {{ type filter hook output priority 0
               tcp dport {{ 53 }} counter accept
               udp dport {{ 53, 54-60, 70 }} accept
               meta l4proto {{ 6 }} drop; }}; }}"
        ));
        let held = dump(&mut Nft::open().unwrap());
        let mut meant = held.clone();
        meant.chains[0].rules = vec![
            Rule(vec![
                Expr::Dport(Transport::Tcp, vec![(53, 53)]),
                Expr::Counter {
                    packets: 7,
                    bytes: 9,
                },
                Expr::Accept,
            ]),
            Rule(vec![
                Expr::Dport(Transport::Udp, vec![(53, 53), (54, 60), (70, 70)]),
                Expr::Accept,
            ]),
            Rule(vec![Expr::L4proto(vec![6]), Expr::Drop]),
        ];
        assert_eq!(equal(&meant, &held, &nothing), Ok(()));
    });
}

#[test]
fn the_last_address_of_a_family_is_an_element_like_any_other() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let mut meant = compile(Posture::Up, &Inputs::default());
        let last4: IpAddr = Ipv4Addr::BROADCAST.into();
        let last6: IpAddr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        set_mut(&mut meant, "allow_v4").elements =
            vec![Element::range("0.0.0.0".parse().unwrap(), last4)];
        set_mut(&mut meant, "deny_v4").elements =
            vec![address("0.0.0.0"), Element::range(last4, last4)];
        set_mut(&mut meant, "allow_v6").elements = vec![Element::range(last6, last6)];
        nft.replace(&meant).unwrap();
        let held = dump(&mut nft);
        assert_eq!(equal(&meant, &held, &nothing), Ok(()));
        let none = compile(Posture::Up, &Inputs::default());
        nft.transition(&held, &none, &nothing).unwrap();
        assert_eq!(equal(&none, &dump(&mut nft), &nothing), Ok(()));
    });
}

#[test]
fn rearming_an_address_never_drops_a_packet_to_it_or_to_another() {
    fn step(nft: &mut Nft, next: &Ruleset) {
        for (set, address_text) in [("allow_v4", "203.0.113.7"), ("learned_v4", "198.18.0.7")] {
            let set = next.set(set).unwrap();
            for timeout in [60_000, 70_000] {
                let element = Element {
                    timeout: Some(timeout),
                    ..address(address_text)
                };
                nft.learn(Family::Inet, TABLE, set, &[element]).unwrap();
            }
        }
    }
    let up = compile(Posture::Up, &inputs(Learning::Gate, 200));
    let flood = flood([up.clone(), up.clone(), up], step);
    assert!(flood.sent > 10_000, "only {} packets", flood.sent);
    assert_eq!((flood.leaked, flood.dropped), (0, 0), "of {}", flood.sent);
}
