//! Sorting, compiled once. std's sorts come out of the compiler anew for every type and order, at
//! some 4 KB each; here all of them share one sort of positions, which asks for each comparison
//! through a pointer. Items move once, whatever their size.

use std::cmp::Ordering;

/// Sorts ascending, equal items in the order in which they came. O(n) where sorted already, else
/// O(n log n), with one word of memory an item.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, |a, b| a.cmp(b));
}

/// As [`sort`], in the order of `key`.
pub fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    sort_by(items, |a, b| key(a).cmp(&key(b)));
}

/// As [`sort`], in the order that `compare` says, which must be a total one.
pub fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    if items.is_sorted_by(|a, b| compare(a, b).is_le()) {
        return;
    }
    let mut from = positions(items.len(), &|a, b| compare(&items[a], &items[b]));
    // Each cycle of the permutation is walked once: `at` gets the item meant for it, and the next
    // place to fill is the one that item left.
    for start in 0..from.len() {
        let mut at = start;
        while from[at] != start {
            let next = std::mem::replace(&mut from[at], at);
            items.swap(at, next);
            at = next;
        }
        from[at] = at;
    }
}

/// Where each item of the sorted order is now.
fn positions(len: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut from: Vec<usize> = (0..len).collect();
    from.sort_unstable_by(|&a, &b| compare(a, b).then(a.cmp(&b)));
    from
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sorts_as_std_does(items: Vec<(u8, String)>) {
            let (mut ours, mut theirs) = (items.clone(), items.clone());
            sort(&mut ours);
            theirs.sort();
            prop_assert_eq!(&ours, &theirs);
            let (mut ours, mut theirs) = (items.clone(), items);
            sort_by_key(&mut ours, |item| item.0);
            theirs.sort_by_key(|item| item.0);
            prop_assert_eq!(ours, theirs);
        }
    }
}
