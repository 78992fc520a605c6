//! Our text, our loading and our reading against Debian's nft. Needs root.

#[path = "common/listing.rs"]
mod listing;
#[path = "common/loadable.rs"]
mod loadable;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/rulesets.rs"]
mod rulesets;

use listing::{assert_same_listing, nft_json};
use netns::{fresh, nft_load};
use proptest::test_runner::{Config, TestRunner};
use terok_shield::contract::TABLE;
use terok_shield::nft::kernel::{Detail, Nft};
use terok_shield::nft::model::{Family, KeyType, Ruleset};
use terok_shield::nft::text::{parse, render};
use terok_shield::nft::verify::equal;

fn is_service(key: KeyType) -> bool {
    matches!(key, KeyType::Ipv4Service | KeyType::Ipv6Service)
}

/// Loads the ruleset by nft and by us, and compares what nft lists; then reads back what nft
/// loaded and compares it with the ruleset.
fn compare(name: &str, ruleset: &Ruleset) {
    let clear = || netns::run("nft", &["flush", "ruleset"]);
    let read = |nft: &mut Nft| {
        let held = nft.dump(Family::Inet, &ruleset.table, Detail::Full);
        let held = held.unwrap_or_else(|e| panic!("{name}: {e}\n{}", render(ruleset)));
        held.expect("the table is there")
    };
    let mut nft = Nft::open().unwrap();
    clear();
    nft_load(&render(ruleset));
    let theirs = nft_json("inet", &ruleset.table);
    let held = read(&mut nft);
    assert_eq!(equal(ruleset, &held, &|_| false), Ok(()), "{name}");
    clear();
    nft.replace(ruleset)
        .unwrap_or_else(|e| panic!("{name}: {e}\n{}", render(ruleset)));
    assert_same_listing(&theirs, &nft_json("inet", &ruleset.table));
    let held = read(&mut nft);
    assert_eq!(equal(ruleset, &held, &|_| false), Ok(()), "{name}");
    // What was read goes through text and back. Our text has no ranges of services, because we
    // write none; nft's has, so that we recognise them where others did.
    if held.sets.iter().any(|s| s.interval && is_service(s.key)) {
        return;
    }
    let again = parse(&render(&held)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(equal(&again, &held, &|_| false), Ok(()), "{name}");
}

#[test]
fn nft_lists_our_rulesets_as_if_it_had_loaded_them_itself() {
    let all = rulesets::all();
    assert!(all.len() >= 16);
    fresh(move || {
        for (name, ruleset) in &all {
            compare(name, ruleset);
        }
    });
}

#[test]
fn nft_lists_random_rulesets_as_if_it_had_loaded_them_itself() {
    fresh(|| {
        let mut runner = TestRunner::new(Config {
            cases: 150,
            max_shrink_iters: 60,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&loadable::ruleset(), |ruleset| {
                compare("random", &ruleset);
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn any_random_ruleset_becomes_any_other_in_one_step() {
    fresh(|| {
        let mut runner = TestRunner::new(Config {
            cases: 150,
            max_shrink_iters: 60,
            failure_persistence: None,
            ..Config::default()
        });
        let two = (loadable::ruleset(), loadable::ruleset());
        let mut nft = Nft::open().unwrap();
        let nft = std::cell::RefCell::new(&mut nft);
        runner
            .run(&two, |(from, to)| {
                let mut nft = nft.borrow_mut();
                nft.replace(&from).unwrap();
                let dump = |nft: &mut Nft| nft.dump(Family::Inet, &from.table, Detail::Full);
                let held = dump(&mut nft).unwrap().unwrap();
                assert_eq!(equal(&from, &held, &|_| false), Ok(()));
                nft.transition(&held, &to, &|_| false)
                    .unwrap_or_else(|e| panic!("{e}\n{}\n{}", render(&from), render(&to)));
                let held = dump(&mut nft).unwrap().unwrap();
                assert_eq!(equal(&to, &held, &|_| false), Ok(()));
                Ok(())
            })
            .unwrap();
    });
}

#[test]
fn the_text_of_an_empty_table_is_an_empty_table() {
    fresh(|| {
        let mut nft = Nft::open().unwrap();
        let ruleset = parse(&format!("table inet {TABLE} {{\n}}\n")).unwrap();
        nft.replace(&ruleset).unwrap();
        let held = nft.dump(Family::Inet, TABLE, Detail::Full).unwrap();
        assert_eq!(held, Some(ruleset));
    });
}
