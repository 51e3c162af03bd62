//! The walk of a search: wait for the index, plan, retrieve, fuse, read back, rerank, group, present.
//!
//! Whatever the indexes say, only what the truth confirms leaves: candidates are ids until they have been read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{Instrument, debug_span};

use crate::domain::{Collection, Mode, Query, SearchResult, Sequence, TenantScope};
use crate::index::{ComputePool, Generations, IndexProgress};
use crate::inference::{Embedder, EmbeddingCache, Reranker};
use crate::store::{CorpusStore, WithEmbeddings};

use super::fusion::{Fused, fuse, single};
use super::legs::{Index, LegInput, Retrieved};
use super::plan::Plan;
use super::present::Groups;
use super::report::{Report, ms_since, record_outcome, search_span};
use super::rerank::{Pace, TailScale};
use super::survivors::{Candidates, MOST_READ, Portion, Survivor};
use super::{DEFAULT_COLLECTION, SearchError, SearchSettings};

/// What a [`Searcher`] is made of.
pub struct SearchParts {
    pub store: Arc<dyn CorpusStore>,
    pub indexes: Arc<Generations>,
    pub progress: Arc<IndexProgress>,
    pub compute: Arc<ComputePool>,
    /// `None`: no model is at hand; hybrid searches are lexical and say so.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// Of that embedder; `None`: every query is embedded anew.
    pub query_cache: Option<Arc<EmbeddingCache>>,
    pub reranker: Option<Arc<dyn Reranker>>,
    pub settings: SearchSettings,
}

/// Answers queries. Cheap to share; holds no state that a search could spoil for another one.
pub struct Searcher {
    pub(super) store: Arc<dyn CorpusStore>,
    pub(super) indexes: Arc<Generations>,
    pub(super) compute: Arc<ComputePool>,
    pub(super) embedder: Option<Arc<dyn Embedder>>,
    pub(super) reranker: Option<Arc<dyn Reranker>>,
    pub(super) settings: SearchSettings,
    pub(super) query_cache: Option<Arc<EmbeddingCache>>,
    pub(super) pace: Pace,
    progress: Arc<IndexProgress>,
}

/// One search as its stages see it.
pub(super) struct Request<'a> {
    pub scope: &'a TenantScope,
    pub query: &'a Query,
    pub plan: Plan,
    pub input: Arc<LegInput>,
    /// True if two legs were asked for, so that scores come from a fusion.
    pub is_fused: bool,
}

impl Searcher {
    pub fn new(parts: SearchParts) -> Self {
        Self {
            query_cache: parts.query_cache,
            pace: Pace::default(),
            store: parts.store,
            indexes: parts.indexes,
            compute: parts.compute,
            embedder: parts.embedder,
            reranker: parts.reranker,
            settings: parts.settings,
            progress: parts.progress,
        }
    }

    /// Answers a query that was taken at `taken_at`, the moment from which its deadline counts.
    ///
    /// Hits are best first with scores that never rise, ties by chunk id, at most `top_k`, fewer only if no more
    /// candidates may leave. A stage that was skipped or cut short is named in `degraded`; an error means that no
    /// leg could run. The default collection may be searched before anything was written to it, any other one
    /// not.
    pub async fn search(
        &self,
        scope: &TenantScope,
        query: &Query,
        taken_at: Instant,
    ) -> Result<SearchResult, SearchError> {
        let span = search_span(query);
        let outcome = self.run(scope, query, taken_at).instrument(span.clone()).await;
        record_outcome(&span, &outcome);
        outcome
    }

    async fn run(&self, scope: &TenantScope, query: &Query, taken_at: Instant) -> Result<SearchResult, SearchError> {
        let reading = self.store.collection(scope, &query.collection).instrument(debug_span!("store.collection"));
        let Some(collection) = reading.await? else {
            return unknown(query, taken_at);
        };
        let generation = collection.live.id;
        let plan = Plan::of(query, &self.settings, taken_at);
        if query.min_sequence.is_some() {
            self.wait_for_index(query, &collection, taken_at).instrument(debug_span!("search.wait_for_index")).await?;
        }
        let sequence = self.progress.visible_in(generation);
        let index = self.index_of(&collection.live, plan.work_until).await?;
        let request = request(scope, query, plan, (collection, index));
        let mut report = Report::default();
        if self.progress.is_behind(generation) {
            report.degrade("index", "catching_up");
        }

        let retrieved = self.retrieve(&request, &mut report).await?;
        let query_vector = retrieved.query_vector.clone();
        let candidates = self.fuse(query, retrieved, &mut report);
        let survivors = self.select(&request, candidates, query_vector.as_deref(), &mut report).await?;
        let reading = Instant::now();
        let hits = self.present(&request, survivors, &mut report).instrument(debug_span!("search.present")).await?;
        report.timings.hydrate_ms += ms_since(reading);

        report.record(query.mode, taken_at.elapsed());
        Ok(SearchResult {
            mode: query.mode,
            generation: Some(generation),
            sequence,
            hits,
            degraded: report.degraded,
            timings: report.timings,
            took_ms: ms_since(taken_at),
        })
    }

    async fn wait_for_index(
        &self,
        query: &Query,
        collection: &Collection,
        taken_at: Instant,
    ) -> Result<(), SearchError> {
        let Some(wanted) = query.min_sequence else { return Ok(()) };
        let retry_after_ms = self.settings.retry_after_ms;
        let reached = self.progress.visible_in(collection.live.id);
        if wanted > self.progress.newest().max(reached) {
            // Nobody has written it, so waiting would only keep a place from others.
            return Err(SearchError::IndexLagging { wanted, reached, retry_after_ms });
        }
        let limits = &self.settings.limits;
        let bound_ms = query.deadline_ms.unwrap_or(limits.max_deadline_ms).min(limits.max_index_wait_ms);
        let until = taken_at + Duration::from_millis(bound_ms);
        let waited = self.progress.wait(Some(collection.live.id), wanted, until).await;
        waited.map(|_| ()).map_err(|lagging| SearchError::IndexLagging {
            wanted,
            reached: lagging.reached,
            retry_after_ms,
        })
    }

    fn fuse(&self, query: &Query, retrieved: Retrieved, report: &mut Report) -> Vec<Fused> {
        let _span =
            debug_span!("search.fuse", lexical = retrieved.lexical.len(), vector = retrieved.vector.len()).entered();
        let start = Instant::now();
        let Retrieved { lexical, vector, .. } = retrieved;
        let fused = match query.mode {
            Mode::Hybrid => fuse(&lexical, &vector, &query.fusion, self.settings.fusion.convex_floor),
            Mode::Lexical | Mode::Vector => single(&lexical, &vector),
        };
        report.timings.fusion_ms = ms_since(start);
        fused
    }

    /// The survivors that become hits, in their final order.
    async fn select(
        &self,
        request: &Request<'_>,
        fused: Vec<Fused>,
        query_vector: Option<&[f32]>,
        report: &mut Report,
    ) -> Result<Vec<Survivor>, SearchError> {
        let reranks = request.query.rerank.enabled && self.reranker.is_some();
        let embeddings = if reranks { WithEmbeddings::Yes } else { WithEmbeddings::No };
        let mut candidates = Candidates::new(fused);
        let (wanted, read) = (request.plan.first_wanted, request.plan.first_read);
        let mut portion = Portion { wanted, read, embeddings };
        let hydrating = candidates.take(self, request, report, portion).instrument(debug_span!("search.hydrate"));
        let mut survivors = hydrating.await?;
        let tail_scale = if request.query.rerank.enabled {
            let span = debug_span!("search.rerank", survivors = survivors.len());
            self.rerank_head(request, query_vector, &mut survivors, report).instrument(span).await
        } else {
            TailScale::default()
        };

        let top_k = request.query.top_k;
        let mut groups = Groups::new(request.query.group_by.as_ref());
        let mut selected = Vec::with_capacity(top_k);
        portion.embeddings = WithEmbeddings::No;
        loop {
            let admitted = survivors.into_iter().filter(|one| groups.admit(&one.hydrated));
            selected.extend(admitted.take(top_k - selected.len()));
            let missing = top_k - selected.len();
            if missing == 0 || candidates.is_exhausted() {
                return Ok(selected);
            }
            // Of the next ones as many may be of a group that is there already, so a whole page is read, then more.
            (portion.wanted, portion.read) = (missing, portion.read.max(top_k).saturating_mul(2).min(MOST_READ));
            let hydrating = candidates.take(self, request, report, portion).instrument(debug_span!("search.hydrate"));
            survivors = hydrating.await?;
            tail_scale.apply(&mut survivors);
        }
    }
}

fn request<'a>(
    scope: &'a TenantScope,
    query: &'a Query,
    plan: Plan,
    (collection, index): (Collection, Index),
) -> Request<'a> {
    let input = LegInput {
        generation: collection.live,
        index,
        text: query.text.clone(),
        filter: query.filter.clone(),
        visibility: scope.visibility.clone(),
        depth: plan.depth,
        exact: query.exact,
    };
    Request { scope, query, plan, input: Arc::new(input), is_fused: query.mode == Mode::Hybrid }
}

/// Nothing was ever written: empty for the default collection, which every tenant has; else most likely a typo.
fn unknown(query: &Query, taken_at: Instant) -> Result<SearchResult, SearchError> {
    if query.collection.as_str() != DEFAULT_COLLECTION {
        return Err(SearchError::UnknownCollection { collection: query.collection.to_string() });
    }
    Ok(SearchResult {
        mode: query.mode,
        generation: None,
        sequence: Sequence::default(),
        hits: Vec::new(),
        degraded: Vec::new(),
        timings: crate::domain::StageTimings::default(),
        took_ms: ms_since(taken_at),
    })
}
