//! How the one binary is reached: argv[0], the first argument, `--list`, `--install`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, io};

const BINARY: &str = env!("CARGO_BIN_EXE_terok-shield");

/// The binary with an empty environment, as an OCI runtime may start it.
fn shield() -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert_eq!(status.signal(), None, "died by a signal");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// An empty folder of this test's own, on the file system of the binary.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("multicall-{name}"));
    match fs::remove_dir_all(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => panic!("{e}"),
        _ => fs::create_dir_all(&path).unwrap(),
    }
    path
}

fn listed() -> Vec<String> {
    let (code, out, err) = run(shield().arg("--list"));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    out.lines().map(String::from).collect()
}

#[test]
fn list_prints_the_applets_one_a_line() {
    let applets = listed();
    assert!(applets.iter().any(|a| a == "probe"), "{applets:?}");
    for applet in &applets {
        assert!(
            applet.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
            "{applet}"
        );
    }
}

#[test]
fn a_link_and_the_first_argument_reach_the_same_applet() {
    let misuse = (
        Some(1),
        "{\"error\":\"usage: probe HOST [PORT=443]\"}\n".to_owned(),
        String::new(),
    );
    assert_eq!(run(shield().arg("probe")), misuse);
    for name in ["probe", "shield-probe", "shield_probe", "/a/b/probe"] {
        assert_eq!(run(shield().arg0(name)), misuse, "{name}");
    }
    // argv[0] comes first: the rest is the applet's, whatever it says.
    assert_eq!(
        run(shield().arg0("probe").args(["--list", "1", "2"])),
        misuse
    );
    // A renamed binary counts as the bare name.
    assert_eq!(run(shield().arg0("terok-shield-0.8").arg("probe")), misuse);
    assert_eq!(run(shield().arg0("").arg("probe")), misuse);
}

#[test]
fn what_is_no_applet_is_a_usage_error_on_one_line() {
    for argument in [
        OsStr::new("nonsense"),
        OsStr::new("--nonsense"),
        OsStr::new(""),
        OsStr::from_bytes(b"\xff\xfe\x1b[31m\n"),
    ] {
        let (code, out, err) = run(shield().arg(argument));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{argument:?}");
        assert!(err.starts_with("Error: "), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(
            err.bytes().all(|b| b == b'\n' || (0x20..0x7f).contains(&b)),
            "{err:?}"
        );
    }
}

#[test]
fn a_closed_stdout_ends_it_quietly() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let output = shield().arg("--list").stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_full_stdout_is_an_error_that_says_so() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = shield().arg("--list").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "Error: cannot write to standard output: No space left on device\n"
    );
}

#[test]
fn nobody_reading_stderr_changes_no_exit_code() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let output = shield().arg("nonsense").stderr(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn install_makes_hard_links_twice_without_complaint() {
    let dir = folder("hard");
    for _ in 0..2 {
        let (code, out, err) = run(shield().arg("--install").arg(&dir));
        assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "", ""));
    }
    let own = fs::metadata(BINARY).unwrap().ino();
    for name in listed()
        .iter()
        .map(String::as_str)
        .chain(["shield-probe", "shield_probe"])
    {
        let link = fs::symlink_metadata(dir.join(name)).unwrap();
        assert_eq!(link.ino(), own, "{name}");
    }
    let (code, _, _) = run(Command::new(dir.join("shield_probe")).env_clear());
    assert_eq!(code, Some(1));
}

#[test]
fn install_beside_the_binary_makes_relative_symbolic_links() {
    let dir = folder("symbolic");
    let binary = dir.join("terok-shield");
    // Not a copy: while it is written, a process that another test forks holds it open for writing,
    // and it cannot be run (ETXTBSY).
    fs::hard_link(BINARY, &binary).unwrap();
    let mut install = Command::new(&binary);
    install
        .env_clear()
        .arg("--install")
        .arg(&dir)
        .arg("--symbolic");
    assert_eq!(run(&mut install).0, Some(0));
    assert_eq!(run(&mut install).0, Some(0));
    assert_eq!(
        fs::read_link(dir.join("probe")).unwrap(),
        Path::new("terok-shield")
    );
}

#[test]
fn install_replaces_nothing_that_is_not_its_own_unless_forced() {
    let dir = folder("foreign");
    fs::write(dir.join("probe"), "somebody else's").unwrap();
    let (code, _, err) = run(shield().arg("--install").arg(&dir));
    assert_eq!(code, Some(1));
    assert!(err.contains("probe exists"), "{err}");
    assert_eq!(fs::read(dir.join("probe")).unwrap(), b"somebody else's");
    let (code, _, err) = run(shield().arg("--install").arg(&dir).arg("--force"));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        fs::metadata(dir.join("probe")).unwrap().ino(),
        fs::metadata(BINARY).unwrap().ino()
    );
}

#[test]
fn install_refuses_bad_arguments() {
    for args in [
        &["--install"][..],
        &["--install", "--symbolic"],
        &["--install", "/tmp", "/var"],
        &["--install", "/tmp", "--hard"],
    ] {
        let (code, _, err) = run(shield().args(args));
        assert_eq!(code, Some(2), "{args:?}: {err}");
    }
    let (code, _, err) = run(shield().args(["--install", "/nonexistent/folder"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("No such file or directory"), "{err}");
}
