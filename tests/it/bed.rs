//! A small plumb in a temporary directory: the real store, the real indexes, and an embedder without weights.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plumb::domain::{
    CollectionName, ContextSpec, Document, DocumentId, EmbedderSpec, Metadata, Principal, Profile, Query, SearchResult,
    Sequence, TenantId, TenantScope, Visibility,
};
use plumb::index::{
    ComputePool, Generations, IndexProgress, LexicalIndex, LexicalSettings, TantivyIndex, VectorSettings, analyzer_spec,
};
use plumb::inference::{
    Embedder, Embedders, EmbeddingCache, InferenceError, InputKind, NamedReranker, PassageSample, RerankPassage,
    RerankQuery, Reranker, RerankerKind, TokenCounter,
};
use plumb::ingest::{
    IncomingBody, IncomingDocument, Indexer, IndexerParts, IndexerSettings, IngestOutcome, IngestParts, IngestSettings,
    Ingestor,
};
use plumb::parse::{ParseSettings, Parser, WorkerCommand};
use plumb::search::{QueryOverrides, SearchDefaults, SearchError, SearchParts, SearchSettings, Searcher, ShadowQueue};
use plumb::store::{CorpusStore, OperationLog, SqliteStore, StoreSettings};
use plumb::text::{ChunkingSettings, chunker_spec};

pub const DIMENSIONS: usize = 64;
const QUERIES_KEPT: usize = 64;
/// Far longer than anything here takes on a busy machine; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Words hashed into a vector: texts that share words point in like directions.
pub struct HashingEmbedder {
    spec: EmbedderSpec,
    pub inputs: AtomicUsize,
    /// How many calls are refused from now on as if the queue were full.
    pub refusals: AtomicUsize,
    /// Every call fails as if the model had been taken away.
    pub absent: AtomicBool,
    /// A text that the model cannot stand.
    pub poison: Mutex<Option<String>>,
}

impl HashingEmbedder {
    pub fn new(revision: &str) -> Arc<Self> {
        let spec = EmbedderSpec { name: "hashing".to_owned(), revision: revision.to_owned(), dimensions: DIMENSIONS };
        Arc::new(Self {
            spec,
            inputs: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            absent: AtomicBool::new(false),
            poison: Mutex::new(None),
        })
    }

    pub fn taken(&self) -> usize {
        self.inputs.swap(0, Ordering::SeqCst)
    }
}

pub fn hashed(text: &str) -> Vec<f32> {
    let mut vector = vec![1e-3_f32; DIMENSIONS];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let hash = plumb::domain::hash_parts(&[word.to_lowercase().as_bytes()]);
        vector[usize::from(hash[0]) % DIMENSIONS] += 1.0;
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / length).collect()
}

#[async_trait]
impl Embedder for HashingEmbedder {
    fn spec(&self) -> &EmbedderSpec {
        &self.spec
    }

    fn max_tokens(&self) -> usize {
        256
    }

    /// Everything but Greek.
    fn reads(&self, text: &str) -> bool {
        !text.chars().any(|c| ('α'..='ω').contains(&c))
    }

    async fn embed(&self, inputs: Vec<String>, kind: InputKind) -> Result<Vec<Vec<f32>>, InferenceError> {
        let model = || self.spec.name.clone();
        if self.absent.load(Ordering::SeqCst) {
            return Err(InferenceError::Missing { model: model(), detail: "taken away".to_owned() });
        }
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(InferenceError::Overloaded { model: model(), limit_tokens: 1 });
        }
        if let Some(poison) = self.poison.lock().unwrap().as_ref()
            && inputs.iter().any(|input| input.contains(poison.as_str()))
        {
            return Err(InferenceError::Failed { model: model(), detail: "cannot stand it".to_owned() });
        }
        if kind == InputKind::Passage {
            self.inputs.fetch_add(inputs.len(), Ordering::SeqCst);
        }
        Ok(inputs.iter().map(|input| hashed(input)).collect())
    }
}

pub struct Words;

impl TokenCounter for Words {
    fn name(&self) -> &str {
        "words"
    }

    fn token_starts(&self, text: &str) -> Vec<usize> {
        text.split_whitespace().map(|word| word.as_ptr() as usize - text.as_ptr() as usize).collect()
    }
}

/// Scores a passage by what the test says of the words in it.
pub struct ScriptedReranker(pub HashMap<&'static str, f32>);

#[async_trait]
impl Reranker for ScriptedReranker {
    fn name(&self) -> &str {
        "scripted"
    }

    async fn rerank(
        &self,
        _scope: &TenantScope,
        _query: &RerankQuery,
        passages: &[RerankPassage],
        _deadline: Option<Instant>,
    ) -> Result<Vec<f32>, InferenceError> {
        assert!(passages.iter().all(|passage| passage.embedding.is_some()), "the reranker gets stored embeddings");
        let score = |passage: &RerankPassage| {
            self.0.iter().filter(|(word, _)| passage.text.contains(**word)).map(|(_, score)| score).sum()
        };
        Ok(passages.iter().map(score).collect())
    }
}

/// A reranker under its own name.
pub fn named(reranker: Arc<dyn Reranker>) -> NamedReranker {
    NamedReranker { name: reranker.name().to_owned(), kind: RerankerKind::CrossEncoder, reranker }
}

/// As the one inside, for passages in which a word occurs: the others are written in a language it does not know.
pub struct MonoglotReranker(pub ScriptedReranker, pub &'static str);

#[async_trait]
impl Reranker for MonoglotReranker {
    fn name(&self) -> &str {
        "monoglot"
    }

    fn judges(&self, passages: &PassageSample) -> bool {
        passages.text().contains(self.1)
    }

    async fn rerank(
        &self,
        scope: &TenantScope,
        query: &RerankQuery,
        passages: &[RerankPassage],
        deadline: Option<Instant>,
    ) -> Result<Vec<f32>, InferenceError> {
        self.0.rerank(scope, query, passages, deadline).await
    }
}

/// Never answers.
pub struct SilentReranker;

#[async_trait]
impl Reranker for SilentReranker {
    fn name(&self) -> &str {
        "silent"
    }

    async fn rerank(
        &self,
        _scope: &TenantScope,
        _query: &RerankQuery,
        _passages: &[RerankPassage],
        _deadline: Option<Instant>,
    ) -> Result<Vec<f32>, InferenceError> {
        std::future::pending().await
    }
}

/// What a bed is made with.
pub struct Making {
    pub embedder: Option<Arc<HashingEmbedder>>,
    /// For searching in generations that others have made.
    pub other_embedders: Vec<Arc<HashingEmbedder>>,
    pub shadow: Option<ShadowQueue>,
    /// Best first; in front of `reranker`.
    pub better_rerankers: Vec<NamedReranker>,
    pub reranker: Option<Arc<dyn Reranker>>,
    /// Those that should be here.
    pub reranker_names: Vec<String>,
    /// The embedder that new collections name, also while none is at hand.
    pub profile_embedder: Option<EmbedderSpec>,
    pub ingest: IngestSettings,
    pub search: SearchSettings,
    pub indexer: IndexerSettings,
    /// Pieces of work that the compute pool lets wait.
    pub compute_limit: usize,
    pub store: StoreSettings,
}

impl Default for Making {
    fn default() -> Self {
        let embedder = HashingEmbedder::new("1");
        let mut search = SearchSettings::default();
        search.rerank.enabled = false;
        Self {
            profile_embedder: Some(embedder.spec().clone()),
            embedder: Some(embedder),
            other_embedders: Vec::new(),
            shadow: None,
            better_rerankers: Vec::new(),
            reranker: None,
            reranker_names: Vec::new(),
            ingest: IngestSettings::default(),
            search,
            indexer: IndexerSettings { commit_interval_ms: 1, ..IndexerSettings::default() },
            compute_limit: 256,
            store: StoreSettings::default(),
        }
    }
}

pub struct Bed {
    pub scope: TenantScope,
    pub store: Arc<SqliteStore>,
    pub progress: Arc<IndexProgress>,
    pub indexes: Arc<Generations>,
    pub compute: Arc<ComputePool>,
    pub ingestor: Arc<Ingestor>,
    pub searcher: Arc<Searcher>,
    pub embedder: Option<Arc<HashingEmbedder>>,
    pub indexer: Option<Indexer>,
    indexer_settings: IndexerSettings,
    defaults: SearchDefaults,
}

fn open_indexes(dir: &Path) -> Arc<Generations> {
    let open_lexical = |path: &Path, profile: &Profile| {
        let index = TantivyIndex::open(path, &LexicalSettings::default(), &profile.analyzer)?;
        Ok(Arc::new(index) as Arc<dyn LexicalIndex>)
    };
    Arc::new(Generations::open(dir, VectorSettings::default(), Box::new(open_lexical)).unwrap())
}

impl Bed {
    pub async fn open(dir: &Path) -> Self {
        Self::with(dir, Making::default()).await
    }

    pub async fn with(dir: &Path, making: Making) -> Self {
        let store = Arc::new(SqliteStore::open(&dir.join("plumb.db"), making.store.clone()).await.unwrap());
        let compute = Arc::new(ComputePool::new(2, making.compute_limit).unwrap());
        let indexes = open_indexes(&dir.join("index"));
        let progress = Arc::new(IndexProgress::default());
        progress.announce(store.last_sequence().await.unwrap());
        let counter: Arc<dyn TokenCounter> = Arc::new(Words);
        let chunking = ChunkingSettings {
            target_tokens: 12,
            max_tokens: 16,
            min_tokens: 2,
            overlap_tokens: 0,
            ..ChunkingSettings::default()
        };
        let profile = Profile {
            chunker: chunker_spec(&chunking, counter.name()),
            embedder: making.profile_embedder,
            analyzer: analyzer_spec("en"),
            context: ContextSpec::default(),
        };
        let embedder = making.embedder.clone().map(|embedder| embedder as Arc<dyn Embedder>);
        let corpus: Arc<dyn CorpusStore> = store.clone();
        let others = making.other_embedders.into_iter().map(|embedder| embedder as Arc<dyn Embedder>);
        let embedders = Embedders::new(embedder.into_iter().chain(others).collect());
        let ingestor = Ingestor::new(IngestParts {
            store: corpus.clone(),
            progress: progress.clone(),
            compute: compute.clone(),
            parser: Arc::new(Parser::new(ParseSettings::default(), no_worker())),
            embedders: embedders.clone(),
            counters: vec![counter],
            profile,
            contexts: None,
            settings: making.ingest,
        });
        let searcher = Searcher::new(SearchParts {
            store: corpus,
            indexes: indexes.clone(),
            progress: progress.clone(),
            compute: compute.clone(),
            query_caches: embedders.iter().map(query_cache).collect(),
            embedders,
            rerankers: making.better_rerankers.into_iter().chain(making.reranker.map(named)).collect(),
            reranker_names: making.reranker_names,
            shadow: making.shadow,
            settings: making.search.clone(),
        });
        let mut bed = Self {
            scope: TenantScope::everything(TenantId::new("acme").unwrap()),
            store,
            progress,
            indexes,
            compute,
            ingestor: Arc::new(ingestor),
            searcher: Arc::new(searcher),
            embedder: making.embedder,
            indexer: None,
            indexer_settings: making.indexer,
            defaults: SearchDefaults::new(making.search),
        };
        bed.start_indexer();
        let caught_up = bed.indexer.as_ref().unwrap().wait_health(Instant::now() + PATIENCE, |health| health.caught_up);
        assert!(caught_up.await);
        bed
    }

    pub fn start_indexer(&mut self) {
        self.indexer = Some(Indexer::start(IndexerParts {
            log: self.store.clone(),
            indexes: self.indexes.clone(),
            compute: self.compute.clone(),
            progress: self.progress.clone(),
            settings: self.indexer_settings,
        }));
    }

    pub async fn stop_indexer(&mut self) {
        if let Some(indexer) = self.indexer.take() {
            indexer.shutdown().await;
        }
    }

    /// Ends in order, so that the directory can be opened again.
    pub async fn close(mut self) {
        self.stop_indexer().await;
        self.store.close().await.unwrap();
    }

    pub async fn put(&self, documents: Vec<IncomingDocument>) -> Vec<IngestOutcome> {
        self.ingestor.put(&self.scope, documents).await.unwrap()
    }

    /// Puts and waits until it can be found.
    pub async fn put_indexed(&self, documents: Vec<IncomingDocument>) -> Vec<IngestOutcome> {
        let outcomes = self.put(documents).await;
        self.indexed(outcomes.iter().filter_map(|outcome| outcome.sequence).max()).await;
        outcomes
    }

    pub async fn indexed(&self, sequence: Option<Sequence>) {
        let Some(sequence) = sequence else { return };
        self.progress.wait(None, sequence, Instant::now() + PATIENCE).await.unwrap();
    }

    pub fn query(&self, text: &str, overrides: QueryOverrides) -> Query {
        let text = Some(text.to_owned()).filter(|text| !text.is_empty());
        self.defaults.query(text, overrides).unwrap()
    }

    pub async fn search(&self, text: &str, overrides: QueryOverrides) -> Result<SearchResult, SearchError> {
        self.search_as(&self.scope, text, overrides).await
    }

    pub async fn search_as(
        &self,
        scope: &TenantScope,
        text: &str,
        overrides: QueryOverrides,
    ) -> Result<SearchResult, SearchError> {
        let query = self.query(text, overrides);
        self.searcher.search(scope, &query, Instant::now()).await
    }

    /// Document ids of a plain search, best first.
    pub async fn found(&self, text: &str) -> Vec<String> {
        documents(&self.search(text, QueryOverrides::default()).await.unwrap())
    }

    pub async fn document(&self, id: &str) -> Option<Document> {
        let (collection, id) = (name("default"), DocumentId::new(id).unwrap());
        self.store.document(&self.scope, &collection, &id).await.unwrap()
    }

    pub fn reader(&self, principals: &[&str]) -> TenantScope {
        let principals = principals.iter().map(|one| Principal::new(one).unwrap()).collect();
        TenantScope { visibility: Visibility::Principals(principals), ..self.scope.clone() }
    }
}

fn query_cache(embedder: &Arc<dyn Embedder>) -> Arc<EmbeddingCache> {
    Arc::new(EmbeddingCache::new(embedder.spec().fingerprint(), QUERIES_KEPT))
}

/// No test here needs a parser process.
fn no_worker() -> WorkerCommand {
    WorkerCommand { program: "/nonexistent/parser".into(), args: Vec::new() }
}

pub fn documents(result: &SearchResult) -> Vec<String> {
    result.hits.iter().map(|hit| hit.document_id.to_string()).collect()
}

pub fn degraded(result: &SearchResult) -> Vec<String> {
    result.degraded.iter().map(ToString::to_string).collect()
}

pub fn name(text: &str) -> CollectionName {
    CollectionName::new(text).unwrap()
}

pub fn metadata(json: serde_json::Value) -> Metadata {
    serde_json::from_value(json).unwrap()
}

pub fn text(id: &str, text: &str) -> IncomingDocument {
    IncomingDocument {
        id: Some(DocumentId::new(id).unwrap()),
        collection: name("default"),
        title: None,
        source_uri: None,
        media_type: None,
        body: IncomingBody::Text(text.to_owned()),
        metadata: Metadata::new(),
        acl: None,
    }
}
