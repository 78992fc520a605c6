//! Any bytes give an error or a ruleset, and what is written of that is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use terok_shield::nft::text::{parse, parse_bytes, render};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ruleset) = parse_bytes(bytes) {
        let text = render(&ruleset);
        assert_eq!(parse(&text), Ok(ruleset), "{text}");
    }
});
