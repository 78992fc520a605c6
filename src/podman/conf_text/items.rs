//! One item into a list or out of it, in the list's own layout.

use super::toml::Value;
use super::{Edit, Text, literal};
use crate::error::Result;
use std::ops::Range;

impl Text<'_> {
    /// Puts an item at the end of a list, in the list's own layout.
    pub(super) fn insert_item(
        &self,
        list: &Range<usize>,
        items: &[Value],
        dir: &str,
    ) -> Result<Vec<Edit>> {
        let item = literal(dir)?;
        let Some(last) = items.last() else {
            return Ok(vec![(list.start + 1..list.start + 1, item)]);
        };
        let last = &last.span;
        let close = list.end - 1;
        let comma = self.comma(last.end, close);
        let after = comma.map_or(last.end, |c| c + 1);
        let indent = &self.source[self.line_start(last.start)..last.start];
        let own_line = indent.trim().is_empty() && self.line_end(after) < close;
        if own_line {
            let at = self.line_end(after);
            let new_line = format!("{}{indent}{item}", self.newline());
            Ok(match comma {
                Some(_) => vec![(at..at, new_line + ",")],
                None => vec![(last.end..last.end, ",".into()), (at..at, new_line)],
            })
        } else {
            Ok(match comma {
                Some(_) => vec![(after..after, format!(" {item},"))],
                None => vec![(after..after, format!(", {item}"))],
            })
        }
    }

    /// Cuts an item out of a list: the reverse of [`Text::insert_item`] where it stands last.
    pub(super) fn remove_item(&self, list: &Range<usize>, items: &[Value], dir: &str) -> Vec<Edit> {
        let Some(index) = items.iter().position(|item| item.as_str() == Some(dir)) else {
            return Vec::new();
        };
        let item = items[index].span.clone();
        let next = items.get(index + 1).map(|next| next.span.start);
        let comma = self.comma(item.end, next.unwrap_or(list.end - 1));
        let cut = |range: Range<usize>| (range, String::new());
        let Some(previous) = index.checked_sub(1).map(|i| items[i].span.end) else {
            // The first: up to the next one, unless a comment stands between.
            let end = match (comma, next) {
                (Some(comma), Some(next)) if self.source[comma + 1..next].trim().is_empty() => next,
                (Some(comma), _) if self.source[item.end..comma].trim().is_empty() => comma + 1,
                _ => {
                    let comma = comma.map(|c| cut(c..c + 1));
                    return [cut(item)].into_iter().chain(comma).collect();
                }
            };
            return vec![cut(item.start..end)];
        };
        let Some(before) = self.comma(previous, item.start) else {
            return Vec::new();
        };
        // From the line end before the item, where it has a line of its own, or from the comma.
        let between = &self.source[before + 1..item.start];
        let from = match between.rfind('\n') {
            Some(at) if between[..at].ends_with('\r') => before + at,
            Some(at) => before + 1 + at,
            None => before + 1,
        };
        match comma {
            Some(comma) if self.source[item.end..comma].trim().is_empty() => {
                vec![cut(from..comma + 1)]
            }
            Some(comma) => vec![cut(from..item.end), cut(comma..comma + 1)],
            None => vec![cut(before..before + 1), cut(from.max(before + 1)..item.end)],
        }
    }

    /// The comma between two places of a list that hold only blanks and comments besides it.
    fn comma(&self, from: usize, to: usize) -> Option<usize> {
        let mut in_comment = false;
        for (at, byte) in self.source.as_bytes()[from..to].iter().enumerate() {
            match byte {
                b'\n' => in_comment = false,
                b'#' => in_comment = true,
                b',' if !in_comment => return Some(from + at),
                _ => {}
            }
        }
        None
    }
}
