//! Entering a container's network namespace, by descriptor.

use crate::error::{Context, Error, Result};
use crate::process::PidFd;
use rustix::thread::ThreadNameSpaceType;
use std::os::fd::AsFd;

/// Device and inode of a network namespace: its identity while anything keeps it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetnsId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode in nsfs.
    pub ino: u64,
}

/// The network namespace this thread is in.
pub fn current() -> Result<NetnsId> {
    let stat = rustix::fs::stat("/proc/thread-self/ns/net")
        .context(|| "cannot read our network namespace (is /proc mounted?)")?;
    Ok(NetnsId {
        dev: stat.st_dev,
        ino: stat.st_ino,
    })
}

/// Enters the network namespace of a process (setns(2) on its pidfd) and returns its identity.
///
/// Refused if that is the namespace we are in already: a container on the host's network cannot
/// be shielded without shielding the host.
pub fn enter(process: &PidFd) -> Result<NetnsId> {
    let before = current()?;
    setns(process.as_fd(), ThreadNameSpaceType::NETWORK).context(|| {
        format!(
            "cannot enter the network namespace of process {}",
            process.pid()
        )
    })?;
    let after = current()?;
    if before == after {
        return Err(Error::new(format!(
            "process {} shares our own network namespace: a container with --network=host cannot be shielded",
            process.pid()
        )));
    }
    Ok(after)
}

/// setns(2) with namespace types, which for a pidfd chooses what to enter.
pub fn setns(fd: std::os::fd::BorrowedFd<'_>, types: ThreadNameSpaceType) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: setns takes a descriptor and flags, no memory; the descriptor is borrowed alive.
    let rc = unsafe { libc::setns(fd.as_raw_fd(), types.bits() as libc::c_int) };
    if rc == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().into())
    }
}
