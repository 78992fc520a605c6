//! Everything an operator types, on real containers, each word checked by packets from inside.

mod common;

use common::lab::{BINARY, IMAGE, Ran, Who, in_lab, wait_for};
use common::shielded::Container;
use common::world::{GREETING, World};
use std::path::{Path, PathBuf};
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
    every_verb_does_to_packets_what_it_says
    verdicts_and_posture_survive_every_way_to_start_again
    the_gate_is_the_default_and_needs_no_upstream_to_be_told
    setup_and_its_undoing_leave_podman_as_it_was
    a_stopped_container_is_changed_for_its_next_start
}

const PORT: u16 = 7777;
const PROFILE: &str = "192.0.2.10";
const OTHER: [&str; 5] = [
    "192.0.2.11",
    "192.0.2.12",
    "192.0.2.13",
    "192.0.2.14",
    "192.0.2.15",
];
const PRIVATE: &str = "10.99.0.1";
/// Private too; no verb ever names it.
const DOWN_ONLY: &str = "172.20.0.1";
const METADATA: &str = "169.254.169.254";
const PROHIBITED: [&str; 2] = ["admin-prohibited", "net-admin-prohibited"];

/// A user with a configuration and, if `setup` ran, hooks.
struct Operator {
    who: Who,
}

impl Operator {
    /// The world, a profile that allows [`PROFILE`], and names resolved at prepare.
    fn new(who: Who) -> Self {
        World::new(
            &[&[PROFILE, PRIVATE, DOWN_ONLY, METADATA], &OTHER[..]].concat(),
            PORT,
        );
        let operator = Self { who };
        operator.configure("dns: {tier: dig}\ndefault_profiles: [t]\n");
        operator
    }

    fn configure(&self, config: &str) {
        let dir = Path::new(match self.who {
            Who::Root => "/etc/terok/shield",
            Who::Tester => "/home/tester/.config/terok/shield",
        });
        self.who.mkdir(&dir.join("profiles"));
        self.who.write(&dir.join("config.yml"), config);
        self.who
            .write(&dir.join("profiles/t.txt"), format!("{PROFILE}\n"));
    }

    fn try_verb(&self, words: &str) -> Ran {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.who.run(BINARY, &words)
    }

    /// Runs a verb that must succeed without a word on stderr; what it printed.
    fn verb(&self, words: &str) -> String {
        let ran = self.try_verb(words);
        assert!(ran.ok() && ran.stderr.is_empty(), "{words}: {ran:?}");
        ran.stdout
    }

    /// Runs a verb that must print exactly this line.
    fn says(&self, words: &str, line: &str) {
        assert_eq!(self.verb(words), format!("{line}\n"), "{words}");
    }

    fn setup(&self) {
        self.verb("setup");
    }

    /// `terok-shield run` with the image and a workload that sleeps.
    fn run(&self, name: &str, podman: &str) -> Container {
        let words = format!("run {name} -- -d {podman} {IMAGE} sleep infinity");
        let ran = self.try_verb(&words);
        let said = self.who.bundle_path(name).join(file::HOOK_ERROR_LOG);
        let said = std::fs::read_to_string(said).unwrap_or_default();
        assert!(ran.ok(), "{words}: {ran:?}; the hook said: {said}");
        Container {
            who: self.who,
            name: name.into(),
        }
    }

    fn containers_conf(&self) -> PathBuf {
        PathBuf::from(match self.who {
            Who::Root => "/etc/containers/containers.conf",
            Who::Tester => "/home/tester/.config/containers/containers.conf",
        })
    }
}

fn assert_open(c: &Container, host: &str) {
    let port = PORT.to_string();
    let mut met = String::new();
    // An interface that just came up may lose its first packets.
    wait_for(host, Duration::from_secs(15), || {
        met = c.probe(host, &port);
        assert!(!PROHIBITED.contains(&met.as_str()), "{host}: {met}");
        (met == "open").then_some(())
    });
    assert_eq!(c.tcp(host, &port).as_deref(), Some(GREETING), "{host}");
}

fn assert_refused(c: &Container, host: &str) {
    let met = c.probe(host, &PORT.to_string());
    assert!(PROHIBITED.contains(&met.as_str()), "{host} over UDP: {met}");
    assert_eq!(c.tcp(host, &PORT.to_string()), None, "{host} over TCP");
}

/// In quarantine nothing is answered, not even with a refusal.
fn assert_dark(c: &Container) {
    for host in [PROFILE, OTHER[0], PRIVATE, METADATA] {
        assert_ne!(c.probe(host, &PORT.to_string()), "open", "{host}");
    }
    assert_eq!(c.tcp(PROFILE, &PORT.to_string()), None);
}

fn every_verb_does_to_packets_what_it_says(who: Who) {
    let op = Operator::new(who);
    op.setup();
    let c = op.run("web", "");
    op.says("status web", "up");
    assert_open(&c, PROFILE);
    for host in [OTHER[0], PRIVATE, METADATA] {
        assert_refused(&c, host);
    }

    let [first, timed, service, other, _] = OTHER;
    op.says(
        &format!("allow web {first}"),
        &format!("Allowed {first} -> {first} for web"),
    );
    assert_open(&c, first);
    op.says(
        &format!("deny web {first}"),
        &format!("Denied {first} ({first}) for web"),
    );
    assert_refused(&c, first);
    op.verb(&format!("deny web {PROFILE}"));
    assert_refused(&c, PROFILE);
    op.verb(&format!("allow web {PROFILE}"));
    assert_open(&c, PROFILE);

    let since = Instant::now();
    op.verb(&format!("allow web {timed} --for 3s"));
    assert_open(&c, timed);
    assert!(
        op.verb("rules web")
            .contains(&format!("# allow_v4 {timed}: live, "))
    );
    std::thread::sleep(Duration::from_millis(4100).saturating_sub(since.elapsed()));
    assert_refused(&c, timed);
    assert!(
        !op.verb("rules web").contains(timed),
        "the kernel still holds it"
    );

    op.verb(&format!("allow web {service}:{PORT}/udp"));
    assert_eq!(c.probe(service, &PORT.to_string()), "open");
    assert_eq!(
        c.tcp(service, &PORT.to_string()),
        None,
        "only UDP was allowed"
    );
    op.verb(&format!("allow web {PRIVATE}"));
    assert_open(&c, PRIVATE);
    op.verb(&format!("deny web {PRIVATE}"));
    assert_refused(&c, PRIVATE);
    let floor = op.try_verb(&format!("allow web {METADATA}"));
    assert_eq!(floor.status, Some(1), "{floor:?}");
    op.verb("allow web 169.254.0.0/16");
    assert_refused(&c, METADATA);

    op.verb(&format!("deny web {first}"));
    op.says("down web", "Shield down for web");
    op.says("status web", "down");
    assert_open(&c, other);
    for host in [DOWN_ONLY, PRIVATE, METADATA, first] {
        assert_refused(&c, host);
    }
    op.verb("down web --all");
    op.says("status web", "disengaged");
    assert_open(&c, DOWN_ONLY);
    assert_refused(&c, first);
    op.verb(&format!("deny web {}", OTHER[4]));
    assert_refused(&c, OTHER[4]);
    op.verb(&format!("allow web {PRIVATE}"));
    op.says(
        "quarantine web",
        "Shield QUARANTINED for web — all traffic dropped",
    );
    op.says("status web", "quarantine");
    assert_dark(&c);
    op.says("up web", "Shield up for web");
    op.says("status web", "up");
    assert_open(&c, PROFILE);
    assert_refused(&c, other);

    let rules = op.verb("rules web");
    assert!(
        rules.starts_with("State: up\ntable inet terok_shield {\n"),
        "{rules}"
    );
    for line in [
        format!("# allow_v4 {PROFILE}: profile\n"),
        format!("# deny_v4 {first}: live\n"),
        format!("# override_v4 {PRIVATE}: live\n"),
        format!("# service_v4 {service} . udp . {PORT}: live\n"),
    ] {
        assert!(rules.contains(&line), "no {line} in {rules}");
    }
    let logs = op.verb("logs --container web -n 500");
    for action in [
        "setup",
        "allowed",
        "denied",
        "shield_down",
        "shield_quarantine",
        "shield_up",
        "note",
    ] {
        let field = format!(r#","container":"web","action":"{action}""#);
        assert!(logs.contains(&field), "no {action} in {logs}");
    }
    assert_eq!(op.verb("logs -n 1").lines().count(), 1);
    // A name that an orchestrator took for another run's.
    let wrong = op.try_verb("down web --container-id 0123456789ab");
    assert_eq!(wrong.status, Some(1), "{wrong:?}");
    op.says("status web", "up");
    op.verb(&format!("down web --container-id {}", c.id()));
}

fn verdicts_and_posture_survive_every_way_to_start_again(who: Who) {
    let op = Operator::new(who);
    op.setup();
    let script = "test -e /out/second && exec sleep infinity; until test -e /out/go; do sleep 0.1; done; \
                  : >/out/second; exit 1";
    let out = PathBuf::from("/run/lab/again");
    who_makes_out(&out);
    let words = [
        "run",
        "web",
        "--",
        "-d",
        "--restart=on-failure:3",
        "--volume",
    ];
    let volume = format!("{}:/out", out.display());
    let rest = [volume.as_str(), IMAGE, "sh", "-c", script];
    let ran = who.run(BINARY, &[&words[..], &rest].concat());
    assert!(ran.ok(), "{ran:?}");
    let c = Container {
        who,
        name: "web".into(),
    };
    op.verb(&format!("allow web {}", OTHER[0]));
    op.verb(&format!("deny web {PROFILE}"));
    op.verb("allow web 192.0.2.12/31");
    op.verb(&format!("deny web {}", OTHER[2]));
    let as_said = |c: &Container| {
        assert_open(c, OTHER[0]);
        assert_open(c, OTHER[1]);
        for host in [PROFILE, OTHER[2], OTHER[3], PRIVATE] {
            assert_refused(c, host);
        }
        let table = c.table().expect("no table");
        assert!(table.contains(log_prefix::BLOCKED), "{table}");
        assert_eq!(table.matches("chain output").count(), 1, "{table}");
    };
    as_said(&c);
    // The workload fails; podman's restart policy brings it back.
    let pid = c.pid();
    std::fs::write(out.join("go"), "").unwrap();
    wait_for("the restart policy", Duration::from_secs(20), || {
        let up = who.podman(&[
            "inspect",
            "--format={{.State.Status}} {{.State.Pid}}",
            "web",
        ]);
        let up = up.stdout.trim().to_string();
        (up.starts_with("running ") && !up.ends_with(&format!(" {pid}"))).then_some(())
    });
    as_said(&c);
    who.must("podman", &["restart", "--time=0", "web"]);
    as_said(&c);
    who.must("podman", &["stop", "--time=0", "web"]);
    op.says("status web", "offline");
    who.must("podman", &["start", "web"]);
    as_said(&c);
    for (verb, state) in [
        ("quarantine web", "quarantine"),
        ("down web", "down"),
        ("up web", "up"),
    ] {
        op.verb(verb);
        who.must("podman", &["restart", "--time=0", "web"]);
        op.says("status web", state);
        match state {
            "quarantine" => assert_dark(&c),
            "down" => {
                assert_open(&c, OTHER[3]);
                assert_refused(&c, PROFILE);
            }
            _ => as_said(&c),
        }
    }
}

fn who_makes_out(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    Who::Root.must("chmod", &["1777", path.to_str().unwrap()]);
}

fn the_gate_is_the_default_and_needs_no_upstream_to_be_told(who: Who) {
    let op = Operator::new(who);
    op.configure("default_profiles: [t]\n");
    op.setup();
    let c = op.run("web", "");
    assert!(op.verb("check-environment").contains("dns_tier=gate\n"));
    let status = op.verb("status web --json");
    assert!(
        status.contains(r#""tier":"gate","dns":"running""#),
        "{status}"
    );
    assert_open(&c, PROFILE);
    assert_refused(&c, OTHER[0]);
    // Nobody answers DNS in the lab: the name is on the list all the same, and opens as it is asked for.
    let ran = op.try_verb("allow web new.example.org");
    assert_eq!(
        ran.stdout, "Allowed new.example.org -> no address yet for web\n",
        "{ran:?}"
    );
    assert!(ran.ok(), "{ran:?}");
    let lookup = c.exec(&["nslookup", "unlisted.example.net", "127.0.0.1"]);
    assert!(format!("{lookup:?}").contains("REFUSED"), "{lookup:?}");
    let ran = op.try_verb("deny web new.example.org");
    assert_eq!(
        ran.stdout, "Denied new.example.org (no address yet) for web\n",
        "{ran:?}"
    );
    let lookup = c.exec(&["nslookup", "new.example.org", "127.0.0.1"]);
    assert!(format!("{lookup:?}").contains("REFUSED"), "{lookup:?}");
}

fn setup_and_its_undoing_leave_podman_as_it_was(who: Who) {
    let op = Operator::new(who);
    let conf = op.containers_conf();
    let before = std::fs::read_to_string(&conf).ok();
    let refused = op.try_verb(&format!("run web -- {IMAGE} true"));
    assert_eq!(refused.status, Some(1));
    assert!(
        refused.stderr.ends_with("run: terok-shield setup\n"),
        "{refused:?}"
    );
    let missing = op.verb("check-environment");
    assert!(
        missing.contains("hooks=not-installed\nhealth=setup-needed\n"),
        "{missing}"
    );

    op.setup();
    let once = std::fs::read_to_string(&conf).unwrap();
    op.setup();
    assert_eq!(
        std::fs::read_to_string(&conf).unwrap(),
        once,
        "a second setup must change nothing"
    );
    let word = match who {
        Who::Root => "global-system",
        Who::Tester => "global-user",
    };
    let ready = op.verb("check-environment");
    assert!(
        ready.contains(&format!("hooks={word}\nhealth=ok\n")),
        "{ready}"
    );
    let status = op.verb("status");
    assert!(
        status.contains(&format!("\nHooks: {word}\nHealth: ok\nAudit: enabled\n")),
        "{status}"
    );
    let c = op.run("web", "");
    assert_refused(&c, OTHER[0]);

    let dir = match who {
        Who::Root => "/var/lib/terok/shield/hooks",
        Who::Tester => "/home/tester/.local/share/terok/shield/hooks",
    };
    // podman skips a descriptor whose binary is gone, and says nothing: we do.
    std::fs::remove_file(Path::new(dir).join("terok-shield")).unwrap();
    let stale = op.try_verb(&format!("run web2 -- {IMAGE} true"));
    assert_eq!(stale.status, Some(1));
    assert!(stale.stderr.contains("would not protect"), "{stale:?}");
    assert!(
        op.verb("check-environment")
            .contains("health=stale-hooks\n")
    );
    op.setup();
    op.verb("setup --uninstall");
    assert_eq!(std::fs::read_to_string(&conf).ok(), before);
    assert!(!Path::new(dir).exists());
    op.says("setup --uninstall", "Nothing was installed");
}

fn a_stopped_container_is_changed_for_its_next_start(who: Who) {
    let op = Operator::new(who);
    op.setup();
    let c = op.run("web", "");
    who.must("podman", &["stop", "--time=0", "web"]);
    op.verb(&format!("allow web {}", OTHER[0]));
    op.verb(&format!("deny web {PROFILE}"));
    op.verb(&format!("allow web {} --for 1h", OTHER[1]));
    assert_eq!(op.verb("rules web"), "State: offline\n");
    who.must("podman", &["start", "web"]);
    assert_open(&c, OTHER[0]);
    assert_open(&c, OTHER[1]);
    assert_refused(&c, PROFILE);
    who.must("podman", &["stop", "--time=0", "web"]);
    op.verb("quarantine web");
    who.must("podman", &["start", "web"]);
    op.says("status web", "quarantine");
    assert_dark(&c);
}
