//! What Debian's nft lists of the kernel's tables.

use super::netns::run;

/// What Debian's nft lists, as JSON without what differs between two loads of the same text:
/// handles, remaining lifetimes, and the order of elements.
pub fn nft_json(family: &str, table: &str) -> String {
    let json = run("nft", &["-j", "list", "table", family, table]);
    let json = without_numbers(&without_numbers(&json, "\"handle\": "), "\"expires\": ");
    with_sorted_elements(&json)
}

/// Replaces the number behind each `key` by 0.
fn without_numbers(json: &str, key: &str) -> String {
    let mut parts = json.split(key);
    let mut result = parts.next().unwrap_or_default().to_string();
    for part in parts {
        result.push_str(key);
        result.push('0');
        result.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    result
}

/// Asserts that two listings are equal, and shows the first place where they are not.
pub fn assert_same_listing(theirs: &str, ours: &str) {
    if theirs == ours {
        return;
    }
    let same = theirs.bytes().zip(ours.bytes()).take_while(|(a, b)| a == b);
    let from = same.count().saturating_sub(200);
    let part = |s: &str| s[from..s.len().min(from + 600)].to_string();
    panic!("nft lists\n…{}…\nafter us\n…{}…", part(theirs), part(ours));
}

/// A listing with the elements of each set in one order: nft prints some kinds of sets as they
/// were filled, and a set has no order.
fn with_sorted_elements(json: &str) -> String {
    let mut parts = json.split("\"elem\": [");
    let mut result = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (mut items, mut depth, mut start, mut end) = (Vec::new(), 0, 0, part.len());
        for (i, c) in part.char_indices() {
            match c {
                '[' | '{' => depth += 1,
                ']' if depth == 0 => {
                    items.push(part[start..i].trim());
                    end = i;
                    break;
                }
                ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    items.push(part[start..i].trim());
                    start = i + 1;
                }
                _ => {}
            }
        }
        items.sort_unstable();
        result.push_str("\"elem\": [");
        result.push_str(&items.join(", "));
        result.push_str(&part[end..]);
    }
    result
}
