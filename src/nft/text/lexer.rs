//! Text to tokens, one at a time, each a slice of the text.

use super::error::Fault;

/// The smallest piece with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Keyword, name, number, address, range: letters, digits and `_ . : / - +`.
    Word(&'a str),
    /// What stands between two double quotes. nft knows no escapes.
    Quoted(&'a str),
    /// One of `{ } , = @`.
    Symbol(u8),
    /// A newline or `;`.
    Separator,
    /// The end of the text.
    End,
}

/// A place in the text. A copy of it looks ahead.
#[derive(Clone, Copy)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    pos: usize,
    /// Where the last token began.
    pub at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            pos: 0,
            at: 0,
        }
    }

    /// The same text, read from `pos` on.
    pub fn seek(mut self, pos: usize) -> Self {
        self.pos = pos;
        self
    }

    /// Where the next token will be looked for.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.pos..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.pos) {
                Some(b' ' | b'\t') => self.pos += 1,
                // A backslash joins the next line to this one.
                Some(b'\\') if bytes.get(self.pos + 1) == Some(&b'\n') => self.pos += 2,
                Some(b'#') => {
                    let line = self.rest().iter().position(|&b| b == b'\n');
                    self.pos = line.map_or(bytes.len(), |n| self.pos + n);
                }
                _ => return,
            }
        }
    }

    /// The next token.
    pub fn next(&mut self) -> Result<Token<'a>, Fault> {
        self.skip_blanks();
        self.at = self.pos;
        let rest = self.rest();
        let Some(&byte) = rest.first() else {
            return Ok(Token::End);
        };
        let (length, token) = match byte {
            b'\n' | b';' => (1, Token::Separator),
            b'{' | b'}' | b',' | b'=' | b'@' => (1, Token::Symbol(byte)),
            b'"' => {
                let end = rest[1..].iter().position(|&b| b == b'"' || b == b'\n');
                match end.filter(|&n| rest[n + 1] == b'"') {
                    Some(n) => (n + 2, Token::Quoted(&self.text[self.at + 1..][..n])),
                    None => return Err(self.fault("this quote is not closed on its line")),
                }
            }
            _ if is_word(byte) => {
                let n = rest.iter().position(|&b| !is_word(b));
                let n = n.unwrap_or(rest.len());
                (n, Token::Word(&self.text[self.at..][..n]))
            }
            _ => {
                let c = self.text[self.at..].chars().next().unwrap_or('?');
                return Err(self.fault(format!("unexpected character {c:?}")));
            }
        };
        self.pos += length;
        Ok(token)
    }

    /// The next token, left in place.
    pub fn peek(&self) -> Result<Token<'a>, Fault> {
        let mut ahead = *self;
        ahead.next()
    }

    /// The byte with which the next token begins; cheaper than a look at the whole token.
    pub fn next_byte(&mut self) -> Option<u8> {
        self.skip_blanks();
        self.text.as_bytes().get(self.pos).copied()
    }

    /// Passes newlines and semicolons.
    pub fn skip_separators(&mut self) -> Result<(), Fault> {
        while self.peek()? == Token::Separator {
            self.next()?;
        }
        Ok(())
    }

    /// Passes newlines, which mean nothing inside a list.
    pub fn skip_newlines(&mut self) {
        loop {
            match self.next_byte() {
                Some(b'\n') => self.pos += 1,
                _ => return,
            }
        }
    }

    /// Passes this symbol if it is next.
    pub fn accept(&mut self, symbol: u8) -> bool {
        let found = self.next_byte() == Some(symbol);
        if found {
            self.at = self.pos;
            self.pos += 1;
        }
        found
    }

    /// Passes this word if it is next.
    pub fn accept_word(&mut self, word: &str) -> Result<bool, Fault> {
        let found = self.peek()? == Token::Word(word);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    /// Passes this symbol, which must be next.
    pub fn expect(&mut self, symbol: u8) -> Result<(), Fault> {
        match self.next()? {
            Token::Symbol(s) if s == symbol => Ok(()),
            other => Err(self.unexpected(other, &format!("\"{}\"", symbol as char))),
        }
    }

    /// Passes this word, which must be next.
    pub fn expect_word(&mut self, word: &str) -> Result<(), Fault> {
        match self.next()? {
            Token::Word(w) if w == word => Ok(()),
            other => Err(self.unexpected(other, &format!("\"{word}\""))),
        }
    }

    /// The next token, which must be a word; `what` names what it stands for.
    pub fn word(&mut self, what: &str) -> Result<&'a str, Fault> {
        match self.next()? {
            Token::Word(w) => Ok(w),
            other => Err(self.unexpected(other, what)),
        }
    }

    /// Ends a statement: a separator is passed, a `}` or the end left in place.
    pub fn end_statement(&mut self) -> Result<(), Fault> {
        match self.peek()? {
            Token::Separator => self.next().map(drop),
            Token::Symbol(b'}') | Token::End => Ok(()),
            _ => {
                let token = self.next()?;
                Err(self.unexpected(token, "the end of the statement"))
            }
        }
    }

    /// An error at the last token.
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.at, message)
    }

    /// The error that `token`, the last one, is not what should stand here.
    pub fn unexpected(&self, token: Token<'_>, wanted: &str) -> Fault {
        let found = match token {
            Token::Word(w) | Token::Quoted(w) => format!("\"{}\"", clip(w)),
            Token::Symbol(s) => format!("\"{}\"", s as char),
            Token::Separator => "the end of the line".into(),
            Token::End => "the end of the text".into(),
        };
        self.fault(format!("expected {wanted}, found {found}"))
    }
}

/// The first 64 characters, so that a hostile word cannot flood a log; control characters
/// replaced.
pub(super) fn clip(word: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    word.chars().take(64).map(printable).collect()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'/' | b'-' | b'+')
}
