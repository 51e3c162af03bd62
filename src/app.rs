//! Builds every part from [`Config`]: the only file that names concrete backends.

mod backfill;
mod check;
mod gateway;
mod generations;
mod judging;
mod models;
mod old_versions;
mod searching;
mod status;
mod tasks;
mod traces;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::answer::{AnswerError, Answerer, AnswererParts};
use crate::cache::Cache;
use crate::config::{Config, ConfigError, IndexSettings};
use crate::domain::{ContextSpec, Profile};
use crate::eval::GenerationScorer;
use crate::gateway::{Clock, GatewayError, GatewaySettings, PromptBook, PromptBookError};
use crate::http::{
    AnswerRoom, AuthError, ControlRoom, HttpServer, IngestRoom, LocalDoor, SearchRoom, ServeError, Services,
};
use crate::index::{ComputePool, Generations, IndexError, IndexProgress, LexicalIndex, TantivyIndex, analyzer_spec};
use crate::inference::InferenceError;
use crate::ingest::{Contexts, Indexer, IndexerParts, IngestError, IngestParts, Ingestor, Tender};
use crate::jobs::GenerationDesk;
use crate::parse::{Parser, WorkerCommand};
use crate::search::{SearchDefaults, Searcher};
use crate::store::{CaseStore, CorpusStore, DataDirectory, Ledger, OperationLog, SqliteStore, StoreError, TaskQueue};
use crate::telemetry::{Metrics, TelemetryError};
use crate::text::chunker_spec;

pub use check::{IndexCheck, check_indexes};
pub use models::models;

use backfill::backfill;
use gateway::RunningGateway;
use judging::{judge_in_background, scorer};
use models::{LoadedModels, load_models};
use old_versions::forget_old_versions;
use searching::searcher;
use status::Status;
use tasks::{TaskFloor, WorkRooms, keep};
use traces::TraceKeeper;

/// Time between two foldings of recorded samples. 5 s: at a thousand searches a second some 60,000 samples wait.
const FOLD_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for indexes to reach the end of the log when a caller asks for that.
const SETTLE_LIMIT: Duration = Duration::from_secs(1800);

/// Why the parts cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the data directory {path} is in use by {holder}")]
    InUse { path: String, holder: String, address: Option<String> },
    #[error("the truth cannot be opened")]
    Store(#[source] StoreError),
    #[error("the indexes cannot be opened")]
    Index(#[source] IndexError),
    #[error("the settings do not fit together")]
    Config(#[from] ConfigError),
    #[error("the gateway cannot be built")]
    Gateway(#[from] GatewayError),
    #[error("the prompts are not valid")]
    Prompts(#[from] PromptBookError),
    #[error("the models cannot be described")]
    Models(#[from] InferenceError),
    #[error("the compute pool cannot be started")]
    Compute(#[from] rayon::ThreadPoolBuildError),
    #[error("the program's own path is unknown, so parser processes cannot be started")]
    Program(#[source] std::io::Error),
    #[error("the indexes did not reach the end of the log: {detail}")]
    NotSettled { detail: String },
    #[error("missing embeddings could not be filled in")]
    Backfill(#[from] IngestError),
    #[error("the answers' settings are not valid")]
    Answer(#[from] AnswerError),
    #[error("the API cannot be built")]
    Http(#[source] ServeError),
    #[error("the keys are not valid")]
    Auth(#[source] AuthError),
    #[error("metrics cannot be kept")]
    Telemetry(#[from] TelemetryError),
    #[error("a task ended badly")]
    Task(#[from] tokio::task::JoinError),
}

/// A running instance: truth, indexes, models, and the rooms that use them.
pub struct App {
    pub store: Arc<SqliteStore>,
    pub searcher: Arc<Searcher>,
    pub defaults: SearchDefaults,
    pub ingestor: Arc<Ingestor>,
    pub answerer: Arc<Answerer>,
    pub indexer: Arc<Indexer>,
    pub indexes: Arc<Generations>,
    pub generations: Arc<GenerationDesk>,
    pub scorer: Arc<GenerationScorer>,
    models: LoadedModels,
    running: RunningGateway,
    floor: TaskFloor,
    traces: TraceKeeper,
    cache: Option<Arc<Cache>>,
    directory: DataDirectory,
    metrics: Metrics,
    /// Tasks that end with the instance.
    tasks: Vec<JoinHandle<()>>,
    config: Config,
}

impl App {
    /// Locks the data directory, opens the truth, starts the indexer, and loads the models that are there.
    ///
    /// Missing models, a damaged index and a damaged cache are no errors: the instance starts and says so.
    pub async fn start(config: Config) -> Result<Self, AppError> {
        crate::gateway::install_tls();
        let directory = DataDirectory::open(&config.server.data_dir).map_err(open_failed)?;
        // One clock for the waits that the store writes and for the runner that ends them.
        let clock = gateway::steady_clock();
        let opened = SqliteStore::open_with_clock(&directory.database(), config.store.clone(), clock.clone()).await;
        let store = Arc::new(opened.map_err(AppError::Store)?);
        let cache = open_cache(&config, directory.path().join("cache")).await;
        let models = load_models(&config, cache.clone()).await?;
        let compute = Arc::new(ComputePool::new(config.compute.resolved_threads(), config.compute.queue)?);
        let progress = progress_of(&store).await?;
        let indexes = open_indexes(&directory.path().join("index"), &config.index).map_err(AppError::Index)?;
        let indexes = Arc::new(indexes);

        let indexer = Indexer::start(IndexerParts {
            log: store.clone() as Arc<dyn OperationLog>,
            indexes: indexes.clone(),
            compute: compute.clone(),
            progress: progress.clone(),
            settings: config.index.follow,
        });
        let (searcher, shadow_jobs) = searcher(&config, &store, &models, (&indexes, &compute, &progress));
        let defaults = SearchDefaults::new(config.search.clone());
        let ledger = store.clone() as Arc<dyn Ledger>;
        // Nobody else has the directory, so nobody works on what the last process held. Before the budgets are loaded,
        // since calls that were cut off are charged here.
        store.take_back_all(clock()).await.map_err(AppError::Store)?;
        let running =
            RunningGateway::start(&config, directory.path(), ledger.clone(), cache.clone(), clock.clone()).await?;
        let contexts = generations::contexts(&config, &store, &running);
        let ingestor =
            Arc::new(Ingestor::new(ingest_parts(&config, &store, &models, &compute, (&progress, contexts))?));
        let tender = generations::tender(&config, &store, (&ingestor, &indexes), clock.clone());
        let traces = TraceKeeper::start(ledger, running.queue.clone(), &config.trace)?;
        let answerer = Arc::new(Answerer::new(answerer_parts(&config, (&searcher, &defaults), &running, &models)));
        let rooms = WorkRooms {
            store: store.clone(),
            searcher: searcher.clone(),
            defaults: defaults.clone(),
            answerer: answerer.clone(),
            gateway: running.gateway.clone(),
            prompts: running.prompts.clone(),
            ingestor: ingestor.clone(),
            tender: tender.clone(),
            indexes: generations::purger(&store, &indexes, progress),
            data_dir: directory.path().to_owned(),
        };
        let floor = TaskFloor::new(rooms, &config, clock.clone())?;
        let metrics = Metrics::start()?;
        let generations = generations::desk(&store, &tender);
        let scorer = Arc::new(scorer(&config, &store, &searcher));
        let judging = judge_in_background(&config, &store, (&searcher, shadow_jobs), (&scorer, &generations));
        let upkeep = begin_upkeep((&store, &ingestor), &metrics, tender, (&config, clock));
        Ok(Self {
            store,
            searcher,
            defaults,
            ingestor,
            answerer,
            indexer: Arc::new(indexer),
            indexes,
            generations,
            scorer,
            models,
            running,
            floor,
            traces,
            cache,
            directory,
            metrics,
            tasks: upkeep.into_iter().chain(judging).collect(),
            config,
        })
    }

    /// True if queries and documents can be embedded.
    pub fn embedder_at_hand(&self) -> bool {
        self.models.embedder.is_some()
    }

    /// One sentence for each model that is not at hand.
    pub fn missing_models(&self) -> &[String] {
        &self.models.missing
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tells other processes that meet the lock where this one can be reached.
    pub fn announce_address(&self, address: &str) -> Result<(), AppError> {
        self.directory.set_address(address).map_err(AppError::Store)
    }

    /// What shaped the results of this instance, for people who compare numbers.
    pub fn made_with(&self) -> std::collections::BTreeMap<String, String> {
        let embedder = self.models.spec.as_ref().map(|spec| format!("{}@{}", spec.name, spec.revision));
        let rerankers = &self.models.rerankers;
        let reranker = rerankers.first().map(|best| best.reranker.name().to_owned());
        let pairs = [
            ("embedder", embedder.unwrap_or_default()),
            ("reranker", reranker.unwrap_or_default()),
            ("chunking", format!("{:?}", self.config.chunking)),
            ("fusion", format!("{:?}", self.config.search.fusion)),
            ("rerank", format!("{:?}", self.config.search.rerank)),
            ("lexical", format!("{:?}", self.config.index.lexical)),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// Waits until the indexes have reached the end of the log, then brings them into their final shape: one lexical
    /// segment, vectors merged and graphs built. For measurements; a server does this in the background.
    pub async fn settle(&self) -> Result<(), AppError> {
        let newest = self.store.last_sequence().await.map_err(AppError::Store)?;
        let until = Instant::now() + SETTLE_LIMIT;
        let not_settled = |detail: String| AppError::NotSettled { detail };
        self.indexer.wait_indexed(newest, until).await.map_err(|lagging| not_settled(lagging.to_string()))?;
        for owned in self.store.generations().await.map_err(AppError::Store)? {
            let indexes = Arc::clone(&self.indexes);
            let shaped = tokio::task::spawn_blocking(move || -> Result<(), IndexError> {
                let index = indexes.get(owned.generation.id, &owned.generation.profile)?;
                if let Some(vector) = &index.vector {
                    vector.flush()?;
                }
                while index.maintain()? {}
                if index.lexical.segments() > 1 {
                    index.lexical.compact()?
                }
                index.lexical.release_writer()
            });
            shaped.await?.map_err(|error| not_settled(error.to_string()))?;
        }
        Ok(())
    }

    /// Waits until searches see everything that was written before the start, at most for `limit`.
    pub async fn catch_up(&self, limit: Duration) -> Result<(), AppError> {
        let newest = self.store.last_sequence().await.map_err(AppError::Store)?;
        let until = Instant::now() + limit;
        // One that takes longer is named in every answer.
        if self.indexer.wait_caught_up(until).await {
            let _ = self.indexer.wait_indexed(newest, until).await;
        }
        Ok(())
    }

    /// The rooms as the HTTP server speaks for them.
    pub fn services(&self) -> Services {
        Services {
            store: self.store.clone() as Arc<dyn CorpusStore>,
            ledger: self.store.clone() as Arc<dyn Ledger>,
            cases: self.store.clone() as Arc<dyn CaseStore>,
            search: Arc::new(SearchRoom { searcher: self.searcher.clone(), defaults: self.defaults.clone() }),
            ingest: Arc::new(IngestRoom {
                ingestor: self.ingestor.clone(),
                indexer: self.indexer.clone(),
                limits: self.config.ingest.limits,
            }),
            answer: Arc::new(AnswerRoom { answerer: self.answerer.clone() }),
            status: Arc::new(Status {
                store: self.store.clone(),
                indexer: self.indexer.clone(),
                indexes: self.indexes.clone(),
                missing: self.models.missing.clone(),
                metrics: self.metrics.clone(),
                gateway: self.running.gateway.clone(),
                reload: self.running.reload.clone(),
                ledger: self.running.queue.clone(),
            }),
            control: Arc::new(ControlRoom { gateway: self.running.gateway.clone() }),
            tasks: Arc::clone(&self.floor.desk),
            generations: self.generations.clone(),
            reports: self.scorer.clone(),
        }
    }

    /// The API without a socket.
    pub fn local_door(&self) -> Result<LocalDoor, AppError> {
        LocalDoor::new(self.services(), self.config.http.clone()).map_err(AppError::Auth)
    }

    /// The API behind a socket.
    pub fn http_server(&self) -> Result<HttpServer, AppError> {
        HttpServer::new(self.services(), self.config.http.clone(), self.config.auth.clone()).map_err(AppError::Http)
    }

    /// Returns once a write could not be made durable; the process should then end with an error.
    pub fn poisoned(&self) -> impl Future<Output = ()> + use<> {
        let store = Arc::clone(&self.store);
        async move { store.poisoned().await }
    }

    /// Begins to work on tasks that are in line; until then they are only taken.
    pub fn work_on_tasks(&self) {
        self.floor.open();
    }

    /// Finishes what is under way and closes everything.
    pub async fn shutdown(self) -> Result<(), AppError> {
        self.floor.close().await;
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            // An error here is the abort that was just asked for.
            let _ = task.await;
        }
        self.indexer.shutdown().await;
        self.traces.shutdown().await;
        self.running.shutdown().await;
        self.store.close().await.map_err(AppError::Store)?;
        if let Some(cache) = self.cache {
            tokio::task::spawn_blocking(move || cache.flush()).await?;
        }
        Ok(())
    }
}

/// Recorded samples take memory until they are folded into their histograms.
async fn fold_metrics(metrics: Metrics) {
    loop {
        tokio::time::sleep(FOLD_EVERY).await;
        metrics.fold();
    }
}

fn open_failed(error: StoreError) -> AppError {
    match error {
        StoreError::Locked { path, holder } => {
            let address = holder.split_once("listening on ").map(|(_, address)| address.to_owned());
            AppError::InUse { path, holder, address }
        }
        error => AppError::Store(error),
    }
}

/// The indexes of every generation, BM25 by tantivy.
fn open_indexes(dir: &Path, settings: &IndexSettings) -> Result<Generations, IndexError> {
    let lexical = settings.lexical;
    let open_lexical = move |path: &Path, profile: &Profile| {
        TantivyIndex::open(path, &lexical, &profile.analyzer).map(|index| Arc::new(index) as Arc<dyn LexicalIndex>)
    };
    Generations::open(dir, settings.vector.clone(), Box::new(open_lexical))
}

/// The cache, or nothing: everything in it can be computed again.
async fn open_cache(config: &Config, dir: PathBuf) -> Option<Arc<Cache>> {
    let settings = config.cache.clone();
    let opened = tokio::task::spawn_blocking(move || Cache::open(&dir, &settings)).await;
    match opened {
        Ok(Ok(cache)) => Some(Arc::new(cache)),
        Ok(Err(error)) => {
            tracing::warn!(%error, "going on without a cache");
            None
        }
        Err(_) => None,
    }
}

/// All prompts, in every version.
pub fn prompts(settings: &GatewaySettings) -> Result<PromptBook, PromptBookError> {
    let built_in = [crate::answer::PROMPTS, crate::jobs::CONTEXT_PROMPTS].concat();
    PromptBook::load(&built_in, settings.prompts_dir.as_deref(), &settings.prompt_split)
}

/// Knows the newest operation, and that no index has reached it yet.
async fn progress_of(store: &SqliteStore) -> Result<Arc<IndexProgress>, AppError> {
    let progress = Arc::new(IndexProgress::default());
    progress.announce(store.last_sequence().await.map_err(AppError::Store)?);
    Ok(progress)
}

/// What is done from time to time for as long as the instance lives.
fn begin_upkeep(
    (store, ingestor): (&Arc<SqliteStore>, &Arc<Ingestor>),
    metrics: &Metrics,
    tender: Arc<Tender>,
    (config, clock): (&Config, Clock),
) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(backfill(store.clone(), ingestor.clone())),
        tokio::spawn(fold_metrics(metrics.clone())),
        tokio::spawn(async move { tender.run().await }),
        tokio::spawn(forget_old_versions(store.clone(), keep(config), clock)),
    ]
}

fn answerer_parts(
    config: &Config,
    (searcher, defaults): (&Arc<Searcher>, &SearchDefaults),
    running: &RunningGateway,
    models: &LoadedModels,
) -> AnswererParts {
    AnswererParts {
        searcher: Arc::clone(searcher),
        defaults: defaults.clone(),
        gateway: running.gateway.clone(),
        embedder: models.embedder(),
        settings: config.answer.clone(),
        prompts: running.prompts.clone(),
    }
}

fn ingest_parts(
    config: &Config,
    store: &Arc<SqliteStore>,
    models: &LoadedModels,
    compute: &Arc<ComputePool>,
    (progress, contexts): (&Arc<IndexProgress>, Contexts),
) -> Result<IngestParts, AppError> {
    let counters = models.counters();
    let profile = Profile {
        chunker: chunker_spec(&config.chunking, counters[0].name()),
        embedder: models.spec.clone(),
        analyzer: analyzer_spec(&config.index.language),
        context: ContextSpec::default(),
    };
    Ok(IngestParts {
        store: store.clone() as Arc<dyn CorpusStore>,
        progress: progress.clone(),
        compute: compute.clone(),
        parser: Arc::new(Parser::new(
            config.parse.clone(),
            WorkerCommand::current_program().map_err(AppError::Program)?,
        )),
        embedders: models.embedders(),
        counters,
        profile,
        contexts: Some(contexts),
        settings: config.ingest.clone(),
    })
}
