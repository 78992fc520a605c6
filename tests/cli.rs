//! The operator's command line to the byte: what each verb prints, how it exits, and that whatever
//! is wrong is named. A script stands in for podman; no container runs.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const PODMAN: &str = r#"#!/bin/sh
case "$1 $2" in
info*) echo '{"host":{"security":{"rootless":true},"rootlessNetworkCmd":"pasta"},"version":{"Version":"5.4.2"}}' ;;
run*) shift; for word; do echo "<$word>"; done ;;
"container inspect") echo "Error: no such container $4" >&2; exit 125 ;;
*) exit 125 ;;
esac
"#;

/// An ordinary user's home with a podman in it.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "terok-cli-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, SeqCst)
        );
        let home = Self(std::env::temp_dir().join(name));
        let _ = std::fs::remove_dir_all(&home.0);
        let mut mkdir = std::fs::DirBuilder::new();
        mkdir.recursive(true).mode(0o700);
        for dir in ["bin", ".config/terok/shield/profiles"] {
            mkdir.create(home.0.join(dir)).unwrap();
        }
        // Another process writes what is to be executed: a descriptor open for writing here would
        // be inherited by whatever the other tests start at that moment (ETXTBSY).
        home.write("podman", PODMAN);
        let podman = home.path("podman");
        for (from, to) in [
            (env!("CARGO_BIN_EXE_terok-shield"), "terok-shield"),
            (&podman, "podman"),
        ] {
            let to = home.0.join("bin").join(to);
            let install = Command::new("install")
                .args(["-m", "755", from])
                .arg(to)
                .status();
            assert!(install.unwrap().success());
        }
        home.config("default_profiles: [t]\ndns: {tier: dig}\n");
        home.profile("t", "192.0.2.0/24 # ours\n+2001:db8::1\n");
        if root() {
            let chown = Command::new("chown")
                .arg("-R")
                .arg("65534:65534")
                .arg(&home.0)
                .status();
            assert!(chown.unwrap().success());
        }
        home
    }

    /// With hooks set up and container `web` prepared.
    fn prepared() -> Self {
        let home = Self::new();
        home.ok("setup");
        home.ok("prepare web");
        home
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.0.join(path), text).unwrap();
    }

    fn config(&self, text: &str) {
        self.write(".config/terok/shield/config.yml", text);
    }

    fn profile(&self, name: &str, text: &str) {
        self.write(&format!(".config/terok/shield/profiles/{name}.txt"), text);
    }

    fn bundle(&self, name: &str) -> String {
        let path = format!(".local/state/terok/shield/containers/{name}");
        self.0.join(path).to_str().unwrap().into()
    }

    fn path(&self, below: &str) -> String {
        self.0.join(below).to_str().unwrap().into()
    }

    /// Exit code, stdout, stderr of a verb.
    fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(self.0.join("bin/terok-shield"));
        command
            .args(words)
            .current_dir("/")
            .stdin(Stdio::null())
            .env_clear();
        command.env("HOME", &self.0);
        command.env("PATH", format!("{}/bin:/usr/bin:/bin", self.0.display()));
        if root() {
            // Real root keeps to the machine's own places; tests keep out of them.
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    fn split(&self, words: &str) -> (Option<i32>, String, String) {
        self.run(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// The verb's standard output; it must exit 0 and complain of nothing.
    fn ok(&self, words: &str) -> String {
        let (code, out, err) = self.split(words);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{words}: {out}");
        out
    }

    /// The verb prints exactly this line.
    fn says(&self, words: &str, line: &str) {
        assert_eq!(self.ok(words), format!("{line}\n"), "{words}");
    }

    /// The verb fails so, prints nothing, and its one line holds all of `named`.
    fn fails(&self, words: &[&str], exit: i32, named: &[&str]) {
        let (code, out, err) = self.run(words);
        assert_eq!((code, out.as_str()), (Some(exit), ""), "{words:?}: {err}");
        assert!(err.starts_with("Error: "), "{words:?}: {err}");
        if exit == 1 {
            assert_eq!(err.lines().count(), 1, "{words:?}: {err}");
        }
        for part in named {
            assert!(err.contains(part), "{words:?}: no {part:?} in {err}");
        }
        assert!(
            err.trim_end().chars().all(|c| c == '\n' || !c.is_control()),
            "{err:?}"
        );
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn setup_says_what_it_did_and_undoes_it() {
    let home = Home::new();
    let (hooks, conf) = (
        home.path(".local/share/terok/shield/hooks"),
        home.path(".config/containers/containers.conf"),
    );
    home.says(
        "setup",
        &format!("Hooks installed in {hooks}\nRegistered in {conf}"),
    );
    home.says(
        "setup",
        &format!("Hooks are current in {hooks}\nAlready registered in {conf}"),
    );
    let written = std::fs::read_to_string(&conf).unwrap();
    assert!(written.contains(&format!("\"{hooks}\"")), "{written}");
    home.says(
        "setup --uninstall",
        &format!("Removed {conf}\nHooks removed from {hooks}"),
    );
    assert!(!Path::new(&hooks).exists() && !Path::new(&conf).exists());
    home.says("setup --uninstall", "Nothing was installed");
    home.fails(&["setup", "--root"], 1, &["--root", "sudo"]);
    home.fails(&["setup", "--root", "--user"], 2, &["--root and --user"]);
}

#[test]
fn prepare_prints_podmans_arguments_name_last() {
    let home = Home::new();
    home.fails(&["prepare", "web"], 1, &["run: terok-shield setup"]);
    home.ok("setup");
    let bundle = home.bundle("web");
    let expected = [
        "--network",
        "pasta:--map-host-loopback,169.254.1.2",
        "--add-host",
        "host.containers.internal:169.254.1.2",
        "--annotation",
        "terok.shield.profiles=t",
        "--annotation",
        "terok.shield.name=web",
        "--annotation",
        &format!("terok.shield.state_dir={bundle}"),
        "--annotation",
        "terok.shield.version=14",
        "--annotation",
        "terok.shield.audit_enabled=true",
        "--annotation",
        "terok.shield.upstream_dns=169.254.1.1",
        "--annotation",
        "terok.shield.dns_tier=dig",
        "--annotation",
        &format!("run.oci.hooks.stderr={bundle}/hook-error.log"),
        "--cap-drop",
        "NET_ADMIN",
        "--cap-drop",
        "NET_RAW",
        "--name",
        "web",
    ];
    home.says("prepare web", &expected.join(" "));
    let json: Vec<String> = expected.iter().map(|w| format!("\"{w}\"")).collect();
    home.says("prepare web --json", &format!("[{}]", json.join(",")));
    let ran = home.ok("run web -- --rm image cmd --privileged");
    let mut words: Vec<&str> = expected.to_vec();
    words.extend(["--rm", "image", "cmd", "--privileged"]);
    let words: String = words.iter().map(|w| format!("<{w}>\n")).collect();
    assert_eq!(ran, words);
    // The gate serves DNS inside: its resolv.conf is mounted.
    home.config("default_profiles: [t]\n");
    let gate = home.ok("prepare web");
    assert!(
        gate.contains(&format!(
            "--volume {bundle}/resolv.conf:/etc/resolv.conf:ro,Z "
        )),
        "{gate}"
    );
    assert!(gate.contains("terok.shield.dns_tier=gate"), "{gate}");
}

#[test]
fn run_refuses_what_would_lift_the_shield() {
    let home = Home::prepared();
    for option in [
        "--name=x",
        "--network=host",
        "--net=host",
        "--network host",
        "--hooks-dir=/x",
        "--annotation=a=b",
        "--cap-add=NET_ADMIN",
        "--cap-drop=ALL",
        "--privileged",
        "--privileged=true",
        "--pid=host",
        "--userns=host",
        "--security-opt=seccomp=unconfined",
        "--device=/dev/net/tun",
        "--frobnicate",
    ] {
        let line = format!("run web -- {option} image");
        let words: Vec<&str> = line.split(' ').collect();
        let flag = option.split(['=', ' ']).next().unwrap();
        home.fails(&words, 1, &[flag]);
    }
}

#[test]
fn verdicts_and_postures_print_their_line() {
    let home = Home::prepared();
    for (words, line) in [
        (
            "allow web 198.51.100.7",
            "Allowed 198.51.100.7 -> 198.51.100.7 for web",
        ),
        (
            "allow web 2001:0db8::0:1",
            "Allowed 2001:db8::1 -> 2001:db8::1 for web",
        ),
        (
            "allow web 198.51.100.7/24",
            "Allowed 198.51.100.0/24 -> 198.51.100.0/24 for web",
        ),
        (
            "allow web 203.0.113.5:443",
            "Allowed 203.0.113.5:443/tcp -> 203.0.113.5 for web",
        ),
        (
            "allow web 203.0.113.5:53/udp",
            "Allowed 203.0.113.5:53/udp -> 203.0.113.5 for web",
        ),
        (
            "allow --for 15m web 203.0.113.6",
            "Allowed 203.0.113.6 -> 203.0.113.6 for web",
        ),
        (
            "allow web 203.0.113.6 --for 1d",
            "Allowed 203.0.113.6 -> 203.0.113.6 for web",
        ),
        (
            "deny web 198.51.100.7",
            "Denied 198.51.100.7 (198.51.100.7) for web",
        ),
        (
            "deny web 192.0.2.9/28",
            "Denied 192.0.2.0/28 (192.0.2.0/28) for web",
        ),
        ("down web", "Shield down for web"),
        ("down web --all", "Shield down for web (all traffic)"),
        ("down --all web", "Shield down for web (all traffic)"),
        (
            "quarantine web",
            "Shield QUARANTINED for web — all traffic dropped",
        ),
        (
            "block web",
            "Shield QUARANTINED for web — all traffic dropped",
        ),
        ("up web", "Shield up for web"),
        ("status web", "offline"),
        ("rules web", "State: offline"),
        (
            "status web --json",
            r#"{"container":"web","state":"offline","posture":"up","running":false,"tier":"dig"}"#,
        ),
        (
            "rules web --json",
            r#"{"container":"web","state":"offline","elements":[]}"#,
        ),
        (
            "allow web 203.0.113.9 --json",
            r#"{"container":"web","target":"203.0.113.9","addresses":["203.0.113.9"],"running":false,"cut":0,"posture":"up"}"#,
        ),
        (
            "deny web 203.0.113.9 --json",
            r#"{"container":"web","target":"203.0.113.9","addresses":["203.0.113.9"],"running":false,"cut":0,"posture":"up"}"#,
        ),
        (
            "resolve web",
            "Resolved 2 IPs for web\n  192.0.2.0/24\n  2001:db8::1",
        ),
        (
            "resolve web --force",
            "Resolved 2 IPs for web (forced)\n  192.0.2.0/24\n  2001:db8::1",
        ),
    ] {
        home.says(words, line);
    }
    let read =
        |name: &str| std::fs::read_to_string(Path::new(&home.bundle("web")).join(name)).unwrap();
    assert_eq!(read("live.allowed"), "2001:db8::1\n198.51.100.0/24\n");
    assert_eq!(
        read("deny.list"),
        "198.51.100.7\n192.0.2.0/28\n203.0.113.9\n"
    );
    assert_eq!(read("posture"), "up\n");
}

#[test]
fn what_looks_prints_the_contracts_lines() {
    let home = Home::prepared();
    let version = env!("CARGO_PKG_VERSION");
    let profiles = "base, dev-node, dev-python, dev-standard, krun_guest, nvidia-hpc, t";
    home.says(
        "--version",
        &format!("terok-shield {version}\npodman 5.4.2"),
    );
    home.says(
        "status",
        &format!(
            "Version: {version}\nPodman: 5.4.2\nMode: auto\nHooks: global-user\nHealth: ok\nAudit: enabled\nProfiles: {profiles}"
        ),
    );
    home.says("profiles", &profiles.replace(", ", "\n"));
    home.says(
        "profiles --json",
        &format!("[\"{}\"]", profiles.replace(", ", "\",\"")),
    );
    home.says(
        "check-environment",
        "podman_version=5.4.2\nhooks=global-user\nhealth=ok\ndns_tier=dig",
    );
    for (words, heading, policy) in [
        (
            "preview",
            "# Ruleset preview (enforce):\ntable inet terok_shield {\n",
            "policy drop;",
        ),
        (
            "preview --down",
            "# Ruleset preview (bypass):\ntable inet terok_shield {\n",
            "policy accept;",
        ),
        (
            "preview --down --all",
            "# Ruleset preview (bypass (all traffic)):\ntable inet terok_shield {\n",
            "policy accept;",
        ),
    ] {
        let text = home.ok(words);
        assert!(
            text.starts_with(heading) && text.contains(policy),
            "{words}: {text}"
        );
    }
    home.ok("prepare api");
    home.ok("down api");
    home.ok("quarantine web");
    let all = home.ok("logs");
    let of = |name: &str| {
        all.lines()
            .filter(|l| l.contains(&format!("\"container\":\"{name}\"")))
            .count()
    };
    assert_eq!((of("web"), of("api")), (2, 2), "{all}");
    let stamps: Vec<&str> = all.lines().map(|l| &l[..30]).collect();
    assert!(stamps.is_sorted(), "{all}");
    let last = home.ok("logs --container web -n 1");
    assert!(
        last.contains(r#""container":"web","action":"shield_quarantine"}"#),
        "{last}"
    );
    assert_eq!(home.ok("logs -n 3").lines().count(), 3);
    home.ok("setup --uninstall");
    let lines = home.ok("check-environment");
    assert!(
        lines.contains("\nhooks=not-installed\nhealth=setup-needed\n"),
        "{lines}"
    );
    assert!(
        lines.contains("Hint: ") && lines.contains("run: terok-shield setup"),
        "{lines}"
    );
}

#[test]
fn every_wrong_word_is_a_usage_error_that_names_it() {
    let home = Home::prepared();
    for (words, named) in [
        (
            &["frobnicate"][..],
            &["\"frobnicate\"", "the verbs are"][..],
        ),
        (&["quarentine", "web"], &["did you mean quarantine?"]),
        (&[], &["no verb"]),
        (&["allow"], &["container", "target"]),
        (&["allow", "web"], &["target"]),
        (&["allow", "web", "192.0.2.1", "extra"], &["extra"]),
        (&["allow", "--frob", "web", "192.0.2.1"], &["--frob"]),
        (
            &["allow", "--for", "soon", "web", "192.0.2.1"],
            &["\"soon\"", "15m"],
        ),
        (&["allow", "web", "192.0.2.1", "--for", "0s"], &["\"0s\""]),
        (&["logs", "-n", "many"], &["many"]),
        (&["preview", "--all"], &["--down"]),
        (
            &["--state-dir", "relative", "status"],
            &["\"relative\"", "absolute"],
        ),
        (&["--state-dir"], &["--state-dir"]),
        (&["completions", "tcsh"], &["\"tcsh\""]),
    ] {
        home.fails(words, 2, named);
    }
    let (code, out, err) = home.split("allow --help");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("terok-shield allow web crates.io"), "{out}");
}

#[test]
fn every_wrong_name_and_target_is_named() {
    let home = Home::prepared();
    for name in ["../web", "-web", "we b", "w\u{1b}[31m", ".web", "", "wéb"] {
        for verb in ["up", "down", "quarantine", "rules"] {
            let (code, out, err) = home.run(&[verb, "--", name]);
            assert_eq!(
                (code, out.as_str()),
                (Some(1), ""),
                "{verb} {name:?}: {err}"
            );
            assert!(
                err.starts_with("Error: invalid container name \""),
                "{verb} {name:?}: {err}"
            );
            assert!(
                err.trim_end().bytes().all(|b| (0x20..0x7f).contains(&b)),
                "{err:?}"
            );
        }
    }
    home.fails(&["up", "nobody"], 1, &["nobody"]);
    home.fails(&["status", "nobody"], 1, &["nobody"]);
    for (target, named) in [
        ("192.0.2.256", "\"192.0.2.256\""),
        ("192.0.2.1/33", "\"192.0.2.1/33\""),
        ("2001:db8::1/129", "\"2001:db8::1/129\""),
        ("2001:db8:::1", "2001:db8:::1"),
        ("exa mple.org", "\"exa mple.org\""),
        ("exämple.org", "invalid domain name"),
        ("a.-b.example.org", "\"a.-b.example.org\""),
        ("a..example.org", "\"a..example.org\""),
        ("192.0.2.1:0", "\"0\""),
        ("192.0.2.1:65536", "\"65536\""),
        ("192.0.2.1:80/sctp", "\"sctp\""),
        ("192.0.2.0/24:80", "192.0.2.0/24"),
        ("", "\"\""),
    ] {
        home.fails(&["allow", "web", target], 1, &[named]);
        home.fails(&["deny", "web", target], 1, &[named]);
    }
    for floor in [
        "169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
        "::ffff:169.254.169.254",
    ] {
        home.fails(&["allow", "web", floor], 1, &["metadata"]);
    }
    home.fails(
        &["up", "web", "--container-id", "0123456789ab"],
        1,
        &["never been started"],
    );
    home.fails(
        &["prepare", "web", "--profiles", "no-such"],
        1,
        &["\"no-such\"", "dev-standard"],
    );
    home.fails(&["prepare", "web", "--profiles", "../x"], 1, &["\"../x\""]);
}

#[test]
fn every_wrong_line_of_config_and_profile_is_named() {
    let home = Home::prepared();
    for (text, named) in [
        ("mode: iptables\n", &["line 1", "mode", "iptables"][..]),
        (
            "audit:\n  enabled: maybe\n",
            &["line 2", "audit.enabled", "maybe"],
        ),
        ("audit: true\n", &["line 1", "audit"]),
        (
            "default_profiles: []\n",
            &["line 1", "default_profiles", "empty"],
        ),
        ("default_profiles: t\n", &["line 1", "default_profiles"]),
        ("default_profiles: [../x]\n", &["default_profiles", "../x"]),
        ("loopback_ports: 0\n", &["loopback_ports", "65535"]),
        ("loopback_ports: [80, true]\n", &["loopback_ports", "true"]),
        ("\n\nfrob: 1\n", &["line 3", "frob"]),
        ("dns: {tier: bind}\n", &["dns.tier", "bind"]),
        ("mode: auto\nmode: hook\n", &["line 2", "mode"]),
        ("mode: &a auto\n", &["line 1"]),
        ("mode: !!str auto\n", &["line 1"]),
        ("mode: [auto\n", &["line"]),
    ] {
        home.config(text);
        home.fails(&["status"], 1, &[&["config.yml"], named].concat());
        home.fails(&["prepare", "web"], 1, &["config.yml"]);
    }
    home.config("default_profiles: [t]\ndns: {tier: dig}\n");
    for (line, named) in [
        ("192.0.2.999", "192.0.2.999"),
        ("192.0.2.0/40", "192.0.2.0/40"),
        ("ex ample.org", "ex ample.org"),
        ("a_very_bad!.org", "a_very_bad!.org"),
        ("*.*.org", "*.*.org"),
        ("-example.org", "only allows"),
    ] {
        home.profile("t", &format!("192.0.2.1\n{line}\n"));
        home.fails(&["prepare", "web"], 1, &["t.txt line 2", named]);
    }
    home.profile("t", "192.0.2.1\n");
    home.ok("prepare web");
    // A bundle that somebody edited.
    for (file, text) in [
        ("live.allowed", "192.0.2.1\nnonsense!\n"),
        ("deny.list", "\n1.2.3\n"),
    ] {
        let path = Path::new(&home.bundle("web")).join(file);
        let before = std::fs::read(&path).unwrap_or_default();
        std::fs::write(&path, text).unwrap();
        home.fails(
            &["allow", "web", "192.0.2.7"],
            1,
            &[&format!("{file} line 2")],
        );
        std::fs::write(&path, before).unwrap();
    }
    home.ok("allow web 192.0.2.7");
}
