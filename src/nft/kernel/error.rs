//! What can go wrong between us and nf_tables, by step.

use nix::errno::Errno;
use std::fmt;

/// A step of talking to the kernel that failed. Every variant says what was being done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The netlink socket could not be opened.
    Open(Errno),
    /// A message could not be sent; nothing was changed.
    Send {
        /// What was being done.
        what: String,
        /// Why not.
        errno: Errno,
    },
    /// The kernel refused an object; the whole transaction changed nothing.
    Rejected {
        /// The object: `set allow_v4`, `rule 7 of chain output`.
        what: String,
        /// The kernel's reason.
        errno: Errno,
    },
    /// Replies could not be received, so the outcome is unknown.
    Receive {
        /// What was being done.
        what: String,
        /// Why not; `ENOBUFS` means that replies were lost.
        errno: Errno,
    },
    /// The kernel neither acknowledged nor refused.
    Unanswered {
        /// What was being done.
        what: String,
    },
    /// A reply was not what the protocol prescribes.
    Malformed {
        /// What was being read.
        what: String,
    },
    /// The table kept changing while it was being read.
    Unsteady {
        /// What was being read.
        what: String,
    },
    /// The kernel holds something that our rulesets cannot say; somebody else put it there.
    Foreign {
        /// What it is.
        what: String,
    },
    /// The ruleset asks for something that the kernel cannot hold.
    Unsupported {
        /// The object and what is wrong with it.
        what: String,
    },
    /// A part that must be applied at once exceeds what one message may carry here.
    TooLarge {
        /// Bytes needed.
        needed: usize,
        /// Bytes allowed (`net.core.wmem_max` bounds them).
        allowed: usize,
    },
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(errno) => write!(f, "cannot open a netfilter socket: {}", errno.desc()),
            Self::Send { what, errno } => {
                write!(f, "cannot send {what} to the kernel: {}", errno.desc())
            }
            Self::Rejected { what, errno } => {
                write!(f, "the kernel refused {what}: {}", errno.desc())?;
                match errno {
                    Errno::EPERM => f.write_str(
                        " (CAP_NET_ADMIN in the network namespace's user namespace is needed)",
                    ),
                    Errno::EOPNOTSUPP => f.write_str(" (is the kernel built with nf_tables?)"),
                    _ => Ok(()),
                }
            }
            Self::Receive { what, errno } => write!(
                f,
                "cannot receive the kernel's answer to {what}: {}",
                errno.desc()
            ),
            Self::Unanswered { what } => write!(f, "the kernel did not acknowledge {what}"),
            Self::Malformed { what } => write!(f, "the kernel's answer to {what} is malformed"),
            Self::Unsteady { what } => {
                write!(f, "{what} kept changing while it was read; try again")
            }
            Self::Foreign { what } => {
                write!(f, "the kernel holds what terok-shield never writes: {what}")
            }
            Self::Unsupported { what } => write!(f, "nftables cannot hold {what}"),
            Self::TooLarge { needed, allowed } => write!(
                f,
                "the ruleset needs a netlink message of {needed} bytes, and only {allowed} are \
                 allowed here: raise net.core.wmem_max"
            ),
        }
    }
}

impl std::error::Error for NetlinkError {}

impl From<NetlinkError> for crate::error::Error {
    fn from(e: NetlinkError) -> Self {
        Self::new(e.to_string())
    }
}
