//! Time spans as nft writes them: `1d2h3m4s5ms`.

use std::fmt::Write;

/// The longest span the kernel takes: it counts nanoseconds in 64 bits (`nf_msecs_to_jiffies64`
/// in net/netfilter/nf_tables_api.c).
const MAX_MS: u64 = u64::MAX / 1_000_000;

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Milliseconds of a span: units in descending order, each at most once.
pub(super) fn parse(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        let (_, ms) = units.find(|(name, _)| *name == unit)?;
        total = number
            .parse::<u64>()
            .ok()?
            .checked_mul(*ms)?
            .checked_add(total)?;
        rest = tail;
    }
    (!text.is_empty() && total <= MAX_MS).then_some(total)
}

/// Writes a span of so many milliseconds.
pub(super) fn write(out: &mut String, ms: u64) {
    let mut rest = ms;
    for (name, unit) in UNITS {
        if rest >= unit {
            let _ = write!(out, "{}{name}", rest / unit);
            rest %= unit;
        }
    }
    if ms == 0 {
        out.push_str("0s");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_survive_the_way_through_text() {
        for (text, ms) in [
            ("30m", 1_800_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("500d", 43_200_000_000),
            ("996ms", 996),
            ("0s", 0),
        ] {
            assert_eq!(super::parse(text), Some(ms), "{text}");
            let mut out = String::new();
            super::write(&mut out, ms);
            assert_eq!(out, text);
        }
        assert_eq!(super::parse("100500ms"), Some(100_500));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for bad in [
            "",
            "3600",
            "1w",
            "5m3h",
            "3s3s",
            "s",
            "1d-2h",
            "+1s",
            "1 s",
            "99999999999999999d",
            "300000d",
        ] {
            assert_eq!(super::parse(bad), None, "{bad:?}");
        }
    }
}
