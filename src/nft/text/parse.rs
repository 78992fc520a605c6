//! nft syntax to a [`Ruleset`]: tables, chains and the commands that add to them.

use super::error::{Fault, ParseError};
use super::lexer::{Lexer, Token, clip};
use super::names;
use super::rule::{RuleReader, SetUse};
use super::set::{Draft, bad, has_service};
use crate::nft::model::{Base, Chain, Family, KeyType, Policy, Ruleset, Set};

/// Longest name, bytes (`NFT_NAME_MAXLEN` less its NUL, linux/netfilter/nf_tables.h).
const NAME_MAX: usize = 255;
/// Most sets, and most chains: names are looked up by going through them.
const OBJECTS_MAX: usize = 256;
/// Most elements that all `delete element` commands together may go through.
const DELETE_WORK_MAX: usize = 20_000_000;

/// Reads one table in nft syntax. The text describes the whole table: what it deletes first is
/// nothing, what it declares is all there is.
///
/// Elements come back sorted, equal ones once, networks canonical (host bits zero).
///
/// # Errors
/// The first thing that is not understood or not consistent, with its place.
pub fn parse(text: &str) -> Result<Ruleset, ParseError> {
    read(text).map_err(|fault| fault.locate(text.as_bytes()))
}

/// As [`parse`], for text of unknown encoding.
///
/// # Errors
/// As [`parse`], and at the first byte that is not UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> Result<Ruleset, ParseError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text),
        Err(e) => Err(Fault::new(e.valid_up_to(), "the text is not UTF-8").locate(bytes)),
    }
}

fn read(text: &str) -> Result<Ruleset, Fault> {
    if let Some(at) = text.bytes().position(|b| b == 0) {
        return Err(Fault::new(at, "the text holds a NUL byte"));
    }
    let mut reader = Reader {
        lex: Lexer::new(text),
        identity: None,
        table: None,
        delete_work: 0,
    };
    while reader.command()? {}
    reader.finish()
}

/// What there is of the table so far.
#[derive(Default)]
struct Table<'a> {
    sets: Vec<Draft>,
    chains: Vec<Chain>,
    uses: Vec<SetUse<'a>>,
}

struct Reader<'a> {
    lex: Lexer<'a>,
    /// Family and name of the one table, once mentioned.
    identity: Option<(Family, &'a str)>,
    table: Option<Table<'a>>,
    delete_work: usize,
}

impl<'a> Reader<'a> {
    /// Reads one command; `false` at the end of the text.
    fn command(&mut self) -> Result<bool, Fault> {
        self.lex.skip_separators()?;
        match self.lex.next()? {
            Token::End => return Ok(false),
            Token::Word("table") => self.table_block()?,
            Token::Word("add") => self.add()?,
            Token::Word("delete") => self.delete()?,
            Token::Word("flush") => {
                self.lex.expect_word("table")?;
                self.identify()?;
                let table = self.declared()?;
                // nft's meaning: the rules go, chains, sets and elements stay.
                table.chains.iter_mut().for_each(|c| c.rules.clear());
                table.uses.clear();
            }
            other => {
                return Err(self.lex.unexpected(other, "table, add, delete or flush"));
            }
        }
        self.lex.end_statement()?;
        match self.lex.peek()? {
            Token::Symbol(b'}') => {
                self.lex.next()?;
                Err(self.lex.fault("this \"}\" closes nothing"))
            }
            _ => Ok(true),
        }
    }

    fn add(&mut self) -> Result<(), Fault> {
        let what = self.lex.word("table, set, chain, rule or element")?;
        if what == "table" {
            return self.table_block();
        }
        self.known(what, &["set", "chain", "rule", "element"])?;
        self.identify()?;
        self.declared()?;
        match what {
            "set" => self.set(),
            "chain" => self.chain(),
            "rule" => {
                let name = self.name("a chain name")?;
                let (family, at) = (self.family(), self.lex.at);
                let (lex, table) = (&mut self.lex, self.table.get_or_insert_default());
                let Some(chain) = table.chains.iter_mut().find(|c| c.name == name) else {
                    return Err(Fault::new(at, undeclared("chain", name)));
                };
                let rule = RuleReader::read(lex, family, &mut table.uses)?;
                chain.rules.push(rule);
                Ok(())
            }
            _ => {
                let (lex, draft) = self.existing_set()?;
                draft.elements(lex)
            }
        }
    }

    fn delete(&mut self) -> Result<(), Fault> {
        let what = self.lex.word("table or element")?;
        self.known(what, &["table", "element"])?;
        self.identify()?;
        if what == "table" {
            // A table that is not there yet is the usual way to say: replace it.
            self.table = None;
            return Ok(());
        }
        self.declared()?;
        let at = self.lex.at;
        let (lex, draft) = self.existing_set()?;
        let work = draft.set.elements.len() + 1;
        draft.delete(lex)?;
        self.delete_work += work;
        if self.delete_work > DELETE_WORK_MAX {
            return Err(Fault::new(
                at,
                "too many delete element commands; put the elements into one",
            ));
        }
        Ok(())
    }

    /// Refuses a word, the last one, that is none of these.
    fn known(&self, word: &str, words: &[&str]) -> Result<(), Fault> {
        if words.contains(&word) {
            return Ok(());
        }
        Err(bad(
            &self.lex,
            word,
            &format!("one of {}", words.join(", ")),
        ))
    }

    fn table_block(&mut self) -> Result<(), Fault> {
        self.identify()?;
        self.table.get_or_insert_default();
        if !self.lex.accept(b'{') {
            return Ok(());
        }
        loop {
            self.lex.skip_separators()?;
            match self.lex.next()? {
                Token::Symbol(b'}') => return Ok(()),
                Token::Word("set") => self.set()?,
                Token::Word("chain") => self.chain()?,
                other => return Err(self.lex.unexpected(other, "a set, a chain or \"}\"")),
            }
            self.lex.end_statement()?;
        }
    }

    /// Reads `[family] name` and makes sure that the text speaks of one table only.
    fn identify(&mut self) -> Result<(), Fault> {
        let (word, at) = (self.name("a table")?, self.lex.at);
        let family = match word {
            "inet" => Some(Family::Inet),
            "ip" => Some(Family::Ip),
            "ip6" => Some(Family::Ip6),
            "arp" | "bridge" | "netdev" => {
                return Err(bad(&self.lex, word, "a supported table family"));
            }
            _ => None,
        };
        let identity = match family {
            Some(family) => (family, self.name("a table name")?),
            // nft's default family.
            None => (Family::Ip, word),
        };
        if *self.identity.get_or_insert(identity) == identity {
            Ok(())
        } else {
            Err(Fault::new(at, "a ruleset is one table, this is another"))
        }
    }

    fn family(&self) -> Family {
        self.identity.map_or(Family::Inet, |i| i.0)
    }

    /// The table, which must have been declared.
    fn declared(&mut self) -> Result<&mut Table<'a>, Fault> {
        let fault = || self.lex.fault("this table is not declared yet");
        self.table.as_mut().ok_or_else(fault)
    }

    /// Reads the name of a set that must exist.
    fn existing_set(&mut self) -> Result<(&mut Lexer<'a>, &mut Draft), Fault> {
        let name = self.name("a set name")?;
        let at = self.lex.at;
        let sets = &mut self.table.get_or_insert_default().sets;
        match sets.iter_mut().find(|d| d.set.name == name) {
            Some(draft) => Ok((&mut self.lex, draft)),
            None => Err(Fault::new(at, undeclared("set", name))),
        }
    }

    fn name(&mut self, what: &str) -> Result<&'a str, Fault> {
        let word = self.lex.word(what)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'/');
        let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        if word.bytes().take(1).all(letter) && word.bytes().all(plain) && word.len() <= NAME_MAX {
            Ok(word)
        } else {
            Err(bad(&self.lex, word, what))
        }
    }

    fn set(&mut self) -> Result<(), Fault> {
        let name = self.name("a set name")?;
        let at = self.lex.at;
        self.lex.expect(b'{')?;
        let mut draft = Draft::new(name);
        draft.block(&mut self.lex)?;
        let sets = &mut self.table.get_or_insert_default().sets;
        if let Some(first) = sets.iter_mut().find(|d| d.set.name == name) {
            return first.merge(draft, at);
        }
        if sets.len() >= OBJECTS_MAX {
            return Err(Fault::new(at, "too many sets"));
        }
        sets.push(draft);
        Ok(())
    }

    fn chain(&mut self) -> Result<(), Fault> {
        let name = self.name("a chain name")?;
        let at = self.lex.at;
        let family = self.family();
        let table = self.table.get_or_insert_default();
        let (index, new) = match table.chains.iter().position(|c| c.name == name) {
            Some(index) => (index, false),
            None if table.chains.len() >= OBJECTS_MAX => {
                return Err(Fault::new(at, "too many chains"));
            }
            None => {
                table.chains.push(Chain {
                    name: name.into(),
                    base: None,
                    rules: Vec::new(),
                });
                (table.chains.len() - 1, true)
            }
        };
        let Some(chain) = table.chains.get_mut(index) else {
            return Ok(());
        };
        // `add chain inet t c` needs no block.
        if !self.lex.accept(b'{') {
            return Ok(());
        }
        let base = chain_block(&mut self.lex, chain, family, &mut table.uses)?;
        if new {
            chain.base = base;
        } else if base.is_some() && base != chain.base {
            return Err(Fault::new(
                at,
                format!("chain \"{name}\" is declared again with another definition"),
            ));
        }
        Ok(())
    }

    /// Checks what only the whole text can tell.
    fn finish(self) -> Result<Ruleset, Fault> {
        let (Some((family, name)), Some(mut table)) = (self.identity, self.table) else {
            return Err(self.lex.fault("the text declares no table"));
        };
        for set_use in &table.uses {
            let draft = table.sets.iter().find(|d| d.set.name == set_use.name);
            check_use(set_use, draft.map(|d| &d.set))?;
        }
        for draft in &mut table.sets {
            draft.settle(&self.lex)?;
        }
        Ok(Ruleset {
            family,
            table: name.into(),
            sets: table.sets.into_iter().map(|d| d.set).collect(),
            chains: table.chains,
        })
    }
}

/// Reads a chain's block, from after its `{` to its `}`: rules go into `chain`, and what makes
/// it a base chain is returned.
fn chain_block<'a>(
    lex: &mut Lexer<'a>,
    chain: &mut Chain,
    family: Family,
    uses: &mut Vec<SetUse<'a>>,
) -> Result<Option<Base>, Fault> {
    let mut base = None;
    loop {
        lex.skip_separators()?;
        match lex.peek()? {
            Token::Symbol(b'}') => {
                lex.next()?;
                return Ok(base);
            }
            Token::Word("type") if base.is_none() => {
                base = Some(base_chain(lex)?);
                lex.end_statement()?;
            }
            Token::Word("policy") => {
                lex.next()?;
                let Some(base) = &mut base else {
                    return Err(lex.fault("a policy needs a type and hook before it"));
                };
                base.policy = match lex.word("a policy")? {
                    "accept" => Policy::Accept,
                    "drop" => Policy::Drop,
                    other => return Err(bad(lex, other, "a policy (accept, drop)")),
                };
                lex.end_statement()?;
            }
            _ => {
                chain.rules.push(RuleReader::read(lex, family, uses)?);
                lex.end_statement()?;
            }
        }
    }
}

/// `type filter hook output priority filter`; the policy is accept until said otherwise.
fn base_chain(lex: &mut Lexer<'_>) -> Result<Base, Fault> {
    lex.expect_word("type")?;
    lex.expect_word("filter")?;
    lex.expect_word("hook")?;
    let word = lex.word("a hook")?;
    let hook = names::hook(word)
        .ok_or_else(|| bad(lex, word, "a supported hook (input, forward, output)"))?;
    lex.expect_word("priority")?;
    Ok(Base {
        hook,
        priority: priority(lex)?,
        policy: Policy::Accept,
    })
}

/// `0`, `-5`, `filter`, `filter + 5`, `raw-3`.
fn priority(lex: &mut Lexer<'_>) -> Result<i32, Fault> {
    let mut written = lex.word("a priority")?.to_owned();
    let at = lex.at;
    while let Token::Word(more) = lex.peek()? {
        written.push_str(more);
        lex.next()?;
        if written.len() > NAME_MAX {
            break;
        }
    }
    let letters = written.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (name, number) = written.split_at(letters);
    let start = if name.is_empty() {
        Some(0)
    } else {
        names::priority(name)
    };
    let (sign, digits) = match number.split_at_checked(1) {
        None => (1, "0"),
        Some(("-", digits)) => (-1, digits),
        Some(("+", digits)) if !name.is_empty() => (1, digits),
        Some(_) if name.is_empty() => (1, number),
        Some(_) => (1, ""),
    };
    let value = names::decimal::<i64>(digits)
        .and_then(|n| i64::from(start?).checked_add(sign * n))
        .and_then(|n| i32::try_from(n).ok());
    value.ok_or_else(|| Fault::new(at, format!("\"{}\" is not a priority", clip(&written))))
}

fn check_use(set_use: &SetUse<'_>, set: Option<&Set>) -> Result<(), Fault> {
    let Some(set) = set else {
        return Err(Fault::new(set_use.at, undeclared("set", set_use.name)));
    };
    let v6 = matches!(set.key, KeyType::Ipv6 | KeyType::Ipv6Service);
    if (v6, has_service(set.key)) == (set_use.v6, set_use.service) {
        return Ok(());
    }
    Err(Fault::new(
        set_use.at,
        format!(
            "set \"{}\" is of another type than what is looked up in it",
            clip(set_use.name)
        ),
    ))
}

fn undeclared(what: &str, name: &str) -> String {
    format!("{what} \"{}\" is not declared", clip(name))
}
