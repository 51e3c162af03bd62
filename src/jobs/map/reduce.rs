//! How outputs are grouped so that each call reads only so much of them. Pure.

use std::ops::Range;

/// Divides outputs of these sizes into groups of at most `budget`, in order. Two fit into a group however long they are:
/// with fewer, there would be no end.
pub fn groups(sizes: &[usize], budget: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut used = 0;
    for (index, size) in sizes.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if group.len() < 2 || used + size <= budget => {
                group.end = index + 1;
                used += size;
            }
            _ => {
                groups.push(index..index + 1);
                used = *size;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_as_much_as_fits_and_at_least_two() {
        assert_eq!(groups(&[4, 4, 4, 4, 4], 8), [0..2, 2..4, 4..5]);
        assert_eq!(groups(&[9, 9, 9], 8), [0..2, 2..3]);
        assert_eq!(groups(&[1, 1, 1, 9], 8), [0..3, 3..4]);
        assert_eq!(groups(&[99], 8).len(), 1);
        assert!(groups(&[], 8).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn every_output_is_in_one_group_and_there_is_an_end(
            sizes in proptest::collection::vec(0usize..50, 1..200), budget in 1usize..100,
        ) {
            let mut left = sizes.clone();
            let mut levels = 0;
            loop {
                let found = groups(&left, budget);
                let joined: Vec<usize> = found.iter().cloned().flatten().collect();
                proptest::prop_assert_eq!(joined, (0..left.len()).collect::<Vec<_>>());
                if found.len() == 1 {
                    break;
                }
                left = found.iter().map(|group| left[group.clone()].iter().sum()).collect();
                levels += 1;
                proptest::prop_assert!(levels < 10);
            }
        }
    }
}
