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
    identity("/proc/thread-self/ns/net")
        .context(|| "cannot read our network namespace (is /proc mounted?)")
}

fn identity(path: &str) -> rustix::io::Result<NetnsId> {
    let stat = rustix::fs::stat(path)?;
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
    let pid = process.pid();
    let before = current()?;
    let shared = || {
        Error::new(format!(
            "process {pid} shares our own network namespace: a container with --network=host cannot be shielded"
        ))
    };
    let entered = setns(process.as_fd(), ThreadNameSpaceType::NETWORK);
    if entered.is_err() && identity(&format!("/proc/{pid}/ns/net")) == Ok(before) {
        // Without privilege over the host's namespace, "not permitted" would name no cure.
        return Err(shared());
    }
    entered.context(|| format!("cannot enter the network namespace of process {pid}"))?;
    let after = current()?;
    if before == after {
        return Err(shared());
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

/// Enters the network namespace of a container from the operator's shell.
///
/// Real root may enter any. For an ordinary user the namespace belongs to a user namespace that
/// podman made for them (ioctl_ns(2), NS_GET_USERNS): that one is entered first, and this process
/// then has the rights over the network that the user's podman has. Call it after everything that
/// needs the operator's own ids.
pub fn enter_as_operator(process: &PidFd) -> Result<NetnsId> {
    if rustix::process::geteuid().is_root() {
        return enter(process);
    }
    let what = || {
        format!(
            "cannot enter the user namespace of process {}",
            process.pid()
        )
    };
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", process.pid())).context(what)?;
    if process.wait(std::time::Duration::ZERO) {
        // Then the path may have named another process's namespace.
        return Err(Error::new("the container has just stopped"));
    }
    let owner = owner(&netns).context(what)?;
    setns(owner.as_fd(), ThreadNameSpaceType::USER).context(what)?;
    enter(process)
}

/// The user namespace that owns a namespace.
fn owner(namespace: &std::fs::File) -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    // _IO(NSIO, 0x1) of linux/nsfs.h
    const NS_GET_USERNS: libc::Ioctl = 0xb701u32 as libc::Ioctl;
    // SAFETY: this ioctl takes no argument and returns a new descriptor or -1.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the descriptor was just made for us and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
