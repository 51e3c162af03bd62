//! Percentile bootstrap intervals over queries (Efron, Annals of Statistics 1979; for retrieval metrics Sakai,
//! SIGIR 2006).
//!
//! Two systems are compared pair by pair: queries differ far more from each other than systems do, so an interval
//! of the difference of means is much narrower than the two intervals of the means suggest.

/// A mean with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// How an interval is made. Equal settings and values give equal intervals, on every machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// How often the queries are drawn anew. 10,000: the ends then move by less than a hundredth of the width.
    pub resamples: usize,
    /// Share of the resampled means inside, between 0 and 1.
    pub confidence: f64,
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 10_000, confidence: 0.95, seed: 0x70_6c75_6d62 }
    }
}

impl Bootstrap {
    /// Mean of `values` with its interval; `None` if there are none.
    pub fn mean(&self, values: &[f64]) -> Option<Interval> {
        if values.is_empty() || self.resamples == 0 {
            return None;
        }
        let mut random = SplitMix64(self.seed);
        let mut means: Vec<f64> = (0..self.resamples).map(|_| resampled_mean(values, &mut random)).collect();
        means.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        let low = (tail * means.len() as f64).floor() as usize;
        let last = means.len() - 1;
        let low = low.min(last);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Interval { mean, low: means[low], high: means[last - low] })
    }

    /// Mean of `ours[i] - theirs[i]` with its interval; `None` if there are no pairs.
    ///
    /// # Panics
    /// If the lengths differ: such values are not pairs.
    pub fn paired_difference(&self, ours: &[f64], theirs: &[f64]) -> Option<Interval> {
        assert_eq!(ours.len(), theirs.len(), "paired values come in pairs");
        let differences: Vec<f64> = ours.iter().zip(theirs).map(|(our, their)| our - their).collect();
        self.mean(&differences)
    }
}

fn resampled_mean(values: &[f64], random: &mut SplitMix64) -> f64 {
    let sum: f64 = (0..values.len()).map(|_| values[random.below(values.len())]).sum();
    sum / values.len() as f64
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Ours, because general generators may change between releases
/// and recorded intervals must not.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `bound - 1` by multiplication; the bias is below `bound / 2^64`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUICK: Bootstrap = Bootstrap { resamples: 500, confidence: 0.95, seed: 1 };

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64(1_234_567);

        // First outputs of the reference implementation for this seed.
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn the_width_is_what_the_central_limit_theorem_says() {
        // 400 coin flips: standard error 0.5 / 20 = 0.025, so the interval is about 0.5 ± 0.049.
        let flips: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let interval = Bootstrap::default().mean(&flips).unwrap();

        assert_eq!(interval.mean, 0.5);
        assert!((interval.low - 0.451).abs() < 0.004 && (interval.high - 0.549).abs() < 0.004, "{interval:?}");
    }

    #[test]
    fn pairs_tell_a_small_steady_difference_from_none() {
        let theirs: Vec<f64> = (0..100).map(|i| f64::from(i % 10) / 10.0).collect();
        let ours: Vec<f64> = theirs.iter().map(|value| value + 0.01).collect();

        let steady = QUICK.paired_difference(&ours, &theirs).unwrap();
        let none = QUICK.paired_difference(&theirs, &theirs).unwrap();

        assert!(steady.low > 0.0);
        assert_eq!(none, Interval { mean: 0.0, low: 0.0, high: 0.0 });
    }

    #[test]
    fn nothing_has_no_interval() {
        assert_eq!(QUICK.mean(&[]), None);
    }

    proptest! {
        #[test]
        fn an_interval_is_repeatable_and_stays_within_the_values(
            values in proptest::collection::vec(0.0..1.0_f64, 1..40), seed in any::<u64>(),
        ) {
            let bootstrap = Bootstrap { seed, ..QUICK };
            let interval = bootstrap.mean(&values).unwrap();
            let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
            let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);

            prop_assert_eq!(bootstrap.mean(&values), Some(interval));
            prop_assert!(interval.low <= interval.high);
            prop_assert!(interval.low >= smallest - 1e-9 && interval.high <= largest + 1e-9);
        }

        #[test]
        fn swapping_the_systems_mirrors_the_interval(
            pairs in proptest::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 1..30),
        ) {
            let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            let one = QUICK.paired_difference(&ours, &theirs).unwrap();
            let other = QUICK.paired_difference(&theirs, &ours).unwrap();

            prop_assert!((one.mean + other.mean).abs() < 1e-12);
            prop_assert!((one.low + other.high).abs() < 1e-9 && (one.high + other.low).abs() < 1e-9);
        }
    }
}
