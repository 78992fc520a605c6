//! The text of one containers.conf: read two keys of `[engine]`, and edit `hooks_dir`.
//!
//! The parser gives byte spans, and an edit is cut into the operator's own text there: comments,
//! order, line ends and everything else stay as they are, byte for byte, and removing what was
//! added gives back the text that was. One exception: a `hooks_dir` that is a string, which podman
//! refuses to start with, becomes a list and stays one.

mod items;
mod toml;

use crate::error::{Error, Result};
use crate::sanitize;
use std::ops::Range;
use toml::{Kind, Origin, Table, Value};

/// Marks what was added whole, so that it can be removed whole.
const MARK: &str = " # added by terok-shield setup";
/// The first line of a file that did not exist before.
pub const CREATED: &str = "# created by terok-shield setup\n";

/// `hooks_dir` of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HooksDir {
    /// The directories, in order; an item that is no string is left out.
    pub dirs: Vec<String>,
    /// The value of an item `{append=true}` (podman 5): whether the list adds to earlier files'.
    pub append: Option<bool>,
}

/// A parsed file.
#[derive(Debug)]
pub struct Text<'a> {
    name: &'a str,
    source: &'a str,
    root: Table,
}

/// Where `hooks_dir` is, or would go.
enum Place<'d> {
    /// No `engine` anywhere, or only headers below it (`[engine.runtimes]`): append a table.
    NoTable,
    /// `[engine]`; its header ends at this byte.
    Header(&'d Table, usize),
    /// `engine.key = …` at the top; the first such line has this byte in it.
    Dotted(&'d Table, usize),
    /// `engine = { … }` at these bytes.
    Inline(&'d Table, Range<usize>),
}

impl<'a> Text<'a> {
    /// Parses a file; errors give `name`, the line and the parser's words.
    pub fn parse(name: &'a str, source: &'a str) -> Result<Self> {
        let root = toml::parse(source).map_err(|fault| {
            let before = source.as_bytes().iter().take(fault.at);
            let line = 1 + before.filter(|b| **b == b'\n').count();
            Error::new(format!(
                "{name} line {line}: not valid TOML: {}; correct it, podman cannot read it either",
                sanitize::text(&fault.why)
            ))
        })?;
        let text = Self { name, source, root };
        text.place()?;
        text.check_value()?;
        Ok(text)
    }

    /// The `hooks_dir` this file sets.
    pub fn hooks_dir(&self) -> Option<HooksDir> {
        let value = self.value()?;
        if let Some(one) = value.as_str() {
            return Some(HooksDir {
                dirs: vec![one.into()],
                append: None,
            });
        }
        let mut found = HooksDir::default();
        for item in value.as_array().unwrap_or_default() {
            if let Kind::Table(table) = &item.kind
                && let Some(Kind::Boolean(append)) = table.get("append").map(|v| &v.kind)
            {
                found.append = Some(*append);
            }
            found.dirs.extend(item.as_str().map(str::to_owned));
        }
        Some(found)
    }

    /// The `network_cmd_options` this file sets.
    pub fn network_cmd_options(&self) -> Option<Vec<String>> {
        let options = self.engine_key("network_cmd_options")?.as_array()?;
        let texts = options.iter().filter_map(Value::as_str);
        Some(texts.map(str::to_owned).collect())
    }

    /// The text with `dir` in `hooks_dir`; `base` are the directories that were in effect so far,
    /// which a file that had no list must repeat to keep them.
    pub fn with(&self, dir: &str, base: &[String]) -> Result<String> {
        let value = self.value();
        let edits = match value.map(|value| (value, value.as_array())) {
            Some((_, Some(items))) if holds(items, dir) => Vec::new(),
            Some((value, Some(items))) => self.insert_item(&value.span, items, dir)?,
            Some((value, None)) => {
                let span = &value.span;
                let already = value.as_str() == Some(dir);
                let tail = if already {
                    String::new()
                } else {
                    format!(", {}", literal(dir)?)
                };
                vec![
                    (span.start..span.start, "[".into()),
                    (span.end..span.end, tail + "]"),
                ]
            }
            None => self.insert_key(dir, base)?,
        };
        let text = apply(self.source, edits);
        self.confirm(&text, dir, true)?;
        Ok(text)
    }

    /// The text without `dir` in `hooks_dir`. `base` as for [`Text::with`]: a line that we added
    /// and that says no more than `base` goes whole.
    pub fn without(&self, dir: &str, base: &[String]) -> Result<String> {
        let Some(value) = self.value() else {
            return Ok(self.source.into());
        };
        let mut edits = Vec::new();
        if value.as_str() == Some(dir) {
            edits.push((value.span.clone(), "[]".into()));
        }
        let mut text = self.source.to_owned();
        if let Some(items) = value.as_array().filter(|items| holds(items, dir)) {
            let rest = items.iter().filter(|item| item.as_str() != Some(dir));
            let ours = rest
                .map(|v| v.as_str())
                .eq(base.iter().map(|b| Some(b.as_str())));
            match self.whole_addition(value)? {
                Some(cuts) if ours => edits.extend(cuts),
                _ => edits.extend(self.remove_item(&value.span, items, dir)),
            }
        }
        if !edits.is_empty() {
            text = apply(&text, edits);
            // A directory listed twice is removed one at a time.
            let again = Text::parse(self.name, &text)?;
            if again
                .hooks_dir()
                .is_some_and(|h| h.dirs.iter().any(|d| d == dir))
            {
                return again.without(dir, base);
            }
        }
        self.confirm(&text, dir, false)?;
        Ok(text)
    }

    /// Parses what an edit made: it must say what was meant, and lose none of the others.
    fn confirm(&self, text: &str, dir: &str, present: bool) -> Result<()> {
        let wrong = || {
            Error::new(format!(
                "cannot edit {}: its hooks_dir is written in a way that terok-shield does not \
                 handle; {} {} by hand",
                self.name,
                if present { "add" } else { "remove" },
                sanitize::quoted(dir)
            ))
        };
        let after = Text::parse(self.name, text).map_err(|_| wrong())?;
        let others = |t: &Text| {
            let mut hooks = t.hooks_dir().unwrap_or_default();
            hooks.dirs.retain(|d| d != dir);
            hooks
        };
        let has = after
            .hooks_dir()
            .is_some_and(|h| h.dirs.iter().any(|d| d == dir));
        let kept = self.hooks_dir().is_none()
            || after.hooks_dir().is_none()
            || others(self) == others(&after);
        if has == present && kept {
            Ok(())
        } else {
            Err(wrong())
        }
    }

    fn place(&self) -> Result<Place<'_>> {
        let Some(engine) = self.root.get("engine") else {
            return Ok(Place::NoTable);
        };
        let Kind::Table(table) = &engine.kind else {
            return Err(Error::new(format!(
                "{}: engine is no table; podman cannot read this file either",
                self.name
            )));
        };
        Ok(match table.origin {
            Origin::Implied => Place::NoTable,
            Origin::Header => Place::Header(table, engine.span.end),
            Origin::Dotted => Place::Dotted(table, engine.span.start),
            Origin::Inline => Place::Inline(table, engine.span.clone()),
        })
    }

    fn engine_key(&self, key: &str) -> Option<&Value> {
        match self.place().ok()? {
            Place::NoTable => None,
            Place::Header(table, _) | Place::Dotted(table, _) | Place::Inline(table, _) => {
                table.get(key).filter(|value| value.is_plain())
            }
        }
    }

    fn value(&self) -> Option<&Value> {
        self.engine_key("hooks_dir")
    }

    fn check_value(&self) -> Result<()> {
        match self.value().map(|value| &value.kind) {
            None | Some(Kind::Array(_) | Kind::String(_)) => Ok(()),
            Some(_) => Err(Error::new(format!(
                "{}: engine.hooks_dir is no list of directories; podman cannot read it either",
                self.name
            ))),
        }
    }

    /// The file's line end: that of its first line.
    fn newline(&self) -> &'static str {
        match self.source.find('\n') {
            Some(at) if self.source[..at].ends_with('\r') => "\r\n",
            _ => "\n",
        }
    }

    /// Where the line that holds byte `at` starts, after a byte order mark.
    fn line_start(&self, at: usize) -> usize {
        match self.source[..at].rfind('\n') {
            Some(newline) => newline + 1,
            None if self.source.starts_with('\u{feff}') => '\u{feff}'.len_utf8(),
            None => 0,
        }
    }

    /// Where the line that holds byte `at` ends, before its line end.
    fn line_end(&self, at: usize) -> usize {
        let end = self.source[at..]
            .find('\n')
            .map_or(self.source.len(), |n| at + n);
        if self.source[at..end].ends_with('\r') {
            end - 1
        } else {
            end
        }
    }

    /// Puts a whole `hooks_dir` where there was none.
    fn insert_key(&self, dir: &str, base: &[String]) -> Result<Vec<Edit>> {
        let mut items = Vec::new();
        for item in base.iter().map(String::as_str).chain([dir]) {
            items.push(literal(item)?);
        }
        let setting = format!("hooks_dir = [{}]", items.join(", "));
        let newline = self.newline();
        let edit = match self.place()? {
            Place::Header(_, end) => {
                let at = self.line_end(end);
                (at..at, format!("{newline}{setting}{MARK}"))
            }
            Place::Dotted(_, start) => {
                let at = self.line_start(start);
                (at..at, format!("engine.{setting}{MARK}{newline}"))
            }
            Place::Inline(table, span) => {
                let comma = if table.values().next().is_none() {
                    ""
                } else {
                    ","
                };
                return Ok(vec![
                    (span.start + 1..span.start + 1, format!(" {setting}{comma}")),
                    (span.end..span.end, MARK.into()),
                ]);
            }
            Place::NoTable => {
                let at = self.source.len();
                let table = format!("[engine]{MARK}{newline}{setting}{MARK}");
                let bare = self.source.trim_start_matches('\u{feff}');
                if bare.is_empty() || self.source.ends_with('\n') {
                    (at..at, table + newline)
                } else {
                    (at..at, format!("{newline}{table}"))
                }
            }
        };
        Ok(vec![edit])
    }

    /// The cuts that undo [`Text::insert_key`]; `None` if this is not its work.
    fn whole_addition(&self, value: &Value) -> Result<Option<Vec<Edit>>> {
        let value = value.span.clone();
        let place = self.place()?;
        if let Place::Inline(_, span) = &place {
            let marked = self.source[span.end..].starts_with(MARK);
            let start = span.start + 1;
            if !marked || !self.source[start..].starts_with(" hooks_dir = [") {
                return Ok(None);
            }
            let comma = usize::from(self.source[value.end..].starts_with(','));
            let mark = span.end..span.end + MARK.len();
            return Ok(Some(vec![
                (start..value.end + comma, String::new()),
                (mark, String::new()),
            ]));
        }
        let end = self.line_end(value.end);
        if self.source[value.end..end] != *MARK {
            return Ok(None);
        }
        let mut start = self.line_start(value.start);
        let mut block = false;
        let header = format!("[engine]{MARK}");
        if let Place::Header(table, at) = place {
            let line = self.line_start(at);
            let alone = table.values().filter(|value| value.is_plain()).count() == 1;
            // The header's line is right above.
            let adjacent = self.line_end(at) + self.newline().len() == start;
            if alone && adjacent && self.source[line..self.line_end(at)] == *header {
                start = line;
                block = true;
            }
        }
        // A line goes with the line end that came with it: the one before it where it was put
        // below something, the one after it where it was put above, or was a block of its own.
        let rest = &self.source[end..];
        let below = matches!(place, Place::Header(..)) && !block;
        let cut = if below || rest.is_empty() {
            let before = &self.source[..start];
            let before = before.strip_suffix('\n').unwrap_or(before);
            before.strip_suffix('\r').unwrap_or(before).len()..end
        } else {
            let newline = rest.find('\n').map_or(0, |n| n + 1);
            start..end + newline
        };
        Ok(Some(vec![(cut, String::new())]))
    }
}

/// Bytes to replace, and by what.
type Edit = (Range<usize>, String);

/// Edits come in the order of the text.
fn apply(source: &str, edits: Vec<Edit>) -> String {
    let mut out = String::with_capacity(source.len() + 256);
    let mut at = 0;
    for (range, text) in edits {
        out.push_str(source.get(at..range.start).unwrap_or_default());
        out.push_str(&text);
        at = range.end.max(at);
    }
    out.push_str(source.get(at..).unwrap_or_default());
    out
}

fn holds(items: &[Value], dir: &str) -> bool {
    items.iter().any(|item| item.as_str() == Some(dir))
}

/// A TOML basic string.
fn literal(text: &str) -> Result<String> {
    if text.chars().any(char::is_control) {
        return Err(Error::new(format!(
            "{} has control characters: not usable as a hooks directory",
            sanitize::quoted(text)
        )));
    }
    Ok(format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

#[cfg(test)]
mod tests;
