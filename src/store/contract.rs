//! The contract of the truth, split by need.
//!
//! Every implementation keeps these promises, and `store::conformance` tests them:
//!
//! - A write that was answered `Ok` survives `kill -9` and a power cut.
//! - A write is whole or absent: version, chunks, embeddings and log row commit in one transaction.
//! - One item that fails leaves its neighbours in the same call unharmed.
//! - Nothing of another tenant is read, counted or named in an error; a foreign id is an unknown id.
//! - After a failed fsync reads go on and every write fails with [`StoreError::Poisoned`].

use std::collections::HashMap;

use async_trait::async_trait;
use half::f16;

use crate::domain::{
    Chunk, ChunkId, ChunkerSpec, Collection, CollectionName, ContentHash, Document, DocumentHead, DocumentId,
    EmbeddedChunk, Fingerprint, Generation, GenerationId, Metadata, Outline, Profile, Provenance, Sequence, TenantId,
    TenantScope, Timestamp, VersionSummary,
};

use super::StoreError;

/// A document with one content, ready to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct PutDocument {
    pub head: DocumentHead,
    pub content_hash: ContentHash,
    /// Hash over everything in `head` that a client can see; equal content *and* head is `unchanged`.
    pub head_hash: ContentHash,
    pub text: String,
    pub outline: Outline,
    /// In order of position. Empty for a document without text.
    pub chunks: Vec<EmbeddedChunk>,
    /// What made the chunks; `None`: the generation's chunker.
    pub chunker: Option<ChunkerSpec>,
    pub generation: GenerationId,
}

/// A change of one document.
#[derive(Debug, Clone, PartialEq)]
pub enum DocumentWrite {
    Put(Box<PutDocument>),
    /// Makes the document and all its versions unreachable at once.
    Delete {
        collection: CollectionName,
        document: DocumentId,
    },
    /// Adds the document's chunks in a generation that does not serve it, replacing those it has there. Nothing of the
    /// generation that serves it changes.
    Build(Box<BuildDocument>),
    /// Serves the document from a generation in which it stands ready; the one that served it keeps it ready.
    Serve {
        collection: CollectionName,
        document: DocumentId,
        generation: GenerationId,
    },
    /// Adds embeddings to live chunks that were stored while no embedder was at hand.
    Embed {
        collection: CollectionName,
        document: DocumentId,
        embeddings: Vec<(ChunkId, ContentHash, Vec<f16>)>,
    },
}

/// A document's chunks in another generation than the one that serves it.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildDocument {
    pub collection: CollectionName,
    pub document: DocumentId,
    pub generation: GenerationId,
    /// The operation that brought the document into the state from which the chunks were made; a newer one makes this
    /// write [`WriteOutcome::Outdated`].
    pub seen: Sequence,
    /// In order of position; spans of the live version's text.
    pub chunks: Vec<EmbeddedChunk>,
    /// What made the chunks; `None`: the generation's chunker.
    pub chunker: Option<ChunkerSpec>,
}

/// What became of one [`DocumentWrite`].
#[derive(Debug)]
pub enum WriteOutcome {
    /// Durable. `version` did not grow where only the head changed.
    Written {
        version: u64,
        sequence: Sequence,
    },
    /// Content and head were there already; nothing was written.
    Unchanged {
        version: u64,
        /// The operation that brought what is there.
        sequence: Sequence,
    },
    Deleted {
        sequence: Sequence,
    },
    /// A [`DocumentWrite::Serve`]: it is served from there, also if it was before.
    Serves,
    /// A [`DocumentWrite::Build`] of what the document was before; nothing was written.
    Outdated,
    /// No such document; for [`DocumentWrite::Serve`] also: it does not stand ready there.
    NotFound,
    Failed(StoreError),
}

/// What is stored under an id, as far as re-ingestion needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentState {
    /// The operation that brought it into this state.
    pub sequence: Sequence,
    pub version: u64,
    pub content_hash: ContentHash,
    pub head_hash: ContentHash,
    pub generation: GenerationId,
}

/// A page of a listing; `next` continues it, `None` ends it.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// A stored chunk with its provenance.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredChunk {
    pub chunk: Chunk,
    pub provenance: Provenance,
    pub previous: Option<ChunkId>,
    pub next: Option<ChunkId>,
}

/// A candidate, read back from the truth and re-checked.
#[derive(Debug, Clone, PartialEq)]
pub struct HydratedChunk {
    pub chunk: Chunk,
    pub provenance: Provenance,
    pub head: DocumentHead,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Unit length; `None` if none is stored or none was asked for.
    pub embedding: Option<Vec<f16>>,
}

/// Whether a read should bring embeddings along (0.75 KiB a chunk at 384 dimensions).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithEmbeddings {
    Yes,
    No,
}

/// Which chunks a read takes for a document's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Those of the generation that serves it.
    Serving,
    /// Those of this generation, serving or standing ready.
    Of(GenerationId),
}

/// Documents, versions and chunks of tenants.
#[async_trait]
pub trait CorpusStore: Send + Sync {
    /// The collection, created with one live generation of `profile` if it is not there yet.
    async fn open_collection(
        &self,
        scope: &TenantScope,
        name: &CollectionName,
        profile: &Profile,
    ) -> Result<Collection, StoreError>;

    /// The collection, or `None` if nothing was ever written to it.
    async fn collection(&self, scope: &TenantScope, name: &CollectionName) -> Result<Option<Collection>, StoreError>;

    /// All collections of the tenant, by name.
    async fn collections(&self, scope: &TenantScope) -> Result<Vec<Collection>, StoreError>;

    /// Applies the writes and returns once they are durable; outcomes are in the order of `writes`.
    ///
    /// Concurrent calls share one fsync. Two writes to one document in a call are applied in order.
    /// `Err` means that none of them is known to be durable.
    async fn write(&self, scope: &TenantScope, writes: Vec<DocumentWrite>) -> Result<Vec<WriteOutcome>, StoreError>;

    /// State of each id, in the order asked; `None` where the document is unknown or deleted.
    async fn states(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        documents: &[DocumentId],
    ) -> Result<Vec<Option<DocumentState>>, StoreError>;

    /// Embeddings of the tenant that were made by this embedder from exactly these inputs; absent ones are left out.
    async fn known_embeddings(
        &self,
        scope: &TenantScope,
        embedder: Fingerprint,
        inputs: &[ContentHash],
    ) -> Result<HashMap<ContentHash, Vec<f16>>, StoreError>;

    async fn document(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<Document>, StoreError>;

    /// Live documents by id, at most `limit`, after `cursor` (a `next` of an earlier page).
    async fn documents(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Document>, StoreError>;

    /// Newest first; empty if the document is unknown.
    async fn versions(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Vec<VersionSummary>, StoreError>;

    /// The normalized text that `byte_range` counts; `None` as `version` means the live one.
    async fn content(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
        version: Option<u64>,
    ) -> Result<Option<String>, StoreError>;

    /// Chunks of a version by ordinal; `None` if document or version is unknown.
    async fn chunks(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
        version: Option<u64>,
    ) -> Result<Option<Vec<StoredChunk>>, StoreError>;

    /// A live chunk by id, in whichever collection of the tenant.
    async fn chunk(&self, scope: &TenantScope, id: ChunkId) -> Result<Option<StoredChunk>, StoreError>;

    /// The chunks among `ids` that may leave: of this tenant and collection, of a live version, in the generation that
    /// `view` names for their document, and visible to the scope. In the order of `ids`; the others are left out. The
    /// provenance tells the generation.
    async fn hydrate(
        &self,
        scope: &TenantScope,
        (collection, view): (&CollectionName, View),
        ids: &[ChunkId],
        embeddings: WithEmbeddings,
    ) -> Result<Vec<HydratedChunk>, StoreError>;

    /// Live chunks of the same version around `id`: up to `before` before it and `after` after it, by ordinal,
    /// without `id` itself.
    async fn neighbours(
        &self,
        scope: &TenantScope,
        id: ChunkId,
        before: u32,
        after: u32,
    ) -> Result<(Vec<Chunk>, Vec<Chunk>), StoreError>;

    /// Up to `limit` documents that the collection's live generation serves with a chunk that has no embedding though the
    /// profile names an embedder, with those chunks.
    async fn unembedded(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        limit: usize,
    ) -> Result<Vec<(DocumentHead, Vec<Chunk>)>, StoreError>;
}

/// What one log row did to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Put,
    Delete,
}

/// A row of the operation log, with what an index needs to follow it.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    pub sequence: Sequence,
    pub tenant: TenantId,
    pub collection: CollectionName,
    pub generation: GenerationId,
    pub document: DocumentId,
    pub operation: Operation,
    /// Chunks whose vector must be in the index afterwards.
    pub chunks_added: Vec<ChunkId>,
    /// Chunks whose vector must leave the index; disjoint from `chunks_added`.
    pub chunks_removed: Vec<ChunkId>,
}

/// A live chunk as an index wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexableChunk {
    pub id: ChunkId,
    pub text: String,
    pub heading_path: Vec<String>,
    pub metadata: Option<Metadata>,
    /// What a model has written about it; looked up beside its words.
    pub context: Option<String>,
    pub embedding: Option<Vec<f16>>,
}

/// A live document as an index wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexableDocument {
    pub head: DocumentHead,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// In order of position.
    pub chunks: Vec<IndexableChunk>,
}

/// A collection with its tenant: for the process's own walks over everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedGeneration {
    pub tenant: TenantId,
    pub collection: CollectionName,
    pub generation: Generation,
}

/// The operation log: how indexes follow the truth. For the process itself; no request reaches it.
#[async_trait]
pub trait OperationLog: Send + Sync {
    /// The newest committed sequence.
    async fn last_sequence(&self) -> Result<Sequence, StoreError>;

    /// The newest committed sequence of one generation; 0 if nothing was written to it.
    async fn last_sequence_of(&self, generation: GenerationId) -> Result<Sequence, StoreError>;

    /// Rows after `after`, oldest first, at most `limit`; of all generations, or of one.
    async fn entries(
        &self,
        generation: Option<GenerationId>,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError>;

    /// The present state of these documents in a generation, serving or standing ready, for indexing; `None` where a
    /// document is not in it. Present means now: it may be newer than the log row that led here, which is harmless,
    /// since applying it is idempotent.
    async fn indexable(
        &self,
        tenant: &TenantId,
        (collection, generation): (&CollectionName, GenerationId),
        documents: &[DocumentId],
        embeddings: WithEmbeddings,
    ) -> Result<Vec<Option<IndexableDocument>>, StoreError>;

    /// How many documents and chunks a generation holds, serving or standing ready: what its indexes must hold.
    async fn live_counts(&self, generation: GenerationId) -> Result<LiveCounts, StoreError>;

    /// Every generation that is not retired.
    async fn generations(&self) -> Result<Vec<OwnedGeneration>, StoreError>;

    /// Records when the indexes reached a sequence, so that `indexed_at` can be told.
    async fn mark_indexed(&self, generation: GenerationId, through: Sequence) -> Result<(), StoreError>;
}

/// Counts over the live versions of one generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveCounts {
    pub documents: u64,
    pub chunks: u64,
    /// Chunks that have an embedding.
    pub vectors: u64,
}
