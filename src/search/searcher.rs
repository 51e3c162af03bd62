//! The walk of a search: wait for the index, plan, retrieve, fuse, read back, rerank, group, present.
//!
//! Whatever the indexes say, only what the truth confirms leaves: candidates are ids until they have been read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::OnceCell;
use tracing::{Instrument, debug_span};

use crate::domain::{EmbedderSpec, FusionMethod, Generation, Mode, Query, SearchResult, Sequence, TenantScope};
use crate::index::{ComputePool, Generations, IndexProgress};
use crate::inference::{Embedders, EmbeddingCache, NamedReranker};
use crate::store::{CorpusStore, View, WithEmbeddings};

use super::fusion::{Fused, fuse, single};
use super::legs::{LegInput, Retrieved};
use super::plan::Plan;
use super::present::Groups;
use super::report::{Report, ms_since, record_outcome, search_span};
use super::rerank::TailScale;
use super::rollout::merge;
use super::shadow::ShadowQueue;
use super::survivors::{Candidates, MOST_READ, Portion, Survivor};
use super::tiers::Tier;
use super::{DEFAULT_COLLECTION, SearchError, SearchSettings};

/// What a [`Searcher`] is made of.
pub struct SearchParts {
    pub store: Arc<dyn CorpusStore>,
    pub indexes: Arc<Generations>,
    pub progress: Arc<IndexProgress>,
    pub compute: Arc<ComputePool>,
    /// None: hybrid searches are lexical and say so.
    pub embedders: Embedders,
    /// At most one for each of them; queries of an embedder without one are embedded anew each time.
    pub query_caches: Vec<Arc<EmbeddingCache>>,
    /// Best and slowest first.
    pub rerankers: Vec<NamedReranker>,
    /// Those that should be here: a query that names one that is missing is answered without it and says so.
    pub reranker_names: Vec<String>,
    /// Where searches wait that are also put to a generation in shadow; `None`: none are.
    pub shadow: Option<ShadowQueue>,
    pub settings: SearchSettings,
}

/// Answers queries. Cheap to share; holds no state that a search could spoil for another one.
pub struct Searcher {
    pub(super) store: Arc<dyn CorpusStore>,
    pub(super) indexes: Arc<Generations>,
    pub(super) compute: Arc<ComputePool>,
    pub(super) embedders: Embedders,
    pub(super) tiers: Vec<Tier>,
    pub(super) reranker_names: Vec<String>,
    pub(super) settings: SearchSettings,
    query_caches: Vec<(EmbedderSpec, Arc<EmbeddingCache>)>,
    progress: Arc<IndexProgress>,
    shadow: Option<ShadowQueue>,
}

/// One search as its stages see it.
pub(super) struct Request<'a> {
    pub scope: &'a TenantScope,
    pub query: &'a Query,
    pub plan: Plan,
    /// One for each generation that is searched, the live one first; never empty.
    pub inputs: Vec<Arc<LegInput>>,
    pub view: View,
    /// True if two legs were asked for, so that scores come from a fusion.
    pub is_fused: bool,
}

impl Request<'_> {
    /// What the live generation is searched with, or the only one that is searched.
    pub(super) fn live(&self) -> &Arc<LegInput> {
        &self.inputs[0]
    }
}

/// What a search goes through: one generation, or one and others that serve beside it.
struct Field<'a> {
    live: &'a Generation,
    others: &'a [Generation],
    view: View,
}

impl Field<'_> {
    fn generations(&self) -> impl Iterator<Item = &Generation> {
        std::iter::once(self.live).chain(self.others)
    }
}

impl Searcher {
    pub fn new(parts: SearchParts) -> Self {
        let cache_of = |spec: &EmbedderSpec| {
            let fingerprint = spec.fingerprint();
            let cache = parts.query_caches.iter().find(|cache| cache.embedder() == fingerprint)?;
            Some((spec.clone(), Arc::clone(cache)))
        };
        Self {
            query_caches: parts.embedders.iter().filter_map(|embedder| cache_of(embedder.spec())).collect(),
            store: parts.store,
            indexes: parts.indexes,
            compute: parts.compute,
            embedders: parts.embedders,
            tiers: parts.rerankers.into_iter().map(Tier::new).collect(),
            reranker_names: parts.reranker_names,
            settings: parts.settings,
            progress: parts.progress,
            shadow: parts.shadow,
        }
    }

    /// Answers a query that was taken at `taken_at`, the moment from which its deadline counts.
    ///
    /// Hits are best first with scores that never rise, ties by chunk id, at most `top_k`, fewer only if no more
    /// candidates may leave. A stage that was skipped or cut short is named in `degraded`; an error means that no
    /// leg could run. The default collection may be searched before anything was written to it, any other one
    /// not.
    ///
    /// While documents are served from several generations, all of them are searched and fused by ranks, whatever
    /// fusion was asked for; each document's hits come from the one that serves it. Scores are then sums over the legs of
    /// `weight / (rrf_k + rank)`, or `1 / (rrf_k + rank)` where one leg was asked for.
    pub async fn search(
        &self,
        scope: &TenantScope,
        query: &Query,
        taken_at: Instant,
    ) -> Result<SearchResult, SearchError> {
        let span = search_span(query);
        let outcome = self.serve(scope, query, taken_at).instrument(span.clone()).await;
        record_outcome(&span, &outcome);
        outcome
    }

    /// The whole search in one generation, whichever serves: for shadow searches and reports.
    ///
    /// Documents that the generation does not hold are not found. `min_sequence` is not waited for, neighbours are those
    /// of chunks that serve, and no metric of searches counts it.
    pub async fn search_in(
        &self,
        scope: &TenantScope,
        query: &Query,
        generation: &Generation,
        taken_at: Instant,
    ) -> Result<SearchResult, SearchError> {
        let field = Field { live: generation, others: &[], view: View::Of(generation.id) };
        self.run(scope, query, (&field, taken_at)).await.map(|(result, _)| result)
    }

    async fn serve(&self, scope: &TenantScope, query: &Query, taken_at: Instant) -> Result<SearchResult, SearchError> {
        let reading = self.store.collection(scope, &query.collection).instrument(debug_span!("store.collection"));
        let Some(collection) = reading.await? else {
            return unknown(query, taken_at);
        };
        let field = Field { live: &collection.live, others: &collection.also_serving, view: View::Serving };
        if query.min_sequence.is_some() {
            self.wait_for_index(query, &field, taken_at).instrument(debug_span!("search.wait_for_index")).await?;
        }
        let (result, report) = self.run(scope, query, (&field, taken_at)).await?;
        report.record(query.mode, taken_at.elapsed());
        if let (Some(queue), Some((generation, share))) = (&self.shadow, &collection.shadow) {
            queue.offer((scope, query), &result, (&collection.live, generation, *share));
        }
        Ok(result)
    }

    async fn run(
        &self,
        scope: &TenantScope,
        query: &Query,
        (field, taken_at): (&Field<'_>, Instant),
    ) -> Result<(SearchResult, Report), SearchError> {
        self.check_reranker(query.rerank.model.as_ref())?;
        let plan = Plan::of(query, &self.settings, (taken_at, 1 + field.others.len()));
        let sequence = self.visible_in(field);
        let mut report = Report::default();
        let inputs = self.inputs(scope, query, (field, &plan), &mut report).await?;
        let is_fused = query.mode == Mode::Hybrid;
        let request = Request { scope, query, plan, inputs, view: field.view, is_fused };
        if field.generations().any(|generation| self.progress.is_behind(generation.id)) {
            report.degrade("index", "catching_up");
        }

        let retrieved = self.retrieve(&request, &mut report).await?;
        let candidates = self.fuse(query, retrieved, &mut report);
        let survivors = self.select(&request, candidates, &mut report).await?;
        let reading = Instant::now();
        let hits = self.present(&request, survivors, &mut report).instrument(debug_span!("search.present")).await?;
        report.timings.hydrate_ms += ms_since(reading);
        let result = SearchResult {
            mode: query.mode,
            generation: Some(field.live.id),
            sequence,
            hits,
            degraded: report.degraded.clone(),
            reranked_by: report.reranked_by.clone(),
            timings: report.timings,
            took_ms: ms_since(taken_at),
        };
        Ok((result, report))
    }

    /// What each generation is searched with. One beside the live one whose index cannot be had is left out and named:
    /// what it serves is missing, and the rest is not.
    async fn inputs(
        &self,
        scope: &TenantScope,
        query: &Query,
        (field, plan): (&Field<'_>, &Plan),
        report: &mut Report,
    ) -> Result<Vec<Arc<LegInput>>, SearchError> {
        let index = self.index_of(field.live, plan.work_until).await?;
        let mut inputs: Vec<Arc<LegInput>> = Vec::with_capacity(1 + field.others.len());
        let input = |generation: &Generation, index, query_vector| LegInput {
            generation: generation.clone(),
            index,
            text: query.text.clone(),
            filter: query.filter.clone(),
            visibility: scope.visibility.clone(),
            depth: plan.depth,
            exact: query.exact,
            query_vector,
        };
        inputs.push(Arc::new(input(field.live, index, Arc::new(OnceCell::new()))));
        let opening = field.others.iter().map(|generation| self.index_of(generation, plan.work_until));
        for (generation, index) in field.others.iter().zip(join_all(opening).await) {
            match index {
                Ok(index) => {
                    let embedder = &generation.profile.embedder;
                    let alike = inputs.iter().find(|one| one.embedder() == embedder.as_ref());
                    let vector = alike.map_or_else(Arc::default, |one| Arc::clone(&one.query_vector));
                    inputs.push(Arc::new(input(generation, index, vector)));
                }
                Err(error) => report.degrade("index", error.reason()),
            }
        }
        Ok(inputs)
    }

    /// What searches see of every generation in the field.
    fn visible_in(&self, field: &Field<'_>) -> Sequence {
        let live = self.progress.visible_in(field.live.id);
        field.others.iter().map(|generation| self.progress.visible_in(generation.id)).fold(live, Sequence::min)
    }

    async fn wait_for_index(&self, query: &Query, field: &Field<'_>, taken_at: Instant) -> Result<(), SearchError> {
        let Some(wanted) = query.min_sequence else { return Ok(()) };
        let retry_after_ms = self.settings.retry_after_ms;
        let reached = self.visible_in(field);
        if wanted > self.progress.newest().max(reached) {
            // Nobody has written it, so waiting would only keep a place from others.
            return Err(SearchError::IndexLagging { wanted, reached, retry_after_ms });
        }
        let limits = &self.settings.limits;
        let bound_ms = query.deadline_ms.unwrap_or(limits.max_deadline_ms).min(limits.max_index_wait_ms);
        let until = taken_at + Duration::from_millis(bound_ms);
        for generation in field.generations() {
            let waited = self.progress.wait(Some(generation.id), wanted, until).await;
            waited.map_err(|lagging| SearchError::IndexLagging { wanted, reached: lagging.reached, retry_after_ms })?;
        }
        Ok(())
    }

    /// The query vectors of this embedder that are kept.
    pub(super) fn query_cache_of(&self, spec: &EmbedderSpec) -> Option<&EmbeddingCache> {
        self.query_caches.iter().find(|(of, _)| of == spec).map(|(_, cache)| &**cache)
    }

    fn fuse(&self, query: &Query, retrieved: Vec<Retrieved>, report: &mut Report) -> Vec<Fused> {
        let (lexical, vector) = retrieved
            .iter()
            .fold((0, 0), |(lexical, vector), one| (lexical + one.lexical().len(), vector + one.vector().len()));
        let _span = debug_span!("search.fuse", lexical, vector).entered();
        let start = Instant::now();
        let fused = match (retrieved.as_slice(), query.mode) {
            ([one], Mode::Hybrid) => {
                fuse(one.lexical(), one.vector(), &query.fusion, self.settings.fusion.convex_floor)
            }
            ([one], Mode::Lexical | Mode::Vector) => single(one.lexical(), one.vector()),
            (several, mode) => {
                if mode == Mode::Hybrid && query.fusion.method == FusionMethod::Convex {
                    report.degrade("fusion", "rollout");
                }
                merge(several, query)
            }
        };
        report.timings.fusion_ms = ms_since(start);
        fused
    }

    /// The survivors that become hits, in their final order.
    async fn select(
        &self,
        request: &Request<'_>,
        fused: Vec<Fused>,
        report: &mut Report,
    ) -> Result<Vec<Survivor>, SearchError> {
        let reranks = request.query.rerank.enabled && !self.tiers.is_empty();
        let embeddings = if reranks { WithEmbeddings::Yes } else { WithEmbeddings::No };
        let mut candidates = Candidates::new(fused);
        let (wanted, read) = (request.plan.first_wanted, request.plan.first_read);
        let mut portion = Portion { wanted, read, embeddings };
        let hydrating = candidates.take(self, request, report, portion).instrument(debug_span!("search.hydrate"));
        let mut survivors = hydrating.await?;
        let tail_scale = if request.query.rerank.enabled {
            let span = debug_span!("search.rerank", survivors = survivors.len());
            self.rerank_head(request, &mut survivors, report).instrument(span).await
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
        reranked_by: None,
        timings: crate::domain::StageTimings::default(),
        took_ms: ms_since(taken_at),
    })
}
