//! The store as its callers see it: reads on their own connections, writes through the one writer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use half::f16;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::domain::{
    Account, Amount, Budget, Chunk, ChunkId, Collection, CollectionName, ContentHash, Document, DocumentHead,
    DocumentId, Fingerprint, GenerationId, Profile, Reservation, Sequence, TenantId, TenantScope, Timestamp, TraceId,
    TraceStory, VersionSummary,
};
use crate::store::{
    CorpusStore, DocumentState, DocumentWrite, HydratedChunk, IndexableDocument, Ledger, LedgerEntry, LiveCounts,
    LogEntry, OperationLog, OwnedGeneration, Page, StoreError, StoreSettings, StoredBudget, StoredChunk, UsageBy,
    UsageRow, View, WithEmbeddings, WriteOutcome,
};

use super::catalog::{Company, FoundCollection, NewCollection};
use super::known::KnownCollections;
use super::open::{self, Opened, PAGE_BYTES};
use super::prepare::{Change, prepare, text_bytes};
use super::readers::{Reader, Readers};
use super::records::Generations;
use super::writer::{Answer, Call, LedgerRequest, Request, Signals, Writer, WriterLimits};
use super::{budgets, catalog, chunks, documents, ledger_reads, log};

/// More text than this is prepared on a thread that may block: hashing and cutting it takes half a millisecond.
const PREPARE_INLINE_BYTES: usize = 256 << 10;

/// The truth in one SQLite file.
///
/// [`Self::close`] it before the runtime ends; whatever was acknowledged is safe without.
pub struct SqliteStore {
    readers: Readers,
    generations: Generations,
    collections: KnownCollections,
    max_collections_per_tenant: usize,
    /// `None` once closed.
    calls: Mutex<Option<mpsc::Sender<Call>>>,
    queue_limit: usize,
    signals: Arc<Signals>,
    writer: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
    #[cfg(test)]
    pub(super) durability: super::open::Durability,
}

impl SqliteStore {
    /// Opens or creates the database in the file `path`, with times from the system's clock.
    ///
    /// The caller holds the [`DataDirectory`](crate::store::DataDirectory) around it. Fails with
    /// [`StoreError::TooNew`] or [`StoreError::Corrupt`] without having changed the file.
    pub async fn open(path: &Path, settings: StoreSettings) -> Result<Self, StoreError> {
        Self::open_with_clock(path, settings, Arc::new(system_clock)).await
    }

    /// As [`Self::open`], with times from `clock`. Times are only shown; nothing is ordered by them.
    pub async fn open_with_clock(
        path: &Path,
        settings: StoreSettings,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Result<Self, StoreError> {
        let opened = open::open(path, &settings).await?;
        let Opened { writer: connection, readers, ids, durability } = opened;
        let (sender, calls) = mpsc::channel(settings.write_queue_limit.max(1));
        let signals = Arc::new(Signals {
            committed: watch::Sender::new(Sequence(ids.sequence as u64)),
            poisoned: watch::Sender::new(false),
            commits: AtomicU64::new(0),
            generation_changes: AtomicU64::new(0),
        });
        let limits = WriterLimits {
            group_writes: settings.group_writes.max(1),
            group_bytes: settings.group_mib << 20,
            checkpoint_pages: ((settings.checkpoint_mib << 20) / u64::from(PAGE_BYTES)) as i64,
        };
        let writer = Writer { connection, calls, limits, clock, signals: Arc::clone(&signals), ids };
        tracing::debug!(?durability, sequence = ids.sequence, "the database is open");
        Ok(Self {
            readers: Readers::new(readers),
            generations: Generations::default(),
            collections: KnownCollections::default(),
            max_collections_per_tenant: settings.max_collections_per_tenant,
            calls: Mutex::new(Some(sender)),
            queue_limit: settings.write_queue_limit.max(1),
            signals,
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
            #[cfg(test)]
            durability,
        })
    }

    /// Refuses further calls, waits for those that are under way, moves the log into the database file and closes it.
    ///
    /// A second call returns at once.
    pub async fn close(&self) -> Result<(), StoreError> {
        drop(self.calls.lock().take());
        let writer = self.writer.lock().take();
        // Readers first: the last connection to close is the one that removes the log.
        self.readers.close().await?;
        match writer {
            None => Ok(()),
            Some(writer) => writer.await.map_err(|_| StoreError::Closed)?,
        }
    }

    /// As if no collection had been looked up.
    #[cfg(test)]
    pub(super) fn forget_collections(&self) {
        self.collections.forget();
    }

    /// True once a write could not be made durable: writing has stopped, reading goes on.
    pub fn is_poisoned(&self) -> bool {
        *self.signals.poisoned.borrow()
    }

    /// Returns when the store is poisoned; the process should then end with an error. Never returns otherwise.
    pub async fn poisoned(&self) {
        let mut poisoned = self.signals.poisoned.subscribe();
        // The sender lives as long as `self`.
        let _ = poisoned.wait_for(|poisoned| *poisoned).await;
    }

    /// Waits until a sequence after `after` is durable, and returns the newest.
    pub async fn committed_after(&self, after: Sequence) -> Sequence {
        let mut committed = self.signals.committed.subscribe();
        let newest = committed.wait_for(|newest| *newest > after).await;
        newest.map_or(after, |newest| *newest)
    }

    /// How many transactions were committed since opening; each is one fsync, however many calls it answered.
    pub fn commit_count(&self) -> u64 {
        self.signals.commits.load(Ordering::Relaxed)
    }

    pub(super) async fn send(&self, request: Request) -> Result<Answer, StoreError> {
        let calls = self.queue()?;
        let (answer, answered) = oneshot::channel();
        calls.try_send(Call { request, answer }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => StoreError::Overloaded { limit: self.queue_limit },
            mpsc::error::TrySendError::Closed(_) => self.lost_writer(),
        })?;
        drop(calls);
        answered.await.map_err(|_| self.lost_writer())?
    }

    /// Waits for room in the queue: what the ledger is told has happened, and refusing it would lose it.
    pub(super) async fn send_patiently(&self, request: Request) -> Result<Answer, StoreError> {
        let calls = self.queue()?;
        let (answer, answered) = oneshot::channel();
        calls.send(Call { request, answer }).await.map_err(|_| self.lost_writer())?;
        drop(calls);
        answered.await.map_err(|_| self.lost_writer())?
    }

    /// A connection to read with.
    pub(super) async fn lend(&self) -> Result<Reader<'_>, StoreError> {
        self.readers.lend().await
    }

    fn queue(&self) -> Result<mpsc::Sender<Call>, StoreError> {
        if self.is_poisoned() {
            return Err(StoreError::Poisoned);
        }
        self.calls.lock().clone().ok_or(StoreError::Closed)
    }

    // A writer answers everything before it ends. One that did not has panicked, and nobody knows how far it came.
    fn lost_writer(&self) -> StoreError {
        self.signals.poisoned.send_replace(true);
        StoreError::Poisoned
    }
}

fn system_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

// What can be stored goes to the writer; what cannot is answered here. Both keep their place.
async fn prepare_all(writes: Vec<DocumentWrite>) -> Result<Vec<Result<Change, StoreError>>, StoreError> {
    let run = |writes: Vec<DocumentWrite>| writes.into_iter().map(prepare).collect();
    if text_bytes(&writes) <= PREPARE_INLINE_BYTES {
        return Ok(run(writes));
    }
    // Fails only if the runtime is shutting down.
    tokio::task::spawn_blocking(move || run(writes)).await.map_err(|_| StoreError::Closed)
}

#[async_trait]
impl CorpusStore for SqliteStore {
    async fn open_collection(
        &self,
        scope: &TenantScope,
        name: &CollectionName,
        profile: &Profile,
    ) -> Result<Collection, StoreError> {
        if let Some(collection) = self.collection(scope, name).await? {
            return Ok(collection);
        }
        // Several at once may pass this together; the limit is against a flood, not a quota.
        let limit = self.max_collections_per_tenant;
        if self.collections(scope).await?.len() >= limit {
            return Err(StoreError::TooManyCollections { limit });
        }
        let new = NewCollection { tenant: scope.tenant.clone(), name: name.clone(), profile: profile.clone() };
        self.send(Request::OpenCollection(new)).await?;
        let created = self.collection(scope, name).await?;
        created.ok_or(StoreError::Sql(sqlx::Error::RowNotFound))
    }

    async fn collection(&self, scope: &TenantScope, name: &CollectionName) -> Result<Option<Collection>, StoreError> {
        // Before the look-up: what changes meanwhile makes it outdated at once.
        let as_of = self.signals.generation_changes.load(Ordering::Acquire);
        if let Some(known) = self.collections.get(as_of, &scope.tenant, name) {
            return Ok(Some(known));
        }
        let found = catalog::collection(self.readers.lend().await?.connection(), &scope.tenant, name).await?;
        if let Some(FoundCollection { collection, company: Company::Alone }) = &found {
            self.collections.remember(as_of, &scope.tenant, collection);
        }
        Ok(found.map(|found| found.collection))
    }

    async fn collections(&self, scope: &TenantScope) -> Result<Vec<Collection>, StoreError> {
        catalog::collections(self.readers.lend().await?.connection(), &scope.tenant).await
    }

    async fn write(&self, scope: &TenantScope, writes: Vec<DocumentWrite>) -> Result<Vec<WriteOutcome>, StoreError> {
        let prepared = prepare_all(writes).await?;
        let mut changes = Vec::with_capacity(prepared.len());
        let mut refused = Vec::new();
        for (index, result) in prepared.into_iter().enumerate() {
            match result {
                Ok(change) => changes.push(change),
                Err(error) => refused.push((index, error)),
            }
        }
        let mut outcomes = Vec::new();
        if !changes.is_empty() {
            let answer = self.send(Request::Write { tenant: scope.tenant.clone(), changes }).await?;
            if let Answer::Outcomes(written) = answer {
                outcomes = written;
            }
        }
        // In ascending order, so that each insertion finds everything before it in place.
        for (index, error) in refused {
            outcomes.insert(index, WriteOutcome::Failed(error));
        }
        Ok(outcomes)
    }

    async fn states(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        documents: &[DocumentId],
    ) -> Result<Vec<Option<DocumentState>>, StoreError> {
        documents::states(self.readers.lend().await?.connection(), scope, collection, documents).await
    }

    async fn known_embeddings(
        &self,
        scope: &TenantScope,
        embedder: Fingerprint,
        inputs: &[ContentHash],
    ) -> Result<HashMap<ContentHash, Vec<f16>>, StoreError> {
        documents::known_embeddings(self.readers.lend().await?.connection(), scope, embedder, inputs).await
    }

    async fn document(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<Document>, StoreError> {
        let mut reader = self.readers.lend().await?;
        documents::document(reader.connection(), &self.generations, scope, (collection, document)).await
    }

    async fn documents(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Document>, StoreError> {
        let mut reader = self.readers.lend().await?;
        let page = documents::PageRequest { cursor, limit };
        documents::documents(reader.connection(), &self.generations, scope, collection, page).await
    }

    async fn versions(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Vec<VersionSummary>, StoreError> {
        documents::versions(self.readers.lend().await?.connection(), scope, collection, document).await
    }

    async fn content(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
        version: Option<u64>,
    ) -> Result<Option<String>, StoreError> {
        documents::content(self.readers.lend().await?.connection(), scope, (collection, document), version).await
    }

    async fn chunks(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
        version: Option<u64>,
    ) -> Result<Option<Vec<StoredChunk>>, StoreError> {
        let mut reader = self.readers.lend().await?;
        chunks::chunks(reader.connection(), &self.generations, scope, (collection, document), version).await
    }

    async fn chunk(&self, scope: &TenantScope, id: ChunkId) -> Result<Option<StoredChunk>, StoreError> {
        chunks::chunk(self.readers.lend().await?.connection(), &self.generations, scope, id).await
    }

    async fn hydrate(
        &self,
        scope: &TenantScope,
        (collection, view): (&CollectionName, View),
        ids: &[ChunkId],
        embeddings: WithEmbeddings,
    ) -> Result<Vec<HydratedChunk>, StoreError> {
        let mut reader = self.readers.lend().await?;
        chunks::hydrate(reader.connection(), &self.generations, scope, (collection, view, ids), embeddings).await
    }

    async fn neighbours(
        &self,
        scope: &TenantScope,
        id: ChunkId,
        before: u32,
        after: u32,
    ) -> Result<(Vec<Chunk>, Vec<Chunk>), StoreError> {
        chunks::neighbours(self.readers.lend().await?.connection(), scope, id, (before, after)).await
    }

    async fn unembedded(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        limit: usize,
    ) -> Result<Vec<(DocumentHead, Vec<Chunk>)>, StoreError> {
        chunks::unembedded(self.readers.lend().await?.connection(), scope, collection, limit).await
    }
}

#[async_trait]
impl OperationLog for SqliteStore {
    async fn last_sequence(&self) -> Result<Sequence, StoreError> {
        Ok(*self.signals.committed.borrow())
    }

    async fn last_sequence_of(&self, generation: GenerationId) -> Result<Sequence, StoreError> {
        log::last_sequence_of(self.readers.lend().await?.connection(), generation).await
    }

    async fn entries(
        &self,
        generation: Option<GenerationId>,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        log::entries(self.readers.lend().await?.connection(), generation, after, limit).await
    }

    async fn indexable(
        &self,
        tenant: &TenantId,
        (collection, generation): (&CollectionName, GenerationId),
        documents: &[DocumentId],
        embeddings: WithEmbeddings,
    ) -> Result<Vec<Option<IndexableDocument>>, StoreError> {
        let mut reader = self.readers.lend().await?;
        chunks::indexable(reader.connection(), tenant, (collection, generation, documents), embeddings).await
    }

    async fn live_counts(&self, generation: GenerationId) -> Result<LiveCounts, StoreError> {
        log::live_counts(self.readers.lend().await?.connection(), generation).await
    }

    async fn generations(&self) -> Result<Vec<OwnedGeneration>, StoreError> {
        log::generations(self.readers.lend().await?.connection()).await
    }

    async fn mark_indexed(&self, generation: GenerationId, through: Sequence) -> Result<(), StoreError> {
        self.send(Request::MarkIndexed { generation, through }).await.map(drop)
    }
}

#[async_trait]
impl Ledger for SqliteStore {
    async fn record(&self, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.send_patiently(Request::Ledger(LedgerRequest::Record(entries))).await.map(drop)
    }

    async fn trace(&self, scope: &TenantScope, trace: TraceId) -> Result<Option<TraceStory>, StoreError> {
        ledger_reads::trace(self.readers.lend().await?.connection(), &scope.tenant, trace).await
    }

    async fn usage(
        &self,
        scope: &TenantScope,
        by: UsageBy,
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<UsageRow>, StoreError> {
        ledger_reads::usage(self.readers.lend().await?.connection(), &scope.tenant, by, (since, limit)).await
    }

    async fn spent(&self, since: Timestamp) -> Result<Vec<(Account, Amount)>, StoreError> {
        budgets::spent(self.readers.lend().await?.connection(), since).await
    }

    async fn reservations(&self) -> Result<Vec<Reservation>, StoreError> {
        budgets::reservations(self.readers.lend().await?.connection()).await
    }

    async fn budgets(&self) -> Result<Vec<StoredBudget>, StoreError> {
        budgets::budgets(self.readers.lend().await?.connection()).await
    }

    async fn put_budget(&self, budget: Budget) -> Result<(), StoreError> {
        self.send_patiently(Request::Ledger(LedgerRequest::PutBudget(budget))).await.map(drop)
    }

    async fn forget_traces(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut removed = 0;
        // In parts, so that others may write in between.
        let request = || Request::Ledger(LedgerRequest::ForgetTraces { before });
        while let Answer::Removed(rows @ 1..) = self.send_patiently(request()).await? {
            removed += rows;
        }
        Ok(removed)
    }
}
