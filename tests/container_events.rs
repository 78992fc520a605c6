//! Events of real containers: the hub, the audit log, watch and simple-clearance beside each
//! other, and nothing left behind.

mod common;
#[path = "common/hub.rs"]
mod hub;

use common::lab::{BINARY, Background, Who, in_lab, json_string, wait_for};
use common::shielded::{Bundle, Container, HOOKS, Run, When, install_hooks};
use common::world::World;
use hub::Hub;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use terok_shield::contract::{annotation, file};

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
    the_hub_watch_and_clearance_all_hear_of_a_real_container
    fifty_starts_and_stops_leave_nothing_behind
    stopping_takes_no_longer_for_the_reader
    hostile_annotations_stay_bounded
}

/// The protecting hook's descriptors and the reader's.
fn install() {
    install_hooks(When::Annotated);
    let key = format!("^{}$", annotation::PROFILES.replace('.', "\\."));
    for stage in ["createRuntime", "poststop"] {
        let descriptor = format!(
            r#"{{"version":"1.0.0","hook":{{"path":"{BINARY}","args":["reader-hook","{stage}"]}},"when":{{"annotations":{{{}:".*"}}}},"stages":["{stage}"]}}"#,
            json_string(&key)
        );
        let name = format!("terok-shield-bridge-{stage}.json");
        std::fs::write(Path::new(HOOKS).join(name), descriptor).unwrap();
    }
}

fn uid(who: Who) -> u32 {
    who.must("id", &["-u"]).trim().parse().unwrap()
}

/// The hub's socket of a container, where the user's desktop would have it.
fn hub_path(who: Who, id: &str) -> PathBuf {
    let uid = uid(who);
    let runtime = PathBuf::from(format!("/run/user/{uid}"));
    if !runtime.exists() {
        std::fs::create_dir_all(&runtime).unwrap();
    }
    runtime.join(format!("terok/events/{}.sock", &id[..12]))
}

fn network(who: Who) -> &'static str {
    World::new(&["192.0.2.10"], 7777);
    match who {
        Who::Root => {
            let words = "network create --ipv6 --subnet 10.89.7.0/24 --subnet fd00:89::/64 six";
            who.must("podman", &words.split(' ').collect::<Vec<_>>());
            "--network=six"
        }
        Who::Tester => "--network=slirp4netns:enable_ipv6=true",
    }
}

/// The lines a command prints, as they come.
fn lines_of(who: Who, args: &[&str]) -> (Background, Arc<Mutex<Vec<String>>>) {
    let mut child = who
        .command(BINARY, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (out, sink) = (child.stdout.take().unwrap(), lines.clone());
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            sink.lock().unwrap().push(line);
        }
    });
    (Background(child), lines)
}

fn wait_for_line(lines: &Mutex<Vec<String>>, wanted: &str) {
    wait_for(wanted, Duration::from_secs(10), || {
        let lines = lines.lock().unwrap();
        lines.iter().any(|l| l.contains(wanted)).then_some(())
    });
}

fn readers() -> String {
    Who::Root.run("pgrep", &["-f", "nflog-reader"]).stdout
}

/// Waits until what a container just ended is gone.
fn assert_nothing_is_left(bundle: &Bundle) {
    wait_for("the reader to be gone", Duration::from_secs(8), || {
        readers().trim().is_empty().then_some(())
    });
    for name in [file::READER_PID, file::EVENTS_SOCKET] {
        assert!(!bundle.path.join(name).exists(), "{name} was left");
    }
}

fn the_hub_watch_and_clearance_all_hear_of_a_real_container(who: Who) {
    install();
    let network = network(who);
    let bundle = Bundle::new(who, "heard", &["192.0.2.10"]);
    let meta = bundle.path.join("meta.json");
    who.write(&meta, r#"{"step":"one"}"#);
    let c = Run::new(&bundle, network)
        .annotate("dossier.task", "t1")
        .annotate("dossier.meta_path", meta.to_str().unwrap())
        .start();
    let id = c.id();
    let hub = Hub::start_as(&hub_path(who, &id), Some(uid(who)));
    hub.wait_for(Duration::from_secs(5), "the start", |e| {
        e.iter().any(|e| e.kind == "container_started")
    });
    let (_watch, watched) = lines_of(who, &["watch", "heard"]);
    let (_asks, asked) = lines_of(who, &["simple-clearance", "heard"]);
    wait_for_line(&asked, "Waiting for");
    // Until all of them listen.
    wait_for("listeners", Duration::from_secs(10), || {
        c.probe("198.51.100.200", "9");
        let hears = |l: &Mutex<Vec<String>>| {
            l.lock()
                .unwrap()
                .iter()
                .any(|l| l.contains("198.51.100.200"))
        };
        (hears(&watched) && hears(&asked)).then_some(())
    });
    who.write(&meta, r#"{"step":"two"}"#);
    let before = hub.of_kind("pending").len();
    assert_eq!(c.tcp("198.51.100.7", "443"), None);
    assert_eq!(c.probe("198.51.100.8", "853"), "admin-prohibited");
    let v6 = c.probe("2001:db8:5::9", "853");
    assert!(v6.contains("prohibited"), "{v6}");
    hub.wait_for(Duration::from_secs(5), "three destinations", |e| {
        e.iter().filter(|e| e.kind == "pending").count() >= before + 3
    });
    let pending = hub.of_kind("pending");
    for (dest, port, proto) in [
        ("198.51.100.7", 443, 6),
        ("198.51.100.8", 853, 17),
        ("2001:db8:5::9", 853, 17),
    ] {
        let of: Vec<_> = pending.iter().filter(|e| e.dest == dest).collect();
        assert_eq!(of.len(), 1, "{dest}: {of:#?}");
        assert_eq!((of[0].port, of[0].proto), (port, proto));
        assert_eq!(of[0].container, id[..12]);
        let dossier = [("step", "two"), ("task", "t1")];
        assert_eq!(of[0].dossier, dossier.map(|(k, v)| (k.into(), v.into())));
        let blocked = format!(r#""action":"blocked","dest":"{dest}","port":{port},"#);
        assert!(bundle.read(file::AUDIT_LOG).contains(&blocked), "{dest}");
        wait_for_line(&watched, &format!(r#""dest":"{dest}","port":{port},"#));
    }
    // One question at a time: the others wait behind the first.
    wait_for_line(&asked, "box wants".replace("box", "heard").as_str());
    who.must("podman", &["stop", "-t", "0", "heard"]);
    hub.wait_for(Duration::from_secs(5), "the end", |e| {
        e.last()
            .is_some_and(|e| e.kind == "container_exited" && e.reason == "poststop")
    });
    assert_eq!(hub.refused(), [""; 0]);
    assert_nothing_is_left(&bundle);
}

fn fifty_starts_and_stops_leave_nothing_behind(who: Who) {
    install();
    let bundle = Bundle::new(who, "often", &[]);
    let c = Run::new(&bundle, "--network=none").start();
    for n in 0..50 {
        if n > 0 {
            who.must("podman", &["start", "often"]);
        }
        let reader = bundle.read(file::READER_PID);
        assert!(
            !reader.is_empty(),
            "start {n}: {}",
            bundle.read(file::READER_LOG)
        );
        if n % 10 == 5 {
            Who::Root.must("kill", &["-9", reader.trim()]);
        }
        who.must("podman", &["stop", "-t", "0", &c.name]);
    }
    assert_nothing_is_left(&bundle);
    let log = bundle.read(file::READER_LOG);
    assert!(log.is_empty(), "{log}");
}

fn stopping_takes_no_longer_for_the_reader(who: Who) {
    install();
    let bundle = Bundle::new(who, "read", &[]);
    let stop = |shielded: bool| {
        let mut run = Run::new(&bundle, "--network=none").option(&["--replace"]);
        if !shielded {
            run.name = "bare".into();
            run.annotations.clear();
        }
        let container: Container = run.start();
        assert_eq!(readers().trim().is_empty(), !shielded);
        let before = Instant::now();
        who.must("podman", &["stop", "-t", "0", &container.name]);
        before.elapsed()
    };
    let (bare, shielded): (Vec<_>, Vec<_>) = (0..5).map(|_| (stop(false), stop(true))).unzip();
    println!("podman stop -t 0: bare {bare:?}, shielded {shielded:?}");
    let fastest = |times: &[Duration]| *times.iter().min().unwrap();
    let more = fastest(&shielded).saturating_sub(fastest(&bare));
    assert!(more < Duration::from_millis(100), "{bare:?} {shielded:?}");
}

fn hostile_annotations_stay_bounded(who: Who) {
    install();
    let bundle = Bundle::new(who, "hostile", &[]);
    // One argument of a process takes 128 KiB; several make more than half a megabyte.
    let mut run = Run::new(&bundle, "--network=none")
        .annotate("dossier.escape", "a\u{1b}]0;x\u{7}b\u{202e}c")
        .annotate("dossier.meta_path", "/etc/shadow");
    for n in 0..5 {
        run = run.annotate(&format!("dossier.huge{n}"), &"\u{e9}\\".repeat(40_000));
    }
    let c = run.start();
    let hub = Hub::start_as(&hub_path(who, &c.id()), Some(uid(who)));
    hub.wait_for(Duration::from_secs(5), "the start", |e| !e.is_empty());
    for words in [
        "link add v0 type veth peer name v1",
        "address add 192.0.2.1/24 dev v0",
        "link set v1 up",
        "link set v0 up",
        "route add default dev v0",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let ran = common::lab::in_netns_of(c.pid(), "ip", &words);
        assert!(ran.ok(), "{ran:?}");
    }
    assert_eq!(c.probe("198.51.100.7", "9"), "admin-prohibited");
    hub.wait_for(Duration::from_secs(5), "the event", |e| {
        e.iter().any(|e| e.dest == "198.51.100.7")
    });
    let event = hub.of_kind("pending").pop().unwrap();
    assert!(event.line.len() < 64 * 1024);
    let value = |key: &str| {
        event
            .dossier
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(value("escape"), Some("a ]0;x b c"));
    assert_eq!(value("huge0").map(str::len), Some(256));
    assert_eq!(value("meta_path"), None);
    let log = bundle.read(file::AUDIT_LOG);
    assert!(log.contains("198.51.100.7"));
    assert!(log.bytes().all(|b| b == b'\n' || (0x20..0x7f).contains(&b)));
    who.must("podman", &["stop", "-t", "0", "hostile"]);
    assert_eq!(hub.refused(), [""; 0]);
    assert_nothing_is_left(&bundle);
}
