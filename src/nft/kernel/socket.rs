//! The netlink socket: what is sent, what comes back, and from whom.

use super::batch::Finished;
use super::error::NetlinkError;
use super::wire::{Message, Messages};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, recvmsg, setsockopt, sockopt};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Dumps come in datagrams of at most this size: the kernel makes none larger than 32 KiB, and
/// none larger than the buffer it saw in the last receive (`netlink_dump`, af_netlink.c).
const RECEIVE: usize = 32 * 1024;

/// What a loop over replies wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// More replies.
    More,
    /// No more: this was the last one.
    Done,
}

/// A netfilter netlink socket in the network namespace in which it was opened.
pub struct Socket {
    mnl: mnl::Socket,
    port: u32,
    receive: Vec<u8>,
    seq: u32,
    /// Bytes one send may have, if a test wants fewer than the kernel allows.
    pub limit: Option<usize>,
    allowed: usize,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |e: std::io::Error| {
            NetlinkError::Open(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
        };
        let mnl = mnl::Socket::open(mnl::Bus::Netfilter).map_err(failed)?;
        mnl.bind(0, 0).map_err(failed)?;
        let mut socket = Self {
            port: mnl.portid(),
            mnl,
            receive: vec![0; RECEIVE],
            seq: 1,
            limit: None,
            allowed: 0,
        };
        socket.cap_acknowledgements()?;
        socket.allowed = socket.allowance();
        Ok(socket)
    }

    /// Errors then carry the refused message's header alone, not its up to 64 KiB of body.
    fn cap_acknowledgements(&self) -> Result<(), NetlinkError> {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, and the option's value is an int of the length given.
        let result = unsafe {
            libc::setsockopt(
                self.mnl.as_raw_fd(),
                libc::SOL_NETLINK,
                libc::NETLINK_CAP_ACK,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(NetlinkError::Open(Errno::last()))
        }
    }

    /// Sequence number for the next request; `count` of them are taken.
    pub fn take_seq(&mut self, count: usize) -> u32 {
        let seq = self.seq;
        self.seq = self.seq.wrapping_add(count as u32);
        seq
    }

    /// Sequence number the next request will get.
    pub fn next_seq(&self) -> u32 {
        self.seq
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as `self.mnl`, which the borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.mnl.as_raw_fd()) }
    }

    /// What the send buffer admits: af_netlink.c keeps 32 bytes of it.
    fn allowance(&self) -> usize {
        nix::sys::socket::getsockopt(&self.fd(), sockopt::SndBuf)
            .unwrap_or(0)
            .saturating_sub(32)
    }

    /// Makes room for one message of `wanted` bytes and says how many are allowed, which may be
    /// fewer: only real root exceeds twice `net.core.wmem_max`.
    pub fn room_for(&mut self, wanted: usize) -> usize {
        let wanted_now = self.limit.map_or(wanted, |l| wanted.min(l));
        if self.allowed < wanted_now {
            // The kernel doubles what it is told.
            let value = wanted_now / 2 + 4096;
            if setsockopt(&self.fd(), sockopt::SndBufForce, &value).is_err() {
                // Best effort: the allowance read back is what counts.
                let _ = setsockopt(&self.fd(), sockopt::SndBuf, &value);
            }
            self.allowed = self.allowance();
        }
        self.limit.map_or(self.allowed, |l| l.min(self.allowed))
    }

    /// Sends bytes as one datagram.
    pub fn send(&self, what: &str, bytes: &[u8]) -> Result<(), NetlinkError> {
        let failed = |errno| NetlinkError::Send {
            what: what.into(),
            errno,
        };
        loop {
            match self.mnl.send(bytes) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(failed(Errno::EMSGSIZE)),
                Err(e) => match Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)) {
                    Errno::EINTR => {}
                    errno => return Err(failed(errno)),
                },
            }
        }
    }

    /// Sends a transaction and waits until the kernel has committed or refused it.
    ///
    /// The kernel works inside send(2): when that returns, every reply is queued already. So an
    /// empty queue means that nothing more comes, and nothing here ever blocks.
    pub fn transact(&mut self, batch: &Finished) -> Result<(), NetlinkError> {
        self.send("the transaction", &batch.bytes)?;
        let mut acked = false;
        let mut refused = None;
        let what = "the transaction";
        let ended = self.replies(what, &mut |message| {
            let index = message.seq.wrapping_sub(batch.first_seq) as usize;
            let malformed = || NetlinkError::Malformed { what: what.into() };
            if i32::from(message.kind) != libc::NLMSG_ERROR {
                return Err(malformed());
            }
            match message.error().map_err(|_| malformed())? {
                Ok(()) if message.seq == batch.acked_seq => acked = true,
                Ok(()) => return Err(malformed()),
                Err(errno) => {
                    let about = batch.about.get(index).ok_or_else(malformed)?;
                    // The first refusal is the cause; others may follow from it.
                    refused.get_or_insert_with(|| NetlinkError::Rejected {
                        what: about.clone(),
                        errno: Errno::from_raw(errno),
                    });
                }
            }
            Ok(Next::More)
        });
        match (refused, ended) {
            (Some(refused), _) => Err(refused),
            (None, Err(e)) => Err(e),
            (None, Ok(_)) if !acked => Err(NetlinkError::Unanswered { what: what.into() }),
            (None, Ok(_)) => Ok(()),
        }
    }

    /// Hands every queued reply to `each` until it says `Done` or the queue is empty; then the
    /// queue is empty in any case. Returns whether `each` said `Done`.
    pub fn replies(
        &mut self,
        what: &str,
        each: &mut dyn FnMut(Message<'_>) -> Result<Next, NetlinkError>,
    ) -> Result<bool, NetlinkError> {
        let mut outcome = Ok(false);
        loop {
            let received = match self.receive(what) {
                Ok(None) => return outcome,
                Ok(Some(length)) => length,
                Err(e) => return Err(e),
            };
            // Whatever is left behind a failure or the end only has to leave the queue.
            if !matches!(outcome, Ok(false)) {
                continue;
            }
            outcome = walk(&self.receive[..received], what, self.port, each);
        }
    }

    /// Receives one datagram into the buffer: its length, or `None` where there is none.
    fn receive(&mut self, what: &str) -> Result<Option<usize>, NetlinkError> {
        let fd = self.mnl.as_raw_fd();
        loop {
            let mut parts = [IoSliceMut::new(&mut self.receive)];
            match recvmsg::<NetlinkAddr>(fd, &mut parts, None, MsgFlags::MSG_DONTWAIT) {
                // Only the kernel has port 0; another process may send us anything.
                Ok(m) if m.address.is_none_or(|a| a.pid() != 0) => {}
                Ok(m) if m.flags.contains(MsgFlags::MSG_TRUNC) => {
                    return Err(NetlinkError::Malformed { what: what.into() });
                }
                Ok(m) => return Ok(Some(m.bytes)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => {
                    return Err(NetlinkError::Receive {
                        what: what.into(),
                        errno,
                    });
                }
            }
        }
    }
}

/// Hands the messages of one datagram to `each`.
pub fn walk(
    datagram: &[u8],
    what: &str,
    port: u32,
    each: &mut dyn FnMut(Message<'_>) -> Result<Next, NetlinkError>,
) -> Result<bool, NetlinkError> {
    let malformed = || NetlinkError::Malformed { what: what.into() };
    for message in Messages(datagram) {
        let message = message.map_err(|_| malformed())?;
        if message.port != port {
            return Err(malformed());
        }
        if i32::from(message.kind) == libc::NLMSG_NOOP {
            continue;
        }
        if each(message)? == Next::Done {
            return Ok(true);
        }
    }
    Ok(false)
}
