//! What may leave the process: CONTRACT section 6.
//!
//! Names, paths and bytes that a workload shaped end up in log lines, on sockets and on terminals.
//! Printable ASCII passes; every other *character* becomes one space, so that neither an escape
//! sequence nor a bidi override nor a line break survives, and a length limit holds whatever came.

use crate::contract::SANITIZED_MAX;

const CUT: &str = "...";

/// `text` in printable ASCII, at most [`SANITIZED_MAX`] characters.
pub fn text(text: &str) -> String {
    collect(text.chars())
}

/// The same for bytes of unknown encoding: each invalid UTF-8 sequence counts as one character.
pub fn bytes(bytes: &[u8]) -> String {
    collect(bytes.utf8_chunks().flat_map(|chunk| {
        let broken = (!chunk.invalid().is_empty()).then_some('\u{fffd}');
        chunk.valid().chars().chain(broken)
    }))
}

/// A line of ours on its way to a terminal: printable ASCII of any length.
pub fn line(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, ' '..='~') { c } else { ' ' })
        .collect()
}

/// `text` for an error message: sanitised, and between double quotes.
pub fn quoted(text: &str) -> String {
    let mut out = self::text(text);
    out.insert(0, '"');
    out.push('"');
    out
}

/// Looks at one character more than the limit and no further: the work is bounded, too.
fn collect(chars: impl Iterator<Item = char>) -> String {
    let mut out = String::new();
    for c in chars.take(SANITIZED_MAX + 1) {
        out.push(if matches!(c, ' '..='~') { c } else { ' ' });
    }
    if out.len() > SANITIZED_MAX {
        out.truncate(SANITIZED_MAX - CUT.len());
        out.push_str(CUT);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_ascii_passes_and_every_other_character_is_one_space() {
        assert_eq!(text(" plain ~ text"), " plain ~ text");
        assert_eq!(text("a\x1b[31mb\nc\x7fd\0"), "a [31mb c d ");
        assert_eq!(text("é\u{202e}€😀x"), "    x");
        assert_eq!(text(""), "");
    }

    #[test]
    fn an_invalid_sequence_is_one_space() {
        assert_eq!(bytes(b"a\xffb\xe2\x82c"), "a b c");
        assert_eq!(bytes("é".as_bytes()), " ");
        assert_eq!(bytes(b"\xf0\x9f"), " ");
    }

    #[test]
    fn the_limit_counts_characters_and_a_cut_shows() {
        let fits = "x".repeat(256);
        assert_eq!(text(&fits), fits);
        let cut = text(&"é".repeat(257));
        assert_eq!(cut, format!("{}...", " ".repeat(253)));
        assert_eq!(bytes(&vec![0xff; 1_000_000]).len(), 256);
    }

    #[test]
    fn what_an_error_quotes_is_sanitised() {
        assert_eq!(quoted("a\r\nb"), "\"a  b\"");
    }
}
