//! A collection whose documents are served from several generations answers as one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use async_trait::async_trait;
use plumb::domain::{
    CollectionName, ContextSpec, DocumentId, EmbeddedChunk, Fingerprint, FusionMethod, Generation, GenerationId,
    GenerationPlan, Hit, Mode, Profile, SearchResult, Sequence, TenantScope, TraceId,
};
use plumb::eval::{GenerationReport, GenerationScorer, ReportSettings, Verdict};
use plumb::inference::Embedder;
use plumb::search::{QueryOverrides, SearchDefaults, SearchSettings, run_shadow_searches, shadow_queue};
use plumb::store::{
    BuildDocument, CaseStore, CorpusStore, DocumentWrite, EvalCase, GenerationChange, GenerationStore, Page,
    ShadowSearch, SqliteStore, StoreError, WriteOutcome,
};
use plumb::text::{ChunkingSettings, chunker_spec};
use tempfile::tempdir;
use tokio::sync::mpsc;

use crate::bed::{Bed, HashingEmbedder, Making, PATIENCE, ScriptedReranker, degraded, documents, hashed, name, text};

const WORDS: [&str; 8] = ["whale", "reef", "harbor", "storm", "anchor", "lantern", "current", "island"];
const DOCUMENTS: usize = 24;
const MODES: [Mode; 3] = [Mode::Hybrid, Mode::Lexical, Mode::Vector];

fn id(text: &str) -> DocumentId {
    DocumentId::new(text).unwrap()
}

/// A number that looks random, the same each time.
fn dice(seed: usize, at: usize) -> usize {
    usize::from(plumb::domain::hash_parts(&[&seed.to_le_bytes(), &at.to_le_bytes()])[0])
}

/// Documents of several chunks; each word stands in several documents.
fn sea() -> Vec<plumb::ingest::IncomingDocument> {
    let sentence = |n: usize, line: usize| {
        let word = |at: usize| WORDS[dice(n, line * 10 + at) % WORDS.len()];
        format!("The {} of log {n} met the {} and then a {} near the {}.", word(0), word(1), word(2), word(3))
    };
    let body = |n| (0..4).map(|line| sentence(n, line)).collect::<Vec<_>>().join("\n\n");
    (0..DOCUMENTS).map(|n| text(&format!("log{n:02}"), &body(n))).collect()
}

/// A bed whose default collection has a second generation in shadow that holds every document.
struct Two {
    bed: Bed,
    live: Generation,
    beside: GenerationId,
}

impl Two {
    async fn new(dir: &std::path::Path, making: Making, change: impl FnOnce(&mut Profile)) -> Self {
        Self::planned(dir, (making, GenerationPlan::default()), change).await
    }

    async fn planned(
        dir: &std::path::Path,
        (making, plan): (Making, GenerationPlan),
        change: impl FnOnce(&mut Profile),
    ) -> Self {
        let bed = Bed::with(dir, making).await;
        bed.put_indexed(sea()).await;
        let live = bed.store.collection(&bed.scope, &name("default")).await.unwrap().unwrap().live;
        let mut profile = live.profile.clone();
        change(&mut profile);
        let begun = bed.store.begin_generation(&bed.scope, &name("default"), &profile, &plan).await.unwrap();
        let two = Self { bed, live, beside: begun.generation.id };
        two.build(&profile).await;
        let shadow = GenerationChange::Shadow;
        two.bed.store.change_generation(&two.bed.scope, two.beside, shadow).await.unwrap();
        two
    }

    /// Builds every document in the second generation and waits until its indexes have it.
    async fn build(&self, profile: &Profile) {
        let Bed { store, scope, .. } = &self.bed;
        let ids: Vec<DocumentId> = (0..DOCUMENTS).map(|n| id(&format!("log{n:02}"))).collect();
        let states = store.states(scope, &name("default"), &ids).await.unwrap();
        let mut writes = Vec::new();
        for (document, state) in ids.iter().zip(states) {
            let stored = store.chunks(scope, &name("default"), document, None).await.unwrap().unwrap();
            let chunks: Vec<_> = stored.into_iter().map(|one| one.chunk).collect();
            // Another chunker: neighbours become one, under ids of their own.
            let chunks = if profile.chunker == self.live.profile.chunker {
                chunks
            } else {
                self.joined(&profile.chunker.fingerprint(), document, chunks).await
            };
            let embedded = |chunk: plumb::domain::Chunk| EmbeddedChunk {
                input_hash: plumb::domain::ContentHash::of(chunk.text.as_bytes()),
                embedding: Some(hashed(&chunk.text).into_iter().map(half::f16::from_f32).collect()),
                chunk,
            };
            writes.push(DocumentWrite::Build(Box::new(BuildDocument {
                collection: name("default"),
                document: document.clone(),
                generation: self.beside,
                seen: state.unwrap().sequence,
                chunks: chunks.into_iter().map(embedded).collect(),
                chunker: None,
            })));
        }
        let outcomes = store.write(scope, writes).await.unwrap();
        let sequences = outcomes.into_iter().map(|outcome| match outcome {
            WriteOutcome::Written { sequence, .. } => sequence,
            other => panic!("{other:?}"),
        });
        let last: Sequence = sequences.max().unwrap();
        self.bed.progress.announce(last);
        self.bed.indexed(Some(last)).await;
    }

    async fn joined(
        &self,
        chunker: &Fingerprint,
        document: &DocumentId,
        chunks: Vec<plumb::domain::Chunk>,
    ) -> Vec<plumb::domain::Chunk> {
        let content = self.bed.store.content(&self.bed.scope, &name("default"), document, None).await.unwrap().unwrap();
        let pairs = chunks.chunks(2).enumerate().map(|(ordinal, pair)| {
            let span = plumb::domain::ByteSpan::new(pair[0].span.start, pair[pair.len() - 1].span.end);
            let text = span.slice(&content).unwrap().to_owned();
            let hash = plumb::domain::hash_parts(&[&chunker.0, document.as_str().as_bytes(), text.as_bytes()]);
            plumb::domain::Chunk {
                id: plumb::domain::ChunkId(hash),
                ordinal: u32::try_from(ordinal).unwrap(),
                span,
                text,
                ..pair[0].clone()
            }
        });
        pairs.collect()
    }

    /// Serves exactly these documents from the second generation.
    async fn place(&self, beside: &HashSet<usize>) {
        let serve = |n: usize| DocumentWrite::Serve {
            collection: name("default"),
            document: id(&format!("log{n:02}")),
            generation: if beside.contains(&n) { self.beside } else { self.live.id },
        };
        let outcomes = self.bed.store.write(&self.bed.scope, (0..DOCUMENTS).map(serve).collect()).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, WriteOutcome::Serves)), "{outcomes:?}");
    }

    fn home(&self, hit: &Hit, beside: &HashSet<usize>) -> GenerationId {
        let n: usize = hit.document_id.as_str().trim_start_matches("log").parse().unwrap();
        if beside.contains(&n) { self.beside } else { self.live.id }
    }

    fn assert_served_once(&self, result: &SearchResult, beside: &HashSet<usize>) {
        let mut seen = HashSet::new();
        for hit in &result.hits {
            assert_eq!(hit.provenance.generation, self.home(hit, beside), "{}", hit.document_id);
            assert!(seen.insert(hit.chunk_id), "{} leaves twice", hit.chunk_id);
        }
        assert!(result.hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }
}

fn by_rank(mode: Mode) -> QueryOverrides {
    QueryOverrides { mode: Some(mode), fusion_method: Some(FusionMethod::Rrf), ..QueryOverrides::default() }
}

fn other_prefix(profile: &mut Profile) {
    // Without titles and headings both prefixes are empty: the same chunks with the same vectors.
    profile.context = ContextSpec::None;
}

fn other_chunker(profile: &mut Profile) {
    let chunking = ChunkingSettings { target_tokens: 24, max_tokens: 40, ..ChunkingSettings::default() };
    profile.chunker = chunker_spec(&chunking, "words");
}

/// Documents by lot; placement 0 is none of them, 1 all of them.
fn placement(round: usize) -> HashSet<usize> {
    match round {
        0 => HashSet::new(),
        1 => (0..DOCUMENTS).collect(),
        _ => (0..DOCUMENTS).filter(|n| dice(1_000 + round, *n) < 48 * (round % 4 + 1)).collect(),
    }
}

#[tokio::test]
async fn wherever_documents_are_placed_equal_generations_answer_as_one() {
    let dir = tempdir().unwrap();
    let two = Two::new(dir.path(), Making::default(), other_prefix).await;
    let queries = ["whale storm", "a lantern near the island", "anchor", "log 7 harbor"];
    let ask = async |mode, query| two.bed.search(query, by_rank(mode)).await.unwrap();
    let order = |result: &SearchResult| result.hits.iter().map(|hit| hit.chunk_id).collect::<Vec<_>>();
    let mut plain = BTreeMap::new();
    for (at, mode) in MODES.into_iter().enumerate() {
        for query in queries {
            plain.insert((at, query), ask(mode, query).await);
        }
    }

    for round in 0..10 {
        let beside = placement(round);
        two.place(&beside).await;
        for (at, mode) in MODES.into_iter().enumerate() {
            for query in queries {
                let result = ask(mode, query).await;
                let again = ask(mode, query).await;

                two.assert_served_once(&result, &beside);
                assert_eq!(order(&result), order(&plain[&(at, query)]), "{mode:?} {query} in round {round}");
                assert_eq!(result.hits, again.hits);
                assert!(result.degraded.is_empty(), "{:?}", result.degraded);
            }
        }
    }
    two.bed.close().await;
}

#[tokio::test]
async fn wherever_documents_are_placed_another_chunkers_hits_come_from_their_generation_alone() {
    let dir = tempdir().unwrap();
    let two = Two::new(dir.path(), Making::default(), other_chunker).await;

    for round in 0..10 {
        let beside = placement(round);
        two.place(&beside).await;
        for mode in MODES {
            for query in ["whale storm", "lantern island current"] {
                let wide = QueryOverrides { top_k: Some(100), ..by_rank(mode) };
                let result = two.bed.search(query, wide).await.unwrap();

                two.assert_served_once(&result, &beside);
                assert!(!result.hits.is_empty());
                if mode == Mode::Vector {
                    let found: HashSet<_> = documents(&result).into_iter().collect();
                    assert_eq!(found.len(), DOCUMENTS, "a document is lost in round {round}");
                }
            }
        }
    }
    two.bed.close().await;
}

#[tokio::test]
async fn a_convex_fusion_gives_way_to_ranks_during_a_rollout_and_says_so() {
    let dir = tempdir().unwrap();
    let two = Two::new(dir.path(), Making::default(), other_prefix).await;
    two.place(&placement(5)).await;

    let convex = two.bed.search("whale storm", QueryOverrides::default()).await.unwrap();
    let ranks = two.bed.search("whale storm", by_rank(Mode::Hybrid)).await.unwrap();

    assert_eq!(degraded(&convex), ["fusion:rollout"]);
    assert_eq!(convex.hits, ranks.hits);
    assert_eq!(convex.generation, Some(two.live.id));
    two.bed.close().await;
}

#[tokio::test]
async fn an_embedder_that_is_not_at_hand_costs_its_generation_the_vector_leg_alone() {
    let dir = tempdir().unwrap();
    let other = HashingEmbedder::new("2").spec().clone();
    let two = Two::new(dir.path(), Making::default(), |profile| profile.embedder = Some(other)).await;
    let beside = placement(5);
    two.place(&beside).await;
    let wide = |mode| QueryOverrides { top_k: Some(100), ..by_rank(mode) };

    let hybrid = two.bed.search("whale storm", wide(Mode::Hybrid)).await.unwrap();
    let vector = two.bed.search("whale storm", wide(Mode::Vector)).await.unwrap();

    assert_eq!(degraded(&hybrid), ["vector:embedder_unavailable"]);
    two.assert_served_once(&hybrid, &beside);
    let from_beside: Vec<&Hit> = hybrid.hits.iter().filter(|hit| two.home(hit, &beside) == two.beside).collect();
    assert!(!from_beside.is_empty() && from_beside.iter().all(|hit| hit.breakdown.vector.is_none()));
    assert!(hybrid.hits.iter().any(|hit| hit.breakdown.vector.is_some()));
    assert_eq!(degraded(&vector), ["vector:embedder_unavailable"]);
    assert!(!vector.hits.is_empty() && vector.hits.iter().all(|hit| two.home(hit, &beside) == two.live.id));
    two.bed.close().await;
}

#[tokio::test]
async fn a_callers_vector_is_put_to_the_embedder_that_it_belongs_to() {
    let dir = tempdir().unwrap();
    let other = HashingEmbedder::new("2");
    let spec = other.spec().clone();
    let making = Making { other_embedders: vec![other], ..Making::default() };
    let two = Two::new(dir.path(), making, |profile| profile.embedder = Some(spec)).await;
    let beside = placement(5);
    two.place(&beside).await;
    let own = QueryOverrides { vector: Some(hashed("whale storm")), ..by_rank(Mode::Vector) };

    let result = two.bed.search("", own).await.unwrap();
    let embedded = two.bed.search("whale storm", by_rank(Mode::Vector)).await.unwrap();

    assert_eq!(degraded(&result), ["vector:other_embedder"]);
    assert!(!result.hits.is_empty() && result.hits.iter().all(|hit| two.home(hit, &beside) == two.live.id));
    assert!(embedded.degraded.is_empty());
    two.assert_served_once(&embedded, &beside);
    assert!(embedded.hits.iter().any(|hit| two.home(hit, &beside) == two.beside));
    two.bed.close().await;
}

#[tokio::test]
async fn a_reranked_head_of_two_embedders_has_no_cosines_and_says_so() {
    let dir = tempdir().unwrap();
    let other = HashingEmbedder::new("2");
    let spec = other.spec().clone();
    let reranker = Some(Arc::new(ScriptedReranker([("whale", 2.0), ("storm", 1.0)].into())) as Arc<_>);
    let mut search = SearchSettings::default();
    search.rerank.enabled = true;
    let making = Making { other_embedders: vec![other], reranker, search, ..Making::default() };
    let two = Two::new(dir.path(), making, |profile| profile.embedder = Some(spec)).await;

    let one_home = two.bed.search("whale storm", by_rank(Mode::Hybrid)).await.unwrap();
    let beside = placement(5);
    two.place(&beside).await;
    let two_homes = two.bed.search("whale storm", by_rank(Mode::Hybrid)).await.unwrap();

    assert!(one_home.degraded.is_empty(), "{:?}", one_home.degraded);
    assert_eq!(degraded(&two_homes), ["rerank:mixed_embedders"]);
    two.assert_served_once(&two_homes, &beside);
    assert!(two_homes.hits.iter().all(|hit| hit.breakdown.rerank.is_some()));
    two.bed.close().await;
}

#[tokio::test]
async fn a_search_in_one_generation_finds_what_stands_ready_there() {
    let dir = tempdir().unwrap();
    let two = Two::new(dir.path(), Making::default(), other_chunker).await;
    two.place(&placement(5)).await;
    let status = two.bed.store.generation_status(&two.bed.scope, two.beside).await.unwrap().unwrap();
    let query = two.bed.query("lantern", QueryOverrides { top_k: Some(100), ..by_rank(Mode::Vector) });

    for generation in [&two.live, &status.generation] {
        let result = two.bed.searcher.search_in(&two.bed.scope, &query, generation, Instant::now()).await.unwrap();

        let found: HashSet<_> = documents(&result).into_iter().collect();
        assert_eq!((found.len(), result.generation), (DOCUMENTS, Some(generation.id)));
        assert!(result.hits.iter().all(|hit| hit.provenance.generation == generation.id));
    }
    two.bed.close().await;
}

fn some_trace() -> TraceId {
    TraceId([7; 16])
}

/// A store that tells how many shadow searches it has written.
struct Telling {
    store: Arc<SqliteStore>,
    written: mpsc::UnboundedSender<usize>,
}

#[async_trait]
impl CaseStore for Telling {
    async fn put_cases(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        cases: &[EvalCase],
    ) -> Result<u64, StoreError> {
        self.store.put_cases(scope, collection, cases).await
    }

    async fn cases(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        page: (Option<&str>, usize),
    ) -> Result<Page<EvalCase>, StoreError> {
        self.store.cases(scope, collection, page).await
    }

    async fn delete_case(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        name: &str,
    ) -> Result<bool, StoreError> {
        self.store.delete_case(scope, collection, name).await
    }

    async fn record_shadow(&self, scope: &TenantScope, searches: Vec<ShadowSearch>) -> Result<(), StoreError> {
        let count = searches.len();
        self.store.record_shadow(scope, searches).await?;
        self.written.send(count).unwrap();
        Ok(())
    }

    async fn shadow_searches(
        &self,
        scope: &TenantScope,
        generation: GenerationId,
        limit: usize,
    ) -> Result<Vec<ShadowSearch>, StoreError> {
        self.store.shadow_searches(scope, generation, limit).await
    }
}

fn shadowed() -> GenerationPlan {
    GenerationPlan { shadow_share: 1.0, ..GenerationPlan::default() }
}

#[tokio::test]
async fn live_searches_are_put_to_the_generation_in_shadow_and_compared() {
    let dir = tempdir().unwrap();
    let (queue, jobs) = shadow_queue(some_trace);
    let making = Making { shadow: Some(queue), ..Making::default() };
    let two = Two::planned(dir.path(), (making, shadowed()), other_prefix).await;
    let Bed { searcher, store, scope, .. } = &two.bed;
    let (written, mut told) = mpsc::unbounded_channel();
    let cases = Arc::new(Telling { store: store.clone(), written });
    let worker = tokio::spawn(run_shadow_searches(searcher.clone(), cases, jobs));

    for query in ["whale storm", "anchor"] {
        two.bed.search(query, QueryOverrides::default()).await.unwrap();
    }

    let mut count = 0;
    while count < 2 {
        count += tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    }
    let kept = store.shadow_searches(scope, two.beside, 10).await.unwrap();
    assert_eq!(kept.len(), 2);
    for one in &kept {
        assert_eq!((one.generation, one.trace_id, one.mode, one.top_k), (two.beside, some_trace(), Mode::Hybrid, 10));
        assert_eq!(one.overlap, 1.0, "equal generations find the same");
        assert!(one.live_us > 0 && one.shadow_us > 0);
    }
    worker.abort();
    two.bed.close().await;
}

#[tokio::test]
async fn a_generation_in_shadow_neither_fails_nor_holds_up_a_live_search() {
    let dir = tempdir().unwrap();
    let (queue, jobs) = shadow_queue(some_trace);
    let other = HashingEmbedder::new("2");
    other.absent.store(true, Ordering::SeqCst);
    let spec = other.spec().clone();
    let making = Making { shadow: Some(queue), other_embedders: vec![other], ..Making::default() };
    let two = Two::planned(dir.path(), (making, shadowed()), |profile| profile.embedder = Some(spec)).await;

    // Nobody takes what is left: the queue is full after a few, and all searches are answered all the same.
    for _ in 0..100 {
        let result = two.bed.search("whale storm", by_rank(Mode::Vector)).await.unwrap();
        assert!(!result.hits.is_empty() && result.degraded.is_empty());
    }

    // Then somebody does, and every search in the generation fails.
    let Bed { searcher, store, scope, .. } = &two.bed;
    let worker = tokio::spawn(run_shadow_searches(searcher.clone(), store.clone(), jobs));
    for _ in 0..20 {
        let result = two.bed.search("whale storm", by_rank(Mode::Vector)).await.unwrap();
        assert!(!result.hits.is_empty() && result.degraded.is_empty());
        tokio::task::yield_now().await;
    }
    assert!(!worker.is_finished());
    assert!(store.shadow_searches(scope, two.beside, 10).await.unwrap().is_empty());
    worker.abort();
    two.bed.close().await;
}

/// The report of the second generation.
async fn report(two: &Two, settings: ReportSettings) -> GenerationReport {
    let mut search = SearchSettings::default();
    search.rerank.enabled = false;
    let store = &two.bed.store;
    let scorer = GenerationScorer {
        searcher: two.bed.searcher.clone(),
        defaults: SearchDefaults::new(search),
        generations: store.clone(),
        cases: store.clone(),
        ledger: store.clone(),
        settings,
    };
    scorer.report(&two.bed.scope, two.beside).await.unwrap().unwrap()
}

/// Cases whose one document has the words that are asked for.
async fn put_cases(two: &Two) {
    let case = |n: usize| EvalCase {
        name: format!("case{n:02}"),
        query: format!("log {n} {}", WORDS[n % WORDS.len()]),
        relevant: [(id(&format!("log{n:02}")), 1)].into(),
    };
    let cases: Vec<EvalCase> = (0..DOCUMENTS).map(case).collect();
    assert_eq!(two.bed.store.put_cases(&two.bed.scope, &name("default"), &cases).await.unwrap(), DOCUMENTS as u64);
}

#[tokio::test]
async fn the_report_of_an_equal_generation_finds_no_difference() {
    let dir = tempdir().unwrap();
    let two = Two::new(dir.path(), Making::default(), other_prefix).await;
    assert_eq!(report(&two, ReportSettings::default()).await.verdict, Verdict::NoCases);
    put_cases(&two).await;

    let report = report(&two, ReportSettings::default()).await;

    assert_eq!((report.verdict, report.is_conclusive), (Verdict::Undecided, true));
    assert_eq!((report.cases.scored, report.cases.outside_sample, report.restricted_to_sample), (DOCUMENTS, 0, false));
    assert_eq!((report.beside, report.overlap_at_10), (two.live.id, Some(1.0)));
    for metric in &report.metrics {
        assert_eq!((metric.difference.low, metric.difference.mean, metric.difference.high), (0.0, 0.0, 0.0));
        assert!(metric.beside > 0.0 && metric.beside == metric.generation, "{metric:?}");
    }
    let latency = report.latency.unwrap();
    assert!(latency.beside.p50_ms > 0.0 && latency.generation.p95_ms >= latency.generation.p50_ms);
    let counts = report.cost.generation.counts;
    assert_eq!((counts.documents, counts.built), (DOCUMENTS as u64, DOCUMENTS as u64));
    assert_eq!(report.cost.generation.vector_bytes, counts.vectors * 64 * 2);
    two.bed.close().await;
}

#[tokio::test]
async fn a_report_on_a_sample_looks_at_the_sample_on_both_sides() {
    let dir = tempdir().unwrap();
    let plan = GenerationPlan { sample: 0.5, ..GenerationPlan::default() };
    let two = Two::planned(dir.path(), (Making::default(), plan), other_prefix).await;
    put_cases(&two).await;
    let held = (0..DOCUMENTS).filter(|n| plumb::domain::lot(two.beside, &id(&format!("log{n:02}"))) < 0.5).count();

    let report = report(&two, ReportSettings { min_cases: 1, ..ReportSettings::default() }).await;

    assert!(report.restricted_to_sample);
    assert_eq!((report.cases.scored, report.cases.outside_sample), (held, DOCUMENTS - held));
    assert_eq!(report.overlap_at_10, Some(1.0));
    two.bed.close().await;
}

#[tokio::test]
async fn a_generation_without_its_embedder_is_not_judged_by_half_a_search() {
    let dir = tempdir().unwrap();
    let other = HashingEmbedder::new("2").spec().clone();
    let two = Two::new(dir.path(), Making::default(), |profile| profile.embedder = Some(other)).await;
    put_cases(&two).await;

    let report = report(&two, ReportSettings { max_cases: 12, ..ReportSettings::default() }).await;

    assert!(!report.is_conclusive);
    assert_eq!(report.degraded.into_iter().collect::<Vec<_>>(), ["vector:embedder_unavailable"]);
    assert!(report.cases.scored == 12 && report.cases.not_reached > 0);
    two.bed.close().await;
}
