//! The nft syntax doors on random input.

#[path = "common/arbitrary.rs"]
mod arbitrary;

use proptest::prelude::*;
use terok_shield::nft::text::{parse, parse_bytes, render};

proptest! {
    #[test]
    fn a_ruleset_survives_the_way_through_text(ruleset in arbitrary::ruleset(true)) {
        let text = render(&ruleset);
        prop_assert_eq!(parse(&text), Ok(ruleset), "{}", text);
    }

    #[test]
    fn any_bytes_give_a_ruleset_or_a_place_in_them(bytes in any::<Vec<u8>>()) {
        if let Err(e) = parse_bytes(&bytes) {
            let lines = 1 + bytes.iter().filter(|&&b| b == b'\n').count();
            prop_assert!((1..=lines).contains(&e.line), "{}", e);
        }
    }

    #[test]
    fn a_damaged_ruleset_is_refused_or_still_consistent(
        ruleset in arbitrary::ruleset(true),
        at in any::<prop::sample::Index>(),
        with in "[ -~\n]{0,3}",
    ) {
        let mut text = render(&ruleset);
        let at = at.index(text.len());
        text.replace_range(at..=at, &with);
        // What is accepted is written so that it is accepted again, as the same.
        if let Ok(read) = parse(&text) {
            prop_assert_eq!(parse(&render(&read)), Ok(read));
        }
    }
}
