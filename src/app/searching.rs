//! What searching is made of.

use std::sync::Arc;

use crate::config::Config;
use crate::domain::TraceId;
use crate::index::{ComputePool, Generations, IndexProgress};
use crate::search::{SearchParts, Searcher, ShadowJobs, shadow_queue};
use crate::store::{CorpusStore, SqliteStore};
use crate::telemetry::{current_span, new_trace_id};

use super::models::{LoadedModels, query_caches};

/// The searcher, and what it leaves for shadow searches.
pub(super) fn searcher(
    config: &Config,
    store: &Arc<SqliteStore>,
    models: &LoadedModels,
    (indexes, compute, progress): (&Arc<Generations>, &Arc<ComputePool>, &Arc<IndexProgress>),
) -> (Arc<Searcher>, ShadowJobs) {
    let (shadow, jobs) = shadow_queue(current_trace);
    let parts = SearchParts {
        store: store.clone() as Arc<dyn CorpusStore>,
        indexes: indexes.clone(),
        progress: progress.clone(),
        compute: compute.clone(),
        embedders: models.embedders(),
        rerankers: models.rerankers.clone(),
        reranker_names: models.reranker_names.clone(),
        query_caches: query_caches(models, config),
        shadow: Some(shadow),
        settings: config.search.clone(),
    };
    (Arc::new(Searcher::new(parts)), jobs)
}

/// The trace that a search runs in, or one of its own where none is recorded.
fn current_trace() -> TraceId {
    current_span().map_or_else(new_trace_id, |(trace, _)| trace)
}
