//! What one search tells about itself: times, and every stage that was skipped or cut short.

use std::time::{Duration, Instant};

use metrics::{counter, histogram};

use crate::domain::{Degraded, Mode, StageTimings};

/// Collected while a search runs.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub timings: StageTimings,
    pub degraded: Vec<Degraded>,
}

impl Report {
    /// Notes a stage that was skipped or cut short; naming it twice changes nothing.
    pub(super) fn degrade(&mut self, stage: &'static str, reason: &'static str) {
        let entry = Degraded { stage, reason };
        if !self.degraded.contains(&entry) {
            self.degraded.push(entry);
        }
    }

    /// Records the whole as metrics.
    pub(super) fn record(&self, mode: Mode, took: Duration) {
        let StageTimings { embed_ms, lexical_ms, vector_ms, fusion_ms, rerank_ms, hydrate_ms } = self.timings;
        for (stage, spent_ms) in [
            ("embed", embed_ms),
            ("lexical", lexical_ms),
            ("vector", vector_ms),
            ("fusion", fusion_ms),
            ("rerank", rerank_ms),
            ("hydrate", hydrate_ms),
        ] {
            // A stage that did not run must not pull the distribution towards 0.
            if spent_ms > 0.0 {
                histogram!("plumb_search_stage_seconds", "stage" => stage).record(spent_ms / 1000.0);
            }
        }
        for Degraded { stage, reason } in &self.degraded {
            counter!("plumb_search_degraded_total", "stage" => *stage, "reason" => *reason).increment(1);
        }
        histogram!("plumb_search_seconds", "mode" => mode_name(mode)).record(took.as_secs_f64());
    }
}

/// Milliseconds since `start`.
pub(super) fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Hybrid => "hybrid",
        Mode::Lexical => "lexical",
        Mode::Vector => "vector",
    }
}
