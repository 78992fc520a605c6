//! The gate's control socket in the bundle: a connection, one command in one write, one reply.
//! The bundle is its owner's alone, so whoever connects may command.

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use std::os::fd::OwnedFd;

/// Connections at a time; those beyond wait in the listener.
const MAX_CONNECTIONS: usize = 4;
/// Longest command, octets.
pub const MAX_COMMAND: usize = 8192;

/// A command and who gave it.
pub struct Command {
    fd: OwnedFd,
    text: String,
}

impl Command {
    /// The command's words.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The connections that have not said anything yet.
#[derive(Default)]
pub struct Control {
    connections: Vec<OwnedFd>,
}

impl Control {
    /// The sockets to wait for, in the order [`Control::advance`] expects.
    pub fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(
            self.connections
                .iter()
                .map(|c| PollFd::new(c, PollFlags::IN)),
        );
    }

    /// Takes new connections and what the ready ones have to say.
    pub fn advance(&mut self, accept: bool, listener: &OwnedFd, ready: &[bool]) -> Vec<Command> {
        let mut commands = Vec::new();
        if ready.contains(&true) {
            let mut ready = ready.iter().copied();
            for fd in std::mem::take(&mut self.connections) {
                if !ready.next().unwrap_or(false) {
                    self.connections.push(fd);
                } else if let Some(text) = receive(&fd) {
                    commands.push(Command { fd, text });
                }
            }
        }
        while accept && self.connections.len() < MAX_CONNECTIONS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(listener, flags) {
                Ok(fd) => self.connections.push(fd),
                Err(_) => break,
            }
        }
        // One that never speaks must not keep the others out.
        if self.connections.len() == MAX_CONNECTIONS {
            self.connections.remove(0);
        }
        commands
    }

    /// Replies and hangs up.
    pub fn reply(&self, command: Command, text: &str) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(&command.fd, text.as_bytes(), flags);
    }
}

fn receive(fd: &OwnedFd) -> Option<String> {
    let mut buffer = [0; MAX_COMMAND];
    loop {
        match rustix::net::recv(fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, n)) if n > 0 => {
                return Some(String::from_utf8_lossy(buffer.get(..n)?).into_owned());
            }
            Err(Errno::INTR) => {}
            _ => return None,
        }
    }
}
