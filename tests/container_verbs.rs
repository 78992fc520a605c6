//! What an operator types, on real containers, each step checked by packets from inside.

mod common;

use common::lab::{BINARY, IMAGE, Ran, Who, in_lab, wait_for};
use common::shielded::Container;
use common::world::{GREETING, World};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use terok_shield::contract::{file, log_prefix};

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
    an_operators_day
    what_was_said_survives_restarts
    a_download_dies_when_its_address_is_denied
    overlapping_targets_in_any_order
    concurrent_verbs_lose_nothing
}

const PORT: &str = "7777";
const A: &str = "192.0.2.10";
const B: &str = "192.0.2.11";
const METADATA: &str = "169.254.169.254";
const PRIVATE: &str = "10.99.0.1";

/// The operator's side of one container.
struct Operator {
    who: Who,
    container: Container,
}

impl Operator {
    /// `setup`, a profile that allows `A`, and `run web`.
    fn new(who: Who) -> Self {
        World::new(&[A, B, METADATA, PRIVATE], PORT.parse().unwrap());
        let operator = Self {
            who,
            container: Container {
                who,
                name: "web".into(),
            },
        };
        operator.says("setup", &[], "");
        let profiles = match who {
            Who::Root => "/etc/terok/shield/profiles",
            Who::Tester => "/home/tester/.config/terok/shield/profiles",
        };
        let profiles = PathBuf::from(profiles);
        who.mkdir(&profiles);
        who.write(&profiles.join("lab.txt"), format!("# the world\n{A}\n"));
        let ran = operator.shield(&[
            "run",
            "web",
            "--profiles",
            "lab",
            "--",
            "-d",
            "--cap-add=KILL",
            IMAGE,
            "sleep",
            "infinity",
        ]);
        assert!(!ran.ok() && ran.stderr.contains("--cap-add"), "{ran:?}");
        operator.says(
            "run",
            &[
                "web",
                "--profiles",
                "lab",
                "--",
                "-d",
                IMAGE,
                "sleep",
                "infinity",
            ],
            "",
        );
        operator
    }

    fn shield(&self, args: &[&str]) -> Ran {
        self.who.run(BINARY, args)
    }

    /// The verb succeeds, and its first line is this one; any, if empty.
    fn says(&self, verb: &str, args: &[&str], line: &str) {
        let ran = self.shield(&[&[verb], args].concat());
        assert!(ran.ok(), "{verb} {args:?}: {ran:?}");
        let first = ran.stdout.lines().next().unwrap_or_default();
        assert!(
            line.is_empty() || first == line,
            "{verb} {args:?}: {first:?}, wanted {line:?}"
        );
    }

    /// Where packets go: `o` for open, `-` for refused or lost, of `A`, `B`, private and metadata.
    fn sees(&self, pattern: &str) {
        let open = |host| self.container.probe(host, PORT) == "open";
        let mut seen = String::new();
        // A fresh interface may lose its first packets; a wrong rule stays wrong.
        for _ in 0..3 {
            seen = [A, B, PRIVATE, METADATA]
                .map(|host| if open(host) { 'o' } else { '-' })
                .iter()
                .collect();
            if seen == pattern {
                return;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        panic!(
            "open are {seen}, wanted {pattern}\n{}",
            self.container.table().unwrap_or_default()
        );
    }

    fn bundle(&self, name: &str) -> String {
        std::fs::read_to_string(self.who.bundle_path("web").join(name)).unwrap_or_default()
    }
}

fn an_operators_day(who: Who) {
    let op = Operator::new(who);
    op.says("status", &["web"], "up");
    op.sees("o---");
    op.says("allow", &["web", B], &format!("Allowed {B} -> {B} for web"));
    op.sees("oo--");
    op.says("deny", &["web", A], &format!("Denied {A} ({A}) for web"));
    op.sees("-o--");
    op.says(
        "allow",
        &["web", PRIVATE],
        &format!("Allowed {PRIVATE} -> {PRIVATE} for web"),
    );
    op.sees("-oo-");
    op.says("deny", &["web", PRIVATE], "");
    let metadata = op.shield(&["allow", "web", METADATA]);
    assert_eq!(metadata.status, Some(1), "{metadata:?}");
    assert!(metadata.stderr.starts_with("Error: "), "{metadata:?}");
    op.says("deny", &["web", B], "");
    op.sees("----");

    op.says(
        "allow",
        &["--for", "3s", "web", B],
        &format!("Allowed {B} -> {B} for web"),
    );
    op.sees("-o--");
    wait_for("the grant to expire", Duration::from_secs(10), || {
        (op.container.probe(B, PORT) != "open").then_some(())
    });
    op.says("status", &["web"], "up");

    op.says("allow", &["web", &format!("{B}:{PORT}/udp")], "");
    op.sees("-o--");
    assert_eq!(
        op.container.tcp(B, PORT),
        None,
        "only the UDP port was opened"
    );
    op.says("deny", &["web", &format!("{B}:{PORT}/udp")], "");
    op.sees("----");

    // What is denied stays denied while the shield is down.
    op.says("allow", &["web", B], "");
    op.says("down", &["web"], "Shield down for web");
    op.says("status", &["web"], "down");
    op.sees("-o--");
    op.says(
        "down",
        &["--all", "web"],
        "Shield down for web (all traffic)",
    );
    op.says("status", &["web"], "disengaged");
    op.says("up", &["web"], "Shield up for web");
    op.sees("-o--");
    op.says(
        "quarantine",
        &["web"],
        "Shield QUARANTINED for web — all traffic dropped",
    );
    op.says("status", &["web"], "quarantine");
    op.sees("----");
    op.says("up", &["web"], "Shield up for web");
    op.sees("-o--");

    op.says("rules", &["web"], "State: up");
    let logs = op.shield(&["logs", "--container", "web"]).stdout;
    for action in [
        "setup",
        "allowed",
        "denied",
        "shield_down",
        "shield_up",
        "shield_quarantine",
    ] {
        assert!(
            logs.contains(&format!("\"action\":\"{action}\"")),
            "no {action}:\n{logs}"
        );
    }
    who.must("podman", &["stop", "--time=0", "web"]);
    op.says("status", &["web"], "offline");
    who.must("podman", &["start", "web"]);
    op.says("status", &["web"], "up");
    op.sees("-o--");
    op.says("setup", &["--uninstall"], "");
    // With the hooks gone nothing new may be started unprotected.
    let ran = op.shield(&["run", "other", "--", "-d", IMAGE, "true"]);
    assert!(!ran.ok() && ran.stderr.contains("setup"), "{ran:?}");
}

fn what_was_said_survives_restarts(who: Who) {
    let op = Operator::new(who);
    op.says("allow", &["web", B], "");
    op.says("deny", &["web", A], "");
    let restart = || {
        who.must("podman", &["restart", "--time=0", "web"]);
    };
    restart();
    op.sees("-o--");
    op.says("down", &["web"], "");
    restart();
    op.says("status", &["web"], "down");
    op.sees("-o--");
    op.says("quarantine", &["web"], "");
    restart();
    op.says("status", &["web"], "quarantine");
    op.sees("----");
    // Said while it does not run: the next start applies it.
    who.must("podman", &["stop", "--time=0", "web"]);
    op.says("up", &["web"], "Shield up for web");
    op.says("allow", &["web", A], "");
    op.says("deny", &["web", B], "");
    who.must("podman", &["start", "web"]);
    op.says("status", &["web"], "up");
    op.sees("o---");
}

/// A line a time arrives over an open connection until the verb cuts it.
fn a_download_dies_when_its_address_is_denied(who: Who) {
    let op = Operator::new(who);
    common::world::stream_lines("world", &[A, B], 7070);
    op.says("allow", &["web", B], "");
    op.sees("oo--");
    let download = |host: &str, out: &str| {
        let script = format!("nc {host} 7070 >/tmp/{out} & echo $!");
        let ran = op.container.exec(&["sh", "-c", &script]);
        assert!(ran.ok(), "{ran:?}");
    };
    let size = |out: &str| -> u64 {
        let ran = op
            .container
            .exec(&["sh", "-c", &format!("cat /tmp/{out} | wc -c")]);
        ran.stdout.trim().parse().unwrap_or(0)
    };
    let grows = |out: &str| {
        let before = size(out);
        std::thread::sleep(Duration::from_millis(300));
        size(out) > before
    };
    download(A, "a");
    download(B, "b");
    assert!(grows("a") && grows("b"), "nothing arrives");
    op.says("deny", &["web", A], "");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!grows("a"), "the download outlived the deny");
    assert!(grows("b"), "the other download died with it");
    op.says("quarantine", &["web"], "");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!grows("b"), "the download outlived the quarantine");
}

fn overlapping_targets_in_any_order(who: Who) {
    let op = Operator::new(who);
    op.says("allow", &["web", "192.0.2.0/24"], "");
    op.says("allow", &["web", B], "");
    op.says("allow", &["web", "192.0.2.8/29"], "");
    op.says(
        "allow",
        &["web", "192.0.2.5/24"],
        "Allowed 192.0.2.0/24 -> 192.0.2.0/24 for web",
    );
    op.sees("oo--");
    op.says("deny", &["web", A], "");
    op.sees("-o--");
    op.says("deny", &["web", "192.0.2.8/30"], "");
    op.sees("----");
    op.says("allow", &["web", "0.0.0.0/0"], "");
    op.sees("----");
}

/// Eight processes, 96 calls: files and kernel agree afterwards, and nothing is lost.
fn concurrent_verbs_lose_nothing(who: Who) {
    let op = Operator::new(who);
    let before = op.container.table().expect("no table");
    let start = Instant::now();
    let workers: Vec<_> = (0..8)
        .map(|w| {
            std::thread::spawn(move || {
                for n in 0..12 {
                    let verb = if n % 3 == 2 { "deny" } else { "allow" };
                    let target = format!("198.51.{w}.{}", n * 2);
                    let ran = who.run(BINARY, &[verb, "web", &target]);
                    assert!(ran.ok(), "{verb} {target}: {ran:?}");
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    println!("96 calls took {:?}", start.elapsed());
    let (allowed, denied) = (op.bundle(file::LIVE_ALLOWED), op.bundle(file::DENY_LIST));
    assert_eq!((allowed.lines().count(), denied.lines().count()), (64, 32));
    let table = op.container.table().expect("no table");
    for address in allowed.lines().chain(denied.lines()) {
        assert!(
            table.contains(address),
            "{address} is not in the kernel:\n{table}"
        );
    }
    let rules = |table: &str| table.matches(log_prefix::BLOCKED).count();
    assert_eq!(rules(&table), rules(&before), "rules piled up:\n{table}");
    assert_eq!(op.container.tcp(A, PORT).as_deref(), Some(GREETING));
}
