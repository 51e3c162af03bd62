//! Bytes to searchable versions: read, compare, chunk, embed what is new, write in one transaction.
//!
//! One bad document never fails its neighbours: from the first check on, each item has a slot of its own.

use std::sync::Arc;

use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, RwLock};
use tracing::{Instrument, debug_span};

use crate::domain::{CollectionName, ContentHash, Degraded, DocumentId, Profile, Sequence, TenantScope};
use crate::index::{ComputePool, IndexProgress};
use crate::inference::{Embedders, TokenCounter};
use crate::parse::Parser;
use crate::store::{CorpusStore, DocumentState, DocumentWrite, PutDocument, WriteOutcome};

use super::embed::Embeddings;
use super::memory::Memory;
use super::{
    Contexts, IncomingDocument, IncomingItem, IngestError, IngestOutcome, IngestSettings, IngestStatus, ItemError,
};

/// What an [`Ingestor`] is made of.
pub struct IngestParts {
    pub store: Arc<dyn CorpusStore>,
    pub progress: Arc<IndexProgress>,
    pub compute: Arc<ComputePool>,
    pub parser: Arc<Parser>,
    /// A collection whose model is not among them gets documents without vectors.
    pub embedders: Embedders,
    /// Ways of counting tokens; a collection's chunker names the one it needs. At least one.
    pub counters: Vec<Arc<dyn TokenCounter>>,
    /// The profile of collections that do not exist yet.
    pub profile: Profile,
    /// `None`: nothing is written to stand before chunks.
    pub contexts: Option<Contexts>,
    pub settings: IngestSettings,
}

/// Takes documents in. Cheap to share.
pub struct Ingestor {
    pub(super) memory: Memory,
    pub(super) store: Arc<dyn CorpusStore>,
    pub(super) compute: Arc<ComputePool>,
    pub(super) parser: Arc<Parser>,
    pub(super) embeddings: Embeddings,
    pub(super) counters: Vec<Arc<dyn TokenCounter>>,
    pub(super) profile: Profile,
    pub(super) contexts: Option<Contexts>,
    pub(super) settings: IngestSettings,
    pub(super) progress: Arc<IndexProgress>,
    /// Held while documents are built in another generation, from reading their text to writing what was made of it.
    pub(super) builds: RwLock<()>,
}

/// An item on its way through; its place in the batch is its place in the list.
pub(super) struct Slot {
    pub id: Option<String>,
    pub state: SlotState,
}

/// How far an item has come.
pub(super) enum SlotState {
    Failed(ItemError),
    Unchanged { stored: DocumentState },
    Ready { document: Box<PutDocument>, degraded: Vec<Degraded> },
}

/// Slots of a batch, and its place in memory until they are written.
pub(super) struct Prepared {
    pub slots: Vec<Slot>,
    pub room: OwnedSemaphorePermit,
}

impl Ingestor {
    pub fn new(parts: IngestParts) -> Self {
        Self {
            embeddings: Embeddings::new(parts.embedders, &parts.settings),
            store: parts.store,
            compute: parts.compute,
            parser: parts.parser,
            counters: parts.counters,
            profile: parts.profile,
            contexts: parts.contexts,
            memory: Memory::new(parts.settings.memory_mib),
            settings: parts.settings,
            progress: parts.progress,
            builds: RwLock::default(),
        }
    }

    /// Waits until nothing is built any more from texts that were read before now.
    pub async fn let_builds_end(&self) {
        drop(self.builds.write().await);
    }

    /// The models that this process embeds with.
    pub fn embedders(&self) -> &Embedders {
        self.embeddings.embedders()
    }

    /// Names of the ways of counting tokens that are at hand.
    pub fn counter_names(&self) -> Vec<&str> {
        self.counters.iter().map(|counter| counter.name()).collect()
    }

    /// The profile of collections that do not exist yet.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Takes documents in; one outcome each, in order. Returns once the accepted ones are durable.
    ///
    /// Documents are applied in order: an id that occurs twice gets two versions, the later one on top. All are
    /// written in one transaction, so a call should hold no more than a stream's batch; longer lists belong into
    /// [`Ingestor::put_stream`]. `Err` means that none is known to be durable.
    pub async fn put(
        &self,
        scope: &TenantScope,
        documents: Vec<IncomingDocument>,
    ) -> Result<Vec<IngestOutcome>, IngestError> {
        self.put_items(scope, documents.into_iter().map(Ok).collect()).await
    }

    /// Like [`Ingestor::put`], with a place for items that could not be decoded.
    pub async fn put_items(
        &self,
        scope: &TenantScope,
        items: Vec<IncomingItem>,
    ) -> Result<Vec<IngestOutcome>, IngestError> {
        let prepared = self.prepare(scope, items).await?;
        self.commit(scope, prepared).await
    }

    /// As [`Ingestor::put`] of one document that was sent when the operation `seen` was its newest (`None`: there was no
    /// such document): what was written to it since then stays, and this content is refused as
    /// [`ItemError::Superseded`], unless it is the content that is there.
    pub async fn put_unless_newer(
        &self,
        scope: &TenantScope,
        document: IncomingDocument,
        seen: Option<Sequence>,
    ) -> Result<IngestOutcome, IngestError> {
        let (collection, id) = (document.collection.clone(), document.document_id());
        let mut prepared = self.prepare(scope, vec![Ok(document)]).await?;
        let found = self.newest(scope, &collection, &id).await?;
        for slot in &mut prepared.slots {
            if found != seen && matches!(slot.state, SlotState::Ready { .. }) {
                slot.state = SlotState::Failed(ItemError::Superseded);
            }
        }
        let outcome = self.commit(scope, prepared).await?.pop();
        Ok(outcome.expect("one document has one outcome"))
    }

    /// The newest operation on a document; `None` if there is none or it was removed.
    pub async fn newest(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<Sequence>, IngestError> {
        let states = self.store.states(scope, collection, std::slice::from_ref(document)).await?;
        Ok(states.into_iter().flatten().next().map(|state| state.sequence))
    }

    /// Makes a document and all its versions unreachable, from the next response on. `None`: there is none.
    pub async fn delete(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<Sequence>, IngestError> {
        let delete = DocumentWrite::Delete { collection: collection.clone(), document: document.clone() };
        match self.write(scope, vec![delete]).await?.pop() {
            Some(WriteOutcome::Deleted { sequence }) => {
                self.progress.announce(sequence);
                counter!("plumb_ingest_documents_total", "status" => "deleted").increment(1);
                Ok(Some(sequence))
            }
            Some(WriteOutcome::Failed(error)) => Err(error.into()),
            _ => Ok(None),
        }
    }

    /// Writes what is ready in one transaction and tells the outcomes.
    pub(super) async fn commit(
        &self,
        scope: &TenantScope,
        prepared: Prepared,
    ) -> Result<Vec<IngestOutcome>, IngestError> {
        let Prepared { slots, room: _room } = prepared;
        let mut writes = Vec::with_capacity(slots.len());
        let mut pending = Vec::with_capacity(slots.len());
        for Slot { id, state } in slots {
            pending.push(match state {
                SlotState::Failed(error) => Pending::Done(IngestOutcome::failed(id, error)),
                SlotState::Unchanged { stored } => {
                    Pending::Done(unchanged(id, (stored.version, stored.sequence), stored.content_hash))
                }
                SlotState::Ready { document, degraded } => {
                    let content_hash = document.content_hash;
                    writes.push(DocumentWrite::Put(document));
                    Pending::Written { id, content_hash, degraded }
                }
            });
        }
        let written = if writes.is_empty() { Vec::new() } else { self.write(scope, writes).await? };
        let mut written = written.into_iter();
        let outcomes: Vec<IngestOutcome> = pending.into_iter().map(|one| one.settle(&mut written)).collect();
        if let Some(newest) = outcomes.iter().filter_map(|outcome| outcome.sequence).max() {
            self.progress.announce(newest);
        }
        count(&outcomes);
        Ok(outcomes)
    }

    async fn write(&self, scope: &TenantScope, writes: Vec<DocumentWrite>) -> Result<Vec<WriteOutcome>, IngestError> {
        let span = debug_span!("ingest.write", documents = writes.len());
        Ok(self.store.write(scope, writes).instrument(span).await?)
    }

    pub(super) fn announce(&self, sequence: Sequence) {
        self.progress.announce(sequence);
    }
}

enum Pending {
    Done(IngestOutcome),
    Written { id: Option<String>, content_hash: ContentHash, degraded: Vec<Degraded> },
}

impl Pending {
    fn settle(self, written: &mut impl Iterator<Item = WriteOutcome>) -> IngestOutcome {
        let (id, content_hash, degraded) = match self {
            Self::Done(outcome) => return outcome,
            Self::Written { id, content_hash, degraded } => (id, content_hash, degraded),
        };
        match written.next() {
            Some(WriteOutcome::Written { version, sequence }) => IngestOutcome {
                id,
                status: IngestStatus::Accepted,
                version: Some(version),
                content_hash: Some(content_hash),
                sequence: Some(sequence),
                error: None,
                degraded,
            },
            Some(WriteOutcome::Unchanged { version, sequence }) => unchanged(id, (version, sequence), content_hash),
            Some(WriteOutcome::Failed(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a document could not be stored");
                IngestOutcome::failed(id, ItemError::Store(error))
            }
            // The store answers a put in one of the three ways above.
            Some(
                WriteOutcome::Deleted { .. } | WriteOutcome::Serves | WriteOutcome::Outdated | WriteOutcome::NotFound,
            )
            | None => IngestOutcome::failed(id, ItemError::Panicked),
        }
    }
}

fn unchanged(id: Option<String>, (version, sequence): (u64, Sequence), content_hash: ContentHash) -> IngestOutcome {
    IngestOutcome {
        id,
        status: IngestStatus::Unchanged,
        version: Some(version),
        content_hash: Some(content_hash),
        sequence: Some(sequence),
        error: None,
        degraded: Vec::new(),
    }
}

fn count(outcomes: &[IngestOutcome]) {
    for (status, name) in
        [(IngestStatus::Accepted, "accepted"), (IngestStatus::Unchanged, "unchanged"), (IngestStatus::Failed, "failed")]
    {
        let number = outcomes.iter().filter(|outcome| outcome.status == status).count();
        if number > 0 {
            counter!("plumb_ingest_documents_total", "status" => name).increment(number as u64);
        }
    }
}
