//! Making any mix of overlapping, duplicate and nested networks fit an interval set, which holds
//! disjoint ranges only.

use crate::ipnet::{IpNet, from_number, to_number};
use crate::nft::model::Element;
use std::net::IpAddr;

/// A destination somebody allowed, for good or for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// What is allowed.
    pub net: IpNet,
    /// For how much longer, milliseconds; `None` is for good.
    pub remaining: Option<u64>,
}

/// Inclusive range of addresses of one family, as numbers.
type Range = (u128, u128);

/// The networks without those inside another one, ascending. Networks nest or are disjoint, so
/// nothing else can overlap.
pub fn outermost(mut nets: Vec<IpNet>) -> Vec<IpNet> {
    // Derived order: family, first address, then prefix length, so an outer one comes first.
    crate::sort::sort(&mut nets);
    nets.dedup_by(|next, kept| kept.contains(next));
    nets
}

/// Elements of one family for these grants less `denied`: disjoint, and every address lives as
/// long as the longest grant that covers it.
pub fn elements(grants: &[Grant], denied: &[IpNet], ipv4: bool) -> Vec<Element> {
    let family = |net: &&IpNet| net.is_ipv4() == ipv4;
    let like = if ipv4 {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    };

    let permanent = grants
        .iter()
        .filter(|g| g.remaining.is_none())
        .map(|g| g.net);
    let permanent = outermost(permanent.filter(|n| family(&n)).collect());
    let mut timed: Vec<&Grant> = grants
        .iter()
        .filter(|g| g.remaining.is_some() && family(&&g.net))
        .collect();
    crate::sort::sort_by_key(&mut timed, |g| std::cmp::Reverse(g.remaining));

    let denied: Vec<Range> = outermost(denied.iter().filter(family).copied().collect())
        .iter()
        .map(range)
        .collect();
    // What is spoken for: denied addresses and those that live at least as long.
    let mut taken = denied;
    let mut out = Vec::with_capacity(permanent.len() + timed.len());
    let layers = permanent
        .iter()
        .map(|n| (n, None))
        .chain(timed.iter().map(|g| (&g.net, g.remaining)));
    let mut claimed: Vec<Range> = Vec::with_capacity(permanent.len());
    for (net, remaining) in layers {
        if remaining.is_some() && !claimed.is_empty() {
            taken.append(&mut claimed);
            crate::sort::sort(&mut taken);
        }
        for (first, last) in subtract(range(net), &taken) {
            claimed.push((first, last));
            let (first, last) = (from_number(first, like), from_number(last, like));
            out.push(Element {
                timeout: remaining,
                ..Element::range(first, last)
            });
        }
    }
    crate::sort::sort(&mut out);
    out
}

fn range(net: &IpNet) -> Range {
    (to_number(net.first()), to_number(net.last()))
}

/// The parts of `from` that no range of `taken` (ascending, disjoint) covers.
fn subtract(from: Range, taken: &[Range]) -> Vec<Range> {
    let (mut first, last) = from;
    let mut left = Vec::new();
    let start = taken.partition_point(|&(_, end)| end < first);
    for &(a, b) in &taken[start..] {
        if a > last {
            break;
        }
        if a > first {
            left.push((first, a - 1));
        }
        if b >= last {
            return left;
        }
        first = b + 1;
    }
    left.push((first, last));
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|s| s.parse().unwrap()).collect()
    }

    fn show(elements: &[Element]) -> Vec<String> {
        elements
            .iter()
            .map(|e| match e.timeout {
                None => format!("{}-{}", e.first, e.last),
                Some(t) => format!("{}-{} {t}", e.first, e.last),
            })
            .collect()
    }

    fn forever(list: &[&str]) -> Vec<Grant> {
        nets(list)
            .into_iter()
            .map(|net| Grant {
                net,
                remaining: None,
            })
            .collect()
    }

    #[test]
    fn nested_and_duplicate_networks_leave_the_outermost() {
        let mixed = [
            "10.0.0.1",
            "10.0.0.0/24",
            "10.0.0.0/24",
            "10.0.0.0/8",
            "::1",
            "11.0.0.1",
            "11.0.0.2",
        ];
        assert_eq!(
            outermost(nets(&mixed)),
            nets(&["10.0.0.0/8", "11.0.0.1", "11.0.0.2", "::1"])
        );
    }

    #[test]
    fn a_denied_address_is_cut_out_of_a_network() {
        let cut = elements(
            &forever(&["10.0.0.0/30", "::1"]),
            &nets(&["10.0.0.1", "::2"]),
            true,
        );
        assert_eq!(show(&cut), ["10.0.0.0-10.0.0.0", "10.0.0.2-10.0.0.3"]);
        let all = elements(
            &forever(&["0.0.0.0/0"]),
            &nets(&["0.0.0.0", "255.255.255.255"]),
            true,
        );
        assert_eq!(show(&all), ["0.0.0.1-255.255.255.254"]);
        assert!(elements(&forever(&["::/0"]), &nets(&["::/0"]), false).is_empty());
    }

    #[test]
    fn every_address_lives_as_long_as_its_longest_grant() {
        let mut grants = forever(&["192.0.2.1"]);
        for (net, ms) in [("192.0.2.0/30", 5), ("192.0.2.2", 9), ("192.0.2.0/29", 3)] {
            grants.push(Grant {
                net: net.parse().unwrap(),
                remaining: Some(ms),
            });
        }
        assert_eq!(
            show(&elements(&grants, &[], true)),
            [
                "192.0.2.0-192.0.2.0 5",
                "192.0.2.1-192.0.2.1",
                "192.0.2.2-192.0.2.2 9",
                "192.0.2.3-192.0.2.3 5",
                "192.0.2.4-192.0.2.7 3",
            ]
        );
    }

    fn small_net() -> impl Strategy<Value = IpNet> {
        (0u8..=15, 28u8..=32).prop_map(|(a, p)| IpNet::new(IpAddr::from([10, 0, 0, a]), p).unwrap())
    }

    proptest! {
        #[test]
        fn elements_say_exactly_what_the_grants_say(
            grants in prop::collection::vec((small_net(), prop::option::of(1u64..4)), 0..8),
            denied in prop::collection::vec(small_net(), 0..3),
        ) {
            let grants: Vec<Grant> =
                grants.into_iter().map(|(net, remaining)| Grant { net, remaining }).collect();
            let made = elements(&grants, &denied, true);
            for a in 0..=16u8 {
                let host = IpNet::from(IpAddr::from([10, 0, 0, a]));
                let rank = |r: Option<u64>| r.unwrap_or(u64::MAX);
                let meant = (!denied.iter().any(|d| d.contains(&host)))
                    .then(|| grants.iter().filter(|g| g.net.contains(&host)).map(|g| rank(g.remaining)).max())
                    .flatten();
                let covering: Vec<u64> = made
                    .iter()
                    .filter(|e| e.first <= host.first() && host.first() <= e.last)
                    .map(|e| rank(e.timeout))
                    .collect();
                prop_assert_eq!(covering, meant.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
