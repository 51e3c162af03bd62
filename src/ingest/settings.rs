//! Settings of ingestion: limits of one document, sizes of the pipeline, pace of the indexer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::EmbedderSpec;

/// How documents are taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestSettings {
    pub limits: IngestLimits,
    /// Collections whose vectors the caller brings, by name. Takes effect when the collection is first written to.
    pub caller_vectors: BTreeMap<String, CallerVectors>,
    /// Documents written in one transaction of a stream. 64: the cost of making them durable is shared by many,
    /// and a poison document sends few others on a detour.
    pub batch_documents: usize,
    /// Bytes of documents after which a batch of a stream is full. 1 MiB: some 700 chunks, seconds of embedding.
    pub batch_bytes: usize,
    /// Milliseconds that a batch of a stream waits for more documents. 20: a slow stream is not kept waiting for
    /// company.
    pub batch_linger_ms: u64,
    /// Batches of one stream that are parsed, chunked and embedded at the same time. 4: the embedder has the next
    /// one at hand while the one before is being written.
    pub batches_in_flight: usize,
    /// Memory for documents on their way into the store, over all requests, in MiB; more of them wait. A document
    /// counts several times its size, for its text, its chunks and what is embedded of it. 256: the largest document
    /// that the limits allow fits.
    pub memory_mib: u32,
    /// Documents of one batch that are parsed at the same time. 4: more than cores, since a parser also waits.
    pub documents_in_flight: usize,
    /// Texts in one call to the embedder. 32: enough to sort by length, short enough that a query does not wait long.
    pub embed_call_inputs: usize,
    /// Calls to the embedder at the same time, over all streams. 4: its queue never runs dry and never fills up.
    pub embed_calls_in_flight: usize,
    /// Longest wait for a place in a full queue (embedder, compute pool), in milliseconds. 60 000: behind a long
    /// stream that is a while; a caller gives up sooner.
    pub queue_wait_ms: u64,
    /// Failed items that a stream's report lists. 1000: the rest is counted.
    pub failures_listed: usize,
    /// Versions of a document that are kept, the one that serves among them. 0: all, since an old answer may cite any.
    pub keep_versions: u32,
    /// Days that a version is kept after it was replaced. 0: for ever.
    pub keep_versions_days: u32,
    /// Days that the versions of a deleted document are kept, which nobody can read. 0: for ever.
    pub keep_deleted_days: u32,
}

/// What one document may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestLimits {
    /// Bytes of a document's body. 32 MiB: the longest books have 3.
    pub max_document_bytes: usize,
    /// Chunks of a document. 50 000: what 32 MiB of text come to.
    pub max_chunks_per_document: usize,
    /// Bytes of a title. 1024: it is repeated in front of every chunk.
    pub max_title_bytes: usize,
    /// Bytes of a source's address. 4096: longer ones do not pass through most proxies.
    pub max_source_uri_bytes: usize,
    /// Bytes of metadata as JSON, for the document and for each caller-made chunk. 65 536: it is read with every hit.
    pub max_metadata_bytes: usize,
    /// Principals in an ACL. 1024: all of them are terms of every chunk in the index.
    pub max_acl_principals: usize,
}

/// The vectors that a caller brings to a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerVectors {
    /// Name of the caller's embedder, as shown in provenance.
    pub name: String,
    /// Length of each vector, from 1.
    pub dimensions: usize,
}

/// How fast the indexes follow the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexerSettings {
    /// Shortest time between two commits while nobody waits, in milliseconds. 200: a commit costs some 20 ms.
    pub commit_interval_ms: u64,
    /// Log rows read at once. 256: bounds memory, and how long a waiter waits for a commit.
    pub read_rows: usize,
    /// Chunks after which a portion of documents is handed to the indexes. 512: a megabyte of text and vectors.
    pub apply_chunks: usize,
    /// Vector operations after which the vector index is made durable. 4096: what a restart replays in a second.
    pub flush_operations: usize,
    /// Longest time that vector operations stay undurable, in milliseconds. 10 000: only replay time is at stake.
    pub flush_interval_ms: u64,
    /// Time between two looks at the log while nobody announces anything, in milliseconds. 1000: announcements are
    /// the rule, this is the net below.
    pub poll_interval_ms: u64,
    /// Time between two rounds of maintenance, in milliseconds. 1000: segments grow by the second, not faster.
    pub maintain_interval_ms: u64,
    /// How long nothing must have changed before memory is given back and segments are merged into one, in
    /// milliseconds. 5000: longer than the pauses of a load that is under way.
    pub quiet_ms: u64,
    /// Time after which indexes that nobody has asked for are closed, in milliseconds. 300 000: opening one again
    /// takes some milliseconds, keeping it open some megabytes.
    pub close_idle_ms: u64,
    /// Lexical segments from which on merging them into one is considered. 2: each segment more costs every query.
    pub compact_segments: usize,
    /// Chunks up to which all segments are merged into one. 300 000: new documents wait while it lasts, some seconds.
    pub compact_max_chunks: u64,
    /// How much of a lexical index must have changed before all of it is merged, in percent. 20: each chunk is then
    /// written five times more at most.
    pub compact_changed_percent: u64,
    /// First wait after a failure, doubled each time, in milliseconds.
    pub retry_first_ms: u64,
    /// Longest wait after failures, in milliseconds. 30 000: a full disk that was cleared is noticed soon.
    pub retry_longest_ms: u64,
    /// How long a shutdown waits for maintenance to end, in milliseconds. 2000: it is started again next time, and
    /// nothing depends on it.
    pub maintain_grace_ms: u64,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self {
            limits: IngestLimits::default(),
            caller_vectors: BTreeMap::new(),
            batch_documents: 64,
            batch_bytes: 1 << 20,
            batch_linger_ms: 20,
            batches_in_flight: 4,
            memory_mib: 256,
            documents_in_flight: 4,
            embed_call_inputs: 32,
            embed_calls_in_flight: 4,
            queue_wait_ms: 60_000,
            failures_listed: 1000,
            keep_versions: 0,
            keep_versions_days: 0,
            keep_deleted_days: 0,
        }
    }
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            max_document_bytes: 32 << 20,
            max_chunks_per_document: 50_000,
            max_title_bytes: 1024,
            max_source_uri_bytes: 4096,
            max_metadata_bytes: 1 << 16,
            max_acl_principals: 1024,
        }
    }
}

impl Default for IndexerSettings {
    fn default() -> Self {
        Self {
            commit_interval_ms: 200,
            read_rows: 256,
            apply_chunks: 512,
            flush_operations: 4096,
            flush_interval_ms: 10_000,
            poll_interval_ms: 1000,
            maintain_interval_ms: 1000,
            quiet_ms: 5000,
            close_idle_ms: 300_000,
            compact_segments: 2,
            compact_max_chunks: 300_000,
            compact_changed_percent: 20,
            retry_first_ms: 100,
            retry_longest_ms: 30_000,
            maintain_grace_ms: 2000,
        }
    }
}

impl CallerVectors {
    /// The embedder under which such vectors are stored; never equal to a model of this process.
    pub fn spec(&self) -> EmbedderSpec {
        EmbedderSpec { name: self.name.clone(), revision: CALLER_REVISION.to_owned(), dimensions: self.dimensions }
    }
}

/// Revision of every embedder that is not in this process.
pub const CALLER_REVISION: &str = "caller";
