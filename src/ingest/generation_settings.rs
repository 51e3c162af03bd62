//! Settings of generations that are built beside the live one: how gently, and how long they stay.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const MICROS_A_DAY: f64 = 86_400_000_000.0;

/// How generations are built, moved to and removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationSettings {
    /// Documents that are built in one transaction. 8: what a crash cuts off has to be embedded again, and the cost of
    /// making it durable is shared.
    pub documents_at_once: usize,
    /// Share of the time in which a building works; it rests as long as it must after each call to the embedder. From
    /// above 0 to 1. Default 0.35: with two clients that search without a pause on two cores, p95 was 1.18 times that
    /// before, and 1.52 times at 0.5 (`cargo bench --bench generations`).
    pub build_share: f64,
    /// Documents that change their generation in one transaction. 256: some milliseconds of the writer.
    pub move_documents: usize,
    /// How long a promotion or a going back moves documents before it answers; the rest follows by itself, in
    /// milliseconds. 10 000: some ten thousands of documents.
    pub move_wait_ms: u64,
    /// Days that a generation which was replaced can be gone back to. 7: a week shows every kind of day.
    pub soak_days: f64,
    /// Time between two looks at what generations need, in milliseconds. 2000: what is written meanwhile is served from
    /// the live one, so nobody waits for it.
    pub tend_interval_ms: u64,
    /// Time between retiring a generation and removing it, in milliseconds. 15 000: searches that are under way have
    /// ended and the indexer has let go.
    pub remove_after_ms: u64,
    /// Rows that one step removes of a retired generation. 2000: some milliseconds of the writer.
    pub remove_rows: usize,
    /// Texts that are asked of a language model at the same time for a building. 4: what small servers do side by side.
    pub contexts_at_once: usize,
    /// Longest text that a model may write to stand before a chunk, in bytes; more is cut. 400: some 90 tokens.
    pub context_bytes: usize,
}

impl Default for GenerationSettings {
    fn default() -> Self {
        Self {
            documents_at_once: 8,
            build_share: 0.35,
            move_documents: 256,
            move_wait_ms: 10_000,
            soak_days: 7.0,
            tend_interval_ms: 2000,
            remove_after_ms: 15_000,
            remove_rows: 2000,
            contexts_at_once: 4,
            context_bytes: 400,
        }
    }
}

impl GenerationSettings {
    /// A sentence for each value that cannot be.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(self.build_share > 0.0 && self.build_share <= 1.0) {
            problems.push(format!("build_share is {}, it must be above 0 and at most 1", self.build_share));
        }
        if !(0.0..=3650.0).contains(&self.soak_days) {
            problems.push(format!("soak_days is {}, from 0 to 3650 are possible", self.soak_days));
        }
        problems
    }

    /// How long to rest after so much work.
    pub(super) fn rest_after(&self, worked: Duration) -> Duration {
        let share = self.build_share.clamp(0.01, 1.0);
        worked.mul_f64((1.0 - share) / share)
    }

    /// How long a generation that was replaced stays, in microseconds.
    pub fn soak_us(&self) -> i64 {
        (self.soak_days * MICROS_A_DAY) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_time_means_a_rest_as_long_as_the_work() {
        let settings = GenerationSettings { build_share: 0.5, ..GenerationSettings::default() };
        let all = GenerationSettings { build_share: 1.0, ..GenerationSettings::default() };

        assert_eq!(settings.rest_after(Duration::from_millis(30)), Duration::from_millis(30));
        assert_eq!(all.rest_after(Duration::from_millis(30)), Duration::ZERO);
        assert_eq!(settings.soak_us(), 7 * 86_400 * 1_000_000);
    }

    #[test]
    fn what_cannot_be_is_told_by_name() {
        let settings = GenerationSettings { build_share: 0.0, soak_days: f64::NAN, ..GenerationSettings::default() };

        let problems = settings.problems();

        assert!(problems[0].contains("build_share") && problems[1].contains("soak_days"), "{problems:?}");
        assert!(GenerationSettings::default().problems().is_empty());
    }
}
