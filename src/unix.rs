//! Unix stream sockets by path: long paths, stale sockets, and who is at the other end.

use crate::error::{Context, Error, Result};
use crate::files::Dir;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

fn socket() -> rustix::io::Result<OwnedFd> {
    net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// Connects without waiting. A full backlog is `EAGAIN`; the descriptor does not block.
pub fn connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    // sun_path takes 107 bytes; a longer path is reached through its directory's descriptor.
    let (address, _dir) = match SocketAddrUnix::new(path) {
        Ok(address) => (address, None),
        Err(_) => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(Errno::INVAL);
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(parent, flags, Mode::empty())?;
            (through(&dir, Path::new(name))?, Some(dir))
        }
    };
    let fd = socket()?;
    net::connect(&fd, &address)?;
    Ok(fd)
}

/// The address of `name` in an open directory.
fn through(dir: &impl AsFd, name: &Path) -> rustix::io::Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    SocketAddrUnix::new(Path::new(&path).join(name))
}

/// Connects to the socket `name` in an open directory, without waiting.
pub fn connect_in(dir: &Dir, name: &str) -> rustix::io::Result<OwnedFd> {
    let fd = socket()?;
    net::connect(&fd, &through(dir, Path::new(name))?)?;
    Ok(fd)
}

/// Listens on the socket `name` (mode 0600) in an open directory, in place of a stale one.
/// Accepted connections do not block either.
pub fn listen_in(dir: &Dir, name: &str, backlog: i32) -> Result<OwnedFd> {
    let what = || format!("cannot listen on {name}");
    dir.remove(name)?;
    let fd = socket().context(what)?;
    let address = through(dir, Path::new(name)).context(what)?;
    // On Linux the file gets the mode the unbound socket has: private from the first moment.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).context(what)?;
    net::bind(&fd, &address).context(what)?;
    net::listen(&fd, backlog).context(what)?;
    Ok(fd)
}

/// Accepts one connection; `None` when nobody waits.
pub fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()
}

/// Whether the process that connected (or listens) runs as our own user, or as root. A uid that
/// is not mapped into our user namespace shows as the overflow uid and is neither.
pub fn peer_is_trusted(fd: &OwnedFd) -> bool {
    match net::sockopt::socket_peercred(fd) {
        Ok(peer) => peer.uid.is_root() || peer.uid == rustix::process::geteuid(),
        Err(_) => false,
    }
}

/// An error for a peer that [`peer_is_trusted`] refused.
pub fn untrusted(what: &str) -> Error {
    Error::new(format!(
        "{what} belongs to another user: refused (expected uid {})",
        rustix::process::geteuid().as_raw()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_socket_deeper_than_sun_path_is_private_and_reached() {
        let base = std::env::temp_dir().join(format!("shield-unix-{}", std::process::id()));
        let deep = base.join("d".repeat(120));
        let dir = Dir::create(&deep).unwrap();
        std::fs::write(deep.join("s"), "stale").unwrap();
        let listener = listen_in(&dir, "s", 4).unwrap();
        let mode = std::fs::metadata(deep.join("s")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        assert!(accept(&listener).is_none());
        let _one = connect_in(&dir, "s").unwrap();
        let two = connect(&deep.join("s")).unwrap();
        assert!(peer_is_trusted(&two));
        assert!(accept(&listener).is_some_and(|fd| peer_is_trusted(&fd)));
        assert!(accept(&listener).is_some());
        assert_eq!(
            connect(&deep.join("none")).unwrap_err(),
            Errno::NOENT,
            "absence is told apart"
        );
        std::fs::remove_dir_all(&base).unwrap();
    }
}
