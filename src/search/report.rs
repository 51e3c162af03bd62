//! What one search tells about itself: times, and every stage that was skipped or cut short.

use std::time::{Duration, Instant};

use metrics::{counter, histogram};

use tracing::field::{Empty, display};
use tracing::{Span, debug_span};

use crate::domain::{Degraded, ErrorKind, Mode, Query, SearchResult, StageTimings};

use super::SearchError;

/// Collected while a search runs.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub timings: StageTimings,
    pub degraded: Vec<Degraded>,
    /// The reranker that ordered the head.
    pub reranked_by: Option<String>,
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

/// The span of a whole search. Its fields are numbers and ids: the recorder makes a row of them.
pub(super) fn search_span(query: &Query) -> Span {
    debug_span!(
        "search",
        collection = query.collection.as_str(),
        mode = mode_name(query.mode),
        top_k = query.top_k,
        generation = Empty,
        hits = Empty,
        took_us = Empty,
        embed_us = Empty,
        lexical_us = Empty,
        vector_us = Empty,
        fusion_us = Empty,
        rerank_us = Empty,
        hydrate_us = Empty,
        degraded = Empty,
        refused = Empty,
        error = Empty,
    )
}

/// What came of the search, in its span.
pub(super) fn record_outcome(span: &Span, outcome: &Result<SearchResult, SearchError>) {
    if span.is_disabled() {
        return;
    }
    let found = match outcome {
        Ok(found) => found,
        Err(error) => {
            // A caller's own fault is no failure of ours.
            let field = if is_failure(error.kind()) { "error" } else { "refused" };
            span.record(field, error.reason());
            return;
        }
    };
    let StageTimings { embed_ms, lexical_ms, vector_ms, fusion_ms, rerank_ms, hydrate_ms } = found.timings;
    for (field, spent_ms) in [
        ("took_us", found.took_ms),
        ("embed_us", embed_ms),
        ("lexical_us", lexical_ms),
        ("vector_us", vector_ms),
        ("fusion_us", fusion_ms),
        ("rerank_us", rerank_ms),
        ("hydrate_us", hydrate_ms),
    ] {
        span.record(field, (spent_ms * 1e3).round() as u64);
    }
    span.record("hits", found.hits.len());
    if let Some(generation) = found.generation {
        span.record("generation", display(generation));
    }
    if !found.degraded.is_empty() {
        let stages: Vec<String> = found.degraded.iter().map(ToString::to_string).collect();
        span.record("degraded", stages.join(","));
    }
}

fn is_failure(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Internal
            | ErrorKind::Corrupt
            | ErrorKind::Upstream
            | ErrorKind::Unavailable
            | ErrorKind::DeadlineExceeded
            | ErrorKind::StorageFull
    )
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
