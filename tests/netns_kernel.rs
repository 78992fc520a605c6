//! Rulesets to and from the real kernel, side by side with Debian's nft. Needs root.

#[path = "common/netns.rs"]
mod netns;

use netns::{assert_same_listing, fresh, nft_json, nft_load};
use terok_shield::nft::kernel::{Detail, Nft};
use terok_shield::nft::model::Family;

/// Every kind of set, element and expression of the model, as nft writes it.
const EVERYTHING: &str = include_str!("data/everything.nft");

#[test]
fn what_nft_loaded_we_read_and_load_so_that_nft_lists_the_same() {
    for (family, word) in [
        (Family::Inet, "inet"),
        (Family::Ip, "ip"),
        (Family::Ip6, "ip6"),
    ] {
        let (theirs, ruleset) = fresh(move || {
            nft_load(EVERYTHING);
            let ruleset = Nft::open().unwrap().dump(family, "t", Detail::Full);
            (nft_json(word, "t"), ruleset.unwrap().unwrap())
        });
        let ours = fresh(move || {
            let mut nft = Nft::open().unwrap();
            nft.replace(&ruleset).unwrap();
            let again = nft.dump(family, "t", Detail::Full).unwrap().unwrap();
            (nft_json(word, "t"), ruleset, again)
        });
        assert_same_listing(&theirs, &ours.0);
        assert_eq!(ours.1.chains, ours.2.chains);
    }
}
