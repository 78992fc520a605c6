//! What the kernel holds, back into a [`Ruleset`].

use super::error::NetlinkError;
use super::object::{self, family_number};
use super::parse::{self, SetInfo};
use super::socket::{Next, Socket};
use super::uapi::{self, GEN_ID, kind, list, rule};
use super::wire::{Message, Table, Writer};
use crate::nft::model::{Family, Ruleset};
use nix::errno::Errno;

/// How much of a table to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    Full,
    /// Everything but the elements of named sets.
    NoElements,
}

/// How often a dump that a change overlapped is begun again.
const ATTEMPTS: u32 = 32;

/// Why one attempt did not succeed.
pub enum Failed {
    /// Something changed meanwhile.
    Changed,
    /// It cannot succeed.
    For(NetlinkError),
}

impl From<NetlinkError> for Failed {
    fn from(e: NetlinkError) -> Self {
        Self::For(e)
    }
}

/// Reads one table as of one moment; `None` if there is none.
pub fn dump(
    socket: &mut Socket,
    family: Family,
    table: &str,
    detail: Detail,
) -> Result<Option<Ruleset>, NetlinkError> {
    let what = format!("table {table}");
    if let Err(e) = object::name(table) {
        return Err(NetlinkError::Unsupported {
            what: format!("{what}: {e}"),
        });
    }
    for _ in 0..ATTEMPTS {
        let before = generation(socket)?;
        match attempt(socket, family, table, detail) {
            // Each commit in the namespace counts the generation up, also one that fell between
            // two of our requests and disturbed neither.
            Ok(ruleset) if generation(socket)? == before => return Ok(ruleset),
            Ok(_) | Err(Failed::Changed) => {}
            // Half of one state and half of another can look like anything.
            Err(Failed::For(e)) => {
                if generation(socket)? == before {
                    return Err(e);
                }
            }
        }
    }
    Err(NetlinkError::Unsteady { what })
}

fn attempt(
    socket: &mut Socket,
    family: Family,
    table: &str,
    detail: Detail,
) -> Result<Option<Ruleset>, Failed> {
    if !exists(socket, family, table)? {
        return Ok(None);
    }
    no_others(socket, family, table)?;
    let mut sets = Vec::new();
    let request = Request {
        message: libc::NFT_MSG_GETSET,
        answer: libc::NFT_MSG_NEWSET,
        family,
        what: "the list of sets",
    };
    request.dump(
        socket,
        &|w| w.put_str(uapi::set::TABLE, table),
        &mut |body| {
            sets.extend(parse::set(body, table)?);
            Ok(())
        },
    )?;
    let mut chains = Vec::new();
    let request = Request {
        message: libc::NFT_MSG_GETCHAIN,
        answer: libc::NFT_MSG_NEWCHAIN,
        family,
        what: "the list of chains",
    };
    request.dump(
        socket,
        &|w| w.put_str(uapi::chain::TABLE, table),
        &mut |body| {
            chains.extend(parse::chain(body, table)?);
            Ok(())
        },
    )?;
    for set in &mut sets {
        if detail == Detail::Full || set.is_anonymous() {
            elements(socket, family, table, set)?;
        }
    }
    let (sets, anonymous) = parse::separate(sets);
    let mut ruleset = Ruleset {
        family,
        table: table.into(),
        sets,
        chains,
    };
    rules(socket, &mut ruleset, &anonymous)?;
    Ok(Some(ruleset))
}

/// Whether the table is there, and an ordinary one.
/// Whether there is a table of this name.
pub fn exists(socket: &mut Socket, family: Family, table: &str) -> Result<bool, Failed> {
    let request = Request {
        message: libc::NFT_MSG_GETTABLE,
        answer: libc::NFT_MSG_NEWTABLE,
        family,
        what: "the table",
    };
    let answer = request.get(socket, &|w| w.put_str(uapi::table::NAME, table), |body| {
        parse::table(body, table)
    });
    match answer {
        Ok(()) => Ok(true),
        Err(Failed::For(NetlinkError::Rejected {
            errno: Errno::ENOENT,
            ..
        })) => Ok(false),
        Err(e) => Err(e),
    }
}

/// That the table has neither stateful objects nor flow tables, which no [`Ruleset`] has.
fn no_others(socket: &mut Socket, family: Family, table: &str) -> Result<(), Failed> {
    for (message, answer, what) in [
        (
            libc::NFT_MSG_GETOBJ,
            libc::NFT_MSG_NEWOBJ,
            "stateful objects",
        ),
        (uapi::GET_FLOWTABLE, uapi::NEW_FLOWTABLE, "flow tables"),
    ] {
        let request = Request {
            message,
            answer,
            family,
            what,
        };
        request.dump(
            socket,
            &|w| w.put_str(uapi::OTHER_TABLE, table),
            &mut |body| {
                let others = Table::<12>::parse(body).map_err(|_| request.malformed())?;
                match others.text(uapi::OTHER_TABLE) {
                    Ok(Some(name)) if name != table => Ok(()),
                    _ => Err(NetlinkError::Foreign { what: what.into() }),
                }
            },
        )?;
    }
    Ok(())
}

fn elements(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &mut SetInfo,
) -> Result<(), Failed> {
    let what = format!("the elements of set {}", set.name());
    let request = Request {
        message: libc::NFT_MSG_GETSETELEM,
        answer: libc::NFT_MSG_NEWSETELEM,
        family,
        what: &what,
    };
    let name = set.name().to_string();
    request.dump(
        socket,
        &|w| {
            w.put_str(list::TABLE, table);
            w.put_str(list::SET, &name);
        },
        &mut |body| set.elements(body, table),
    )?;
    if set.join_ranges() {
        Ok(())
    } else {
        Err(Failed::Changed)
    }
}

fn rules(
    socket: &mut Socket,
    ruleset: &mut Ruleset,
    anonymous: &[parse::AnonymousInfo],
) -> Result<(), Failed> {
    let request = Request {
        message: libc::NFT_MSG_GETRULE,
        answer: libc::NFT_MSG_NEWRULE,
        family: ruleset.family,
        what: "the list of rules",
    };
    let table = ruleset.table.clone();
    let chains: Vec<String> = ruleset.chains.iter().map(|c| c.name.clone()).collect();
    let mut found = Vec::new();
    request.dump(socket, &|w| w.put_str(rule::TABLE, &table), &mut |body| {
        found.extend(parse::rule(body, ruleset, &chains, anonymous)?);
        Ok(())
    })?;
    for (chain, rule) in found {
        ruleset.chains[chain].rules.push(rule);
    }
    Ok(())
}

/// The number of transactions the namespace has seen.
pub fn generation(socket: &mut Socket) -> Result<u32, NetlinkError> {
    let request = Request {
        message: libc::NFT_MSG_GETGEN,
        answer: libc::NFT_MSG_NEWGEN,
        family: Family::Inet,
        what: "the generation",
    };
    let answer = request.get(socket, &|_| (), |body| {
        let table = Table::<4>::parse(body).map_err(|_| request.malformed())?;
        table
            .be32(GEN_ID)
            .ok()
            .flatten()
            .ok_or_else(|| request.malformed())
    });
    answer.map_err(|e| match e {
        Failed::For(e) => e,
        Failed::Changed => request.malformed(),
    })
}

/// A question to the kernel.
struct Request<'a> {
    /// `NFT_MSG_GET*`
    message: libc::c_int,
    /// `NFT_MSG_NEW*`
    answer: libc::c_int,
    family: Family,
    /// What is asked for, for errors.
    what: &'a str,
}

impl Request<'_> {
    fn malformed(&self) -> NetlinkError {
        NetlinkError::Malformed {
            what: self.what.into(),
        }
    }

    fn send(
        &self,
        socket: &mut Socket,
        flags: libc::c_int,
        attributes: &dyn Fn(&mut Writer),
    ) -> Result<u32, NetlinkError> {
        let seq = socket.take_seq(1);
        let mut w = Writer::default();
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        let family = family_number(self.family);
        let mark = w.message(kind(self.message), flags, seq, family, 0);
        attributes(&mut w);
        w.end_message(mark);
        socket.send(self.what, &w.buf)?;
        Ok(seq)
    }

    /// Asks for one object.
    fn get<T>(
        &self,
        socket: &mut Socket,
        attributes: &dyn Fn(&mut Writer),
        parse: impl Fn(&[u8]) -> Result<T, NetlinkError>,
    ) -> Result<T, Failed> {
        let seq = self.send(socket, 0, attributes)?;
        let mut answer = None;
        socket.replies(self.what, &mut |message| {
            let body = self.body(&message, seq)?;
            answer = Some(parse(body.ok_or_else(|| self.malformed())?)?);
            Ok(Next::Done)
        })?;
        answer.ok_or(Failed::For(NetlinkError::Unanswered {
            what: self.what.into(),
        }))
    }

    /// Asks for all objects of a kind.
    fn dump(
        &self,
        socket: &mut Socket,
        attributes: &dyn Fn(&mut Writer),
        each: &mut dyn FnMut(&[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), Failed> {
        let seq = self.send(socket, libc::NLM_F_DUMP, attributes)?;
        let mut interrupted = false;
        let done = socket.replies(self.what, &mut |message| {
            interrupted |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
            match self.body(&message, seq)? {
                None => return Ok(Next::Done),
                // What an interrupted dump lists is thrown away.
                Some(_) if interrupted => {}
                Some(body) => each(body)?,
            }
            Ok(Next::More)
        });
        match done {
            _ if interrupted => Err(Failed::Changed),
            // A set can go, or a dump be found inconsistent, between two datagrams.
            Err(NetlinkError::Rejected {
                errno: Errno::ENOENT | Errno::EINTR,
                ..
            }) => Err(Failed::Changed),
            Err(e) => Err(e.into()),
            Ok(true) => Ok(()),
            Ok(false) => Err(Failed::For(NetlinkError::Unanswered {
                what: self.what.into(),
            })),
        }
    }

    /// The attributes of an answer; `None` is the end of a dump.
    fn body<'a>(&self, message: &Message<'a>, seq: u32) -> Result<Option<&'a [u8]>, NetlinkError> {
        let malformed = |_| self.malformed();
        if message.seq != seq {
            return Err(self.malformed());
        }
        match i32::from(message.kind) {
            libc::NLMSG_ERROR | libc::NLMSG_DONE => match message.error().map_err(malformed)? {
                Err(errno) => Err(NetlinkError::Rejected {
                    what: self.what.into(),
                    errno: Errno::from_raw(errno),
                }),
                Ok(()) if i32::from(message.kind) == libc::NLMSG_DONE => Ok(None),
                Ok(()) => Err(self.malformed()),
            },
            _ if message.kind == kind(self.answer) => {
                let (_, attributes) = message.netfilter().map_err(malformed)?;
                Ok(Some(attributes))
            }
            _ => Err(self.malformed()),
        }
    }
}
