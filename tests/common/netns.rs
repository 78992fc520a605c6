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
