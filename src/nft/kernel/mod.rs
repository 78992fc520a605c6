//! Rulesets to and from the kernel, over netlink (nf_tables of Linux 5.10 and later).
//!
//! [`Nft::replace`] loads a ruleset, [`Nft::dump`] reads one back, [`Nft::transition`] turns one
//! into another in a single transaction. All `unsafe` code of the firewall is in this module:
//! calls of libnftnl (`object`) and of the socket (`socket`). What the kernel answers is read
//! without any.

mod batch;
mod dump;
mod element;
mod error;
mod expr;
mod fold;
mod learn;
mod object;
mod op;
mod parse;
mod send;
pub(crate) mod socket;
mod transition;
mod uapi;
pub(crate) mod wire;

pub use dump::Detail;
pub use error::NetlinkError;
pub use transition::same_definition;

use crate::nft::model::{Family, Rule, Ruleset};

/// A connection to nf_tables in one network namespace.
pub struct Nft {
    socket: socket::Socket,
    builder: object::Builder,
    /// The last transaction's buffer, to be used again.
    spare: Vec<u8>,
}

impl Nft {
    /// Connects to the nf_tables of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: socket::Socket::open()?,
            builder: object::Builder::new(),
            spare: Vec::new(),
        })
    }

    /// Lowers the bytes one message may have, for tests of what a rootless namespace meets.
    pub fn limit_message(&mut self, bytes: usize) {
        self.socket.limit = Some(bytes);
    }

    /// How many transactions the namespace has seen, modulo 2^32: it grows by one with each, by
    /// whomever.
    ///
    /// # Errors
    /// Any [`NetlinkError`] of a question to the kernel.
    pub fn generation(&mut self) -> Result<u32, NetlinkError> {
        dump::generation(&mut self.socket)
    }

    /// Whether there is a table of this name.
    fn exists(&mut self, family: Family, table: &str) -> Result<bool, NetlinkError> {
        dump::exists(&mut self.socket, family, table).map_err(|failed| match failed {
            dump::Failed::For(e) => e,
            dump::Failed::Changed => NetlinkError::Unsteady {
                what: format!("table {table}"),
            },
        })
    }

    /// Reads one table as it was at one moment, or `None` if there is none of this name.
    ///
    /// # Errors
    /// [`NetlinkError::Foreign`] if the table holds anything a [`Ruleset`] cannot say,
    /// [`NetlinkError::Unsteady`] if it changed faster than it could be read.
    pub fn dump(
        &mut self,
        family: Family,
        table: &str,
        detail: Detail,
    ) -> Result<Option<Ruleset>, NetlinkError> {
        dump::dump(&mut self.socket, family, table, detail)
    }
}

/// Whether both rules are the same program to the kernel, in whatever way they are written and
/// whatever their counters have counted.
pub fn same_rule(a: &Rule, in_a: &Ruleset, b: &Rule, in_b: &Ruleset) -> bool {
    match (op::compile(a, in_a), op::compile(b, in_b)) {
        (Ok(a), Ok(b)) => a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.same(b)),
        _ => false,
    }
}
