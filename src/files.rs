//! Files reached through a directory descriptor: no path is walked twice, no link is followed.
//!
//! A bundle sits in a place its owner chose, next to files that hostile code may be able to
//! influence. So the directory is opened once and every file in it is reached by a plain name
//! relative to that descriptor, with `O_NOFOLLOW`, and only if it is a regular file.

use crate::error::{Context, Error, Result};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Most a bundle's list or ruleset may weigh: 100,000 IPv6 networks need about 5 MB.
pub const MAX_FILE: usize = 64 << 20;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// Serialises writers of one directory until dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct Lock {
    _fd: OwnedFd,
}

/// A plain file name: one component, not hidden behind `..` or `/`.
fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::new(format!("not a plain file name: {name:?}")));
    }
    Ok(())
}

impl Dir {
    /// Opens a directory; its last component must be a real directory, no symlink.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .context(|| format!("cannot open directory {}", path.display()))?;
        Ok(Self { fd })
    }

    /// Opens the directory, after creating it and its parents (mode 0700) where missing.
    pub fn create(path: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .context(|| format!("cannot create directory {}", path.display()))?;
        Self::open(path)
    }

    /// Opens the subdirectory `name`, after creating it (mode 0700) where missing.
    pub fn create_subdir(&self, name: &str) -> Result<Self> {
        check_name(name)?;
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).context(|| format!("cannot create directory {name}")),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .context(|| format!("cannot open directory {name}"))?;
        Ok(Self { fd })
    }

    /// Takes over a descriptor, which must be of a directory.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::new("the descriptor handed over is no directory"));
        }
        Ok(Self { fd })
    }

    /// Another descriptor for the same directory.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
        })
    }

    /// Owner, mode and the rest of the directory's inode.
    pub fn stat(&self) -> Result<rustix::fs::Stat> {
        Ok(rustix::fs::fstat(&self.fd)?)
    }

    /// Opens an existing regular file with these flags; `None` if there is none.
    pub fn open_file(&self, name: &str, flags: OFlags) -> Result<Option<File>> {
        check_name(name)?;
        // O_NONBLOCK: opening a FIFO somebody put here must not hang.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => {
                return Err(Error::new(format!("{name} is a symbolic link: refused")));
            }
            Err(e) => return Err(e).context(|| format!("cannot open {name}")),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(format!("{name} is not a regular file: refused")));
        }
        Ok(Some(File::from(fd)))
    }

    /// The content of a file of at most `max` bytes; `None` if there is no such file.
    pub fn read(&self, name: &str, max: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(name, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let expected = file
            .metadata()
            .map(|m| m.len())
            .unwrap_or(0)
            .min(max as u64) as usize;
        let mut bytes = Vec::with_capacity(expected + 1);
        file.take(max as u64 + 1)
            .read_to_end(&mut bytes)
            .context(|| format!("cannot read {name}"))?;
        if bytes.len() > max {
            return Err(Error::new(format!(
                "{name} is larger than {max} bytes: refused"
            )));
        }
        Ok(Some(bytes))
    }

    /// Like [`Dir::read`], as text.
    pub fn read_text(&self, name: &str, max: usize) -> Result<Option<String>> {
        match self.read(name, max)? {
            None => Ok(None),
            Some(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(e) => Err(Error::new(format!(
                    "{name} is not UTF-8 text (byte {})",
                    e.utf8_error().valid_up_to()
                ))),
            },
        }
    }

    /// Replaces a file's content atomically: write beside it, fsync, rename. Mode 0600.
    ///
    /// The caller holds the directory's [`Lock`]: the temporary name is fixed, so that a writer
    /// killed half-way leaves at most one file, which the next one takes over.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        self.replace(name, content, Mode::RUSR | Mode::WUSR, true)
    }

    /// Like [`Dir::write`] without the fsync, which costs milliseconds: for what means nothing
    /// after a crash of the machine, such as a process's identity.
    pub fn write_record(&self, name: &str, content: &[u8]) -> Result<()> {
        self.replace(name, content, Mode::RUSR | Mode::WUSR, false)
    }

    /// Like [`Dir::write`], for a file that others may read or run: `mode` whatever the umask.
    pub fn write_mode(&self, name: &str, content: &[u8], mode: Mode) -> Result<()> {
        self.replace(name, content, mode, true)
    }

    fn replace(&self, name: &str, content: &[u8], mode: Mode, durable: bool) -> Result<()> {
        check_name(name)?;
        let temporary = format!(".{name}.new");
        self.remove(&temporary)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = rustix::fs::openat(&self.fd, &*temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::from)
            .and_then(|fd| {
                let mut file = File::from(fd);
                file.write_all(content)?;
                rustix::fs::fchmod(&file, mode)?;
                if durable {
                    rustix::fs::fsync(&file)?;
                }
                Ok(rustix::fs::renameat(&self.fd, &*temporary, &self.fd, name)?)
            });
        if written.is_err() {
            let _ = self.remove(&temporary);
        }
        written.context(|| format!("cannot write {name}"))
    }

    /// Appends to a file (created with mode 0600 where missing) in one write.
    pub fn append(&self, name: &str, content: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let mut file = self
            .open_file(name, flags)?
            .ok_or_else(|| Error::new(format!("cannot create {name}")))?;
        file.write_all(content)
            .context(|| format!("cannot append to {name}"))
    }

    /// The last `max` bytes of a file, from the beginning of a line; `None` if there is no such
    /// file.
    pub fn read_tail(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        use std::io::{Seek, SeekFrom};
        let what = || format!("cannot read {name}");
        let Some(mut file) = self.open_file(name, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let skipped = file.metadata().context(what)?.len().saturating_sub(max);
        file.seek(SeekFrom::Start(skipped)).context(what)?;
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes).context(what)?;
        if skipped > 0 {
            let line = bytes
                .iter()
                .position(|&b| b == b'\n')
                .map_or(bytes.len(), |at| at + 1);
            bytes.drain(..line);
        }
        Ok(Some(bytes))
    }

    /// When a file was last written; `None` if there is no such file.
    pub fn modified(&self, name: &str) -> Result<Option<std::time::SystemTime>> {
        let file = self.open_file(name, OFlags::RDONLY)?;
        Ok(file
            .and_then(|f| f.metadata().ok())
            .and_then(|m| m.modified().ok()))
    }

    /// Removes a file; whether there was one.
    pub fn remove(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e).context(|| format!("cannot remove {name}")),
        }
    }

    /// Takes the directory's lock, waiting for at most `wait`.
    pub fn lock(&self, wait: Duration) -> Result<Lock> {
        // A description of its own: flock belongs to the open file description, and this one is
        // closed, hence unlocked, with the Lock and by the kernel when the process dies.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _fd: fd }),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(8));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::new(format!(
                        "another terok-shield has held the bundle's lock for {} s",
                        wait.as_secs()
                    )));
                }
                Err(e) => return Err(e).context(|| "cannot lock the bundle"),
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads a whole stream of at most `max` bytes; more is an error, not a cut.
pub fn read_bounded(mut from: impl Read, max: usize, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref()
        .take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("cannot read {what}"))?;
    if bytes.len() > max {
        return Err(Error::new(format!(
            "{what} is larger than {max} bytes: refused"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Temp(std::path::PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("shield-files-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn links_fifos_and_foreign_names_are_refused() {
        let t = Temp::new("links");
        symlink("/etc/passwd", t.0.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            t.0.join("fifo"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let dir = Dir::open(&t.0).unwrap();
        assert!(
            dir.read("link", 10)
                .unwrap_err()
                .to_string()
                .contains("symbolic link")
        );
        assert!(dir.append("link", b"x").is_err());
        assert!(
            dir.read("fifo", 10)
                .unwrap_err()
                .to_string()
                .contains("regular file")
        );
        for name in ["", ".", "..", "a/b", "/etc/passwd", "a\0b"] {
            assert!(dir.read(name, 10).is_err(), "{name:?}");
            assert!(dir.write(name, b"x").is_err(), "{name:?}");
        }
        symlink(&t.0, t.0.with_extension("dirlink")).unwrap();
        assert!(Dir::open(&t.0.with_extension("dirlink")).is_err());
        std::fs::remove_file(t.0.with_extension("dirlink")).unwrap();
    }

    #[test]
    fn a_write_replaces_a_link_instead_of_following_it() {
        let t = Temp::new("replace");
        let outside = t.0.join("outside");
        std::fs::write(&outside, "untouched").unwrap();
        symlink(&outside, t.0.join("list")).unwrap();
        symlink(&outside, t.0.join(".list.new")).unwrap();
        let dir = Dir::open(&t.0).unwrap();
        dir.write("list", b"mine").unwrap();
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
        assert_eq!(dir.read_text("list", 10).unwrap().as_deref(), Some("mine"));
    }

    #[test]
    fn sizes_are_bounded_and_absence_is_no_error() {
        let t = Temp::new("sizes");
        let dir = Dir::open(&t.0).unwrap();
        assert_eq!(dir.read("none", 10).unwrap(), None);
        dir.write("ten", b"0123456789").unwrap();
        assert!(dir.read("ten", 10).unwrap().is_some());
        assert!(dir.read("ten", 9).is_err());
        dir.write("binary", b"\xff").unwrap();
        assert!(dir.read_text("binary", 10).is_err());
    }

    #[test]
    fn the_lock_excludes_and_ends_with_its_holder() {
        let t = Temp::new("lock");
        let (a, b) = (Dir::open(&t.0).unwrap(), Dir::open(&t.0).unwrap());
        let held = a.lock(Duration::ZERO).unwrap();
        assert!(b.lock(Duration::from_millis(5)).is_err());
        drop(held);
        assert!(b.lock(Duration::ZERO).is_ok());
    }
}
