//! Named sets: their declaration, their elements, and what must hold among those.

use super::error::Fault;
use super::lexer::{Lexer, Token, clip};
use super::{names, timespan};
use crate::ipnet::{self, IpNet};
use crate::nft::model::{Element, KeyType, Set};
use std::cmp::Ordering;
use std::net::IpAddr;

/// A set while the text is being read.
pub(super) struct Draft {
    pub set: Set,
    /// Overlapping and adjacent elements become one (`auto-merge`; nft's own doing, the kernel
    /// does not know it).
    pub auto_merge: bool,
    /// Where each list of elements begins, after its `{`.
    lists: Vec<usize>,
}

impl Draft {
    pub fn new(name: &str) -> Self {
        Self {
            set: Set {
                name: name.into(),
                key: KeyType::Ipv4,
                interval: false,
                timeouts: false,
                default_timeout: None,
                size: None,
                elements: Vec::new(),
            },
            auto_merge: false,
            lists: Vec::new(),
        }
    }

    /// Reads the block of a set declaration, from after its `{` to its `}`.
    pub fn block(&mut self, lex: &mut Lexer<'_>) -> Result<(), Fault> {
        let mut typed = false;
        loop {
            lex.skip_separators()?;
            let token = lex.next()?;
            // What an element may be, and what it means, is settled when it is read.
            if let (Token::Word("type" | "flags" | "timeout"), false) =
                (token, self.lists.is_empty())
            {
                return Err(lex.fault("this must stand before the set's elements"));
            }
            match token {
                Token::Symbol(b'}') if typed => return Ok(()),
                Token::Symbol(b'}') => return Err(lex.fault("this set has no type")),
                Token::Word("type") if !typed => {
                    self.set.key = key_type(lex)?;
                    typed = true;
                }
                Token::Word("flags") => self.flags(lex)?,
                Token::Word("timeout") => {
                    self.set.default_timeout = Some(span(lex)?).filter(|&ms| ms != 0);
                    // nft leaves the flag out of its listing where there is a default.
                    self.set.timeouts = true;
                }
                Token::Word("size") => {
                    let word = lex.word("a number of elements")?;
                    let size = names::decimal(word).filter(|&n| n > 0);
                    self.set.size = Some(size.ok_or_else(|| bad(lex, word, "a set size"))?);
                }
                Token::Word("auto-merge") => self.auto_merge = true,
                Token::Word("elements") if typed => {
                    lex.expect(b'=')?;
                    self.elements(lex)?;
                }
                Token::Word("elements") => {
                    return Err(lex.fault("the set's type must stand before its elements"));
                }
                other => return Err(lex.unexpected(other, "a property of a set")),
            }
            lex.end_statement()?;
            if self.set.interval && has_service(self.set.key) {
                return Err(lex.fault("intervals in a set of services are not supported"));
            }
        }
    }

    fn flags(&mut self, lex: &mut Lexer<'_>) -> Result<(), Fault> {
        loop {
            match lex.word("a set flag")? {
                "interval" => self.set.interval = true,
                "timeout" => self.set.timeouts = true,
                other => return Err(bad(lex, other, "a supported set flag (interval, timeout)")),
            }
            if !lex.accept(b',') {
                return Ok(());
            }
        }
    }

    /// Reads `{ element, … }` into the set.
    pub fn elements(&mut self, lex: &mut Lexer<'_>) -> Result<(), Fault> {
        lex.expect(b'{')?;
        self.lists.push(lex.pos());
        let wanted = count_elements(lex.rest());
        // Room for all at once: a list that doubled its way up would need twice the memory.
        self.set.elements.reserve_exact(wanted);
        let Self { set, .. } = self;
        let mut elements = std::mem::take(&mut set.elements);
        let read = read_list(lex, set, &mut |_, element| elements.push(element));
        set.elements = elements;
        read
    }

    /// Takes over the elements of `other`, a repeated declaration of this set at `at`.
    pub fn merge(&mut self, other: Draft, at: usize) -> Result<(), Fault> {
        let Set {
            key,
            interval,
            timeouts,
            default_timeout,
            size,
            ..
        } = self.set;
        let new = &other.set;
        let same = (
            key,
            interval,
            timeouts,
            default_timeout,
            size,
            self.auto_merge,
        ) == (
            new.key,
            new.interval,
            new.timeouts,
            new.default_timeout,
            new.size,
            other.auto_merge,
        );
        if !same {
            let name = clip(&self.set.name);
            return Err(Fault::new(
                at,
                format!("set \"{name}\" is declared again with another definition"),
            ));
        }
        self.set.elements.extend(other.set.elements);
        self.lists.extend(other.lists);
        Ok(())
    }

    /// Sorts the elements, makes duplicates one, and refuses overlaps and overfull sets.
    pub fn settle(&mut self, lex: &Lexer<'_>) -> Result<(), Fault> {
        crate::sort::sort(&mut self.set.elements);
        let elements = &mut self.set.elements;
        let mut kept: usize = 0;
        for i in 0..elements.len() {
            let next = elements[i];
            if let Some(last) = kept.checked_sub(1).map(|n| &mut elements[n]) {
                match join(last, &next, self.auto_merge) {
                    Join::Apart => {}
                    Join::One => continue,
                    Join::Conflict(why) => {
                        let (a, b) = (*last, next);
                        return Err(self.conflict(lex, a, b, why));
                    }
                }
            }
            elements[kept] = next;
            kept += 1;
        }
        elements.truncate(kept);
        match self.set.size {
            Some(size) if kept > size as usize => Err(Fault::new(
                self.lists.last().copied().unwrap_or_default(),
                format!(
                    "set \"{}\" has {kept} elements, its size is {size}",
                    clip(&self.set.name)
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Removes the elements of the list that follows; each must be in the set.
    pub fn delete(&mut self, lex: &mut Lexer<'_>) -> Result<(), Fault> {
        self.settle(lex)?;
        lex.expect(b'{')?;
        let mut gone = Vec::new();
        read_list(lex, &self.set, &mut |at, element| gone.push((element, at)))?;
        let mut missing = None;
        crate::sort::sort(&mut gone);
        let found = |element: &Element, elements: &[Element]| {
            elements
                .binary_search_by(|e| key(e).cmp(&key(element)))
                .is_ok()
        };
        for (element, at) in &gone {
            if !found(element, &self.set.elements) {
                missing = missing.or(Some((*element, *at)));
            }
        }
        if let Some((element, at)) = missing {
            let (element, name) = (shown(&element), clip(&self.set.name));
            return Err(Fault::new(
                at,
                format!("{element} is not in set \"{name}\""),
            ));
        }
        self.set
            .elements
            .retain(|e| gone.binary_search_by(|(g, _)| key(g).cmp(&key(e))).is_err());
        Ok(())
    }

    /// The error that two elements cannot both be in the set, at the later one of them.
    fn conflict(&self, lex: &Lexer<'_>, a: Element, b: Element, why: &str) -> Fault {
        let mut at = self.lists.last().copied().unwrap_or_default();
        let mut seen = 0;
        for &list in &self.lists {
            // The lists were read before, so this reads them to their end.
            let _ = read_list(&mut lex.seek(list), &self.set, &mut |place, element| {
                if element == a || element == b {
                    seen += 1;
                    if seen == 2 {
                        at = place;
                    }
                }
            });
        }
        let (a, b, name) = (shown(&a), shown(&b), clip(&self.set.name));
        Fault::new(at, format!("{a} and {b} in set \"{name}\" {why}"))
    }
}

/// What identifies an element; the rest is how long it lives.
fn key(e: &Element) -> (IpAddr, IpAddr, Option<(u8, u16)>) {
    (e.first, e.last, e.service)
}

enum Join {
    Apart,
    One,
    Conflict(&'static str),
}

/// Whether two elements, `a` not after `b`, can both be in a set.
fn join(a: &mut Element, b: &Element, auto_merge: bool) -> Join {
    let lasting = |e: &Element| e.timeout.is_none() && e.expires.is_none();
    if key(a) == key(b) {
        return if (a.timeout, a.expires) == (b.timeout, b.expires) {
            Join::One
        } else {
            Join::Conflict("are the same with different timeouts")
        };
    }
    if a.service.is_some() {
        return Join::Apart;
    }
    if auto_merge && lasting(a) && lasting(b) {
        let (end, start) = (ipnet::to_number(a.last), ipnet::to_number(b.first));
        return if end.saturating_add(1) >= start {
            a.last = a.last.max(b.last);
            Join::One
        } else {
            Join::Apart
        };
    }
    match a.last.cmp(&b.first) {
        Ordering::Less => Join::Apart,
        _ => Join::Conflict("overlap"),
    }
}

/// An upper bound, for memory only, on the elements before the next `}`.
fn count_elements(rest: &[u8]) -> usize {
    let list = rest.iter().take_while(|&&b| b != b'}');
    let (mut bytes, mut commas) = (0, 0);
    for &b in list {
        bytes += 1;
        commas += usize::from(b == b',');
    }
    // The shortest IPv4 element takes eight bytes: a run of bare commas reserves little.
    (commas + 1).min(bytes / 8 + 1)
}

/// Reads elements up to the closing `}`, giving each and its place to `each`.
fn read_list(
    lex: &mut Lexer<'_>,
    set: &Set,
    each: &mut dyn FnMut(usize, Element),
) -> Result<(), Fault> {
    loop {
        lex.skip_newlines();
        let word = lex.word("an element")?;
        let at = lex.at;
        let element = element(lex, word, set)?;
        each(at, element);
        lex.skip_newlines();
        let more = lex.accept(b',');
        lex.skip_newlines();
        // nft takes a comma after the last element too.
        if lex.accept(b'}') {
            return Ok(());
        }
        if !more {
            let token = lex.next()?;
            return Err(lex.unexpected(token, "\",\" or \"}\""));
        }
    }
}

/// One element that begins with `word`.
fn element(lex: &mut Lexer<'_>, word: &str, set: &Set) -> Result<Element, Fault> {
    let mut element = addresses(lex, word)?;
    let v6 = matches!(set.key, KeyType::Ipv6 | KeyType::Ipv6Service);
    if element.first.is_ipv6() != v6 {
        let family = if v6 { "IPv6" } else { "IPv4" };
        return Err(lex.fault(format!(
            "set \"{}\" holds {family} addresses, \"{}\" is none",
            clip(&set.name),
            clip(word)
        )));
    }
    if element.first != element.last && !set.interval {
        return Err(lex.fault(format!(
            "\"{}\" is a range, and set \"{}\" takes none (\"flags interval\" before the elements)",
            clip(word),
            clip(&set.name)
        )));
    }
    if has_service(set.key) {
        lex.expect_word(".")?;
        let word = lex.word("a protocol")?;
        let proto = names::protocol(word).ok_or_else(|| bad(lex, word, "a protocol"))?;
        lex.expect_word(".")?;
        let word = lex.word("a port")?;
        let port = names::port(word).ok_or_else(|| bad(lex, word, "a port"))?;
        element.service = Some((proto, port));
    }
    while let Some(b't' | b'e') = lex.next_byte() {
        let property = lex.word("a property of an element")?;
        if !matches!(property, "timeout" | "expires") {
            return Err(bad(lex, property, "a supported property of an element"));
        }
        if !set.timeouts {
            return Err(lex.fault(format!(
                "set \"{}\" takes no timeouts (\"flags timeout\" before the elements)",
                clip(&set.name)
            )));
        }
        let ms = span(lex)?;
        match property {
            "expires" => element.expires = Some(ms),
            _ if ms != 0 => element.timeout = Some(ms),
            // nft drops the words "timeout 0s": harmless where no default takes their place.
            _ if set.default_timeout.is_none() => {}
            _ => {
                return Err(lex.fault(
                    "timeout 0s has no effect in a set with a default timeout: the element would expire",
                ));
            }
        }
    }
    Ok(element)
}

/// An address, a network or a range.
fn addresses(lex: &Lexer<'_>, word: &str) -> Result<Element, Fault> {
    let no_address = || bad(lex, word, "an address, network or range");
    let Some((first, last)) = word.split_once('-') else {
        return word
            .parse::<IpNet>()
            .map(Element::from)
            .map_err(|_| no_address());
    };
    let first: IpAddr = first.parse().map_err(|_| no_address())?;
    let last: IpAddr = last.parse().map_err(|_| no_address())?;
    if first.is_ipv4() != last.is_ipv4() {
        return Err(no_address());
    }
    if first >= last {
        return Err(lex.fault(format!(
            "the range \"{}\" ends before it begins",
            clip(word)
        )));
    }
    Ok(Element::range(first, last))
}

fn key_type(lex: &mut Lexer<'_>) -> Result<KeyType, Fault> {
    let word = lex.word("a set type")?;
    let (single, service) = match word {
        "ipv4_addr" => (KeyType::Ipv4, KeyType::Ipv4Service),
        "ipv6_addr" => (KeyType::Ipv6, KeyType::Ipv6Service),
        _ => return Err(bad(lex, word, "a supported set type")),
    };
    if !lex.accept_word(".")? {
        return Ok(single);
    }
    lex.expect_word("inet_proto")?;
    lex.expect_word(".")?;
    lex.expect_word("inet_service")?;
    Ok(service)
}

/// Whether elements of this type have a protocol and a port.
pub(super) fn has_service(key: KeyType) -> bool {
    matches!(key, KeyType::Ipv4Service | KeyType::Ipv6Service)
}

fn span(lex: &mut Lexer<'_>) -> Result<u64, Fault> {
    let word = lex.word("a time span")?;
    timespan::parse(word).ok_or_else(|| bad(lex, word, "a time span such as 1h30m"))
}

/// The error that `word`, the last one, is not what it should be.
pub(super) fn bad(lex: &Lexer<'_>, word: &str, wanted: &str) -> Fault {
    lex.fault(format!("\"{}\" is not {wanted}", clip(word)))
}

/// An element as errors show it.
fn shown(e: &Element) -> String {
    let mut out = String::new();
    super::render::key(&mut out, e);
    out
}
