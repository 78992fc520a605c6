//! YAML text to a small tree of nodes that know their lines.
//!
//! Nothing that makes YAML dangerous or ambiguous survives: no aliases (so no expansion), no
//! tags, no merge, one document, bounded size and depth. Nodes are untyped text; whoever reads a
//! key says what type it wants.

use crate::error::{Error, Result};
use crate::sanitize::quoted;
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Largest file read, bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Deepest nesting.
const MAX_DEPTH: usize = 16;

/// A value and the line it starts on.
#[derive(Debug)]
pub struct Node {
    /// 1-based line.
    pub line: usize,
    /// What it is.
    pub kind: Kind,
}

/// The kinds of value.
#[derive(Debug)]
pub enum Kind {
    /// An unquoted scalar: text that may mean a number, a boolean, nothing or a string.
    Plain(String),
    /// A quoted or block scalar: always a string.
    Quoted(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping; keys are unique in strict mode.
    Map(Vec<(Key, Node)>),
    /// An alias, in a file read leniently.
    Opaque,
}

/// A mapping's key.
#[derive(Debug)]
pub struct Key {
    /// Its text; empty for a key that is no scalar, in a file read leniently.
    pub text: String,
    /// 1-based line.
    pub line: usize,
}

/// How much of YAML is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Our own file: anchors, aliases, tags and duplicate keys are errors.
    Strict,
    /// Somebody else's file, of which we want one key: the same are passed over.
    Lenient,
}

impl Node {
    /// Whether this is YAML's null.
    pub fn is_nothing(&self) -> bool {
        matches!(&self.kind, Kind::Plain(text) if text.is_empty() || text == "~" || text == "null")
    }

    /// What the value is, for an error message.
    pub fn describe(&self) -> String {
        match &self.kind {
            _ if self.is_nothing() => "nothing".into(),
            Kind::Plain(text) => quoted(text),
            Kind::Quoted(text) => format!("the string {}", quoted(text)),
            Kind::List(_) => "a list".into(),
            Kind::Map(_) => "a mapping".into(),
            Kind::Opaque => "an alias".into(),
        }
    }
}

/// Reads one document; `None` if the text holds none. `file` is the name errors give.
pub fn parse(file: &str, text: &str, dialect: Dialect) -> Result<Option<Node>> {
    if text.len() > MAX_BYTES {
        return Err(Error::new(format!("{file} is larger than 64 KiB: refused")));
    }
    let mut reader = Reader {
        file,
        dialect,
        parser: Parser::new_from_str(text),
    };
    let mut root = None;
    loop {
        let (event, line) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(root),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if root.is_some() => return Err(reader.error(line, "has a second document")),
            event => root = Some(reader.node(event, line, 0)?),
        }
    }
}

struct Reader<'a> {
    file: &'a str,
    dialect: Dialect,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn error(&self, line: usize, why: &str) -> Error {
        Error::new(format!("{} line {line}: {why}", self.file))
    }

    fn next(&mut self) -> Result<(Event<'a>, usize)> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, line_of(&span))),
            Some(Err(e)) => {
                let why = crate::sanitize::text(e.info());
                Err(self.error(e.marker().line().max(1), &format!("not valid YAML: {why}")))
            }
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn node(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Node> {
        if depth > MAX_DEPTH {
            return Err(self.error(line, "is nested too deeply"));
        }
        let kind = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.plainness(line, anchor, tag.is_some())?;
                match style {
                    ScalarStyle::Plain => Kind::Plain(text.into_owned()),
                    _ => Kind::Quoted(text.into_owned()),
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.plainness(line, anchor, tag.is_some())?;
                self.list(depth)?
            }
            Event::MappingStart(anchor, tag) => {
                self.plainness(line, anchor, tag.is_some())?;
                self.map(depth)?
            }
            Event::Alias(_) if self.dialect == Dialect::Lenient => Kind::Opaque,
            Event::Alias(_) => return Err(self.error(line, "aliases are not supported")),
            _ => return Err(self.error(line, "ends in the middle of a value")),
        };
        Ok(Node { line, kind })
    }

    fn plainness(&self, line: usize, anchor: usize, tagged: bool) -> Result<()> {
        match self.dialect {
            Dialect::Strict if anchor != 0 => {
                Err(self.error(line, "anchors are not supported; write the value out"))
            }
            Dialect::Strict if tagged => {
                Err(self.error(line, "tags are not supported; write the plain value"))
            }
            _ => Ok(()),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Kind> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Kind::List(items)),
                (event, line) => items.push(self.node(event, line, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Kind> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Kind::Map(entries));
            }
            let text = match self.node(event, line, depth + 1)?.kind {
                Kind::Plain(text) | Kind::Quoted(text) => text,
                _ if self.dialect == Dialect::Lenient => String::new(),
                _ => return Err(self.error(line, "a key must be plain text")),
            };
            if self.dialect == Dialect::Strict
                && let Some((first, _)) = entries.iter().find(|(k, _)| k.text == text)
            {
                let why = format!(
                    "key {} is here again, it stands in line {} already",
                    quoted(&text),
                    first.line
                );
                return Err(self.error(line, &why));
            }
            let (event, value_line) = self.next()?;
            let value = self.node(event, value_line, depth + 1)?;
            entries.push((Key { text, line }, value));
        }
    }
}

fn line_of(span: &Span) -> usize {
    span.start.line().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse("f.yml", text, Dialect::Strict)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_makes_yaml_dangerous_is_refused_with_its_line() {
        for (text, expected) in [
            (
                "a: &x 1\n",
                "f.yml line 1: anchors are not supported; write the value out",
            ),
            (
                "a: 1\nb: &x [1]\n",
                "f.yml line 2: anchors are not supported; write the value out",
            ),
            (
                "a: !!int 1\n",
                "f.yml line 1: tags are not supported; write the plain value",
            ),
            (
                "a: !x {}\n",
                "f.yml line 1: tags are not supported; write the plain value",
            ),
            (
                "a: 1\n\na: 2\n",
                "f.yml line 3: key \"a\" is here again, it stands in line 1 already",
            ),
            ("a: 1\n---\nb: 2\n", "f.yml line 3: has a second document"),
            ("? [a]\n: 1\n", "f.yml line 1: a key must be plain text"),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        assert!(error("a: &x 1\nb: *x\n").contains("line 1"));
        assert!(error("a: *x\n").starts_with("f.yml line 1: "));
    }

    #[test]
    fn broken_yaml_is_an_error_with_a_line() {
        for text in ["a: [1\n", "a: 'x\n", "a: b: c\n", "a: 1\n b: 2\n", "{", "%"] {
            let e = error(text);
            assert!(
                e.starts_with("f.yml line ") && e.contains("not valid YAML"),
                "{text:?}: {e}"
            );
        }
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert!(error(&"#".repeat(MAX_BYTES + 1)).contains("larger than"));
        assert!(error(&"[".repeat(MAX_BYTES)).starts_with("f.yml line 1"));
        assert!(error(&format!("{}{}", "[".repeat(20), "]".repeat(20))).contains("too deeply"));
        let block = "- ".repeat(20_000);
        assert!(error(&block).contains("too deeply"));
    }

    #[test]
    fn an_empty_file_is_no_document() {
        for text in ["", "# comment\n", "\n\n"] {
            assert!(
                parse("f", text, Dialect::Strict).unwrap().is_none(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_foreign_file_may_use_what_ours_may_not() {
        let text = "base: &b {a: 1}\nx: {<<: *b}\nx: !t 2\n? [k]\n: v\nlast: yes\n";
        let Some(Node {
            kind: Kind::Map(entries),
            ..
        }) = parse("f", text, Dialect::Lenient).unwrap()
        else {
            panic!("no mapping");
        };
        let keys: Vec<_> = entries
            .iter()
            .map(|(k, _)| (k.text.as_str(), k.line))
            .collect();
        assert_eq!(
            keys,
            [("base", 1), ("x", 2), ("x", 3), ("", 4), ("last", 6)]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_a_value_or_an_error(
            text in r#"([-?:,\[\]{}#&*!|>'"%@`~ \t\r\n\\a-c0-2é\x00]|<<|---|\.\.\.|- |: |\n  ){0,60}"#,
        ) {
            let _ = parse("f", &text, Dialect::Strict);
            let _ = parse("f", &text, Dialect::Lenient);
        }
    }
}
