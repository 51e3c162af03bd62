//! Rooms made for the tests: they hold little, answer at once, and count what is asked of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use half::f16;
use parking_lot::Mutex;

use crate::domain::*;
use crate::http::{AnswerEvent, AnswerPort, AnswerRequest, Failure, IngestPort, SearchPort, Shortfall, StatusPort};
use crate::ingest::*;
use crate::search::{InvalidQuery, QueryOverrides, SearchDefaults, SearchError, SearchSettings};
use crate::store::{
    CorpusStore, DocumentState, DocumentWrite, HydratedChunk, Page, StoreError, StoredChunk, View, WithEmbeddings,
    WriteOutcome,
};

/// What was asked of any of the rooms.
#[derive(Default)]
pub struct Asked {
    pub store: AtomicUsize,
    pub search: AtomicUsize,
    pub ingest: AtomicUsize,
    pub answer: AtomicUsize,
    pub control: AtomicUsize,
    /// The scope and the query of the last search.
    pub last_search: Mutex<Option<(TenantScope, Query)>>,
    pub last_answer: Mutex<Option<(TenantScope, AnswerRequest)>>,
    pub documents: Mutex<Vec<IncomingDocument>>,
    /// Items of a stream that were taken off it but not told of yet, at most.
    pub most_held: AtomicUsize,
    /// A stream of answer events was dropped before its end.
    pub dropped: AtomicBool,
}

impl Asked {
    pub fn anything(&self) -> usize {
        let counts = [&self.store, &self.search, &self.ingest, &self.answer, &self.control];
        counts.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }
}

pub struct TestRooms {
    pub asked: Arc<Asked>,
    defaults: SearchDefaults,
    pub ledger: Arc<super::ledger::MemoryLedger>,
    pub controls: super::control_room::Controls,
    pub generations: Arc<super::generations::OneGeneration>,
    pub shortfalls: Mutex<Vec<Shortfall>>,
    /// Set: searches wait for ever.
    pub stuck: AtomicBool,
    /// Set: the next stream stops after so many items.
    pub breaks_after: AtomicUsize,
}

impl TestRooms {
    pub fn new() -> Self {
        Self {
            asked: Arc::default(),
            defaults: SearchDefaults::new(SearchSettings::default()),
            ledger: Arc::default(),
            controls: super::control_room::Controls::default(),
            generations: super::generations::desk(),
            shortfalls: Mutex::default(),
            stuck: AtomicBool::new(false),
            breaks_after: AtomicUsize::new(usize::MAX),
        }
    }
}

pub fn chunk_id() -> ChunkId {
    ChunkId([0xab; 16])
}

pub fn provenance(document: &str) -> Provenance {
    Provenance {
        document_id: DocumentId::new(document).unwrap(),
        document_version: 2,
        content_hash: ContentHash::of(b"content"),
        source_uri: Some("file:///a.md".to_owned()),
        span: ByteSpan::new(10, 22),
        page: None,
        heading_path: vec!["Operations".to_owned(), "Backup".to_owned()],
        ordinal: 3,
        chunker: ChunkerSpec {
            name: "structure".to_owned(),
            version: 1,
            params: [("max_tokens".to_owned(), "200".to_owned())].into(),
        },
        embedder: Some(EmbedderSpec { name: "hashing".to_owned(), revision: "1".to_owned(), dimensions: 4 }),
        generation: GenerationId([1; 16]),
        indexed_at: Some(Timestamp(1_767_225_600_000_000)),
    }
}

pub fn hit() -> Hit {
    let stage = |rank, score| Some(StageScore { rank, score });
    Hit {
        rank: 1,
        score: 0.93,
        chunk_id: chunk_id(),
        document_id: DocumentId::new("a.md").unwrap(),
        title: Some("Backup".to_owned()),
        text: "Back up daily.".to_owned(),
        highlights: vec![ByteSpan::new(0, 4)],
        before: vec![],
        after: vec![Neighbour { id: ChunkId([2; 16]), text: "And test it.".to_owned() }],
        metadata: Metadata::new(),
        provenance: provenance("a.md"),
        breakdown: ScoreBreakdown {
            lexical: stage(3, 11.2),
            vector: None,
            fusion: stage(1, 0.032),
            rerank: stage(1, 0.93),
        },
    }
}

#[async_trait]
impl SearchPort for TestRooms {
    fn query(&self, text: Option<String>, overrides: QueryOverrides) -> Result<Query, InvalidQuery> {
        self.asked.search.fetch_add(1, Ordering::SeqCst);
        self.defaults.query(text, overrides)
    }

    async fn search(&self, scope: &TenantScope, query: &Query, _: Instant) -> Result<SearchResult, SearchError> {
        *self.asked.last_search.lock() = Some((scope.clone(), query.clone()));
        if self.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match query.text.as_str() {
            "panic" => panic!("a bug with a secret in it"),
            "lagging" => {
                Err(SearchError::IndexLagging { wanted: Sequence(9), reached: Sequence(3), retry_after_ms: 1_500 })
            }
            "corrupt" => Err(SearchError::Store(StoreError::Corrupt { detail: "/secret/path".to_owned() })),
            _ => Ok(SearchResult {
                mode: query.mode,
                generation: Some(GenerationId([1; 16])),
                sequence: Sequence(123),
                hits: vec![hit()],
                degraded: vec![Degraded { stage: "rerank", reason: "deadline" }],
                reranked_by: None,
                timings: StageTimings { lexical_ms: 1.23456, ..StageTimings::default() },
                took_ms: 12.3,
            }),
        }
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        vec![("max_top_k", self.defaults.settings().limits.max_top_k as u64)]
    }
}

fn outcome_of(sequence: u64, item: &IncomingItem) -> IngestOutcome {
    let failed = |id, error| IngestOutcome {
        id,
        status: IngestStatus::Failed,
        version: None,
        content_hash: None,
        sequence: None,
        error: Some(error),
        degraded: vec![],
    };
    match item {
        Err(RejectedItem { id, kind, detail }) => {
            failed(id.clone(), ItemError::Rejected { kind: *kind, detail: detail.clone() })
        }
        Ok(document) if document.body == IncomingBody::Text("poison".to_owned()) => {
            failed(Some(document.document_id().into()), ItemError::NoText)
        }
        Ok(document) => {
            let unchanged = document.body == IncomingBody::Text("known".to_owned());
            IngestOutcome {
                id: Some(document.document_id().into()),
                status: if unchanged { IngestStatus::Unchanged } else { IngestStatus::Accepted },
                version: Some(1),
                content_hash: Some(ContentHash::of(b"content")),
                sequence: (!unchanged).then_some(Sequence(sequence)),
                error: None,
                degraded: vec![],
            }
        }
    }
}

/// Items that the room below takes together.
pub const BATCH: usize = 32;

#[async_trait]
impl IngestPort for TestRooms {
    async fn put(&self, _: &TenantScope, document: IncomingDocument) -> Result<IngestOutcome, IngestError> {
        self.asked.ingest.fetch_add(1, Ordering::SeqCst);
        self.asked.documents.lock().push(document.clone());
        Ok(outcome_of(1, &Ok(document)))
    }

    async fn put_stream(
        &self,
        _: &TenantScope,
        items: BoxStream<'_, IncomingItem>,
        told: &mut (dyn for<'o> FnMut(u64, &'o IngestOutcome) + Send),
    ) -> StreamReport {
        let mut items = items.chunks(BATCH);
        let mut index = 0;
        while let Some(batch) = items.next().await {
            self.asked.most_held.fetch_max(batch.len(), Ordering::SeqCst);
            for item in batch {
                if index as usize >= self.breaks_after.load(Ordering::SeqCst) {
                    let stopped = Some(IngestError::Store(StoreError::Poisoned));
                    return StreamReport { stopped, ..StreamReport::default() };
                }
                self.asked.ingest.fetch_add(1, Ordering::SeqCst);
                told(index, &outcome_of(index + 1, &item));
                index += 1;
                if let Ok(document) = item
                    && index < 100
                {
                    self.asked.documents.lock().push(document);
                }
            }
            tokio::task::yield_now().await;
        }
        StreamReport::default()
    }

    async fn delete(
        &self,
        _: &TenantScope,
        _: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<Sequence>, IngestError> {
        self.asked.ingest.fetch_add(1, Ordering::SeqCst);
        Ok((document.as_str() == "a.md").then_some(Sequence(7)))
    }

    async fn wait_indexed(&self, _: &TenantScope, sequence: Sequence, _: Instant) -> bool {
        sequence < Sequence(1_000)
    }

    fn media_types(&self) -> &'static [&'static str] {
        &["text/plain", "text/markdown", "text/html"]
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        vec![("max_title_bytes", 1024)]
    }
}

pub fn answer() -> Answer {
    let citation = Citation {
        marker: 1,
        chunk_id: chunk_id(),
        document_id: DocumentId::new("a.md").unwrap(),
        quote: "Back up daily.".to_owned(),
        span: ByteSpan::new(10, 24),
        provenance: provenance("a.md"),
    };
    Answer {
        status: AnswerStatus::Fallback,
        text: "Back up daily. [1]".to_owned(),
        claims: vec![Claim {
            text: "Back up daily.".to_owned(),
            span: ByteSpan::new(0, 14),
            citations: vec![1],
            support: 1.0,
            verdict: Verdict::Supported,
        }],
        citations: vec![citation],
        sources: vec![hit()],
        model: None,
        provider: None,
        prompt: None,
        usage: Usage::default(),
        attempts: vec![],
        cost: crate::domain::Nanousd(0),
        is_cached: false,
        model_problem: None,
        search_ms: 1.0,
        model_ms: 0.0,
        degraded: vec![],
    }
}

fn refused(question: &str) -> Result<(), Failure> {
    let spent = || "session:s-1 has spent 2 USD of 2 USD".to_owned();
    match question {
        "over budget today" => Err(Failure::budget_exceeded(spent(), Some(Duration::from_secs(3_600)))),
        "over budget for ever" => Err(Failure::budget_exceeded(spent(), None)),
        "switched off" => Err(Failure::kill_switch()),
        _ => Ok(()),
    }
}

/// Notes that a stream of events was dropped.
struct NotesDrop(Arc<Asked>);

impl Drop for NotesDrop {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl AnswerPort for TestRooms {
    async fn answer(&self, scope: &TenantScope, request: AnswerRequest) -> Result<Answer, Failure> {
        self.asked.answer.fetch_add(1, Ordering::SeqCst);
        refused(&request.question)?;
        *self.asked.last_answer.lock() = Some((scope.clone(), request));
        Ok(answer())
    }

    async fn stream(
        &self,
        scope: &TenantScope,
        request: AnswerRequest,
    ) -> Result<BoxStream<'static, AnswerEvent>, Failure> {
        self.asked.answer.fetch_add(1, Ordering::SeqCst);
        refused(&request.question)?;
        let question = request.question.clone();
        *self.asked.last_answer.lock() = Some((scope.clone(), request));
        let done = answer();
        let first = vec![AnswerEvent::Sources(done.sources.clone()), AnswerEvent::Delta("Back up\ndaily.".to_owned())];
        let rest = vec![
            AnswerEvent::Citation(Box::new(done.citations[0].clone())),
            AnswerEvent::Claim(done.claims[0].clone()),
            AnswerEvent::Done(Box::new(done)),
        ];
        let first = futures::stream::iter(first);
        let guard = NotesDrop(Arc::clone(&self.asked));
        Ok(match question.as_str() {
            "cut" => first.boxed(),
            "endless" => first
                .chain(futures::stream::unfold(guard, |guard| async {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Some((AnswerEvent::Delta("more".to_owned()), guard))
                }))
                .boxed(),
            _ => first.chain(futures::stream::iter(rest)).boxed(),
        })
    }
}

#[async_trait]
impl StatusPort for TestRooms {
    async fn shortfalls(&self) -> Vec<Shortfall> {
        self.shortfalls.lock().clone()
    }

    fn metrics(&self) -> String {
        "plumb_up 1\n".to_owned()
    }
}

pub fn document() -> Document {
    Document {
        head: DocumentHead {
            id: DocumentId::new("docs/a.md").unwrap(),
            collection: CollectionName::new("default").unwrap(),
            title: None,
            source_uri: None,
            media_type: "text/markdown".to_owned(),
            metadata: Metadata::new(),
            acl: None,
        },
        version: 2,
        content_hash: ContentHash::of(b"content"),
        created_at: Timestamp(1_767_225_600_000_000),
        updated_at: Timestamp(1_767_225_600_000_001),
        chunk_count: 1,
        generation: GenerationId([1; 16]),
        sequence: Sequence(3),
        indexed_at: Some(Timestamp(1_767_225_600_000_000)),
    }
}

fn stored() -> StoredChunk {
    StoredChunk {
        chunk: Chunk {
            id: chunk_id(),
            ordinal: 0,
            span: ByteSpan::new(10, 22),
            text: "back it up x".to_owned(),
            heading_path: vec![],
            token_count: 4,
            page: None,
            metadata: None,
            context: None,
        },
        provenance: provenance("docs/a.md"),
        previous: None,
        next: Some(ChunkId([2; 16])),
    }
}

impl TestRooms {
    fn read(&self) {
        self.asked.store.fetch_add(1, Ordering::SeqCst);
    }
}

/// Only `docs/a.md` of the tenants `default` and `acme` exists.
fn known(scope: &TenantScope, document: &DocumentId) -> bool {
    document.as_str() == "docs/a.md" && matches!(scope.tenant.as_str(), "default" | "acme")
}

#[async_trait]
impl CorpusStore for TestRooms {
    async fn open_collection(
        &self,
        _: &TenantScope,
        name: &CollectionName,
        profile: &Profile,
    ) -> Result<Collection, StoreError> {
        let live = Generation {
            id: GenerationId([1; 16]),
            profile: profile.clone(),
            state: GenerationState::Live,
            created_at: Timestamp(0),
        };
        Ok(Collection { name: name.clone(), live, also_serving: vec![], shadow: None, created_at: Timestamp(0) })
    }

    async fn collection(&self, _: &TenantScope, _: &CollectionName) -> Result<Option<Collection>, StoreError> {
        Ok(None)
    }

    async fn collections(&self, scope: &TenantScope) -> Result<Vec<Collection>, StoreError> {
        self.read();
        let profile = Profile {
            chunker: ChunkerSpec { name: "structure".to_owned(), version: 1, params: [].into() },
            embedder: None,
            analyzer: AnalyzerSpec { name: "words".to_owned(), version: 1, language: "en".to_owned() },
            context: ContextSpec::default(),
        };
        Ok(vec![self.open_collection(scope, &CollectionName::new("default").unwrap(), &profile).await?])
    }

    async fn write(&self, _: &TenantScope, _: Vec<DocumentWrite>) -> Result<Vec<WriteOutcome>, StoreError> {
        Err(StoreError::Poisoned)
    }

    async fn states(
        &self,
        _: &TenantScope,
        _: &CollectionName,
        _: &[DocumentId],
    ) -> Result<Vec<Option<DocumentState>>, StoreError> {
        Ok(vec![])
    }

    async fn known_embeddings(
        &self,
        _: &TenantScope,
        _: Fingerprint,
        _: &[ContentHash],
    ) -> Result<HashMap<ContentHash, Vec<f16>>, StoreError> {
        Ok(HashMap::new())
    }

    async fn document(
        &self,
        scope: &TenantScope,
        _: &CollectionName,
        id: &DocumentId,
    ) -> Result<Option<Document>, StoreError> {
        self.read();
        Ok(known(scope, id).then(document))
    }

    async fn documents(
        &self,
        _: &TenantScope,
        _: &CollectionName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Document>, StoreError> {
        self.read();
        match cursor {
            Some("next") | None => Ok(Page { items: vec![document(); limit.min(2)], next: Some("next".to_owned()) }),
            Some(other) => Err(StoreError::InvalidCursor { what: other.to_owned() }),
        }
    }

    async fn versions(
        &self,
        scope: &TenantScope,
        _: &CollectionName,
        id: &DocumentId,
    ) -> Result<Vec<VersionSummary>, StoreError> {
        self.read();
        let version = VersionSummary {
            version: 2,
            content_hash: ContentHash::of(b"content"),
            created_at: Timestamp(0),
            chunk_count: 1,
        };
        Ok(if known(scope, id) { vec![version] } else { vec![] })
    }

    async fn content(
        &self,
        scope: &TenantScope,
        _: &CollectionName,
        id: &DocumentId,
        version: Option<u64>,
    ) -> Result<Option<String>, StoreError> {
        self.read();
        Ok((known(scope, id) && version.unwrap_or(2) == 2).then(|| "how to bäck it up\n".to_owned()))
    }

    async fn chunks(
        &self,
        scope: &TenantScope,
        _: &CollectionName,
        id: &DocumentId,
        _: Option<u64>,
    ) -> Result<Option<Vec<StoredChunk>>, StoreError> {
        self.read();
        Ok(known(scope, id).then(|| vec![stored()]))
    }

    async fn chunk(&self, scope: &TenantScope, id: ChunkId) -> Result<Option<StoredChunk>, StoreError> {
        self.read();
        let mine = matches!(scope.tenant.as_str(), "default" | "acme");
        Ok((id == chunk_id() && mine).then(stored))
    }

    async fn hydrate(
        &self,
        _: &TenantScope,
        _: (&CollectionName, View),
        _: &[ChunkId],
        _: WithEmbeddings,
    ) -> Result<Vec<HydratedChunk>, StoreError> {
        Ok(vec![])
    }

    async fn neighbours(
        &self,
        _: &TenantScope,
        _: ChunkId,
        _: u32,
        _: u32,
    ) -> Result<(Vec<Chunk>, Vec<Chunk>), StoreError> {
        Ok((vec![], vec![]))
    }

    async fn unembedded(
        &self,
        _: &TenantScope,
        _: &CollectionName,
        _: usize,
    ) -> Result<Vec<(DocumentHead, Vec<Chunk>)>, StoreError> {
        Ok(vec![])
    }
}
