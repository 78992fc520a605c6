//! What a person types: single keys on a terminal, lines in a pipe.

use crate::error::{Context, Result};
use rustix::io::Errno;
use rustix::termios::{
    self, LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios,
};
use std::os::fd::BorrowedFd;

/// A longer line is no answer.
const MAX_LINE: usize = 256;

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Not enough yet.
    Nothing,
    /// A key, or a line.
    Text(String),
    /// Nobody types any more.
    End,
}

/// Standard input.
#[derive(Debug)]
pub struct Keys {
    // How the terminal was, if it is one.
    before: Option<Termios>,
    line: Vec<u8>,
    ended: bool,
}

impl Keys {
    /// Takes keys one by one where standard input is a terminal. Ctrl-C stays a signal.
    pub fn open() -> Result<Self> {
        let stdin = rustix::stdio::stdin();
        let mut before = None;
        if termios::isatty(stdin) {
            let now = termios::tcgetattr(stdin).context(|| "cannot read the terminal's mode")?;
            let mut raw = now.clone();
            raw.local_modes
                .remove(LocalModes::ICANON | LocalModes::ECHO);
            raw.special_codes[SpecialCodeIndex::VMIN] = 1;
            raw.special_codes[SpecialCodeIndex::VTIME] = 0;
            termios::tcsetattr(stdin, OptionalActions::Now, &raw)
                .context(|| "cannot set the terminal's mode")?;
            before = Some(now);
        }
        Ok(Self {
            before,
            line: Vec::new(),
            ended: false,
        })
    }

    /// Whether keys come one by one.
    pub fn is_terminal(&self) -> bool {
        self.before.is_some()
    }

    /// What to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdin()
    }

    /// Drops keys that were typed before now; lines stay.
    pub fn forget(&mut self) {
        if self.is_terminal() {
            let _ = termios::tcflush(self.fd(), QueueSelector::IFlush);
        }
    }

    /// Whether a whole line is here already, which no descriptor will announce.
    pub fn has_line(&self) -> bool {
        self.line.contains(&b'\n') || self.ended
    }

    /// Takes one key or line if there is one.
    pub fn read(&mut self) -> Result<Input> {
        if let Some(line) = self.take_line() {
            return Ok(Input::Text(line));
        }
        if self.ended {
            return Ok(Input::End);
        }
        if !self.is_ready()? {
            return Ok(Input::Nothing);
        }
        let mut buffer = [0u8; 64];
        let n = match rustix::io::read(self.fd(), &mut buffer) {
            Ok(n) => n,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Input::Nothing),
            // The terminal is gone.
            Err(Errno::IO) => 0,
            Err(e) => return Err(e).context(|| "cannot read standard input"),
        };
        let bytes = buffer.get(..n).unwrap_or_default();
        if self.is_terminal() {
            return Ok(key(bytes));
        }
        self.ended = n == 0;
        self.line.extend(bytes);
        Ok(match self.take_line() {
            Some(line) => Input::Text(line),
            None if self.ended && !self.line.is_empty() => {
                Input::Text(text(&std::mem::take(&mut self.line)))
            }
            None if self.ended => Input::End,
            None => Input::Nothing,
        })
    }

    fn is_ready(&self) -> Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(n) => Ok(n > 0),
            Err(Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn take_line(&mut self) -> Option<String> {
        match self.line.iter().position(|&b| b == b'\n') {
            Some(end) => {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                Some(text(&line))
            }
            None => {
                self.line.truncate(MAX_LINE);
                None
            }
        }
    }

    /// Gives the terminal back as it was.
    pub fn restore(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.restore();
    }
}

/// One key; a burst of them is an arrow key, a paste, or somebody's elbow, and answers nothing.
fn key(bytes: &[u8]) -> Input {
    match bytes {
        [] => Input::End,
        // Ctrl-D
        [4] => Input::End,
        [one] => Input::Text(char::from(*one).to_string()),
        _ => Input::Text("?".into()),
    }
}

fn text(bytes: &[u8]) -> String {
    crate::sanitize::bytes(bytes.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_is_a_key_and_a_burst_is_none() {
        assert_eq!(key(b"a"), Input::Text("a".into()));
        assert_eq!(key(b"\x1b[A"), Input::Text("?".into()));
        assert_eq!(key(b"aaaa"), Input::Text("?".into()));
        assert_eq!(key(b"\x04"), Input::End);
        assert_eq!(key(b""), Input::End);
        assert_eq!(key(b"\xff"), Input::Text("\u{ff}".into()));
    }
}
