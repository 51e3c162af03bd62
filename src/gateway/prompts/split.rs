//! Which version a unit of traffic gets: weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted
//! Distributed Hash Tables", SPAA 2005).
//!
//! Each version draws a number for each unit and the weights decide who wins, so that a unit keeps its version, and a
//! change of one weight moves units only to or from that version.

use crate::domain::hash_parts;

/// The place of the candidate that `unit` belongs to; `None` if no weight is above 0.
///
/// Candidates are version and weight, all of the prompt `name`. Over many units each gets its share of the weights.
pub fn choose<'v>(name: &str, unit: &[u8], candidates: impl Iterator<Item = (&'v str, u32)>) -> Option<usize> {
    let scored = candidates.enumerate().filter(|(_, (_, weight))| *weight > 0);
    let scored = scored.map(|(place, (version, weight))| (place, score(draw(name, version, unit), weight)));
    scored.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(place, _)| place)
}

/// A number above 0 and below 1, the same for the same texts.
fn draw(name: &str, version: &str, unit: &[u8]) -> f64 {
    let hash = hash_parts(&[b"prompt split", name.as_bytes(), version.as_bytes(), unit]);
    let mut head = [0; 8];
    head.copy_from_slice(&hash[..8]);
    // 52 bits and a half: exact in a float, and never 0 or 1.
    ((u64::from_le_bytes(head) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// `-weight / ln(draw)`: the highest of these falls to each candidate with the probability of its weight's share.
fn score(draw: f64, weight: u32) -> f64 {
    -f64::from(weight) / draw.ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VERSIONS: [&str; 4] = ["1", "2", "3", "10"];
    const UNITS: usize = 1_000;

    fn chosen(weights: &[u32]) -> Vec<Option<usize>> {
        let candidates = || VERSIONS.iter().copied().zip(weights.iter().copied());
        (0..UNITS).map(|unit| choose("answer", format!("session-{unit}").as_bytes(), candidates())).collect()
    }

    #[test]
    fn the_score_is_the_weight_over_the_logarithm_of_the_draw() {
        assert!((score((-1.0_f64).exp(), 3) - 3.0).abs() < 1e-12);
        assert!((score((-2.0_f64).exp(), 3) - 1.5).abs() < 1e-12);
    }

    #[test]
    fn without_any_weight_nothing_is_chosen_and_a_lone_weight_takes_all() {
        assert!(chosen(&[0, 0]).iter().all(Option::is_none));
        assert!(chosen(&[0, 7, 0]).iter().all(|place| *place == Some(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn shares_follow_the_weights(weights in proptest::collection::vec(0_u32..20, 2..=4)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let total: u32 = weights.iter().sum();

            let chosen = chosen(&weights);

            for (place, weight) in weights.iter().enumerate() {
                let share = f64::from(*weight) / f64::from(total);
                let found = chosen.iter().filter(|one| **one == Some(place)).count() as f64 / UNITS as f64;
                // Six standard deviations of a binomial share.
                let tolerance = 6.0 * (share * (1.0 - share) / UNITS as f64).sqrt();
                prop_assert!((found - share).abs() <= tolerance, "{weights:?}: version {place} has {found}, not {share}");
            }
        }

        #[test]
        fn a_raised_weight_moves_units_to_its_version_only_and_no_more_than_its_share_grows(
            weights in proptest::collection::vec(1_u32..20, 2..=4),
            more in 1_u32..20,
        ) {
            let mut raised = weights.clone();
            raised[0] += more;
            let share = |weights: &[u32]| f64::from(weights[0]) / f64::from(weights.iter().sum::<u32>());
            let growth = share(&raised) - share(&weights);

            let (before, after) = (chosen(&weights), chosen(&raised));

            let moved: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old != new).collect();
            prop_assert!(moved.iter().all(|(_, new)| **new == Some(0)));
            let tolerance = 6.0 * (growth * (1.0 - growth) / UNITS as f64).sqrt();
            prop_assert!(moved.len() as f64 / UNITS as f64 <= growth + tolerance, "{} of {UNITS} moved", moved.len());
        }
    }
}
