//! Embeds the version and the bundled profiles.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=TEROK_SHIELD_VERSION={}", version());
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("profiles.rs"), profiles()).expect("write profiles.rs");
}

/// `TEROK_SHIELD_VERSION` from the environment, for packagers; else Cargo's version, with the
/// commit after it where the source is a git checkout between releases. The same source gives the
/// same text, so builds stay reproducible; without git, or from a tarball, it is Cargo's version.
/// Debug builds leave git out: a commit should not recompile the crate.
fn version() -> String {
    println!("cargo:rerun-if-env-changed=TEROK_SHIELD_VERSION");
    let version = env!("CARGO_PKG_VERSION");
    if let Some(given) = env::var_os("TEROK_SHIELD_VERSION").filter(|v| !v.is_empty()) {
        return given.into_string().expect("TEROK_SHIELD_VERSION is UTF-8");
    }
    if env::var("PROFILE").as_deref() != Ok("release") {
        return version.to_owned();
    }
    // A repository around an unpacked tarball is not ours.
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    if git(&["rev-parse", "--show-toplevel"]).as_deref() != Some(root.as_str()) {
        return version.to_owned();
    }
    for watched in ["HEAD", "logs/HEAD", "index"] {
        if let Some(path) = git(&["rev-parse", "--git-path", watched])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    for watched in ["src", "applets", "profiles", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    let tag = format!("v{version}");
    match git(&[
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty",
        "--match",
        &tag,
    ]) {
        Some(described) if described == tag => version.to_owned(),
        Some(described) => {
            let commit = described
                .strip_prefix(&format!("{tag}-"))
                .unwrap_or(&described);
            format!("{version}+{}", commit.replace('-', "."))
        }
        None => version.to_owned(),
    }
}

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let text = text.trim_end();
    (out.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// `profiles/NAME.txt` as a table sorted by name: the whole set, whatever files are there.
fn profiles() -> String {
    println!("cargo:rerun-if-changed=profiles");
    let mut found = Vec::new();
    if let Ok(dir) = fs::read_dir("profiles") {
        for entry in dir {
            let path = entry.expect("read profiles/").path();
            if path.extension().is_none_or(|e| e != "txt") {
                continue;
            }
            let name = path
                .file_stem()
                .and_then(|n| n.to_str())
                .expect("profile names are UTF-8");
            let ok = name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            assert!(ok, "profiles/{name}.txt: not a valid profile name");
            let text = fs::read_to_string(&path).expect("profiles are UTF-8 text");
            found.push((name.to_owned(), text));
        }
    }
    found.sort();
    let mut out = String::from(
        "/// Every bundled profile: name and text, sorted by name.\n\
         pub static BUNDLED: &[(&str, &str)] = &[\n",
    );
    for (name, text) in found {
        writeln!(out, "    ({name:?}, {text:?}),").expect("writing to a String");
    }
    out.push_str("];\n");
    out
}
