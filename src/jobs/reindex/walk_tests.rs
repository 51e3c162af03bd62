//! Promises of generations with the real store, the real runner, and models that count what they are asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::domain::{
    CollectionName, ContextSpec, DocumentId, EmbedderSpec, GenerationId, GenerationState, Metadata, Profile, Task,
    TaskStatus, TenantId, TenantScope, Timestamp, TraceId,
};
use crate::gateway::{
    ChatEnd, ChatRequest, ChatResponse, ChatStream, FinishReason, GatewayError, PromptBook, Provider, test_gateway,
};
use crate::index::{
    ComputePool, Generations, IndexProgress, LexicalIndex, LexicalSettings, TantivyIndex, VectorSettings, analyzer_spec,
};
use crate::inference::{Embedder, Embedders, InferenceError, InputKind, TokenCounter, WordCounter};
use crate::ingest::{
    Contexts, GenerationSettings, IncomingBody, IncomingDocument, Indexer, IndexerParts, IndexerSettings, IngestParts,
    IngestSettings, Ingestor, Tender, TenderParts,
};
use crate::jobs::{
    CONTEXT_PROMPTS, DeskError, Force, GatewayContexts, GenerationDesk, GenerationDeskParts, PlanPatch, Transition,
};
use crate::parse::{ParseSettings, Parser, WorkerCommand};
use crate::store::{CorpusStore, GenerationStore, OperationLog, Remains, SqliteStore, StoreSettings, WithEmbeddings};
use crate::tasks::{Again, Bell, JobHandler, Runner, RunnerParts, TaskDesk, TaskDeskParts, TaskOrder, TaskSettings};
use crate::text::{ChunkingSettings, chunker_spec};

use super::ReindexJob;

/// Longest that a test waits for anything. Far more than it takes: only a broken promise reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// An embedder without weights that embeds as many texts as it has places.
struct Counting {
    spec: EmbedderSpec,
    places: Semaphore,
    embedded: AtomicUsize,
}

impl Counting {
    fn new(name: &str) -> Arc<Self> {
        let spec = EmbedderSpec { name: name.to_owned(), revision: "r1+int8+0".to_owned(), dimensions: 4 };
        Arc::new(Self { spec, places: Semaphore::new(Semaphore::MAX_PERMITS), embedded: AtomicUsize::new(0) })
    }

    fn embedded(&self) -> usize {
        self.embedded.load(Ordering::Acquire)
    }
}

#[async_trait]
impl Embedder for Counting {
    fn spec(&self) -> &EmbedderSpec {
        &self.spec
    }

    fn max_tokens(&self) -> usize {
        256
    }

    async fn embed(&self, inputs: Vec<String>, _: InputKind) -> Result<Vec<Vec<f32>>, InferenceError> {
        let count = inputs.len();
        self.places.acquire_many(count as u32).await.expect("it is never closed").forget();
        self.embedded.fetch_add(count, Ordering::AcqRel);
        let vector = |text: &String| {
            let hash = crate::domain::hash_parts(&[text.as_bytes()]);
            hash[..4].iter().map(|byte| f32::from(*byte) + 1.0).collect()
        };
        Ok(inputs.iter().map(vector).collect())
    }
}

/// A language model that says the same of everything.
#[derive(Default)]
struct Writer {
    asked: Mutex<Vec<String>>,
    refuses: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Provider for Writer {
    fn name(&self) -> &str {
        "mock"
    }

    async fn chat(&self, request: &ChatRequest, _: Instant) -> Result<ChatResponse, GatewayError> {
        if self.refuses.load(Ordering::Acquire) {
            let (provider, detail) = ("mock".to_owned(), "no".to_owned());
            return Err(GatewayError::Status { provider, status: 400, retry_after: None, detail });
        }
        self.asked.lock().push(request.messages.last().unwrap().content.clone());
        let end = ChatEnd { model: request.model.clone(), finish: FinishReason::Stop, usage: None };
        Ok(ChatResponse { text: "It is about\nships.".to_owned(), tool_calls: Vec::new(), end })
    }

    async fn chat_stream(&self, _: &ChatRequest, _: Instant) -> Result<ChatStream, GatewayError> {
        unreachable!("nobody streams here")
    }
}

/// Everything that generations need, in a directory of its own.
struct World {
    _indexer: Indexer,
    directory: TempDir,
    store: Arc<SqliteStore>,
    ingestor: Arc<Ingestor>,
    tender: Arc<Tender>,
    generations: GenerationDesk,
    desk: Arc<TaskDesk>,
    handlers: Vec<Arc<dyn JobHandler>>,
    bell: Arc<Bell>,
    scope: TenantScope,
    first: Arc<Counting>,
    second: Arc<Counting>,
    writer: Arc<Writer>,
    /// Microseconds that the clock is ahead.
    ahead: Arc<std::sync::atomic::AtomicI64>,
}

fn collection() -> CollectionName {
    CollectionName::new("default").unwrap()
}

fn document(n: usize) -> DocumentId {
    DocumentId::new(&format!("d{n}")).unwrap()
}

fn settings() -> GenerationSettings {
    GenerationSettings { build_share: 1.0, documents_at_once: 2, ..GenerationSettings::default() }
}

fn quick() -> TaskSettings {
    TaskSettings { poll_every_ms: 20, backoff_base_ms: 1, backoff_max_ms: 5, ..TaskSettings::default() }
}

fn clock() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_microsecond())
}

fn indexes(dir: &Path) -> Arc<Generations> {
    let open_lexical = |path: &Path, profile: &Profile| {
        let index = TantivyIndex::open(path, &LexicalSettings::default(), &profile.analyzer)?;
        Ok(Arc::new(index) as Arc<dyn LexicalIndex>)
    };
    Arc::new(Generations::open(&dir.join("index"), VectorSettings::default(), Box::new(open_lexical)).unwrap())
}

fn ingestor(
    store: &Arc<SqliteStore>,
    (contexts, progress): (Contexts, &Arc<IndexProgress>),
    (first, second): (&Arc<Counting>, &Arc<Counting>),
) -> Arc<Ingestor> {
    let embedders: Vec<Arc<dyn Embedder>> = vec![first.clone(), second.clone()];
    let chunking = ChunkingSettings { target_tokens: 40, max_tokens: 60, min_tokens: 2, ..ChunkingSettings::default() };
    let profile = Profile {
        chunker: chunker_spec(&chunking, WordCounter.name()),
        embedder: Some(first.spec.clone()),
        analyzer: analyzer_spec("en"),
        context: ContextSpec::default(),
    };
    Arc::new(Ingestor::new(IngestParts {
        store: store.clone(),
        progress: progress.clone(),
        compute: Arc::new(ComputePool::new(2, 64).unwrap()),
        parser: Arc::new(Parser::new(ParseSettings::default(), WorkerCommand::current_program().unwrap())),
        embedders: Embedders::new(embedders),
        counters: vec![Arc::new(WordCounter)],
        profile,
        contexts: Some(contexts),
        settings: IngestSettings::default(),
    }))
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("plumb.db"), StoreSettings::default()).await;
        let store = Arc::new(store.unwrap());
        let (first, second, writer) = (Counting::new("first"), Counting::new("second"), Arc::new(Writer::default()));
        let gateway = test_gateway::single(writer.clone());
        let prompts = Arc::new(ArcSwap::from_pointee(PromptBook::new(CONTEXT_PROMPTS).unwrap()));
        let writes =
            GatewayContexts { gateway: gateway.clone(), prompts: prompts.clone(), timeout: Duration::from_secs(10) };
        let contexts = Contexts { store: store.clone(), writer: Arc::new(writes), at_once: 2, max_bytes: 400 };
        let progress = Arc::<IndexProgress>::default();
        let ingestor = ingestor(&store, (contexts, &progress), (&first, &second));
        let indexes = indexes(directory.path());
        let indexer = Indexer::start(IndexerParts {
            log: store.clone(),
            indexes: indexes.clone(),
            compute: Arc::new(ComputePool::new(2, 64).unwrap()),
            progress,
            settings: IndexerSettings::default(),
        });
        let ahead = Arc::<std::sync::atomic::AtomicI64>::default();
        let hand = ahead.clone();
        let tender = Arc::new(Tender::new(TenderParts {
            ingestor: ingestor.clone(),
            generations: store.clone(),
            log: store.clone(),
            indexes,
            settings: settings(),
            clock: Arc::new(move || Timestamp(clock().0 + hand.load(Ordering::Acquire))),
        }));
        let job = ReindexJob {
            store: store.clone(),
            generations: store.clone(),
            ingestor: ingestor.clone(),
            tender: tender.clone(),
            gateway,
            prompts,
        };
        let handlers: Vec<Arc<dyn JobHandler>> = vec![Arc::new(job)];
        let bell = Arc::new(Bell::default());
        let desk = Arc::new(TaskDesk::new(TaskDeskParts {
            store: store.clone(),
            handlers: handlers.clone(),
            bell: bell.clone(),
            settings: quick(),
        }));
        let generations = GenerationDesk::new(GenerationDeskParts { store: store.clone(), tender: tender.clone() });
        let scope = TenantScope::everything(TenantId::new("acme").unwrap());
        Self {
            directory,
            store,
            _indexer: indexer,
            ingestor,
            tender,
            generations,
            desk,
            handlers,
            bell,
            scope,
            first,
            second,
            writer,
            ahead,
        }
    }

    /// Documents of one chunk each.
    async fn with_documents(count: usize) -> Self {
        let world = Self::new().await;
        for n in 0..count {
            world.put(n, &format!("The ship number {n} has sails and a crew that nobody counted.")).await;
        }
        world
    }

    async fn put(&self, n: usize, text: &str) {
        let document = IncomingDocument {
            id: Some(document(n)),
            collection: collection(),
            title: Some("Ships".to_owned()),
            source_uri: None,
            media_type: None,
            body: IncomingBody::Text(text.to_owned()),
            metadata: Metadata::new(),
            acl: None,
        };
        let outcomes = self.ingestor.put(&self.scope, vec![document]).await.unwrap();
        assert!(outcomes[0].error.is_none(), "{:?}", outcomes[0]);
    }

    fn runner(&self) -> Runner {
        Runner::start(RunnerParts {
            queue: self.store.clone(),
            ledger: self.store.clone(),
            desk: self.desk.clone(),
            handlers: self.handlers.clone(),
            bell: self.bell.clone(),
            settings: quick(),
            clock: Arc::new(clock),
        })
    }

    async fn submit(&self, input: Value) -> Result<Task, String> {
        let order = TaskOrder {
            kind: "reindex".to_owned(),
            input,
            model: None,
            priority: 0,
            delay: Duration::ZERO,
            again: Again::No,
            session_id: None,
            trace_id: TraceId([7; 16]),
            slot: None,
        };
        match self.desk.submit(&self.scope, order).await {
            Ok(submitted) => Ok(submitted.task),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !is_so().await {
            assert!(began.elapsed() < PATIENCE, "{what}");
            let _ = tokio::time::timeout(Duration::from_millis(10), self.desk.watch().changed()).await;
        }
    }

    async fn ended(&self, task: &Task) -> Task {
        let now = async || self.desk.task(&self.scope, task.id, None).await.unwrap().unwrap();
        self.until("the task does not end", async || now().await.status.is_ended()).await;
        now().await
    }

    /// Builds a generation to its end.
    async fn built(&self, input: Value) -> GenerationId {
        let task = self.submit(input).await.unwrap();
        let runner = self.runner();
        let task = self.ended(&task).await;
        runner.shutdown().await;
        assert_eq!(task.status, TaskStatus::Succeeded, "{:?}", task.problem);
        let output: Value = task.output.unwrap().read().unwrap();
        output["generation"].as_str().unwrap().parse().unwrap()
    }

    async fn serving(&self, id: GenerationId) -> u64 {
        self.generations.one(&self.scope, id).await.unwrap().status.counts.serving
    }

    async fn live(&self) -> GenerationId {
        self.store.collection(&self.scope, &collection()).await.unwrap().unwrap().live.id
    }

    /// What stands before the chunks of a document in a generation.
    async fn contexts(&self, id: GenerationId, n: usize) -> Vec<Option<String>> {
        let (tenant, name) = (&self.scope.tenant, collection());
        let found = self.store.indexable(tenant, (&name, id), &[document(n)], WithEmbeddings::No).await.unwrap();
        found[0].as_ref().unwrap().chunks.iter().map(|chunk| chunk.context.clone()).collect()
    }

    fn index_of(&self, id: GenerationId) -> PathBuf {
        self.directory.path().join("index").join(id.to_string())
    }
}

#[tokio::test]
async fn cutting_anew_embeds_nothing_whose_text_is_the_same() {
    let world = World::with_documents(10).await;
    let before = world.first.embedded();

    let id = world.built(json!({"profile": {"chunker": {"strategy": "window"}}})).await;

    let view = world.generations.one(&world.scope, id).await.unwrap();
    assert_eq!((before, world.first.embedded()), (10, 10));
    assert_eq!((view.status.counts.built, view.status.counts.vectors, view.to_build), (10, 10, 0));
    assert_eq!(view.status.generation.state, GenerationState::Shadow);
}

#[tokio::test]
async fn a_building_that_is_cut_off_goes_on_and_embeds_no_text_twice() {
    let world = World::with_documents(24).await;
    world.second.places.forget_permits(Semaphore::MAX_PERMITS - 10);
    let task = world.submit(json!({"profile": {"embedder": "second"}})).await.unwrap();

    let runner = world.runner();
    world.until("nothing is embedded", async || world.second.embedded() == 10).await;
    // As a kill: nothing is put back, nothing is finished.
    drop(runner);
    crate::store::TaskQueue::take_back_all(&*world.store, clock()).await.unwrap();
    world.second.places.add_permits(1_000);
    let runner = world.runner();
    let task = world.ended(&task).await;
    runner.shutdown().await;

    assert_eq!(task.status, TaskStatus::Succeeded, "{:?}", task.problem);
    assert_eq!(world.second.embedded(), 24, "each text once");
    assert_eq!((task.done, task.total), (102, Some(102)));
}

#[tokio::test]
async fn a_promotion_moves_every_document_and_going_back_moves_them_back() {
    let world = World::with_documents(20).await;
    let old = world.live().await;
    let new = world.built(json!({"profile": {"embedder": {"name": "second", "precision": "int8"}}})).await;

    let Transition { moved, remaining, .. } = world.generations.promote(&world.scope, new, Force::No).await.unwrap();
    assert_eq!((moved, remaining, world.serving(new).await, world.live().await), (20, 0, 20, new));
    world.put(20, "A ship that came later has sails too.").await;

    let back = world.generations.rollback(&world.scope, new).await.unwrap();
    assert_eq!((back.moved, back.remaining, world.live().await), (20, 1, old));
    world.tender.tend().await.unwrap();
    assert_eq!((world.serving(old).await, world.serving(new).await), (21, 0), "what came later is built there first");
}

#[tokio::test]
async fn a_rollout_serves_a_share_and_a_smaller_share_gives_back() {
    let world = World::with_documents(40).await;
    let id = world.built(json!({"profile": {"context": "none"}, "rollout": {"share": 0.5}})).await;

    world.tender.tend().await.unwrap();
    let half = world.serving(id).await;
    let patch = PlanPatch { share: Some(0.1), ..PlanPatch::default() };
    world.generations.plan(&world.scope, id, patch).await.unwrap();
    world.tender.tend().await.unwrap();
    let tenth = world.serving(id).await;

    assert!((10..=30).contains(&half) && tenth < half, "{half}, then {tenth}");
    world.generations.rollback(&world.scope, id).await.unwrap();
    assert_eq!(world.serving(id).await, 0);
}

#[tokio::test]
async fn what_is_written_during_a_rollout_is_built_and_moved_by_the_tender() {
    let world = World::with_documents(6).await;
    let id = world.built(json!({"profile": {"context": "none"}, "rollout": {"share": 1}})).await;
    world.tender.tend().await.unwrap();

    world.put(3, "The third ship has been painted.").await;
    assert_eq!(world.serving(id).await, 5);
    world.tender.tend().await.unwrap();
    world.tender.tend().await.unwrap();

    assert_eq!(world.serving(id).await, 6);
}

#[tokio::test]
async fn only_a_whole_generation_is_promoted() {
    let world = World::with_documents(30).await;
    let id = world.built(json!({"profile": {"context": "none"}, "sample": 0.3})).await;

    let sample = world.generations.promote(&world.scope, id, Force::Yes).await.unwrap_err();
    let patch = PlanPatch { sample: Some(1.0), ..PlanPatch::default() };
    world.generations.plan(&world.scope, id, patch).await.unwrap();
    let absent = world.generations.promote(&world.scope, id, Force::No).await.unwrap_err();
    world.tender.tend().await.unwrap();

    assert!(matches!(sample, DeskError::OnlyASample { .. }), "{sample}");
    assert!(matches!(absent, DeskError::NotWhole { documents: 30, .. }), "{absent}");
    assert_eq!(world.generations.promote(&world.scope, id, Force::No).await.unwrap().remaining, 0);
}

#[tokio::test]
async fn of_a_generation_that_has_had_its_time_nothing_is_left() {
    let world = World::with_documents(12).await;
    let old = world.live().await;
    let new = world.built(json!({"profile": {"embedder": "second"}})).await;
    std::fs::create_dir_all(world.index_of(old)).unwrap();
    world.generations.promote(&world.scope, new, Force::No).await.unwrap();

    world.tender.tend().await.unwrap();
    assert_eq!(
        world.generations.one(&world.scope, old).await.unwrap().status.generation.state,
        GenerationState::Shadow
    );
    // Past the soak, and past the time that a retired one is left alone.
    world.ahead.store(2 * settings().soak_us(), Ordering::Release);
    world.tender.tend().await.unwrap();
    world.tender.tend().await.unwrap();

    let status = world.generations.one(&world.scope, old).await.unwrap().status;
    assert_eq!(status.generation.state, GenerationState::Retired);
    assert!(status.removed_at.is_some() && !world.index_of(old).exists(), "{status:?}");
    let left = world.store.remove_generation(&world.scope, old, 10).await.unwrap();
    assert_eq!(left, Remains::default());
    assert_eq!(world.serving(new).await, 12);
}

#[tokio::test]
async fn a_text_before_a_chunk_is_asked_for_once_and_looked_up_beside_it() {
    let world = World::with_documents(5).await;
    let id = world.built(json!({"profile": {"context": {}}})).await;

    assert_eq!(world.writer.asked.lock().len(), 5);
    assert_eq!(world.contexts(id, 2).await, [Some("It is about ships.".to_owned())]);
    assert_eq!(world.first.embedded(), 10, "what is embedded has changed");

    world.generations.retire(&world.scope, id).await.unwrap();
    let again = world.built(json!({"profile": {"context": {}, "chunker": {"strategy": "window"}}})).await;
    assert_eq!(world.writer.asked.lock().len(), 5, "the same text in the same place");
    assert_eq!(world.contexts(again, 2).await, [Some("It is about ships.".to_owned())]);

    world.generations.promote(&world.scope, again, Force::No).await.unwrap();
    world.writer.refuses.store(true, Ordering::Release);
    world.put(5, "A ship of which nothing is written.").await;
    assert_eq!(world.contexts(again, 5).await, [None], "it is stored without");
}

#[tokio::test]
async fn a_profile_that_cannot_be_is_refused_with_what_can() {
    let world = World::with_documents(1).await;

    let unknown = world.submit(json!({"profile": {"embedder": "third"}})).await.unwrap_err();
    let same = world.submit(json!({"profile": {}})).await.unwrap_err();
    let long = world.submit(json!({"profile": {"chunker": {"target_tokens": 400, "max_tokens": 500}}})).await;
    let counter = world.submit(json!({"profile": {"chunker": {"counter": "third"}}})).await.unwrap_err();
    let nowhere = world.submit(json!({"collection": "nowhere", "profile": {}})).await.unwrap_err();

    assert!(unknown.contains("/profile/embedder") && unknown.contains("first@r1+int8+0, second@"), "{unknown}");
    assert!(same.contains("has already"), "{same}");
    assert!(long.unwrap_err().contains("no more than 256"));
    assert!(counter.contains("/profile/chunker/counter"), "{counter}");
    assert!(nowhere.contains("/collection"), "{nowhere}");
}
