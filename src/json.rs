//! Writes JSON objects in a fixed field order, compact, every text in them sanitised.
//!
//! Readers of the events depend on the order and on the lack of spaces; and what is sanitised is
//! printable ASCII, so only the quote and the backslash ever need an escape.

use crate::sanitize;
use std::fmt::{Display, Write};

/// An object being written into a string.
#[derive(Debug)]
pub struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Opens an object at the end of `out`.
    pub fn open(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        push_text(self.out, key);
        self.out.push(':');
    }

    /// A text field; the value is sanitised.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        push_text(self.out, value);
        self
    }

    /// A text field, left out where there is no value or an empty one.
    pub fn some_text(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) if !value.is_empty() => self.text(key, value),
            _ => self,
        }
    }

    /// A field of several texts, each sanitised.
    pub fn texts(&mut self, key: &str, values: &[String]) -> &mut Self {
        self.key(key);
        self.out.push('[');
        for (n, value) in values.iter().enumerate() {
            if n > 0 {
                self.out.push(',');
            }
            push_text(self.out, value);
        }
        self.out.push(']');
        self
    }

    /// A field that is true or false.
    pub fn truth(&mut self, key: &str, value: bool) -> &mut Self {
        self.raw(key, if value { "true" } else { "false" })
    }

    /// A text field whose value is made by us and needs no escape: an address, a time.
    pub fn plain(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.key(key);
        // Writing to a String cannot fail.
        let _ = write!(self.out, "\"{value}\"");
        self
    }

    /// A number field.
    pub fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.key(key);
        let _ = write!(self.out, "{value}");
        self
    }

    /// A field whose value is JSON already.
    pub fn raw(&mut self, key: &str, json: &str) -> &mut Self {
        self.key(key);
        self.out.push_str(json);
        self
    }

    /// Closes the object.
    pub fn close(&mut self) {
        self.out.push('}');
    }
}

/// Appends `value`, sanitised, as a JSON string.
pub fn push_text(out: &mut String, value: &str) {
    out.push('"');
    for c in sanitize::text(value).chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_compact_ordered_and_sanitised() {
        let mut out = String::new();
        let mut object = Object::open(&mut out);
        object
            .text("z", "a\"b\\c\n\u{202e}d")
            .number("n", 7)
            .some_text("none", None)
            .some_text("empty", Some(""))
            .plain("ip", "::1")
            .raw("r", "{}")
            .close();
        assert_eq!(out, r#"{"z":"a\"b\\c  d","n":7,"ip":"::1","r":{}}"#);
        let value: miniserde::json::Value = miniserde::json::from_str(&out).unwrap();
        assert!(matches!(value, miniserde::json::Value::Object(_)));
    }

    #[test]
    fn an_empty_object_is_two_braces() {
        let mut out = String::new();
        Object::open(&mut out).close();
        assert_eq!(out, "{}");
    }
}
