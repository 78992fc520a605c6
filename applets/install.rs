//! `--install DIR [--symbolic] [--force]`: a link for every name that reaches an applet.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{link_names, quoted};
use crate::error::{Context, Error, Result};

struct Options {
    dir: PathBuf,
    symbolic: bool,
    force: bool,
}

/// Makes the links; those that are there already stay. Another file of that name is refused, not
/// replaced, unless `--force` says so.
pub(super) fn exec(args: &[OsString]) -> Result<ExitCode> {
    let options = parse(args)?;
    let binary = this_binary()?;
    let source = if options.symbolic && same_dir(&options.dir, &binary) {
        // Beside the binary a bare name does, and survives a move of the folder.
        PathBuf::from(binary.file_name().unwrap_or_default())
    } else {
        binary.clone()
    };
    for name in link_names() {
        if binary.file_name().is_none_or(|own| own != name) {
            link(&source, &binary, &options.dir.join(name), &options)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The kernel's own word for it; without /proc (a bare chroot), the path we were called by.
fn this_binary() -> Result<PathBuf> {
    std::env::current_exe()
        .or_else(|e| match std::env::args_os().next() {
            Some(called) if called.as_encoded_bytes().contains(&b'/') => fs::canonicalize(called),
            _ => Err(e),
        })
        .context(|| "cannot find this binary")
}

fn parse(args: &[OsString]) -> Result<Options> {
    let (mut dir, mut symbolic, mut force) = (None, false, false);
    for arg in args {
        match arg.to_str() {
            Some("--symbolic") => symbolic = true,
            Some("--force") => force = true,
            Some(option) if option.starts_with('-') => {
                return Err(Error::usage(format!("unknown option {}", quoted(arg))));
            }
            _ if dir.is_none() => dir = Some(PathBuf::from(arg)),
            _ => return Err(Error::usage(format!("unexpected argument {}", quoted(arg)))),
        }
    }
    let dir = dir.ok_or_else(|| {
        Error::usage("--install needs a folder: --install DIR [--symbolic] [--force]")
    })?;
    Ok(Options {
        dir,
        symbolic,
        force,
    })
}

fn same_dir(dir: &Path, binary: &Path) -> bool {
    match (fs::canonicalize(dir), binary.parent().map(fs::canonicalize)) {
        (Ok(a), Some(Ok(b))) => a == b,
        _ => false,
    }
}

fn link(source: &Path, binary: &Path, at: &Path, options: &Options) -> Result<()> {
    match make(source, at, options.symbolic) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == ErrorKind::CrossesDevices => {
            return Err(Error::new(format!(
                "cannot make the hard link {}: the binary is on another file system; \
                 pass --symbolic",
                at.display()
            )));
        }
        done => return failed(at, done),
    }
    if is_ours(binary, at, options.symbolic) {
        return Ok(());
    }
    if !options.force {
        return Err(Error::new(format!(
            "{} exists and is no such link to this binary: remove it, or pass --force",
            at.display()
        )));
    }
    failed(at, fs::remove_file(at))?;
    failed(at, make(source, at, options.symbolic))
}

fn make(source: &Path, at: &Path, symbolic: bool) -> std::io::Result<()> {
    if symbolic {
        symlink(source, at)
    } else {
        fs::hard_link(source, at)
    }
}

/// The kind of link that was asked for, leading to this very file.
fn is_ours(binary: &Path, at: &Path, symbolic: bool) -> bool {
    let Ok(link) = fs::symlink_metadata(at) else {
        return false;
    };
    let (Ok(target), Ok(own)) = (fs::metadata(at), fs::metadata(binary)) else {
        return false;
    };
    link.is_symlink() == symbolic && (target.dev(), target.ino()) == (own.dev(), own.ino())
}

fn failed(at: &Path, done: std::io::Result<()>) -> Result<()> {
    done.map_err(|e| Error::new(format!("cannot link {}: {}", at.display(), Error::from(e))))
}
