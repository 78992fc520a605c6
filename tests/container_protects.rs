//! A real container under the hook: what its packets meet, and that a restart changes nothing.

mod common;

use common::lab::{Who, in_lab, wait_for};
use common::shielded::{Bundle, Container, OUT, Run, When, install_hooks, ruleset};
use common::world::{GREETING, World};
use std::path::Path;
use std::time::{Duration, Instant};
use terok_shield::contract::{file, log_prefix};
use terok_shield::nft::policy::Posture;

/// Makes every case two tests: `rootful::…` and `rootless::…`.
macro_rules! matrix {
    ($($case:ident)*) => {
        mod rootful {
            $(#[test] fn $case() { super::in_lab(|| super::$case(super::Who::Root)); })*
        }
        mod rootless {
            $(#[test] fn $case() { super::in_lab(|| super::$case(super::Who::Tester)); })*
        }
    };
}

matrix! {
    packets_go_only_where_they_may
    the_bypass_keeps_private_space_shut
    a_quarantine_lets_nothing_out
    stop_and_start_come_back_protected
    a_restart_comes_back_protected
    a_restart_policy_comes_back_protected
    stopping_takes_no_longer_than_without_the_shield
}

const PORT: u16 = 7777;
const ALLOWED: [&str; 2] = ["192.0.2.10", "2001:db8:1::10"];
const OTHER: [&str; 2] = ["192.0.2.11", "2001:db8:1::11"];
const PRIVATE: [&str; 4] = ["10.99.0.1", "172.20.0.1", "192.168.7.1", "fd12::1"];
const METADATA: [&str; 3] = ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"];
/// What an operator could write to open everything public; the rest must stay shut.
const EVERYTHING: [&str; 2] = ["0.0.0.0/0", "::/0"];

const PROHIBITED: [&str; 2] = ["admin-prohibited", "net-admin-prohibited"];

/// The world, and a network on which containers of this user reach it over both families.
fn outside(who: Who) -> &'static str {
    let hosts = [&ALLOWED[..], &OTHER, &PRIVATE, &METADATA].concat();
    World::new(&hosts, PORT);
    install_hooks(When::Annotated);
    match who {
        Who::Root => {
            let subnets = [
                "--ipv6",
                "--subnet",
                "10.89.7.0/24",
                "--subnet",
                "fd00:89::/64",
                "six",
            ];
            who.must("podman", &[&["network", "create"], &subnets[..]].concat());
            "--network=six"
        }
        Who::Tester => "--network=slirp4netns:enable_ipv6=true",
    }
}

fn assert_open(c: &Container, host: &str) {
    // An interface that just came up may lose its first packets.
    let mut last = String::new();
    wait_for(
        &format!("{host} to answer over UDP"),
        Duration::from_secs(15),
        || {
            last = c.probe(host, &PORT.to_string());
            assert!(
                last != PROHIBITED[0] && last != PROHIBITED[1],
                "{host}: {last}"
            );
            (last == "open").then_some(())
        },
    );
    let said = c.tcp(host, &PORT.to_string());
    assert_eq!(said.as_deref(), Some(GREETING), "{host} over TCP");
}

fn assert_refused(c: &Container, host: &str) {
    let met = c.probe(host, &PORT.to_string());
    assert!(PROHIBITED.contains(&met.as_str()), "{host} over UDP: {met}");
    assert_eq!(c.tcp(host, &PORT.to_string()), None, "{host} over TCP");
}

fn packets_go_only_where_they_may(who: Who) {
    let network = outside(who);
    let bundle = Bundle::new(who, "shielded", &ALLOWED);
    // The control: without the annotation every one of these hosts answers.
    let mut bare = Run::new(&bundle, network);
    bare.name = "bare".into();
    bare.annotations.clear();
    let bare = bare.start();
    for host in [&ALLOWED[..], &OTHER, &PRIVATE, &METADATA].concat() {
        assert_open(&bare, host);
    }
    let shielded = Run::new(&bundle, network).start();
    for host in ALLOWED {
        assert_open(&shielded, host);
    }
    for host in [&OTHER[..], &PRIVATE, &METADATA].concat() {
        assert_refused(&shielded, host);
    }
}

fn the_bypass_keeps_private_space_shut(who: Who) {
    let network = outside(who);
    let bundle = Bundle::with(
        who,
        "down",
        &EVERYTHING,
        &ruleset(Posture::Down, &EVERYTHING),
    );
    bundle.write(file::POSTURE, "down\n");
    let container = Run::new(&bundle, network).start();
    for host in [&ALLOWED[..], &OTHER].concat() {
        assert_open(&container, host);
    }
    for host in [&PRIVATE[..], &METADATA].concat() {
        assert_refused(&container, host);
    }
}

fn a_quarantine_lets_nothing_out(who: Who) {
    let network = outside(who);
    let bundle = Bundle::new(who, "dark", &ALLOWED);
    // The verb was killed after its first file: the stricter word holds.
    bundle.write(file::POSTURE, "quarantine\n");
    let container = Run::new(&bundle, network).start();
    for host in [ALLOWED[0], OTHER[0], PRIVATE[0], METADATA[0]] {
        assert_ne!(container.probe(host, &PORT.to_string()), "open", "{host}");
    }
    assert_eq!(container.tcp(ALLOWED[0], &PORT.to_string()), None);
    let table = container.table().expect("no table");
    assert!(
        !table.contains("set allow_v4") && table.contains(log_prefix::BLOCKED),
        "{table}"
    );
}

/// What the container says of our table, which must be there.
fn table(container: &Container) -> String {
    container
        .table()
        .expect("the container came back without a table")
}

fn protected_without_network(who: Who) -> (Container, String) {
    install_hooks(When::Annotated);
    let bundle = Bundle::new(who, "again", &ALLOWED);
    let container = Run::new(&bundle, "--network=none").start();
    let table = table(&container);
    assert_eq!(table.matches(log_prefix::BLOCKED).count(), 1, "{table}");
    (container, table)
}

fn stop_and_start_come_back_protected(who: Who) {
    let (container, before) = protected_without_network(who);
    let pid = container.pid();
    for _ in 0..2 {
        who.must("podman", &["stop", "--time=0", &container.name]);
        who.must("podman", &["start", &container.name]);
        assert_eq!(table(&container), before);
    }
    assert_ne!(container.pid(), pid);
}

fn a_restart_comes_back_protected(who: Who) {
    let (container, before) = protected_without_network(who);
    let pid = container.pid();
    who.must("podman", &["restart", "--time=0", &container.name]);
    assert_eq!(table(&container), before);
    assert_ne!(container.pid(), pid);
}

/// The workload fails once. podman starts it again in the same network namespace, where the
/// rules of the first time still stand: they must be there once.
fn a_restart_policy_comes_back_protected(who: Who) {
    install_hooks(When::Annotated);
    let bundle = Bundle::new(who, "policy", &ALLOWED);
    let script = "test -e /out/second && exec sleep infinity; : >/out/second; sleep 1; exit 1";
    let container = Run::new(&bundle, "--network=none")
        .option(&["--restart=on-failure:3", "--volume", &format!("{OUT}:/out")])
        .workload(&["sh", "-c", script])
        .start();
    let before = table(&container);
    let first = bundle.read(file::CONTAINER_INIT);
    wait_for(
        "the workload to be started again",
        Duration::from_secs(20),
        || {
            let second = bundle.read(file::CONTAINER_INIT);
            let up = who.podman(&["inspect", "--format={{.State.Status}}", "policy"]);
            (second != first && up.stdout.trim() == "running").then_some(())
        },
    );
    assert!(Path::new(OUT).join("second").exists());
    assert_eq!(table(&container), before);
}

/// With the gate running: a child that inherited the blocked signals would have to be killed.
fn stopping_takes_no_longer_than_without_the_shield(who: Who) {
    install_hooks(When::Annotated);
    let bundle = Bundle::with(
        who,
        "gated",
        &ALLOWED,
        &common::shielded::gate_ruleset(&ALLOWED, "192.0.2.53"),
    );
    bundle.write(file::DNS_TIER, "gate\n");
    bundle.write(file::UPSTREAM_DNS, "192.0.2.53\n");
    bundle.write(file::RESOLV_CONF, "nameserver 127.0.0.1\n");
    let polite = ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"];
    let stop = |shielded: bool| {
        let mut run = Run::new(&bundle, "--network=none")
            .workload(&polite)
            .option(&["--replace"]);
        if !shielded {
            run.name = "bare".into();
            run.annotations.clear();
        }
        let container = run.start();
        assert_eq!(container.table().is_some(), shielded);
        let before = Instant::now();
        who.must("podman", &["stop", &container.name]);
        before.elapsed()
    };
    // Interleaved, so that a busy machine slows both.
    let (bare, shielded): (Vec<_>, Vec<_>) = (0..5).map(|_| (stop(false), stop(true))).unzip();
    println!("podman stop: bare {bare:?}, shielded {shielded:?}");
    // The fastest of each: what else the machine does only ever adds.
    let fastest = |times: &[Duration]| *times.iter().min().unwrap();
    let more = fastest(&shielded).saturating_sub(fastest(&bare));
    assert!(
        more < Duration::from_millis(100),
        "bare {bare:?}, shielded {shielded:?}"
    );
    let left = Who::Root.run("pgrep", &["-f", "dns-gate"]);
    assert!(!left.ok(), "the gate outlived its container: {left:?}");
}
