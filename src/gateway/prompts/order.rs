//! Which of two versions is the newer one.

use std::cmp::Ordering;

/// Compares versions so that runs of digits count as numbers: `2` before `10`, `1.9` before `1.10`.
///
/// Different texts are never equal: what counts the same (`1` and `01`) is ordered as text.
pub fn by_version(left: &str, right: &str) -> Ordering {
    let (mut a, mut b) = (left, right);
    while !a.is_empty() && !b.is_empty() {
        let (first, second) = (take_run(&mut a), take_run(&mut b));
        let order = match (is_number(first), is_number(second)) {
            (true, true) => by_number(first, second),
            _ => first.cmp(second),
        };
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len()).then_with(|| left.cmp(right))
}

// Takes the longest start that is digits only or free of digits.
fn take_run<'t>(text: &mut &'t str) -> &'t str {
    let digits = is_number(text);
    let end = text.find(|letter: char| letter.is_ascii_digit() != digits).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

fn is_number(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_digit())
}

// As texts: a version may be longer than any integer type.
fn by_number(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_in_versions_count_as_numbers() {
        let sorted = ["1", "01", "1-a", "1.2", "1.9", "1.10", "2", "10", "v2", "v10", "99999999999999999999999"];
        let mut versions = sorted;
        versions.reverse();

        versions.sort_by(|a, b| by_version(a, b));

        assert_eq!(
            versions,
            ["01", "1", "1-a", "1.2", "1.9", "1.10", "2", "10", "99999999999999999999999", "v2", "v10"]
        );
    }

    proptest! {
        #[test]
        fn the_order_is_total(versions in proptest::collection::vec("[0-2a.-]{0,5}", 3)) {
            let [a, b, c] = [&versions[0], &versions[1], &versions[2]];

            prop_assert_eq!(by_version(a, b), by_version(b, a).reverse());
            prop_assert_eq!(by_version(a, b).is_eq(), a == b);
            if by_version(a, b).is_le() && by_version(b, c).is_le() {
                prop_assert!(by_version(a, c).is_le());
            }
        }
    }
}
