//! What is wrong with a text, and where.

use std::fmt;

/// A text that is no ruleset. Displays as `line 12, column 5: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there, and the cure where there is one.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            message,
        } = self;
        write!(f, "line {line}, column {column}: {message}")
    }
}

impl std::error::Error for ParseError {}

impl From<ParseError> for crate::error::Error {
    fn from(e: ParseError) -> Self {
        Self::new(e.to_string())
    }
}

/// An error at a byte offset. Lines are counted only when one happened.
#[derive(Debug)]
pub(super) struct Fault {
    pub at: usize,
    pub message: String,
}

impl Fault {
    pub fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }

    /// The line and column in `text`, which holds at least the bytes before the fault.
    pub fn locate(self, text: &[u8]) -> ParseError {
        let before = text.get(..self.at).unwrap_or(text);
        let start = before
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |n| n + 1);
        ParseError {
            line: 1 + before.iter().filter(|&&b| b == b'\n').count(),
            // Continuation bytes belong to the character before them.
            column: 1 + before[start..]
                .iter()
                .filter(|&&b| b & 0xc0 != 0x80)
                .count(),
            message: self.message,
        }
    }
}
