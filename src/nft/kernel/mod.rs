//! Rulesets to and from the kernel, over netlink (nf_tables of Linux 5.10 and later).
//!
//! [`Nft::replace`] loads a ruleset, [`Nft::dump`] reads one back, [`Nft::transition`] turns one
//! into another in a single transaction. All `unsafe` code of the firewall is in this module:
//! calls of libnftnl (`object`) and of the socket (`socket`).
//!
//! Tables, chains, sets and rules are libnftnl's to write, and libmnl's to send. Two things are
//! not, and need no `unsafe`: elements (`element`, `wire`), of which libnftnl would make an object
//! each, a hundred megabytes where a set has a hundred thousand; and what the kernel answers
//! (`dump`, `parse`, `expr`), since libnftnl's parsers skip attributes they do not know, and a
//! rule is not ours because the part of it that we know is.

mod batch;
mod changes;
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
#[cfg(test)]
mod tests;
mod transition;
mod uapi;
pub(crate) mod wire;

pub use changes::same_definition;
pub use dump::Detail;
pub use error::NetlinkError;

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

    /// Whether there is a table of this name, of whatever kind.
    fn exists(&mut self, family: Family, table: &str) -> Result<bool, NetlinkError> {
        match dump::exists(&mut self.socket, family, table) {
            Ok(exists) => Ok(exists),
            // One that is dormant, say: it is there to be replaced.
            Err(dump::Failed::For(NetlinkError::Foreign { .. })) => Ok(true),
            Err(dump::Failed::For(e)) => Err(e),
            Err(dump::Failed::Changed) => Err(NetlinkError::Unsteady {
                what: format!("table {table}"),
            }),
        }
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
