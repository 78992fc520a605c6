//! Our text against what Debian's nft 1.0.6 reads and lists. Needs root.

#[path = "common/arbitrary.rs"]
mod arbitrary;
#[path = "common/netns.rs"]
#[allow(dead_code)] // each test uses a part
mod netns;

use netns::{fresh, nft_load, run};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use terok_shield::nft::kernel::{Detail, Nft};
use terok_shield::nft::model::Ruleset;
use terok_shield::nft::policy::{Inputs, Learning, Posture, Service, compile};
use terok_shield::nft::text::{parse, render};

/// nft's listing of what it loaded from `text`, in a namespace of its own.
fn listed(text: &str) -> String {
    let text = text.to_string();
    fresh(move || {
        nft_load(&text);
        run("nft", &["list", "ruleset"])
    })
}

/// The ruleset without what the clock changes.
fn timeless(mut ruleset: Ruleset) -> Ruleset {
    for element in ruleset.sets.iter_mut().flat_map(|s| &mut s.elements) {
        element.expires = None;
    }
    ruleset
}

#[test]
fn nft_lists_random_rulesets_as_we_write_them() {
    let mut runner = TestRunner::new(Config::with_cases(256));
    runner
        .run(&arbitrary::ruleset(false), |ruleset| {
            let ours = render(&ruleset);
            let theirs = listed(&ours);
            let read = parse(&theirs);
            let read = read.map_err(|e| TestCaseError::fail(format!("{e}\n{theirs}")))?;
            prop_assert_eq!(&render(&read), &theirs);
            let read = timeless(read);
            prop_assert_eq!(render(&read), ours);
            prop_assert_eq!(read, ruleset);
            Ok(())
        })
        .unwrap();
}

/// Every file that nft reads we read as the same ruleset.
#[test]
fn nft_and_we_read_the_older_order_alike() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/older-order");
    let mut read = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let ours = parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let theirs = parse(&listed(&text)).unwrap();
        assert_eq!(timeless(theirs), timeless(ours), "{}", path.display());
        read += 1;
    }
    assert!(read >= 8, "{read} files in {directory}");
}

/// Text, our netlink and the kernel agree: what we send is listed by nft as we write it, and
/// read back as what was sent.
#[test]
fn what_we_send_nft_lists_as_we_write_it() {
    let mut runner = TestRunner::new(Config::with_cases(256));
    runner
        .run(&arbitrary::ruleset(false), |ruleset| {
            let sent = ruleset.clone();
            let (theirs, dumped) = fresh(move || {
                let mut nft = Nft::open().unwrap();
                nft.replace(&sent).unwrap();
                let dumped = nft.dump(sent.family, &sent.table, Detail::Full);
                let listed = run("nft", &["list", "ruleset"]);
                (listed, dumped.unwrap().unwrap())
            });
            let read = parse(&theirs);
            let read = read.map_err(|e| TestCaseError::fail(format!("{e}\n{theirs}")))?;
            prop_assert_eq!(render(&timeless(read)), render(&ruleset));
            let mut dumped = timeless(dumped);
            dumped
                .sets
                .iter_mut()
                .for_each(|s| s.elements.sort_unstable());
            prop_assert_eq!(dumped, ruleset);
            Ok(())
        })
        .unwrap();
}

#[test]
fn nft_reads_every_posture_as_it_was_meant() {
    let net = |s: &str| s.parse::<terok_shield::ipnet::IpNet>().unwrap();
    let service = |addr: &str, remaining| Service {
        addr: addr.parse().unwrap(),
        proto: 6,
        port: 5432,
        remaining,
    };
    for learning in [Learning::Nobody, Learning::Dnsmasq, Learning::Gate] {
        let inputs = Inputs {
            learning,
            forwarder: Some("169.254.1.1".parse().unwrap()),
            loopback_ports: vec![80, 8080],
            gateways: vec!["169.254.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            deny: vec![net("203.0.113.0/24"), net("2001:db8:dead::/48")],
            services: vec![
                service("192.0.2.7", None),
                service("2001:db8::7", Some(60_000)),
            ],
            ..Inputs::default()
        };
        for posture in [
            Posture::Up,
            Posture::Down,
            Posture::Disengaged,
            Posture::Quarantine,
        ] {
            let meant = compile(posture, &inputs);
            let text = render(&meant);
            assert_eq!(parse(&text).as_ref(), Ok(&meant), "{posture} {learning:?}");
            let theirs = timeless(parse(&listed(&text)).unwrap());
            assert_eq!(render(&theirs), text, "{posture} {learning:?}");
        }
    }
}
