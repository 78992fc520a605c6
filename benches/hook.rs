//! nft-hook createRuntime, read-back included, against `nsenter -t PID -n nft -f ruleset.nft`,
//! which reads nothing back: wall time and peak memory, interleaved in one run.
//!
//! Needs root, nft and nsenter, and the shipped binary's path in `TEROK_SHIELD_BIN`. This process
//! stays small on purpose: a child's peak memory counts its parent's at the time of the fork.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const PAIRS: usize = 20;
const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// What one run took.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    /// Peak resident memory, KiB.
    peak: i64,
}

fn main() -> ExitCode {
    let Ok(binary) = std::env::var("TEROK_SHIELD_BIN") else {
        eprintln!("set TEROK_SHIELD_BIN to the musl binary (make bench does)");
        return ExitCode::FAILURE;
    };
    let bundle = std::env::temp_dir().join(format!("shield-bench-{}", std::process::id()));
    println!("addresses  hook ms      nft ms       ratio  hook KiB  nft KiB  ratio");
    // The bundled default profile's own size under the static tier is a few hundred.
    for addresses in [300, 10_000, 100_000] {
        let _ = std::fs::remove_dir_all(&bundle);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&bundle)
            .expect("cannot create a bundle");
        write_ruleset(&bundle.join("ruleset.nft"), addresses).expect("cannot write the ruleset");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            ours.push(in_new_netns(|pid| hook(&binary, &bundle, pid)));
            theirs.push(in_new_netns(|pid| nft(&bundle, pid)));
        }
        report(addresses, &mut ours, &mut theirs);
    }
    let _ = std::fs::remove_dir_all(&bundle);
    ExitCode::SUCCESS
}

fn write_ruleset(path: &Path, addresses: u32) -> std::io::Result<()> {
    let template = include_str!("enforcing.nft");
    let (head, tail) = template
        .split_once("@ADDRESSES@")
        .expect("the template names its place");
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(head.as_bytes())?;
    for n in 0..addresses {
        // Every other address of 32.0.0.0/6: nothing merges.
        let separator = if n == 0 { "" } else { ", " };
        write!(
            out,
            "{separator}{}",
            std::net::Ipv4Addr::from((32 << 24) + 2 * n)
        )?;
    }
    out.write_all(tail.as_bytes())?;
    out.flush()
}

/// Runs `measured` on a process in a network namespace of its own.
fn in_new_netns(measured: impl FnOnce(u32) -> Cost) -> Cost {
    let mut holder = Command::new("unshare")
        .args(["--net", "sleep", "600"])
        .spawn()
        .expect("cannot run unshare");
    let ours = std::fs::read_link("/proc/self/ns/net").expect("no /proc");
    let theirs = format!("/proc/{}/ns/net", holder.id());
    while std::fs::read_link(&theirs).is_ok_and(|ns| ns == ours) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let cost = measured(holder.id());
    holder.kill().expect("cannot end the namespace's holder");
    holder.wait().expect("cannot wait for it");
    cost
}

fn hook(binary: &str, bundle: &Path, pid: u32) -> Cost {
    let state = format!(
        r#"{{"ociVersion":"1.0","id":"{ID}","pid":{pid},"status":"created","annotations":{{"terok.shield.profiles":"x","terok.shield.version":"14","terok.shield.state_dir":"{}"}}}}"#,
        bundle.display()
    );
    measure(|| {
        let mut child = Command::new(binary)
            .args(["nft-hook", "createRuntime"])
            .stdin(Stdio::piped())
            .env_clear()
            .spawn()
            .expect("cannot run the hook");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(state.as_bytes())
            .expect("the hook hung up");
        child
    })
}

fn nft(bundle: &Path, pid: u32) -> Cost {
    let file = bundle.join("ruleset.nft");
    measure(|| {
        Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-n", "nft", "-f"])
            .arg(&file)
            .spawn()
            .expect("cannot run nsenter")
    })
}

#[expect(clippy::zombie_processes, reason = "wait4 reaps it, with what it used")]
fn measure(start: impl FnOnce() -> Child) -> Cost {
    let begun = Instant::now();
    let child = start();
    let mut status = 0;
    // SAFETY: both out-parameters live through the call, and the pid is our own child's.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = child.id() as libc::pid_t;
        assert_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid);
        usage
    };
    assert_eq!(status, 0, "the measured program failed");
    Cost {
        wall: begun.elapsed(),
        peak: usage.ru_maxrss,
    }
}

fn report(addresses: u32, ours: &mut [Cost], theirs: &mut [Cost]) {
    let median = |costs: &mut [Cost]| {
        costs.sort_by_key(|c| c.wall);
        let ms = |c: Cost| c.wall.as_secs_f64() * 1000.0;
        let (middle, low, high) = (costs[costs.len() / 2], costs[0], costs[costs.len() - 1]);
        let peak = costs.iter().map(|c| c.peak).max().unwrap_or(0);
        (ms(middle), ms(low), ms(high), peak)
    };
    let (o, t) = (median(ours), median(theirs));
    println!(
        "{addresses:9}  {:5.1} [{:.1}..{:.1}]  {:6.1} [{:.1}..{:.1}]  {:5.2}  {:8}  {:7}  {:5.2}",
        o.0,
        o.1,
        o.2,
        t.0,
        t.1,
        t.2,
        o.0 / t.0,
        o.3,
        t.3,
        o.3 as f64 / t.3 as f64
    );
}
