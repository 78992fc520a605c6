//! One rule: its matches and statements, and what must hold among those.

use super::error::Fault;
use super::lexer::{Lexer, Token};
use super::names;
use super::set::bad;
use crate::ipnet::IpNet;
use crate::nft::model::{CtState, Expr, Family, Icmpx, Reject, Rule, Transport};

/// Longest log prefix, bytes (`NF_LOG_PREFIXLEN` less its NUL, linux/netfilter/nf_log.h).
const LOG_PREFIX_MAX: usize = 127;
/// Longest interface name, bytes (`IFNAMSIZ` less its NUL, linux/if.h).
const IFNAME_MAX: usize = 15;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A rule's use of a named set, to be checked when all sets are known.
pub(super) struct SetUse<'a> {
    pub at: usize,
    pub name: &'a str,
    pub v6: bool,
    pub service: bool,
}

/// A rule while it is being read.
pub(super) struct RuleReader<'l, 'a> {
    lex: &'l mut Lexer<'a>,
    family: Family,
    uses: &'l mut Vec<SetUse<'a>>,
    exprs: Vec<Expr>,
    /// Address family the packet is known to have: `true` for IPv6.
    v6: Option<bool>,
    /// Transport protocols the packet may still have; empty is any.
    protocols: Vec<u8>,
    ended: bool,
}

impl<'l, 'a> RuleReader<'l, 'a> {
    /// Reads one rule of a table of this family, up to but not its separator.
    pub fn read(
        lex: &'l mut Lexer<'a>,
        family: Family,
        uses: &'l mut Vec<SetUse<'a>>,
    ) -> Result<Rule, Fault> {
        let v6 = match family {
            Family::Inet => None,
            Family::Ip => Some(false),
            Family::Ip6 => Some(true),
        };
        let mut reader = RuleReader {
            lex,
            family,
            uses,
            exprs: Vec::new(),
            v6,
            protocols: Vec::new(),
            ended: false,
        };
        loop {
            reader.expression()?;
            match reader.lex.peek()? {
                Token::Separator | Token::End | Token::Symbol(b'}') => break,
                _ => {}
            }
        }
        Ok(Rule(canonical(reader.exprs)))
    }

    fn expression(&mut self) -> Result<(), Fault> {
        let word = self.lex.word("a rule")?;
        if self.ended {
            return Err(self.lex.fault("nothing has an effect after a verdict"));
        }
        let expr = match word {
            "iifname" => Expr::Iifname(self.interface()?),
            "oifname" => Expr::Oifname(self.interface()?),
            "meta" => return self.meta(),
            "mark" => self.mark()?,
            "ct" => self.ct_state()?,
            "ip" => self.destination(false)?,
            "ip6" => self.destination(true)?,
            "tcp" => self.ports(Transport::Tcp)?,
            "udp" => self.ports(Transport::Udp)?,
            "icmpv6" => self.icmpv6()?,
            "log" => self.log()?,
            "counter" => self.counter()?,
            "accept" => self.verdict(Expr::Accept),
            "drop" => self.verdict(Expr::Drop),
            "reject" => self.reject()?,
            "iif" | "oif" => {
                return Err(self.lex.fault(format!(
                    "\"{word}\" names an interface's number; write {word}name"
                )));
            }
            other => return Err(bad(self.lex, other, "a supported match or statement")),
        };
        self.exprs.push(expr);
        Ok(())
    }

    fn meta(&mut self) -> Result<(), Fault> {
        let expr = match self.lex.word("a meta key")? {
            "iifname" => Expr::Iifname(self.interface()?),
            "oifname" => Expr::Oifname(self.interface()?),
            "mark" => self.mark()?,
            "skuid" => {
                let word = self.lex.word("a user id")?;
                let uid = if word == "root" {
                    Some(0)
                } else {
                    names::decimal(word)
                };
                Expr::Skuid(uid.ok_or_else(|| bad(self.lex, word, "a user id"))?)
            }
            "l4proto" => {
                let list = self.values("a protocol", names::protocol)?;
                self.protocols.clone_from(&list);
                Expr::L4proto(list)
            }
            other => return Err(bad(self.lex, other, "a supported meta key")),
        };
        self.exprs.push(expr);
        Ok(())
    }

    fn mark(&mut self) -> Result<Expr, Fault> {
        let word = self.lex.word("a mark")?;
        let mark = names::number(word).ok_or_else(|| bad(self.lex, word, "a mark"))?;
        Ok(Expr::Mark(mark))
    }

    fn interface(&mut self) -> Result<String, Fault> {
        let token = self.lex.next()?;
        let (Token::Word(name) | Token::Quoted(name)) = token else {
            return Err(self.lex.unexpected(token, "an interface name"));
        };
        // A trailing * is a wildcard to nft, and the kernel allows neither / nor blanks.
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'*' | b'/' | b'\\');
        if name.is_empty() || name.len() > IFNAME_MAX || !name.bytes().all(plain) {
            return Err(bad(
                self.lex,
                name,
                "an interface name (1 to 15 characters, no wildcard)",
            ));
        }
        Ok(name.into())
    }

    /// One value or `{ value, … }`: sorted, each once.
    fn values<T: Ord>(&mut self, what: &str, read: fn(&str) -> Option<T>) -> Result<Vec<T>, Fault> {
        let mut list = Vec::new();
        self.list(what, &mut |word| {
            list.push(read(word)?);
            Some(())
        })?;
        crate::sort::sort(&mut list);
        list.dedup();
        Ok(list)
    }

    /// Gives the words of one value or `{ value, … }` to `take`, which says whether they fit.
    fn list(&mut self, what: &str, take: &mut dyn FnMut(&str) -> Option<()>) -> Result<(), Fault> {
        let braces = self.lex.accept(b'{');
        loop {
            if braces {
                self.lex.skip_newlines();
            }
            let word = self.lex.word(what)?;
            take(word).ok_or_else(|| bad(self.lex, word, what))?;
            if !braces {
                return Ok(());
            }
            self.lex.skip_newlines();
            let more = self.lex.accept(b',');
            self.lex.skip_newlines();
            if self.lex.accept(b'}') {
                return Ok(());
            }
            if !more {
                let token = self.lex.next()?;
                return Err(self.lex.unexpected(token, "\",\" or \"}\""));
            }
        }
    }

    /// `ct state`: a list with or without braces is the same, a packet has one state.
    fn ct_state(&mut self) -> Result<Expr, Fault> {
        self.lex.expect_word("state")?;
        let mut mask = CtState(0);
        let mut take = |word: &str| {
            mask = mask | names::state(word)?;
            Some(())
        };
        loop {
            let braces = self.lex.peek()? == Token::Symbol(b'{');
            self.list("a connection state", &mut take)?;
            if braces || !self.lex.accept(b',') {
                return Ok(Expr::CtState(mask));
            }
        }
    }

    fn destination(&mut self, v6: bool) -> Result<Expr, Fault> {
        if self.v6.replace(v6).is_some_and(|known| known != v6) {
            return Err(self
                .lex
                .fault("no packet is both IPv4 and IPv6: this rule can never match"));
        }
        self.lex.expect_word("daddr")?;
        if self.lex.accept_word(".")? {
            for word in ["meta", "l4proto", ".", "th", "dport"] {
                self.lex.expect_word(word)?;
            }
            let set = self.set_use(v6, true)?;
            return Ok(Expr::ServiceSet { v6, set });
        }
        if self.lex.peek()? == Token::Symbol(b'@') {
            let set = self.set_use(v6, false)?;
            return Ok(Expr::DaddrSet { v6, set });
        }
        let word = self.lex.word("an address or @set")?;
        let net = word.parse::<IpNet>().ok().filter(|n| n.is_ipv4() != v6);
        let wanted = if v6 {
            "an IPv6 address, network or @set"
        } else {
            "an IPv4 address, network or @set"
        };
        net.map(Expr::Daddr)
            .ok_or_else(|| bad(self.lex, word, wanted))
    }

    fn set_use(&mut self, v6: bool, service: bool) -> Result<String, Fault> {
        self.lex.expect(b'@')?;
        let name = self.lex.word("a set name")?;
        self.uses.push(SetUse {
            at: self.lex.at,
            name,
            v6,
            service,
        });
        Ok(name.into())
    }

    /// Notes that the packet must be of this protocol.
    fn require(&mut self, protocol: u8) -> Result<(), Fault> {
        if self.protocols.iter().any(|&p| p != protocol) {
            return Err(self
                .lex
                .fault("this contradicts the protocol matched before it in the rule"));
        }
        self.protocols = vec![protocol];
        Ok(())
    }

    fn ports(&mut self, transport: Transport) -> Result<Expr, Fault> {
        self.require(match transport {
            Transport::Tcp => TCP,
            Transport::Udp => UDP,
        })?;
        self.lex.expect_word("dport")?;
        let list = self.values("a port, or range of ports in ascending order", port_range)?;
        Ok(Expr::Dport(transport, join_ports(list)))
    }

    fn icmpv6(&mut self) -> Result<Expr, Fault> {
        self.require(ICMPV6)?;
        if self.family == Family::Ip {
            return Err(self.lex.fault("a table of family ip sees no ICMPv6"));
        }
        self.v6 = self.v6.or(Some(true));
        self.lex.expect_word("type")?;
        let types = self.values("an ICMPv6 type", names::icmpv6_type)?;
        Ok(Expr::Icmpv6Type(types))
    }

    fn log(&mut self) -> Result<Expr, Fault> {
        let (mut prefix, mut group) = (String::new(), None);
        loop {
            match self.lex.peek()? {
                Token::Word("prefix") => {
                    self.lex.next()?;
                    prefix = self.log_prefix()?;
                }
                Token::Word("group") => {
                    self.lex.next()?;
                    let word = self.lex.word("an NFLOG group")?;
                    let number = names::decimal(word);
                    group = Some(number.ok_or_else(|| bad(self.lex, word, "an NFLOG group"))?);
                }
                _ => return Ok(Expr::Log { prefix, group }),
            }
        }
    }

    fn log_prefix(&mut self) -> Result<String, Fault> {
        let token = self.lex.next()?;
        let Token::Quoted(prefix) = token else {
            return Err(self.lex.unexpected(token, "a log prefix in quotes"));
        };
        if prefix.len() > LOG_PREFIX_MAX {
            return Err(self.lex.fault(format!(
                "the log prefix has {} bytes, at most {LOG_PREFIX_MAX} are possible",
                prefix.len()
            )));
        }
        // nft puts the value of a variable where a prefix has $name.
        if prefix.contains(|c: char| c == '$' || c.is_control()) {
            return Err(bad(
                self.lex,
                prefix,
                "a log prefix without $ and control characters",
            ));
        }
        Ok(prefix.into())
    }

    fn counter(&mut self) -> Result<Expr, Fault> {
        let (mut packets, mut bytes) = (0, 0);
        if self.lex.accept_word("packets")? {
            packets = self.count()?;
            self.lex.expect_word("bytes")?;
            bytes = self.count()?;
        }
        Ok(Expr::Counter { packets, bytes })
    }

    fn count(&mut self) -> Result<u64, Fault> {
        let word = self.lex.word("a number")?;
        names::decimal(word).ok_or_else(|| bad(self.lex, word, "a number"))
    }

    fn verdict(&mut self, verdict: Expr) -> Expr {
        self.ended = true;
        verdict
    }

    fn reject(&mut self) -> Result<Expr, Fault> {
        let at = self.lex.at;
        let mut how = Reject::Icmpx(Icmpx::PortUnreachable);
        if self.lex.accept_word("with")? {
            match self.lex.word("icmpx or tcp reset")? {
                "icmpx" => {
                    // The word "type" is the spelling before nft 1.0.
                    self.lex.accept_word("type")?;
                    let word = self.lex.word("an icmpx code")?;
                    let code = names::icmpx(word);
                    how = Reject::Icmpx(code.ok_or_else(|| bad(self.lex, word, "an icmpx code"))?);
                }
                "tcp" => {
                    self.lex.expect_word("reset")?;
                    how = Reject::TcpReset;
                }
                other => return Err(bad(self.lex, other, "icmpx or tcp reset")),
            }
        }
        if how == Reject::TcpReset {
            let any = self.protocols.is_empty();
            self.require(TCP)?;
            if any {
                // What nft does: the whole rule becomes one for TCP.
                self.exprs.insert(0, Expr::L4proto(vec![TCP]));
            }
        } else if self.family != Family::Inet {
            return Err(Fault::new(
                at,
                "an icmpx reject works in a table of family inet only",
            ));
        }
        Ok(self.verdict(Expr::Reject(how)))
    }
}

/// A port or `first-last`.
fn port_range(word: &str) -> Option<(u16, u16)> {
    // Service names may hold a hyphen.
    if let Some(port) = names::port(word) {
        return Some((port, port));
    }
    let (first, last) = word.split_once('-')?;
    let (first, last) = (names::decimal(first)?, names::decimal(last)?);
    (first < last).then_some((first, last))
}

/// Joins overlapping and adjacent ranges as nft does, which leaves a list of single ports alone.
fn join_ports(list: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    if list.iter().all(|(first, last)| first == last) {
        return list;
    }
    let mut joined: Vec<(u16, u16)> = Vec::with_capacity(list.len());
    for (first, last) in list {
        match joined.last_mut() {
            Some(end) if end.1.saturating_add(1) >= first => end.1 = end.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// Leaves out a protocol match that a later match of the rule repeats, as nft's listing does.
fn canonical(mut exprs: Vec<Expr>) -> Vec<Expr> {
    let mut implied = None;
    // From the end, so that each protocol match knows what follows it.
    let mut keep: Vec<bool> = exprs
        .iter()
        .rev()
        .map(|expr| {
            match expr {
                Expr::Dport(Transport::Tcp, _) => implied = Some(TCP),
                Expr::Dport(Transport::Udp, _) => implied = Some(UDP),
                Expr::Icmpv6Type(_) => implied = Some(ICMPV6),
                Expr::L4proto(list) => return implied.is_none() || *list != implied.as_slice(),
                // What has an effect must not move before the match.
                Expr::Log { .. } | Expr::Counter { .. } => implied = None,
                _ => {}
            }
            true
        })
        .collect();
    exprs.retain(|_| keep.pop().unwrap_or(true));
    exprs
}
