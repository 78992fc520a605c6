//! A transaction under construction. Only a finished one can be sent.

use super::NetlinkError;
use super::element;
use super::object::{Builder, Head, family_number, name};
use super::op::{Op, SetRef, compile};
use super::uapi::kind;
use super::wire::{Mark, Writer};
use crate::nft::model::{Base, Chain, Element, Family, Policy, Ruleset, Set};
use std::ffi::{CStr, CString};

/// Messages of one transaction: the kernel takes all of them or none.
pub struct Batch<'a> {
    family: Family,
    table: &'a str,
    c_table: CString,
    writer: Writer,
    builder: &'a mut Builder,
    /// Sequence number of the first message; the others count up from it.
    first_seq: u32,
    /// What each message is about, by sequence number.
    about: Vec<String>,
    /// Where the last message began.
    last: usize,
    /// Next number by which the batch names a set.
    next_id: u32,
}

/// A transaction ready to be sent.
pub struct Finished {
    /// The bytes, to be sent as one datagram.
    pub bytes: Vec<u8>,
    /// Sequence number of the first message.
    pub first_seq: u32,
    /// What each message is about.
    pub about: Vec<String>,
    /// Sequence number of the message whose acknowledgement means that all is done.
    pub acked_seq: u32,
}

/// Why a batch could not be built.
pub type Result<T> = std::result::Result<T, NetlinkError>;

fn unsupported(what: String) -> NetlinkError {
    NetlinkError::Unsupported { what }
}

impl<'a> Batch<'a> {
    /// Begins a transaction on one table. `buffer` is reused.
    pub fn new(
        builder: &'a mut Builder,
        mut buffer: Vec<u8>,
        first_seq: u32,
        family: Family,
        table: &'a str,
    ) -> Result<Self> {
        let c_table = name(table).map_err(|e| unsupported(format!("table {table}: {e}")))?;
        buffer.clear();
        let mut batch = Self {
            family,
            table,
            c_table,
            writer: Writer { buf: buffer },
            builder,
            first_seq,
            about: Vec::new(),
            last: 0,
            next_id: 1,
        };
        batch.frame(libc::NFNL_MSG_BATCH_BEGIN, "the transaction");
        Ok(batch)
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.writer.buf.len()
    }

    /// Whether nothing but the frame is in it.
    pub fn is_empty(&self) -> bool {
        self.about.len() == 1
    }

    /// Ends the transaction.
    pub fn finish(mut self) -> Finished {
        let acked_seq = self.seq().wrapping_sub(1);
        // One acknowledgement, on the last message that can fail: the kernel sends it only once
        // the whole transaction is committed.
        let flags = self.last + 6;
        let with_ack = u16::from_ne_bytes([self.writer.buf[flags], self.writer.buf[flags + 1]])
            | libc::NLM_F_ACK as u16;
        self.writer.buf[flags..flags + 2].copy_from_slice(&with_ack.to_ne_bytes());
        self.frame(libc::NFNL_MSG_BATCH_END, "the end of the transaction");
        Finished {
            bytes: self.writer.buf,
            first_seq: self.first_seq,
            about: self.about,
            acked_seq,
        }
    }

    /// Drops the table, existing or not: `add`, `delete`. A table is not there to be deleted
    /// without the first; the caller goes on with another [`Batch::table`].
    pub fn drop_table(&mut self) -> Result<()> {
        self.table()?;
        self.object(
            libc::NFT_MSG_DELTABLE,
            0,
            "the old table".into(),
            |b, h, t| Ok(b.table(h, t)),
        )
    }

    /// Adds the table.
    pub fn table(&mut self) -> Result<()> {
        let about = format!("table {}", self.table);
        self.object(libc::NFT_MSG_NEWTABLE, CREATE, about, |b, h, t| {
            Ok(b.table(h, t))
        })
    }

    /// Adds the table, which must not exist.
    pub fn new_table(&mut self) -> Result<()> {
        let about = format!("the new table {}", self.table);
        self.object(
            libc::NFT_MSG_NEWTABLE,
            CREATE | libc::NLM_F_EXCL,
            about,
            |b, h, t| Ok(b.table(h, t)),
        )
    }

    /// Adds a chain without its rules, or sets an existing one's policy, which may differ from
    /// what the model says.
    pub fn chain(&mut self, chain: &Chain, policy: Option<Policy>) -> Result<()> {
        let base = chain.base.map(|base| Base {
            policy: policy.unwrap_or(base.policy),
            ..base
        });
        self.object(
            libc::NFT_MSG_NEWCHAIN,
            CREATE,
            format!("chain {}", chain.name),
            |b, h, t| Ok(b.chain(h, t, &name(&chain.name)?, base)),
        )
    }

    /// Deletes a chain that has no rules.
    pub fn delete_chain(&mut self, chain: &str) -> Result<()> {
        self.object(
            libc::NFT_MSG_DELCHAIN,
            0,
            format!("chain {chain}"),
            |b, h, t| Ok(b.chain(h, t, &name(chain)?, None)),
        )
    }

    /// Deletes every rule of a chain.
    pub fn flush_chain(&mut self, chain: &str) -> Result<()> {
        self.object(
            libc::NFT_MSG_DELRULE,
            0,
            format!("the rules of chain {chain}"),
            |b, h, t| b.rule(h, t, &name(chain)?, &[], 0),
        )
    }

    /// Adds an empty set.
    pub fn set(&mut self, set: &Set) -> Result<()> {
        if set.default_timeout.is_some() && !set.timeouts {
            return Err(unsupported(format!(
                "set {}: a default timeout without timeouts",
                set.name
            )));
        }
        let id = self.id();
        self.object(
            libc::NFT_MSG_NEWSET,
            CREATE,
            format!("set {}", set.name),
            |b, h, t| Ok(b.set(h, t, &name(&set.name)?, set, id)),
        )
    }

    /// Deletes a set that no rule uses.
    pub fn delete_set(&mut self, set: &str) -> Result<()> {
        self.object(libc::NFT_MSG_DELSET, 0, format!("set {set}"), |b, h, t| {
            Ok(b.set_name(h, t, &name(set)?))
        })
    }

    /// Adds elements until the batch has `room` bytes, and says how many of them it took. Those
    /// that carry `expires` live just that long.
    pub fn add(&mut self, set: &Set, elements: &[Element], room: usize) -> Result<usize> {
        self.elements(libc::NFT_MSG_NEWSETELEM, set, elements, room)
    }

    /// Deletes elements until the batch has `room` bytes, and says how many of them it took.
    pub fn delete(&mut self, set: &Set, elements: &[Element], room: usize) -> Result<usize> {
        self.elements(libc::NFT_MSG_DELSETELEM, set, elements, room)
    }

    fn elements(
        &mut self,
        message: libc::c_int,
        set: &Set,
        elements: &[Element],
        room: usize,
    ) -> Result<usize> {
        name(&set.name).map_err(|e| unsupported(format!("set {}: {e}", set.name)))?;
        let flags = if message == libc::NFT_MSG_NEWSETELEM {
            CREATE
        } else {
            0
        };
        let mut done = 0;
        while done < elements.len() {
            let left = room.saturating_sub(self.len() + FRAME);
            if left < element::SMALLEST_MESSAGE {
                break;
            }
            // How many surely fit: the others go into the next message or batch.
            let fit = ((left - element::SMALLEST_MESSAGE) / element::LONGEST).max(1);
            let some = &elements[done..elements.len().min(done.saturating_add(fit))];
            for element in some.iter().take(MESSAGE_ELEMENTS) {
                element::check(element, set).map_err(unsupported)?;
            }
            let some = &some[..some.len().min(MESSAGE_ELEMENTS)];
            let mark = self.begin(message, flags, format!("elements of set {}", set.name));
            done += element::put(&mut self.writer, self.table, set, some);
            self.writer.end_message(mark);
        }
        Ok(done)
    }

    /// Adds the rules of a chain, in order.
    pub fn rules(&mut self, chain: &Chain, ruleset: &Ruleset) -> Result<()> {
        for (n, rule) in chain.rules.iter().enumerate() {
            let about = || format!("rule {} of chain {}", n + 1, chain.name);
            let ops =
                compile(rule, ruleset).map_err(|e| unsupported(format!("{}: {e}", about())))?;
            self.rule(&chain.name, &ops, about())?;
        }
        Ok(())
    }

    /// Adds a rule that drops every packet. A policy alone is not enough where it is about to
    /// change: a packet can meet the rules of before and the policy of after.
    pub fn blackout(&mut self, chain: &str) -> Result<()> {
        let about = format!("the blackout of chain {chain}");
        self.rule(chain, &[Op::Verdict(libc::NF_DROP)], about)
    }

    fn rule(&mut self, chain: &str, ops: &[Op], about: String) -> Result<()> {
        let first_id = self.next_id;
        for op in ops {
            if let Op::Lookup {
                set: SetRef::Anonymous(set),
                ..
            } = op
            {
                let id = self.id();
                self.object(libc::NFT_MSG_NEWSET, CREATE, about.clone(), |b, h, t| {
                    Ok(b.anonymous(h, t, set, id))
                })?;
                let mark = self.begin(libc::NFT_MSG_NEWSETELEM, CREATE, about.clone());
                element::put_anonymous(&mut self.writer, self.table, set, id);
                self.writer.end_message(mark);
            }
        }
        let flags = CREATE | libc::NLM_F_APPEND;
        self.object(libc::NFT_MSG_NEWRULE, flags, about, |b, h, t| {
            b.rule(h, t, &name(chain)?, ops, first_id)
        })
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn seq(&self) -> u32 {
        self.first_seq.wrapping_add(self.about.len() as u32)
    }

    /// Appends a message that libnftnl builds.
    fn object(
        &mut self,
        message: libc::c_int,
        flags: libc::c_int,
        about: String,
        build: impl for<'b> FnOnce(
            &'b mut Builder,
            Head,
            &CStr,
        ) -> std::result::Result<&'b [u8], String>,
    ) -> Result<()> {
        let head = Head {
            message,
            flags,
            seq: self.seq(),
            family: self.family,
        };
        match build(self.builder, head, &self.c_table) {
            Ok(bytes) => {
                self.last = self.writer.buf.len();
                self.writer.buf.extend_from_slice(bytes);
                self.about.push(about);
                Ok(())
            }
            Err(e) => Err(unsupported(format!("{about}: {e}"))),
        }
    }

    /// Begins a message that we write ourselves.
    fn begin(&mut self, message: libc::c_int, flags: libc::c_int, about: String) -> Mark {
        self.last = self.writer.buf.len();
        let (seq, family) = (self.seq(), family_number(self.family));
        self.about.push(about);
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        self.writer.message(kind(message), flags, seq, family, 0)
    }

    /// Appends the message that begins or ends a transaction.
    fn frame(&mut self, message: libc::c_int, about: &str) {
        let mark = self.writer.message(
            message as u16,
            libc::NLM_F_REQUEST as u16,
            self.seq(),
            libc::AF_UNSPEC as u8,
            libc::NFNL_SUBSYS_NFTABLES as u16,
        );
        self.writer.end_message(mark);
        self.about.push(about.into());
    }
}

const CREATE: libc::c_int = libc::NLM_F_CREATE;
/// Bytes of the message that ends a transaction.
const FRAME: usize = 20;
/// More elements than one message ever takes.
const MESSAGE_ELEMENTS: usize = 4096;
