//! A TOML text to a tree of values that know their bytes.
//!
//! `toml_parser` does the grammar; here is what it leaves to its caller: which keys make which
//! tables, and that none is defined twice. Numbers and dates are not read, so a day that no month
//! has passes here; podman will say so.

use std::collections::BTreeMap;
use std::ops::Range;
use toml_parser::decoder::ScalarKind;
use toml_parser::parser::{Event, EventKind, RecursionGuard, ValidateWhitespace, parse_document};
use toml_parser::{Expected, ParseError, Source, Span};

/// Deepest nesting, and longest dotted key.
const MAX_DEPTH: u32 = 80;

/// Why a text is not TOML.
#[derive(Debug)]
pub struct Fault {
    /// The byte where it shows.
    pub at: usize,
    /// What is wrong there.
    pub why: String,
}

type Result<T> = std::result::Result<T, Fault>;

/// A value and where it stands.
#[derive(Debug)]
pub struct Value {
    /// Its bytes: a table's are those of its header or braces, or of the first key that implies it.
    pub span: Range<usize>,
    /// What it is.
    pub kind: Kind,
}

/// The kinds of value.
#[derive(Debug)]
pub enum Kind {
    /// Any string, decoded.
    String(String),
    /// `true` or `false`.
    Boolean(bool),
    /// `[ … ]`
    Array(Vec<Value>),
    /// Any table but an element of `[[ … ]]`.
    Table(Table),
    /// What `[[ … ]]` made.
    Tables(Vec<Table>),
    /// A number or a date.
    Other,
}

/// A table.
#[derive(Debug)]
pub struct Table {
    entries: BTreeMap<String, Value>,
    /// What made it a table.
    pub origin: Origin,
}

/// What made a table one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Only headers of tables below it.
    Implied,
    /// A header of its own; the whole text counts as one.
    Header,
    /// Dotted keys.
    Dotted,
    /// Braces.
    Inline,
}

impl Value {
    /// A string's text.
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }

    /// A list's items.
    pub fn as_array(&self) -> Option<&[Value]> {
        match &self.kind {
            Kind::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Whether it stands behind a `=` of its own.
    pub fn is_plain(&self) -> bool {
        match &self.kind {
            Kind::Table(table) => table.origin == Origin::Inline,
            Kind::Tables(_) => false,
            _ => true,
        }
    }
}

impl Table {
    fn new(origin: Origin) -> Self {
        Self {
            entries: BTreeMap::new(),
            origin,
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// All values, in no order to rely on.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.entries.values()
    }

    fn set(&mut self, key: Key, value: Value) -> Result<()> {
        if self.entries.contains_key(&key.text) {
            return Err(key.duplicate());
        }
        self.entries.insert(key.text, value);
        Ok(())
    }
}

/// Reads a whole text.
pub fn parse(text: &str) -> Result<Table> {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let (mut events, mut error) = (Vec::with_capacity(tokens.len()), None);
    let mut receiver = ValidateWhitespace::new(&mut events, source);
    parse_document(
        &tokens,
        &mut RecursionGuard::new(&mut receiver, MAX_DEPTH),
        &mut error,
    );
    fine(error)?;
    let mut reader = Reader {
        source,
        events: events.into_iter(),
    };
    let mut root = Table::new(Origin::Header);
    let mut table = &mut root;
    while let Some(event) = reader.next() {
        match event.kind() {
            EventKind::StdTableOpen | EventKind::ArrayTableOpen => {
                let (path, end) = reader.keys(None)?;
                let span = event.span().start()..end;
                table = open(&mut root, path, span, event.kind())?;
            }
            EventKind::SimpleKey => reader.key_value(event, table)?,
            _ => {}
        }
    }
    Ok(root)
}

/// The table that a header at `span` opens.
fn open(
    root: &mut Table,
    mut path: Vec<Key>,
    span: Range<usize>,
    kind: EventKind,
) -> Result<&mut Table> {
    let Some(last) = path.pop() else {
        return Ok(root);
    };
    let duplicate = last.duplicate();
    let parent = descend(root, path, Origin::Implied)?;
    let list = kind == EventKind::ArrayTableOpen;
    let value = parent.entries.entry(last.text).or_insert_with(|| Value {
        span: span.clone(),
        kind: match list {
            true => Kind::Tables(Vec::new()),
            false => Kind::Table(Table::new(Origin::Implied)),
        },
    });
    match &mut value.kind {
        Kind::Tables(tables) if list => {
            tables.push(Table::new(Origin::Header));
            tables.last_mut().ok_or(duplicate)
        }
        Kind::Table(table) if !list && table.origin == Origin::Implied => {
            value.span = span;
            table.origin = Origin::Header;
            Ok(table)
        }
        _ => Err(duplicate),
    }
}

/// The table at a path, made where there is none yet; `how` says by what: a header's path may lead
/// through any table but an inline one, a dotted key only through what headers do not define.
fn descend(mut table: &mut Table, path: Vec<Key>, how: Origin) -> Result<&mut Table> {
    for key in path {
        let duplicate = key.duplicate();
        let entry = table.entries.entry(key.text).or_insert_with(|| Value {
            span: key.span.start()..key.span.end(),
            kind: Kind::Table(Table::new(how)),
        });
        table = match &mut entry.kind {
            Kind::Tables(tables) => tables.last_mut().ok_or(duplicate)?,
            Kind::Table(table) if table.origin != Origin::Inline => {
                if how == Origin::Dotted {
                    if table.origin == Origin::Header {
                        return Err(duplicate);
                    }
                    table.origin = Origin::Dotted;
                }
                table
            }
            _ => {
                let why = "cannot extend a value with a dotted key";
                return Err(Fault::at(key.span, why));
            }
        };
    }
    Ok(table)
}

struct Key {
    text: String,
    span: Span,
}

impl Key {
    fn duplicate(&self) -> Fault {
        Fault::at(self.span, "duplicate key")
    }
}

struct Reader<'s> {
    source: Source<'s>,
    events: std::vec::IntoIter<Event>,
}

impl Reader<'_> {
    /// The next event that means something.
    fn next(&mut self) -> Option<Event> {
        self.events.find(|event| {
            !matches!(
                event.kind(),
                EventKind::Whitespace
                    | EventKind::Comment
                    | EventKind::Newline
                    | EventKind::KeySep
                    | EventKind::ValueSep
            )
        })
    }

    /// The keys from `first`, if that was read already, up to the `=` or `]` behind them, and
    /// where that ends.
    fn keys(&mut self, first: Option<Event>) -> Result<(Vec<Key>, usize)> {
        let mut keys = Vec::new();
        let mut next = first.or_else(|| self.next());
        while let Some(event) = next {
            if event.kind() != EventKind::SimpleKey {
                return Ok((keys, event.span().end()));
            }
            if keys.len() > MAX_DEPTH as usize {
                return Err(Fault::at(event.span(), "recursion limit"));
            }
            let (mut text, mut error) = (String::new(), None);
            if let Some(raw) = self.source.get(event) {
                raw.decode_key(&mut text, &mut error);
            }
            fine(error)?;
            keys.push(Key {
                text,
                span: event.span(),
            });
            next = self.next();
        }
        Err(self.end())
    }

    fn key_value(&mut self, first: Event, table: &mut Table) -> Result<()> {
        let (mut path, _) = self.keys(Some(first))?;
        let event = self.next().ok_or_else(|| self.end())?;
        let value = self.value(event)?;
        let Some(last) = path.pop() else {
            return Ok(());
        };
        if path.is_empty() {
            return table.set(last, value);
        }
        let parent = descend(table, path, Origin::Dotted)?;
        if parent.origin == Origin::Header {
            return Err(last.duplicate());
        }
        parent.set(last, value)
    }

    /// The value that begins with `event`. As deep as [`RecursionGuard`] let the events be.
    fn value(&mut self, event: Event) -> Result<Value> {
        let start = event.span().start();
        let mut end = event.span().end();
        let kind = match event.kind() {
            EventKind::InlineTableOpen => {
                let mut table = Table::new(Origin::Inline);
                end = loop {
                    let event = self.next().ok_or_else(|| self.end())?;
                    if event.kind() == EventKind::InlineTableClose {
                        break event.span().end();
                    }
                    self.key_value(event, &mut table)?;
                };
                Kind::Table(table)
            }
            EventKind::ArrayOpen => {
                let mut items = Vec::new();
                end = loop {
                    let event = self.next().ok_or_else(|| self.end())?;
                    if event.kind() == EventKind::ArrayClose {
                        break event.span().end();
                    }
                    items.push(self.value(event)?);
                };
                Kind::Array(items)
            }
            _ => self.scalar(event)?,
        };
        Ok(Value {
            span: start..end,
            kind,
        })
    }

    fn scalar(&self, event: Event) -> Result<Kind> {
        let Some(raw) = self.source.get(event) else {
            return Err(self.end());
        };
        let (mut text, mut error) = (String::new(), None);
        let kind = raw.decode_scalar(&mut text, &mut error);
        fine(error)?;
        Ok(match kind {
            ScalarKind::String => Kind::String(text),
            ScalarKind::Boolean(value) => Kind::Boolean(value),
            _ => Kind::Other,
        })
    }

    /// Where the events end too early, which the parser would have reported.
    fn end(&self) -> Fault {
        Fault {
            at: self.source.input().len(),
            why: "unexpected end".into(),
        }
    }
}

impl Fault {
    fn at(span: Span, why: &str) -> Self {
        Self {
            at: span.start(),
            why: why.into(),
        }
    }
}

/// The parser's first error, in words.
fn fine(error: Option<ParseError>) -> Result<()> {
    let Some(error) = error else {
        return Ok(());
    };
    let mut why = error.description().to_owned();
    if error.expected().is_some_and(<[_]>::is_empty) {
        why.push_str(", expected nothing");
    }
    for (i, expected) in error.expected().into_iter().flatten().enumerate() {
        why.push_str(if i == 0 { ", expected " } else { ", " });
        match expected {
            Expected::Literal("\n") => why.push_str("newline"),
            Expected::Literal(text) => {
                why.push('`');
                why.push_str(text);
                why.push('`');
            }
            Expected::Description(text) => why.push_str(text),
            _ => why.push_str("something else"),
        }
    }
    Err(Fault {
        at: error.unexpected().map_or(0, |span| span.start()),
        why,
    })
}
