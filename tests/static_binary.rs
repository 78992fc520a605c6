//! The binary `make` builds: static, stripped, small, and sufficient alone.
//!
//! `make test` builds it first; TEROK_SHIELD_STATIC names another one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

const MAX_SIZE: u64 = 1024 * 1024;

fn binary() -> PathBuf {
    let path = match env::var_os("TEROK_SHIELD_STATIC") {
        Some(given) => PathBuf::from(given),
        None => Path::new(env!("CARGO_TARGET_TMPDIR"))
            .parent()
            .unwrap()
            .join(format!(
                "{}-unknown-linux-musl/release/terok-shield",
                env::consts::ARCH
            )),
    };
    assert!(path.exists(), "{}: run `make` first", path.display());
    path
}

fn readelf(option: &str) -> String {
    let output = Command::new("readelf")
        .args(["-W", option])
        .arg(binary())
        .env("LC_ALL", "C")
        .output()
        .expect("readelf runs (binutils)");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_needs_no_interpreter_and_no_library() {
    assert!(!readelf("-l").contains("INTERP"));
    assert!(!readelf("-d").contains("NEEDED"));
}

#[test]
fn it_is_position_independent_with_read_only_relocations_and_no_executable_stack() {
    if env::consts::ARCH == "x86_64" {
        // rustc has no static PIE for aarch64 musl yet.
        assert!(readelf("-h").contains("DYN (Position-Independent Executable file)"));
    }
    let segments = readelf("-l");
    assert!(segments.contains("GNU_RELRO"));
    let stack = segments.lines().find(|l| l.contains("GNU_STACK")).unwrap();
    assert!(stack.contains(" RW ") && !stack.contains("RWE"), "{stack}");
    assert!(readelf("-d").contains("BIND_NOW"));
}

#[test]
fn it_is_stripped_and_at_most_1_mib() {
    assert!(!readelf("-S").contains(".symtab"));
    let size = fs::metadata(binary()).unwrap().len();
    assert!(size <= MAX_SIZE, "{size} bytes");
}

#[test]
fn it_names_no_folder_of_the_build_machine() {
    let bytes = fs::read(binary()).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    for folder in [env!("CARGO_MANIFEST_DIR"), "/.cargo/registry"] {
        assert!(!text.contains(folder), "{folder}");
    }
}

/// Needs root, for chroot(2); fails without, as everywhere in these tests.
#[test]
fn it_runs_in_a_root_that_holds_nothing_else() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static-root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    fs::copy(binary(), root.join("terok-shield")).unwrap();
    let alone = |program: &str, args: &[&str]| {
        let output = Command::new("chroot")
            .arg(&root)
            .arg(program)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, out, err) = alone("/terok-shield", &["--list"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.lines().any(|l| l == "probe"), "{out}");
    assert_eq!(alone("/terok-shield", &["--install", "/"]).0, Some(0));
    let (code, out, _) = alone("/shield-probe", &["127.0.0.1", "x"]);
    assert_eq!(code, Some(1));
    assert_eq!(out, "{\"error\":\"not a port (1-65535): \\\"x\\\"\"}\n");
}
