//! The rerankers of a server, best and slowest first, and how fast each of them runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::inference::{NamedReranker, Reranker, RerankerKind};

use super::SearchError;
use super::searcher::{Request, Searcher};

/// Weight of the newest measurement of a reranker's pace.
const PACE_NEWEST_WEIGHT: f64 = 0.2;
/// A pace that made us skip shrinks by this, so that one slow moment does not switch reranking off for good.
const PACE_FADE: f64 = 0.9;
/// Least time between two shrinkings: how often it is tried again must not depend on how many searches skip it.
const BETWEEN_FADES: Duration = Duration::from_secs(1);
/// Of the time that is left, a tier with another one behind it may have this part.
const BEFORE_ANOTHER: f64 = 0.8;

/// One reranker with its pace.
pub(super) struct Tier {
    pub name: String,
    pub kind: RerankerKind,
    pub reranker: Arc<dyn Reranker>,
    pub pace: Pace,
}

/// How long a reranker takes for one passage, learned as it runs.
#[derive(Debug, Default)]
pub(super) struct Pace {
    nanos_per_passage: AtomicU64,
    faded_at: Mutex<Option<Instant>>,
}

impl Tier {
    pub(super) fn new(named: NamedReranker) -> Self {
        let pace = Pace::default();
        if let Some(expected) = named.reranker.expected_pace() {
            pace.learn(1, expected);
        }
        Self { name: named.name, kind: named.kind, reranker: named.reranker, pace }
    }
}

impl Pace {
    /// How many passages fit into `time`; everything while nothing is known yet.
    pub(super) fn affordable(&self, time: Duration) -> usize {
        match self.nanos_per_passage.load(Ordering::Relaxed) {
            0 => usize::MAX,
            pace => usize::try_from(time.as_nanos() / u128::from(pace)).unwrap_or(usize::MAX),
        }
    }

    // Two updates at once may lose one of them, which a running average forgives.
    pub(super) fn learn(&self, passages: usize, took: Duration) {
        let newest = took.as_nanos() as f64 / passages.max(1) as f64;
        let known = self.nanos_per_passage.load(Ordering::Relaxed) as f64;
        let pace = if known == 0.0 { newest } else { known + PACE_NEWEST_WEIGHT * (newest - known) };
        self.nanos_per_passage.store((pace as u64).max(1), Ordering::Relaxed);
    }

    /// How long so many passages take; nothing while nothing is known yet.
    pub(super) fn time_for(&self, passages: usize) -> Duration {
        Duration::from_nanos(self.nanos_per_passage.load(Ordering::Relaxed).saturating_mul(passages as u64))
    }

    pub(super) fn fade(&self) {
        let now = Instant::now();
        let mut faded_at = self.faded_at.lock();
        if faded_at.is_some_and(|at| now.saturating_duration_since(at) < BETWEEN_FADES) {
            return;
        }
        *faded_at = Some(now);
        let known = self.nanos_per_passage.load(Ordering::Relaxed) as f64;
        self.nanos_per_passage.store((known * PACE_FADE) as u64, Ordering::Relaxed);
    }
}

impl Searcher {
    /// Those that a query may be reranked by, best first: all, or the one that it names.
    pub(super) fn tiers_of(&self, request: &Request<'_>) -> Vec<&Tier> {
        let named = request.query.rerank.model.as_ref();
        self.tiers.iter().filter(|tier| named.is_none_or(|name| tier.name == *name)).collect()
    }

    /// Until when all tiers may work that have another one behind them: the budget of the search bounds them, and the
    /// last one keeps the time that it needs.
    pub(super) fn better_until(&self, (start, until): (Instant, Instant), last_takes: Duration) -> Instant {
        let left = until.saturating_duration_since(start);
        let part = left.saturating_sub(last_takes).min(left.mul_f64(BEFORE_ANOTHER));
        start + part.min(Duration::from_millis(self.settings.rerank.budget_ms))
    }

    /// A name that no reranker of this server has is a mistake, not a reason to rerank by another. One that should be
    /// here and could not be loaded is no mistake of the caller: the search says that it is unavailable.
    pub(super) fn check_reranker(&self, name: Option<&String>) -> Result<(), SearchError> {
        let loaded = self.tiers.iter().map(|tier| &tier.name);
        let is_here = |name: &String| loaded.clone().chain(&self.reranker_names).any(|known| known == name);
        match name {
            Some(name) if !is_here(name) => {
                let away = self.reranker_names.iter().filter(|name| !loaded.clone().any(|here| here == *name));
                let away = away.map(|name| format!("{name} (not loaded)"));
                let known: Vec<String> = loaded.clone().cloned().chain(away).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(SearchError::UnknownReranker { reranker: name.clone(), known })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_learned_and_fades() {
        let pace = Pace::default();
        assert_eq!(pace.affordable(Duration::from_millis(1)), usize::MAX);

        pace.learn(10, Duration::from_millis(100));
        assert_eq!(pace.affordable(Duration::from_millis(45)), 4);

        pace.fade();
        assert_eq!(pace.affordable(Duration::from_millis(45)), 5);
    }
}
