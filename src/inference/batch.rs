//! How many waiting rows run together.
//!
//! On a CPU a batch saves only the overhead of a run, so it helps short rows and wastes work where lengths differ.

/// Bounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchLimits {
    /// Most tokens, padding counted; a longer row runs alone.
    pub tokens: usize,
    pub rows: usize,
}

/// A row may be this much shorter than the longest of its batch: at most a fifth of a run is padding.
const SHORTEST_IN_PERCENT: usize = 80;

/// How many of the rows with these `lengths`, from the first on, form one batch: at least one of a list that is
/// not empty.
pub(super) fn batch_len(lengths: impl IntoIterator<Item = usize>, limits: BatchLimits) -> usize {
    let (mut shortest, mut longest, mut rows) = (usize::MAX, 0, 0);
    for length in lengths {
        shortest = shortest.min(length);
        longest = longest.max(length);
        let fits = rows < limits.rows
            && (rows + 1) * longest <= limits.tokens
            && shortest * 100 >= longest * SHORTEST_IN_PERCENT;
        if rows > 0 && !fits {
            break;
        }
        rows += 1;
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: BatchLimits = BatchLimits { tokens: 256, rows: 8 };

    #[test]
    fn rows_of_like_length_run_together() {
        assert_eq!(batch_len([30, 30, 29, 28], LIMITS), 4);
        assert_eq!(batch_len([30; 20], LIMITS), 8);
        assert_eq!(batch_len([128, 128, 128], LIMITS), 2);
        assert_eq!(batch_len([30, 5], LIMITS), 1);
        assert_eq!(batch_len([5, 30], LIMITS), 1);
        assert_eq!(batch_len([1_000, 10], LIMITS), 1);
        assert_eq!(batch_len([], LIMITS), 0);
    }

    proptest! {
        #[test]
        fn every_bound_holds(lengths in prop::collection::vec(1usize..600, 1..50)) {
            let rows = batch_len(lengths.iter().copied(), LIMITS);
            let batch = &lengths[..rows];
            let longest = batch.iter().max().unwrap();

            prop_assert!((1..=LIMITS.rows).contains(&rows));
            prop_assert!(rows == 1 || rows * longest <= LIMITS.tokens);
            prop_assert!(batch.iter().all(|length| length * 100 >= longest * SHORTEST_IN_PERCENT));
        }
    }
}
