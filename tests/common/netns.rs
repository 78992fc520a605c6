//! Fresh network namespaces for tests, and Debian's nft in them.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs `test` in a network namespace of its own, whose loopback is up.
pub fn fresh<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    // A thread has a network namespace of its own, and processes it starts inherit it.
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("tests of the kernel need root: unshare(CLONE_NEWNET)");
        run("ip", &["link", "set", "lo", "up"]);
        test()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs a program that must succeed, and gives its standard output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Loads nft syntax with Debian's nft.
pub fn nft_load(text: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Debian's nft is needed");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "nft -f: {}\n{text}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What Debian's nft lists, as JSON without what differs between two loads of the same text:
/// handles, remaining lifetimes, and the order in which tables were made.
pub fn nft_json(family: &str, table: &str) -> String {
    let json = run("nft", &["-j", "list", "table", family, table]);
    without_numbers(&without_numbers(&json, "\"handle\": "), "\"expires\": ")
}

/// Replaces the number behind each `key` by 0.
fn without_numbers(json: &str, key: &str) -> String {
    let mut parts = json.split(key);
    let mut result = parts.next().unwrap_or_default().to_string();
    for part in parts {
        result.push_str(key);
        result.push('0');
        result.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    result
}

/// Asserts that two listings are equal, and shows the first place where they are not.
pub fn assert_same_listing(theirs: &str, ours: &str) {
    if theirs == ours {
        return;
    }
    let same = theirs.bytes().zip(ours.bytes()).take_while(|(a, b)| a == b);
    let from = same.count().saturating_sub(200);
    let part = |s: &str| s[from..s.len().min(from + 600)].to_string();
    panic!("nft lists\n…{}…\nafter us\n…{}…", part(theirs), part(ours));
}
