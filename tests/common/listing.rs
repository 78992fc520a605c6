//! What Debian's nft lists of the kernel's tables.

use super::netns::run;

/// What Debian's nft lists, as JSON without what differs between two loads of the same text:
/// handles, remaining lifetimes, and the order in which tables were made.
pub fn nft_json(family: &str, table: &str) -> String {
    let json = run("nft", &["-j", "list", "table", family, table]);
    without_numbers(&without_numbers(&json, "\"handle\": "), "\"expires\": ")
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
