//! The two legs: each runs on the compute pool and ends at the plan's time, in every generation that is searched.
//!
//! The lexical leg starts at once; the vector leg as soon as the query's vector is there. What a filter lets
//! through is worked out while the query is being embedded.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use tokio::sync::OnceCell;
use tokio::time::timeout_at;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use crate::domain::{ChunkId, EmbedderSpec, ErrorKind, Filter, Generation, Mode, ScoredChunk, Visibility};
use crate::index::{GenerationIndex, IndexError, Narrowing, VectorSearch};
use crate::inference::{InferenceError, InputKind};

use super::SearchError;
use super::overrides::is_direction;
use super::report::{Report, ms_since};
use super::searcher::{Request, Searcher};

/// The indexes of one generation.
pub(super) type Index = Arc<GenerationIndex>;

/// What both legs need, shared with the pool.
pub(super) struct LegInput {
    pub generation: Generation,
    pub index: Index,
    pub text: String,
    pub filter: Option<Filter>,
    pub visibility: Visibility,
    pub depth: usize,
    pub exact: bool,
    /// The query's vector once it is known; one place for all generations of one embedder, so it is made once.
    pub query_vector: Arc<OnceCell<Arc<[f32]>>>,
}

impl LegInput {
    /// Whose vectors the generation's are.
    pub(super) fn embedder(&self) -> Option<&EmbedderSpec> {
        self.generation.profile.embedder.as_ref()
    }

    fn narrowing(&self) -> Narrowing<'_> {
        Narrowing { filter: self.filter.as_ref(), visibility: &self.visibility }
    }

    fn is_narrowed(&self) -> bool {
        self.filter.is_some() || self.visibility != Visibility::All
    }
}

/// What the legs found in one generation, best first; `None`: the leg did not run.
#[derive(Debug, Default)]
pub(super) struct Retrieved {
    pub lexical: Option<Vec<ScoredChunk>>,
    pub vector: Option<Vec<ScoredChunk>>,
}

impl Retrieved {
    pub(super) fn lexical(&self) -> &[ScoredChunk] {
        self.lexical.as_deref().unwrap_or_default()
    }

    pub(super) fn vector(&self) -> &[ScoredChunk] {
        self.vector.as_deref().unwrap_or_default()
    }
}

/// Why a leg has no list.
enum Missed {
    Deadline,
    /// The caller's vector belongs to the live generation's embedder, and this one has another.
    OtherEmbedder,
    Error(SearchError),
}

impl Missed {
    fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::OtherEmbedder => "other_embedder",
            Self::Error(error) => error.reason(),
        }
    }
}

impl<E: Into<SearchError>> From<E> for Missed {
    fn from(error: E) -> Self {
        match error.into() {
            SearchError::Inference(InferenceError::Deadline { .. }) => Self::Deadline,
            error => Self::Error(error),
        }
    }
}

struct Ran<T> {
    value: T,
    took_ms: f64,
}

impl Searcher {
    /// The indexes of the generation, opened if need be. Opening reads them whole, so it happens beside the pool, where
    /// it keeps nobody else's search waiting, and goes on when this search gives up.
    pub(super) async fn index_of(&self, generation: &Generation, until: Instant) -> Result<Index, SearchError> {
        if let Some(index) = self.indexes.opened_one(generation.id) {
            return Ok(index);
        }
        let (indexes, generation) = (Arc::clone(&self.indexes), generation.clone());
        let span = debug_span!("search.open_index");
        let work = move || span.in_scope(|| indexes.get(generation.id, &generation.profile));
        let opening = tokio::task::spawn_blocking(work);
        match timeout_at(until.into(), opening).await {
            Err(_) => Err(SearchError::Opening { retry_after_ms: self.settings.retry_after_ms }),
            Ok(Err(_)) => Err(SearchError::Panicked),
            Ok(Ok(index)) => Ok(index?),
        }
    }

    /// Runs the legs that the mode asks for in every generation that is searched, side by side; what was found is in
    /// the order of the generations. A leg that fails or is late is named in the report as long as another one ran or
    /// time was the reason; else its error is the search's.
    pub(super) async fn retrieve(
        &self,
        request: &Request<'_>,
        report: &mut Report,
    ) -> Result<Vec<Retrieved>, SearchError> {
        let ran = join_all(request.inputs.iter().map(|input| self.run_legs(request, input))).await;
        let mut missed = Vec::new();
        let mut legs_run = 0;
        let mut found = Vec::with_capacity(ran.len());
        for Legs { lexical, vector } in ran {
            let mut retrieved = Retrieved::default();
            let timings = &mut report.timings;
            match lexical {
                Some(Ok(Ran { value, took_ms })) => {
                    retrieved.lexical = Some(value);
                    timings.lexical_ms = timings.lexical_ms.max(took_ms);
                }
                Some(Err(reason)) => missed.push(("lexical", reason)),
                None => {}
            }
            if let Some(VectorLeg { embed_ms, found }) = vector {
                timings.embed_ms = timings.embed_ms.max(embed_ms);
                match found {
                    Ok(Ran { value, took_ms }) => {
                        retrieved.vector = Some(value);
                        timings.vector_ms = timings.vector_ms.max(took_ms);
                    }
                    Err(reason) => missed.push(("vector", reason)),
                }
            }
            legs_run += usize::from(retrieved.lexical.is_some()) + usize::from(retrieved.vector.is_some());
            found.push(retrieved);
        }
        settle(missed, legs_run, report)?;
        Ok(found)
    }

    async fn run_legs(&self, request: &Request<'_>, input: &Arc<LegInput>) -> Legs {
        let lexical = async {
            match request.query.mode {
                Mode::Vector => None,
                Mode::Lexical | Mode::Hybrid => {
                    let span = debug_span!("search.lexical", depth = input.depth, found = Empty);
                    Some(self.lexical_leg(request, input).instrument(span).await)
                }
            }
        };
        let vector = async {
            match request.query.mode {
                Mode::Lexical => None,
                Mode::Vector | Mode::Hybrid => {
                    let span = debug_span!("search.vector", depth = input.depth, found = Empty);
                    Some(self.vector_leg(request, input).instrument(span).await)
                }
            }
        };
        let (lexical, vector) = tokio::join!(lexical, vector);
        Legs { lexical, vector }
    }

    async fn lexical_leg(&self, request: &Request<'_>, input: &Arc<LegInput>) -> Result<Ran<Vec<ScoredChunk>>, Missed> {
        if input.text.trim().is_empty() {
            return Err(Missed::Error(SearchError::EmptyQuery));
        }
        let input = Arc::clone(input);
        let found = self.on_pool(request.plan.work_until, move || {
            input.index.lexical.search(&input.text, input.narrowing(), input.depth)
        });
        found.await.inspect(record_found)
    }

    async fn vector_leg(&self, request: &Request<'_>, input: &Arc<LegInput>) -> VectorLeg {
        let until = request.plan.work_until;
        let (embedded, allowed) = tokio::join!(
            self.query_vector(request, input).instrument(debug_span!("search.embed", is_cached = Empty)),
            self.allowed_chunks(request, input)
        );
        let (embedded, allowed) = match (embedded, allowed) {
            (Ok(embedded), Ok(allowed)) => (embedded, allowed),
            (Err(missed), _) => return VectorLeg { embed_ms: 0.0, found: Err(missed) },
            (Ok(embedded), Err(missed)) => return VectorLeg { embed_ms: embedded.took_ms, found: Err(missed) },
        };
        let Ran { value: query, took_ms: embed_ms } = embedded;
        let input = Arc::clone(input);
        let found = self.on_pool(until, move || {
            // Checked before: the profile names an embedder. An index without vectors holds none yet.
            let Some(vectors) = &input.index.vector else { return Ok(Vec::new()) };
            let search = VectorSearch { depth: input.depth, exact: input.exact, allowed: allowed.as_deref() };
            vectors.search(&query, search)
        });
        VectorLeg { found: found.await.inspect(record_found), embed_ms }
    }

    async fn allowed_chunks(
        &self,
        request: &Request<'_>,
        input: &Arc<LegInput>,
    ) -> Result<Option<Arc<HashSet<ChunkId>>>, Missed> {
        if !input.is_narrowed() {
            return Ok(None);
        }
        let input = Arc::clone(input);
        let matching =
            self.on_pool(request.plan.work_until, move || input.index.lexical.matching_shared(input.narrowing()));
        Ok(matching.await?.value)
    }

    // Generations of one embedder share the place, so the first one makes the vector and the others wait for it.
    async fn query_vector(&self, request: &Request<'_>, input: &LegInput) -> Result<Ran<Arc<[f32]>>, Missed> {
        let start = Instant::now();
        let value = input.query_vector.get_or_try_init(|| self.make_query_vector(request, input)).await?;
        Ok(Ran { value: Arc::clone(value), took_ms: ms_since(start) })
    }

    async fn make_query_vector(&self, request: &Request<'_>, input: &LegInput) -> Result<Arc<[f32]>, Missed> {
        let collection = || request.query.collection.to_string();
        let Some(spec) = input.embedder() else {
            // A collection that was made while no model was at hand has no vectors for the same reason.
            return Err(match self.embedders.first() {
                Some(_) => SearchError::NoVectors { collection: collection() },
                None => SearchError::EmbedderUnavailable { collection: collection() },
            }
            .into());
        };
        if let Some(vector) = &request.query.vector {
            if request.live().embedder() != Some(spec) {
                return Err(Missed::OtherEmbedder);
            }
            check_vector(vector, spec.dimensions)?;
            return Ok(Arc::from(vector.as_slice()));
        }
        if input.text.trim().is_empty() {
            return Err(SearchError::EmptyQuery.into());
        }
        let Some(embedder) = self.embedders.of(spec) else {
            return Err(SearchError::EmbedderUnavailable { collection: collection() }.into());
        };
        // Asked for by itself, it is what the caller wants to see.
        if request.query.mode == Mode::Hybrid && !embedder.reads(&input.text) {
            return Err(SearchError::UnreadScript.into());
        }
        let (scope, cache) = (request.scope, self.query_cache_of(spec));
        let kept = cache.and_then(|cache| cache.get(scope, &input.text));
        Span::current().record("is_cached", kept.is_some());
        if let Some(vector) = kept {
            return Ok(vector);
        }
        let until = request.plan.work_until;
        if Instant::now() >= until {
            return Err(Missed::Deadline);
        }
        let embedding = embedder.embed(vec![input.text.clone()], InputKind::Query);
        let vectors = timeout_at(until.into(), embedding).await.map_err(|_| Missed::Deadline)??;
        let vector: Option<Arc<[f32]>> = vectors.into_iter().next().map(Arc::from);
        let value = vector.ok_or(SearchError::Inference(InferenceError::Failed {
            model: spec.name.clone(),
            detail: "it returned no vector for one text".to_owned(),
        }))?;
        if let Some(cache) = cache {
            cache.put(scope, &input.text, Arc::clone(&value));
        }
        Ok(value)
    }

    /// Runs blocking index work on the pool, at most until `until`; work that has not started by then never does.
    async fn on_pool<T: Send + 'static>(
        &self,
        until: Instant,
        work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
    ) -> Result<Ran<T>, Missed> {
        let start = Instant::now();
        if start >= until {
            return Err(Missed::Deadline);
        }
        let done = timeout_at(until.into(), self.compute.run(work)).await.map_err(|_| Missed::Deadline)?;
        let value = done.map_err(|error| SearchError::compute(error, self.settings.retry_after_ms))??;
        Ok(Ran { value, took_ms: ms_since(start) })
    }
}

/// How many candidates a leg found, in its span.
fn record_found(ran: &Ran<Vec<ScoredChunk>>) {
    Span::current().record("found", ran.value.len());
}

/// The legs of one generation; `None`: not asked for.
struct Legs {
    lexical: Option<Result<Ran<Vec<ScoredChunk>>, Missed>>,
    vector: Option<VectorLeg>,
}

struct VectorLeg {
    /// 0 if there is no vector.
    embed_ms: f64,
    found: Result<Ran<Vec<ScoredChunk>>, Missed>,
}

fn check_vector(vector: &[f32], dimensions: usize) -> Result<(), SearchError> {
    if vector.len() != dimensions {
        return Err(SearchError::VectorDimensions { found: vector.len(), expected: dimensions });
    }
    if is_direction(vector) { Ok(()) } else { Err(SearchError::NotAVector) }
}

fn settle(missed: Vec<(&'static str, Missed)>, legs_run: usize, report: &mut Report) -> Result<(), SearchError> {
    for (leg, reason) in missed {
        report.degrade(leg, reason.reason());
        match reason {
            Missed::Deadline | Missed::OtherEmbedder => {}
            // The caller's own fault is told to the caller, whatever the other leg found.
            Missed::Error(error @ (SearchError::VectorDimensions { .. } | SearchError::NotAVector)) => {
                return Err(error);
            }
            Missed::Error(error) if legs_run > 0 => log(leg, &error),
            Missed::Error(error) => return Err(error),
        }
    }
    Ok(())
}

// A leg that is missing by configuration or by load is in every answer; in the log it would only be noise.
fn log(leg: &'static str, error: &SearchError) {
    if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corrupt) {
        tracing::warn!(leg, error = error as &dyn std::error::Error, "a leg of the search failed");
    }
}
