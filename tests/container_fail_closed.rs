//! Whatever is wrong, the container does not start: the fail-closed matrix, with real podman.
//!
//! Each case runs rootful and rootless, in a network namespace that outlives the container, so
//! that what the hook left behind can be looked at.

mod common;

use common::lab::{
    BINARY, Netns, Ran, Who, chown_tester, in_lab, in_netns_of, json_string, wait_for,
};
use common::shielded::{
    Bundle, OUT, Run, When, install_hook_program, install_hooks, ruleset, table_in,
};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use terok_shield::contract::{self, annotation, file};
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
    a_sound_bundle_starts
    no_annotation
    relative_state_dir
    missing_state_dir
    symlinked_state_dir
    foreign_owned_state_dir
    group_writable_state_dir
    world_writable_state_dir
    system_path_state_dir
    state_dir_that_resolves_to_a_system_path
    state_dir_that_is_a_file
    wrong_version
    missing_version
    missing_ruleset
    empty_ruleset
    unparsable_ruleset
    half_valid_ruleset
    symlinked_ruleset
    ruleset_of_another_table
    ruleset_that_lets_everything_out
    element_list_with_one_bad_address
    unreadable_posture
    bundle_of_another_living_container
    namespace_of_another_shielded_container
    host_network
    truncated_state
    empty_state
    state_that_is_not_json
    state_that_is_no_object
    state_of_ten_megabytes
    state_without_pid
    pid_that_is_gone
    pid_of_another_process
    kernel_refuses_the_rules
    set_that_is_too_small
    kernel_refuses_without_cap_net_admin
    kernel_holds_something_else_than_meant
    a_rule_that_vanished_before_the_read_back
}

/// Where the one line stands that says why.
enum Line {
    /// In the bundle's `hook-error.log`.
    Bundle,
    /// On the hook's stderr: the bundle is not known yet.
    Stderr,
}

/// A bundle, a namespace and the `podman run` that brings them together.
struct Trial {
    bundle: Bundle,
    netns: Netns,
    run: Run,
}

impl Trial {
    fn new(who: Who) -> Self {
        install_hooks(When::Annotated);
        let bundle = Bundle::new(who, "trial", &["192.0.2.1", "2001:db8::/64"]);
        let netns = Netns::new(who);
        let run = Run::new(&bundle, &netns.network())
            .option(&["--volume", &format!("{OUT}:/out")])
            .workload(&["touch", "/out/ran"]);
        Self { bundle, netns, run }
    }

    /// The same with another ruleset.nft.
    fn with_ruleset(who: Who, text: &str) -> Self {
        let trial = Self::new(who);
        trial.bundle.write(file::RULESET, text);
        trial
    }

    fn annotate(mut self, key: &str, value: &str) -> Self {
        self.run = self.run.annotate(key, value);
        self
    }

    /// Runs it and checks all that failing closed means.
    fn is_refused(&self, line: Line, why: &str) {
        let ran = self.run.go(false);
        assert_ne!(ran.status, Some(0), "podman must fail: {ran:?}");
        assert!(!workload_ran(), "the workload ran: {ran:?}");
        assert_not_accepting(table_in(self.netns.pid));
        let stderr = std::fs::read_to_string(self.run.stderr_file()).unwrap_or_default();
        assert_one_line(&stderr, why);
        match line {
            Line::Bundle => assert_one_line(&self.bundle.read(file::HOOK_ERROR_LOG), why),
            Line::Stderr => assert_eq!(self.bundle.read(file::HOOK_ERROR_LOG), ""),
        }
    }
}

fn workload_ran() -> bool {
    Path::new(OUT).join("ran").exists()
}

fn assert_one_line(text: &str, why: &str) {
    assert_eq!(text.lines().count(), 1, "one line wanted: {text:?}");
    assert!(text.contains(why), "{why:?} wanted: {text:?}");
}

/// No table, or one that lets nothing out but loopback.
fn assert_not_accepting(table: Option<String>) {
    let Some(table) = table else { return };
    let output = table.split("chain output").nth(1).unwrap_or(&table);
    let output = output.split("chain ").next().unwrap_or(output);
    let accepts = output.lines().filter(|l| l.trim_end().ends_with("accept"));
    assert!(
        output.contains("policy drop") && accepts.clone().all(|l| l.contains("oifname \"lo\"")),
        "an accepting table was left behind:\n{table}"
    );
}

/// The control: the same arrangement without a fault starts, protected.
fn a_sound_bundle_starts(who: Who) {
    let trial = Trial::new(who);
    let ran = trial.run.go(false);
    assert!(ran.ok(), "{ran:?}");
    assert!(workload_ran());
    let table = table_in(trial.netns.pid).expect("no table");
    assert!(
        table.contains("192.0.2.1") && table.contains("policy drop"),
        "{table}"
    );
    assert_eq!(trial.bundle.read(file::HOOK_ERROR_LOG), "");
    let id = trial.bundle.read(file::CONTAINER_ID);
    assert!(id.len() == 13 && id.ends_with('\n'), "{id:?}");
}

fn no_annotation(who: Who) {
    let mut trial = Trial::new(who);
    install_hooks(When::Always);
    trial.run.annotations.clear();
    trial.is_refused(Line::Stderr, annotation::PROFILES);
}

fn relative_state_dir(who: Who) {
    let trial = Trial::new(who).annotate(annotation::STATE_DIR, "state/trial");
    trial.is_refused(Line::Stderr, "not an absolute path");
}

fn missing_state_dir(who: Who) {
    let trial = Trial::new(who).annotate(annotation::STATE_DIR, "/run/lab/out/nothing-here");
    trial.is_refused(Line::Stderr, "/run/lab/out/nothing-here");
}

fn symlinked_state_dir(who: Who) {
    let mut trial = Trial::new(who);
    let link = format!("{OUT}/link");
    std::os::unix::fs::symlink(&trial.bundle.path, &link).unwrap();
    if who == Who::Tester {
        chown_tester(Path::new(&link));
    }
    for (i, spelling) in [link.clone(), format!("{link}/"), format!("{link}/.")]
        .iter()
        .enumerate()
    {
        trial = trial.annotate(annotation::STATE_DIR, spelling);
        trial.run.name = format!("spelling{i}");
        trial.is_refused(Line::Stderr, &link);
    }
}

fn foreign_owned_state_dir(who: Who) {
    let trial = Trial::new(who);
    let other = if who == Who::Root { "tester" } else { "root" };
    let path = trial.bundle.path.to_str().unwrap();
    Who::Root.must("chown", &[other, path]);
    // Readable, so that ownership alone is what is wrong.
    Who::Root.must("chmod", &["755", path]);
    trial.is_refused(Line::Stderr, "belongs to another user");
}

fn group_writable_state_dir(who: Who) {
    let trial = Trial::new(who);
    who.must("chmod", &["720", trial.bundle.path.to_str().unwrap()]);
    trial.is_refused(Line::Stderr, "writable");
}

fn world_writable_state_dir(who: Who) {
    let trial = Trial::new(who);
    who.must("chmod", &["702", trial.bundle.path.to_str().unwrap()]);
    trial.is_refused(Line::Stderr, "writable");
}

/// A bundle like the trial's, copied to where none may be.
fn copy_of(bundle: &Bundle, to: &str) -> PathBuf {
    Who::Root.must("cp", &["-a", bundle.path.to_str().unwrap(), to]);
    to.into()
}

fn system_path_state_dir(who: Who) {
    let trial = Trial::new(who);
    copy_of(&trial.bundle, "/etc/trial");
    trial
        .annotate(annotation::STATE_DIR, "/etc/trial")
        .is_refused(Line::Stderr, "/etc");
    assert!(!Path::new("/etc/trial").join(file::HOOK_ERROR_LOG).exists());
}

fn state_dir_that_resolves_to_a_system_path(who: Who) {
    let trial = Trial::new(who);
    copy_of(&trial.bundle, "/etc/trial");
    std::os::unix::fs::symlink("/etc", format!("{OUT}/innocent")).unwrap();
    trial
        .annotate(annotation::STATE_DIR, &format!("{OUT}/innocent/trial"))
        .is_refused(Line::Stderr, "/etc");
    assert!(!Path::new("/etc/trial").join(file::HOOK_ERROR_LOG).exists());
}

fn state_dir_that_is_a_file(who: Who) {
    let trial = Trial::new(who);
    let path = format!("{OUT}/file");
    who.write(Path::new(&path), "");
    trial
        .annotate(annotation::STATE_DIR, &path)
        .is_refused(Line::Stderr, &path);
}

fn wrong_version(who: Who) {
    let trial = Trial::new(who).annotate(annotation::VERSION, "13");
    trial.is_refused(Line::Bundle, "version");
}

fn missing_version(who: Who) {
    let mut trial = Trial::new(who);
    trial
        .run
        .annotations
        .retain(|(k, _)| k != annotation::VERSION);
    trial.is_refused(Line::Bundle, annotation::VERSION);
}

fn missing_ruleset(who: Who) {
    let trial = Trial::new(who);
    std::fs::remove_file(trial.bundle.path.join(file::RULESET)).unwrap();
    trial.is_refused(Line::Bundle, file::RULESET);
}

fn empty_ruleset(who: Who) {
    Trial::with_ruleset(who, "").is_refused(Line::Bundle, file::RULESET);
}

fn unparsable_ruleset(who: Who) {
    Trial::with_ruleset(who, "let everything out, please\n").is_refused(Line::Bundle, "line 1");
}

/// The first half would load, and would let everything out.
fn half_valid_ruleset(who: Who) {
    let text = "table inet terok_shield {\n\tchain output {\n\t\ttype filter hook output priority 0; policy accept;\n\t}\n}\n\
                table inet terok_shield {\n\tchain input { type filter hook input prio";
    Trial::with_ruleset(who, text).is_refused(Line::Bundle, file::RULESET);
}

fn symlinked_ruleset(who: Who) {
    let trial = Trial::new(who);
    let path = trial.bundle.path.join(file::RULESET);
    let elsewhere = Path::new(OUT).join("elsewhere.nft");
    who.write(&elsewhere, trial.bundle.read(file::RULESET));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    trial.is_refused(Line::Bundle, file::RULESET);
}

fn ruleset_of_another_table(who: Who) {
    let text = ruleset(Posture::Up, &["192.0.2.1"]).replace("terok_shield", "another");
    Trial::with_ruleset(who, &text).is_refused(Line::Bundle, file::RULESET);
}

fn ruleset_that_lets_everything_out(who: Who) {
    let text = "table inet terok_shield {\n\tchain output {\n\t\ttype filter hook output priority 0; policy accept;\n\t}\n\
                \tchain input {\n\t\ttype filter hook input priority 0; policy accept;\n\t}\n}\n";
    Trial::with_ruleset(who, text).is_refused(Line::Bundle, file::RULESET);
}

fn element_list_with_one_bad_address(who: Who) {
    let good = ruleset(Posture::Up, &["192.0.2.1", "192.0.2.7"]);
    let bad = good.replace("192.0.2.7", "192.0.2.777");
    assert_ne!(good, bad);
    Trial::with_ruleset(who, &bad).is_refused(Line::Bundle, "192.0.2.777");
}

fn set_that_is_too_small(who: Who) {
    let text = ruleset(Posture::Up, &["192.0.2.1", "192.0.2.7"]);
    let sized = text.replacen("type ipv4_addr", "type ipv4_addr\n\t\tsize 1", 1);
    assert_ne!(text, sized);
    Trial::with_ruleset(who, &sized).is_refused(Line::Bundle, "allow_v4");
}

fn unreadable_posture(who: Who) {
    let trial = Trial::new(who);
    trial.bundle.write(file::POSTURE, "wide open\n");
    trial.is_refused(Line::Bundle, file::POSTURE);
}

fn bundle_of_another_living_container(who: Who) {
    let trial = Trial::new(who);
    let victim = Bundle::new(who, "victim", &["192.0.2.1"]);
    let container = Run::new(&victim, "--network=none").start();
    let before = container.table().expect("no table");
    let id = victim.read(file::CONTAINER_ID);

    let thief = trial.annotate(annotation::STATE_DIR, victim.path.to_str().unwrap());
    let ran = thief.run.go(false);
    assert_ne!(ran.status, Some(0), "{ran:?}");
    assert!(!workload_ran());
    assert_not_accepting(table_in(thief.netns.pid));
    assert_one_line(&victim.read(file::HOOK_ERROR_LOG), id.trim());
    assert_eq!(victim.read(file::CONTAINER_ID), id);
    assert_eq!(container.table(), Some(before));
}

/// `--network=container:X`: our rules would replace X's.
fn namespace_of_another_shielded_container(who: Who) {
    let mut trial = Trial::new(who);
    let victim = Bundle::new(who, "victim", &["192.0.2.1"]);
    let container = Run::new(&victim, "--network=none").start();
    let before = container.table();
    trial.run.network = "--network=container:victim".into();
    trial.is_refused(Line::Bundle, "already shielded");
    assert_eq!(container.table(), before);
}

fn host_network(who: Who) {
    let mut trial = Trial::new(who);
    trial.run.network = "--network=host".into();
    trial.is_refused(Line::Bundle, "--network=host");
    assert_eq!(table_in(std::process::id()), None, "the host got a table");
}

/// Calls the hook as the runtime would: with a sibling process whose namespace it shall protect.
struct Direct {
    who: Who,
    bundle: Bundle,
    /// `@PID@` stands for the sibling's pid.
    state: Vec<u8>,
    /// What starts the hook.
    hook: String,
    /// Runs before the hook; `$p` is the sibling's pid.
    before: &'static str,
}

impl Direct {
    fn new(who: Who) -> Self {
        install_hooks(When::Annotated);
        let bundle = Bundle::new(who, "direct", &["192.0.2.1"]);
        let state = state_json(&bundle, "@PID@");
        Self {
            who,
            bundle,
            state: state.into(),
            hook: format!("{BINARY} nft-hook"),
            before: "",
        }
    }

    /// The hook's exit and what it said, then what the sibling's namespace holds.
    fn call(&self) -> (Ran, String) {
        let script = format!(
            "unshare --net sleep 30 & p=$!
            until [ \"$(readlink /proc/$p/ns/net)\" != \"$(readlink /proc/$$/ns/net)\" ]; do sleep 0.01; done
            exec 3<&0; {}
            sed \"s/@PID@/$p/\" <&3 | {} createRuntime; code=$?
            nsenter --net=/proc/$p/ns/net nft list ruleset
            kill $p; exit $code",
            self.before, self.hook
        );
        let mut command = self.who.command_as_hook("sh", &["-c", &script]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The hook may stop reading when it has seen too much.
        let _ = child.stdin.take().unwrap().write_all(&self.state);
        let ran = Ran::from(child.wait_with_output().unwrap());
        let table = ran.stdout.clone();
        (ran, table)
    }

    fn is_refused(&self, line: Line, why: &str) {
        let (ran, table) = self.call();
        assert_eq!(ran.status, Some(1), "{ran:?}");
        assert_one_line(&ran.stderr, why);
        assert_not_accepting((!table.is_empty()).then_some(table));
        match line {
            Line::Bundle => assert_one_line(&self.bundle.read(file::HOOK_ERROR_LOG), why),
            Line::Stderr => assert_eq!(self.bundle.read(file::HOOK_ERROR_LOG), ""),
        }
    }
}

fn state_json(bundle: &Bundle, pid: &str) -> String {
    let annotations: Vec<String> = bundle
        .annotations()
        .iter()
        .map(|(k, v)| format!("{}:{}", json_string(k), json_string(v)))
        .collect();
    format!(
        r#"{{"ociVersion":"1.0.2","id":"{}","status":"created","pid":{pid},"bundle":"/run/x","annotations":{{{}}}}}"#,
        "0123456789abcdef".repeat(4),
        annotations.join(",")
    )
}

fn truncated_state(who: Who) {
    let mut direct = Direct::new(who);
    // The control: whole, it is accepted.
    let (ran, table) = direct.call();
    assert!(ran.ok() && table.contains(contract::TABLE), "{ran:?}");
    direct.state.pop();
    direct.is_refused(Line::Stderr, "OCI state");
}

fn empty_state(who: Who) {
    let mut direct = Direct::new(who);
    direct.state.clear();
    direct.is_refused(Line::Stderr, "OCI state");
}

fn state_that_is_not_json(who: Who) {
    let mut direct = Direct::new(who);
    direct.state = b"ociVersion: 1.0.2\n\xff\xfe".to_vec();
    direct.is_refused(Line::Stderr, "OCI state");
}

fn state_that_is_no_object(who: Who) {
    let mut direct = Direct::new(who);
    direct.state = b"[1, 2, 3]".to_vec();
    direct.is_refused(Line::Stderr, "OCI state");
}

fn state_of_ten_megabytes(who: Who) {
    let mut direct = Direct::new(who);
    let filler = format!("{{\"filler\":\"{}\",", "x".repeat(10 << 20));
    let text = String::from_utf8(direct.state.clone()).unwrap();
    direct.state = text.replacen('{', &filler, 1).into();
    direct.is_refused(Line::Stderr, "OCI state");
}

fn state_without_pid(who: Who) {
    let mut direct = Direct::new(who);
    direct.state = state_json(&direct.bundle, "0").into();
    direct.is_refused(Line::Bundle, "pid");
}

fn pid_that_is_gone(who: Who) {
    let mut direct = Direct::new(who);
    direct.state = state_json(&direct.bundle, "4194000").into();
    direct.is_refused(Line::Bundle, "init process");
}

/// The pid of a process that the runtime did not start, though its namespace could be entered.
fn pid_of_another_process(who: Who) {
    let stranger = Netns::new(who);
    let mut direct = Direct::new(who);
    direct.state = state_json(&direct.bundle, &stranger.pid.to_string()).into();
    direct.is_refused(Line::Bundle, "was not started by the runtime");
    assert_eq!(table_in(stranger.pid), None, "the stranger got a table");
}

/// The namespace has as many chains on the output hook as the kernel takes (MAX_HOOK_COUNT in
/// net/netfilter/core.c): it refuses one more with E2BIG.
fn kernel_refuses_the_rules(who: Who) {
    let trial = Trial::new(who);
    let chains: String = (0..1024)
        .map(|n| format!("chain c{n} {{ type filter hook output priority 0; }}\n"))
        .collect();
    let file = format!("{OUT}/full.nft");
    std::fs::write(&file, format!("table ip full {{\n{chains}}}\n")).unwrap();
    let ran = in_netns_of(trial.netns.pid, "nft", &["-f", &file]);
    assert!(ran.ok(), "{ran:?}");
    trial.is_refused(Line::Bundle, "too long");
}

fn kernel_refuses_without_cap_net_admin(who: Who) {
    let mut direct = Direct::new(who);
    direct.hook = format!(
        "setpriv --bounding-set=-net_admin --inh-caps=-net_admin {}",
        direct.hook
    );
    direct.is_refused(Line::Bundle, "not permitted");
}

/// The hook under strace, which holds it back for a second before each netlink message but the
/// first: time enough for somebody else to change what the kernel holds before it is read back.
fn with_somebody_between(who: Who, change: &[&str]) {
    let mut trial = Trial::new(who);
    let log = format!("{OUT}/strace.log");
    std::fs::write(&log, "").unwrap();
    Who::Root.must("chmod", &["666", &log]);
    install_hook_program(
        When::Annotated,
        "/usr/bin/strace",
        &[
            "strace",
            "-o",
            &log,
            "-e",
            "trace=sendto,sendmsg,recvfrom,recvmsg",
            "-e",
            INJECTED_DELAY,
            BINARY,
            "nft-hook",
        ],
    );
    trial.run.name = "between".into();
    let pid = trial.netns.pid;
    let change: Vec<String> = change.iter().map(|s| s.to_string()).collect();
    let other = std::thread::spawn(move || {
        let args: Vec<&str> = change.iter().map(String::as_str).collect();
        wait_for("the table to be changed", Duration::from_secs(30), || {
            table_in(pid)?;
            in_netns_of(pid, "nft", &args).ok().then_some(())
        });
    });
    trial.is_refused(Line::Bundle, "the kernel holds other rules than meant");
    other.join().unwrap();
}

const INJECTED_DELAY: &str = "inject=sendto,sendmsg:delay_enter=1s:when=2+";

fn kernel_holds_something_else_than_meant(who: Who) {
    with_somebody_between(
        who,
        &[
            "insert",
            "rule",
            "inet",
            contract::TABLE,
            "output",
            "accept",
        ],
    );
}

fn a_rule_that_vanished_before_the_read_back(who: Who) {
    with_somebody_between(who, &["flush", "chain", "inet", contract::TABLE, "output"]);
}
