//! One question to the session bus: does somebody own this name?
//!
//! D-Bus specification: "Authentication Protocol" (SASL EXTERNAL), "Message Format",
//! `org.freedesktop.DBus.NameHasOwner`. Spoken directly, because a whole library or a `dbus-send`
//! would be much for one boolean.

use crate::error::{Context, Error, Result};
use crate::hub::send_until;
use crate::unix;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The whole conversation takes no longer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest answer of the bus we take.
const MAX_MESSAGE: usize = 64 * 1024;
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const BUS: &str = "org.freedesktop.DBus";

/// Whether `name` has an owner on the session bus; `None` where there is no session bus.
pub fn session_name_has_owner(name: &str) -> Result<Option<bool>> {
    let deadline = Instant::now() + TIMEOUT;
    let Some(fd) = connect_session() else {
        return Ok(None);
    };
    let mut bus = Bus {
        fd,
        read: Vec::new(),
        deadline,
    };
    bus.ask(name)
        .map(Some)
        .context(|| format!("cannot ask the session bus for {name}"))
}

/// The first address of `$DBUS_SESSION_BUS_ADDRESS` that answers, else `$XDG_RUNTIME_DIR/bus`.
fn connect_session() -> Option<OwnedFd> {
    let addresses = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    for address in addresses.split(';').filter_map(parse_address) {
        let connected = match address {
            Address::Path(path) => unix::connect(&path),
            Address::Abstract(name) => connect_abstract(&name),
        };
        if let Ok(fd) = connected {
            return Some(fd);
        }
    }
    if !addresses.is_empty() {
        return None;
    }
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    unix::connect(&runtime.join("bus")).ok()
}

fn connect_abstract(name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(fd)
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Path(PathBuf),
    Abstract(Vec<u8>),
}

/// `unix:path=/run/user/1000/bus,guid=…` ("Server Addresses"); other transports are not ours.
fn parse_address(text: &str) -> Option<Address> {
    let keys = text.trim().strip_prefix("unix:")?;
    keys.split(',')
        .find_map(|pair| match pair.split_once('=')? {
            ("path", value) => Some(Address::Path(
                std::ffi::OsString::from_vec(unescape(value)?).into(),
            )),
            ("abstract", value) => Some(Address::Abstract(unescape(value)?)),
            _ => None,
        })
}

fn unescape(value: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = value.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push((digit()? * 16 + digit()?) as u8);
    }
    Some(out)
}

struct Bus {
    fd: OwnedFd,
    read: Vec<u8>,
    deadline: Instant,
}

impl Bus {
    fn ask(&mut self, name: &str) -> Result<bool> {
        let uid = rustix::process::getuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let answer = self.line()?;
        if !answer.starts_with(b"OK ") {
            return Err(Error::new("it does not accept our user id"));
        }
        let mut out = b"BEGIN\r\n".to_vec();
        out.extend(call(1, "Hello", None));
        out.extend(call(2, "NameHasOwner", Some(name)));
        self.send(&out)?;
        // Signals such as NameAcquired may stand between the two answers.
        for _ in 0..64 {
            let message = self.message()?;
            match parse_reply(&message) {
                Some((2, METHOD_RETURN, body)) => {
                    let value = body.get(..4).and_then(|b| b.try_into().ok());
                    return value
                        .map(|b| u32::from_le_bytes(b) | u32::from_be_bytes(b) != 0)
                        .ok_or_else(|| Error::new("its answer is no boolean"));
                }
                Some((1 | 2, ERROR, _)) => return Err(Error::new("it answered with an error")),
                _ => {}
            }
        }
        Err(Error::new("it does not answer"))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(send_until(&self.fd, bytes, self.deadline)?)
    }

    /// Reads more, at least a byte.
    fn more(&mut self) -> Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) => return Err(Error::new("it hung up")),
                Ok(n) => {
                    self.read.extend(&buffer[..n]);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait()?,
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn wait(&self) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => Err(Error::new("it does not answer in time")),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.read.iter().position(|&b| b == b'\n') {
                return Ok(self.read.drain(..=end).collect());
            }
            if self.read.len() > 4096 {
                return Err(Error::new("it does not speak D-Bus"));
            }
            self.more()?;
        }
    }

    fn message(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(length) = message_length(&self.read) {
                if length > MAX_MESSAGE {
                    return Err(Error::new("its answer is too long"));
                }
                if self.read.len() >= length {
                    return Ok(self.read.drain(..length).collect());
                }
            }
            self.more()?;
        }
    }
}

/// A method call to the bus itself, with at most one string as its body.
fn call(serial: u32, member: &str, argument: Option<&str>) -> Vec<u8> {
    let mut body = Vec::new();
    if let Some(argument) = argument {
        push_string(&mut body, argument);
    }
    let mut m = vec![b'l', METHOD_CALL, 0, 1];
    m.extend((body.len() as u32).to_le_bytes());
    m.extend(serial.to_le_bytes());
    let mut fields = Vec::new();
    for (code, kind, value) in [
        (1, b'o', "/org/freedesktop/DBus"),
        (2, b's', BUS),
        (3, b's', member),
        (6, b's', BUS),
    ] {
        pad(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        push_string(&mut fields, value);
    }
    if argument.is_some() {
        pad(&mut fields, 8);
        fields.extend([8, 1, b'g', 0, 1, b's', 0]);
    }
    m.extend((fields.len() as u32).to_le_bytes());
    // The fields begin at byte 16, so their own padding is the message's.
    m.extend(fields);
    pad(&mut m, 8);
    m.extend(body);
    m
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    pad(out, 4);
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(match bytes.first()? {
        b'B' => u32::from_be_bytes(word),
        _ => u32::from_le_bytes(word),
    })
}

/// The length of the message these bytes begin with; `None` until 16 of them are there.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let body = u32_at(bytes, 4)? as usize;
    let fields = u32_at(bytes, 12)? as usize;
    let header = 16usize.checked_add(fields)?.checked_next_multiple_of(8)?;
    header.checked_add(body)
}

/// The serial a message answers, its type, and its body.
fn parse_reply(message: &[u8]) -> Option<(u32, u8, &[u8])> {
    let kind = *message.get(1)?;
    let end = 16usize.checked_add(u32_at(message, 12)? as usize)?;
    let mut at = 16usize;
    let mut answers = 0;
    while at < end {
        let (code, kind) = (*message.get(at)?, *message.get(at + 2)?);
        // Header fields have one-letter signatures: the value follows at its own alignment.
        let value = at + 4;
        let size = match kind {
            b'u' => 4,
            b'g' => usize::from(*message.get(value)?) + 2,
            b's' | b'o' => (u32_at(message, value)? as usize).checked_add(5)?,
            _ => return None,
        };
        if code == 5 && kind == b'u' {
            answers = u32_at(message, value)?;
        }
        at = value.checked_add(size)?.checked_next_multiple_of(8)?;
    }
    Some((answers, kind, message.get(end.next_multiple_of(8)..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_as_the_specification_spells_them() {
        let path = |p: &str| Some(Address::Path(p.into()));
        assert_eq!(parse_address("unix:path=/run/bus,guid=1"), path("/run/bus"));
        assert_eq!(parse_address("unix:path=/a%20b"), path("/a b"));
        assert_eq!(
            parse_address("unix:abstract=/tmp/x,guid=1"),
            Some(Address::Abstract(b"/tmp/x".to_vec()))
        );
        for other in ["", "tcp:host=x", "unix:tmpdir=/tmp", "unix:path=/a%2"] {
            assert_eq!(parse_address(other), None, "{other}");
        }
    }

    #[test]
    fn calls_have_their_length_and_answers_are_found() {
        for call in [call(1, "Hello", None), call(2, "NameHasOwner", Some("a.b"))] {
            assert_eq!(message_length(&call), Some(call.len()));
        }
        let mut reply = vec![
            b'l',
            METHOD_RETURN,
            1,
            1,
            4,
            0,
            0,
            0,
            9,
            0,
            0,
            0,
            15,
            0,
            0,
            0,
        ];
        reply.extend([5, 1, b'u', 0, 2, 0, 0, 0]);
        reply.extend([8, 1, b'g', 0, 1, b'b', 0, 0]);
        reply.extend([1, 0, 0, 0]);
        assert_eq!(message_length(&reply), Some(reply.len()));
        assert_eq!(
            parse_reply(&reply),
            Some((2, METHOD_RETURN, &[1, 0, 0, 0][..]))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = message_length(&bytes);
            let _ = parse_reply(&bytes);
        }
    }
}
