//! One generation's indexes on their way along the operation log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::domain::{ErrorKind, GenerationId, Sequence};
use crate::index::{ComputeError, ComputePool, GenerationIndex, Generations, IndexError};
use crate::store::{LogEntry, OperationLog, OwnedGeneration, StoreError};

use super::IndexerSettings;
use super::changes::{Digest, portions};
use super::maintenance::Applied;
use super::patience::Patience;

/// What a follower works with.
pub(super) struct Tools {
    pub log: Arc<dyn OperationLog>,
    pub indexes: Arc<Generations>,
    pub compute: Arc<ComputePool>,
    pub settings: IndexerSettings,
    pub stop: CancellationToken,
    pub applied: Arc<Applied>,
}

/// Why a generation's indexes do not come along.
#[derive(Debug, thiserror::Error)]
pub enum IndexerError {
    #[error("the truth cannot be read")]
    Store(#[from] StoreError),
    #[error("the index cannot be changed")]
    Index(#[from] IndexError),
    #[error("work on the index panicked")]
    Panicked,
    #[error("the compute queue has been full for {waited_ms} ms")]
    Busy { waited_ms: u64 },
    #[error("the index was left at sequence {left_at} and found at {found_at}")]
    Lost { left_at: Sequence, found_at: Sequence },
    #[error("the index holds {found_chunks} chunks and {found_vectors} vectors, the truth {chunks} and {vectors}")]
    Miscounted { found_chunks: u64, found_vectors: u64, chunks: u64, vectors: u64 },
}

impl IndexerError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(source) => source.kind(),
            Self::Index(source) => source.kind(),
            Self::Panicked => ErrorKind::Internal,
            Self::Busy { .. } => ErrorKind::Unavailable,
            Self::Miscounted { .. } | Self::Lost { .. } => ErrorKind::Corrupt,
        }
    }

    /// True if only an index built anew can help.
    pub(super) fn asks_for_rebuild(&self) -> bool {
        matches!(self, Self::Miscounted { .. } | Self::Index(IndexError::Corrupt { .. }))
    }
}

/// The state of one generation.
pub(super) struct Follower {
    pub owned: OwnedGeneration,
    /// Held only while there is something to commit or to make durable, so that what is idle can be closed.
    held: Option<Arc<GenerationIndex>>,
    /// Rows up to here have been handed to the indexes.
    pub applied: Sequence,
    /// Rows up to here are searchable.
    pub committed: Sequence,
    /// The truth knows that rows up to here are searchable.
    marked: Sequence,
    unflushed: usize,
    flushed_at: Instant,
}

impl Follower {
    /// Opens the indexes of a generation at the place where they were left. Indexes that are ahead of the log are
    /// from elsewhere (a restored backup has gone back in time) and are built anew.
    pub(super) async fn open(tools: &Tools, owned: OwnedGeneration) -> Result<Self, IndexerError> {
        let start = Sequence::default();
        let (held, flushed_at) = (None, Instant::now());
        let unflushed = 0;
        let mut follower = Self { owned, held, applied: start, committed: start, marked: start, unflushed, flushed_at };
        let mut index = follower.index(tools).await?;
        let newest = tools.log.last_sequence_of(follower.id()).await?;
        if highest(&index) > newest {
            tracing::warn!(
                generation = %follower.id(),
                index = %highest(&index),
                log = %newest,
                missing = highest(&index).0 - newest.0,
                "an index is ahead of the log, so it is built anew: operations are missing, because the write-ahead log \
                 was damaged or an older backup was restored"
            );
            drop(index);
            follower.begin_anew(tools).await?;
            index = follower.index(tools).await?;
        }
        (follower.applied, follower.committed) = (index.watermark(), index.watermark());
        // Marked by an earlier process, unless that was killed in between; then the next commit makes up for it.
        follower.marked = follower.committed;
        Ok(follower)
    }

    pub(super) fn id(&self) -> GenerationId {
        self.owned.generation.id
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.applied > self.committed
    }

    /// The indexes, opened if they have been closed meanwhile.
    async fn index(&mut self, tools: &Tools) -> Result<Arc<GenerationIndex>, IndexerError> {
        if let Some(index) = &self.held {
            return Ok(Arc::clone(index));
        }
        let (indexes, generation) = (Arc::clone(&tools.indexes), self.owned.generation.clone());
        let index = blocking(move || indexes.get(generation.id, &generation.profile)).await?;
        // What was damaged while it was closed starts anew, further back than it was left.
        if index.visible() < self.committed {
            return Err(IndexerError::Lost { left_at: self.committed, found_at: index.visible() });
        }
        self.held = Some(Arc::clone(&index));
        Ok(index)
    }

    /// Hands rows to the indexes, in the order of the log; those that were handed over before are passed by.
    pub(super) async fn apply(&mut self, tools: &Tools, rows: &[LogEntry]) -> Result<(), IndexerError> {
        let new = rows.partition_point(|row| row.sequence <= self.applied);
        for portion in portions(&rows[new..], tools.settings.apply_chunks) {
            let through = portion.last().map_or(self.applied, |row| row.sequence);
            self.apply_portion(tools, portion, through).await?;
            self.applied = through;
            tools.applied.add(self.id(), portion.len());
        }
        Ok(())
    }

    async fn apply_portion(&mut self, tools: &Tools, rows: &[LogEntry], through: Sequence) -> Result<(), IndexerError> {
        let index = self.index(tools).await?;
        let digest = Digest::of(rows, index.applied_vectors().unwrap_or_default());
        let mut lexical = Vec::with_capacity(digest.documents.len());
        let mut vectors = digest.removals();
        for (embeddings, documents) in digest.reads() {
            if documents.is_empty() {
                continue;
            }
            let (tenant, collection) = (&self.owned.tenant, &self.owned.collection);
            let present = tools.log.indexable(tenant, (collection, self.id()), &documents, embeddings).await?;
            for (id, present) in documents.into_iter().zip(present) {
                let (words, directions) = digest.changes(id, present);
                lexical.push(words);
                vectors.extend(directions);
            }
        }
        self.unflushed += vectors.len();
        // Taken by the attempt that gets a place on the pool; the ones before left it alone.
        let changes = Arc::new(Mutex::new(Some((lexical, vectors))));
        on_pool(tools, move || {
            let Some((lexical, vectors)) = changes.lock().take() else { return Ok(()) };
            index.lexical.apply(lexical)?;
            match &index.vector {
                Some(vector) => vector.apply(vectors, through),
                None => Ok(()),
            }
        })
        .await
    }

    /// Makes everything that was handed over searchable.
    pub(super) async fn commit(&mut self, tools: &Tools) -> Result<(), IndexerError> {
        let (index, through) = (self.index(tools).await?, self.applied);
        blocking(move || index.lexical.commit(through)).await?;
        self.committed = through;
        self.flush_if_due(tools).await
    }

    /// Records in the truth how far searches see. Failing at it harms nobody: it is tried again with the next step.
    async fn mark(&mut self, tools: &Tools) {
        match tools.log.mark_indexed(self.id(), self.committed).await {
            Ok(()) => self.marked = self.committed,
            Err(error) => tracing::warn!(
                generation = %self.id(),
                error = &error as &dyn std::error::Error,
                "the time of indexing could not be recorded yet"
            ),
        }
    }

    /// Makes the vectors durable if many or old operations are not; lets go of indexes that nothing is left to do for.
    pub(super) async fn flush_if_due(&mut self, tools: &Tools) -> Result<(), IndexerError> {
        if self.marked < self.committed {
            self.mark(tools).await;
        }
        let waited = self.flushed_at.elapsed() >= Duration::from_millis(tools.settings.flush_interval_ms);
        if self.unflushed >= tools.settings.flush_operations || (self.unflushed > 0 && waited) {
            self.flush().await?;
        }
        if self.unflushed == 0 && !self.is_dirty() {
            self.held = None;
        }
        Ok(())
    }

    /// Makes the vectors durable.
    pub(super) async fn flush(&mut self) -> Result<(), IndexerError> {
        if let Some(index) = self.held.clone() {
            blocking(move || index.vector.as_ref().map_or(Ok(()), |vector| vector.flush())).await?;
        }
        self.unflushed = 0;
        self.flushed_at = Instant::now();
        Ok(())
    }

    /// Follows the log of this generation alone up to `through` and commits, then compares with the truth. Returns
    /// what had been damaged and is whole again. Ends early, without an error, when the indexer is stopped.
    pub(super) async fn catch_up_and_verify(
        &mut self,
        tools: &Tools,
        through: Sequence,
    ) -> Result<Vec<String>, IndexerError> {
        self.catch_up(tools, through).await?;
        if tools.stop.is_cancelled() {
            return Ok(Vec::new());
        }
        let index = self.index(tools).await?;
        self.verify(tools, &index).await?;
        let healed = index.damage();
        index.healed();
        drop(index);
        self.flush_if_due(tools).await?;
        Ok(healed)
    }

    async fn catch_up(&mut self, tools: &Tools, through: Sequence) -> Result<(), IndexerError> {
        while !tools.stop.is_cancelled() {
            let mut rows = tools.log.entries(Some(self.id()), self.applied, tools.settings.read_rows).await?;
            rows.retain(|row| row.sequence <= through);
            if rows.is_empty() {
                break;
            }
            self.apply(tools, &rows).await?;
        }
        if self.is_dirty() { self.commit(tools).await } else { Ok(()) }
    }

    /// Compares the indexes with the truth, if they stand at the same place.
    async fn verify(&self, tools: &Tools, index: &GenerationIndex) -> Result<(), IndexerError> {
        let before = tools.log.last_sequence_of(self.id()).await?;
        let counts = tools.log.live_counts(self.id()).await?;
        let after = tools.log.last_sequence_of(self.id()).await?;
        if before != after || after != self.committed {
            return Ok(());
        }
        let found_chunks = index.lexical.live_chunks();
        let found_vectors = index.vector.as_ref().map_or(counts.vectors, |vector| vector.live_vectors());
        if (found_chunks, found_vectors) == (counts.chunks, counts.vectors) {
            return Ok(());
        }
        Err(IndexerError::Miscounted { found_chunks, found_vectors, chunks: counts.chunks, vectors: counts.vectors })
    }

    /// Goes back to what the indexes hold after something went wrong; builds them anew where nothing else helps.
    pub(super) async fn recover(&mut self, tools: &Tools, error: &IndexerError) -> Result<(), IndexerError> {
        if error.asks_for_rebuild() {
            tracing::warn!(generation = %self.id(), "the index is built anew from the truth");
            self.begin_anew(tools).await?;
        }
        (self.applied, self.committed) = (Sequence::default(), Sequence::default());
        let start = self.index(tools).await?.watermark();
        (self.applied, self.committed) = (start, start);
        Ok(())
    }

    /// Throws the indexes away. Searches that have them end with them.
    async fn begin_anew(&mut self, tools: &Tools) -> Result<(), IndexerError> {
        let (indexes, id) = (Arc::clone(&tools.indexes), self.id());
        let old = self.held.take();
        self.unflushed = 0;
        blocking(move || {
            // A merge that is under way would write into the new index's directory.
            if let Some(Err(error)) = old.map(|old| old.lexical.release_writer()) {
                tracing::warn!(error = &error as &dyn std::error::Error, "an index that is thrown away did not rest");
            }
            indexes.remove(id)
        })
        .await
    }
}

fn highest(index: &GenerationIndex) -> Sequence {
    let lexical = index.lexical.watermark();
    index.vector.as_ref().map_or(lexical, |vector| vector.watermark().max(lexical))
}

/// For work that waits for a disk: a place on the compute pool would be wasted on it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexerError> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    Ok(done.map_err(|_| IndexerError::Panicked)??)
}

/// For work that computes. The indexer waits while searches fill the queue, up to its longest retry.
async fn on_pool(
    tools: &Tools,
    work: impl FnOnce() -> Result<(), IndexError> + Clone + Send + 'static,
) -> Result<(), IndexerError> {
    let mut patience = Patience::new(tools.settings.retry_longest_ms);
    loop {
        match tools.compute.run(work.clone()).await {
            Ok(done) => return Ok(done?),
            Err(ComputeError::Panicked) => return Err(IndexerError::Panicked),
            Err(ComputeError::Full { .. }) => {
                patience.pause().await.map_err(|waited_ms| IndexerError::Busy { waited_ms })?;
            }
        }
    }
}
