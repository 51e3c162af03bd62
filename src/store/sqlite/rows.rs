//! The rows that a wave of document writes adds and changes.

use std::sync::LazyLock;

use sqlx::SqliteConnection;

use crate::domain::{ChunkId, ContentHash, Timestamp};
use crate::store::{Operation, StoreError};

use super::codec::ids_to_bytes;
use super::prepare::{ChunkColumns, ChunkingColumns, PutColumns, Segment};
use super::script::{Insert, Parameters, Script};
use super::standby_rows::StandbyRows;

/// What a wave of writes adds and changes; applied in the order of the fields.
#[derive(Debug, Default)]
pub(super) struct Rows<'a> {
    /// Ranges of chunk rows that serve no more.
    pub retired: Vec<(i64, i64)>,
    pub standby: StandbyRows,
    pub embeddings: Vec<EmbeddingRow<'a>>,
    pub documents: Vec<DocumentRow<'a>>,
    pub versions: Vec<VersionRow<'a>>,
    pub segments: Vec<SegmentRow<'a>>,
    pub chunkings: Vec<ChunkingRow<'a>>,
    pub chunks: Vec<ChunkRow<'a>>,
    pub reembedded: Vec<Reembedded>,
    /// Deleted documents with the sequence of their deletion.
    pub deleted: Vec<(i64, i64)>,
    /// Documents of which nothing changed but the embeddings, with their new sequence.
    pub touched: Vec<(i64, i64)>,
    pub log: Vec<LogRow>,
    pub counts: Vec<CountsRow>,
}

/// A document as it stands after the write.
#[derive(Debug)]
pub(super) struct DocumentRow<'a> {
    pub id: i64,
    pub tenant: i64,
    pub collection: i64,
    pub name: &'a str,
    pub put: &'a PutColumns,
    pub version: i64,
    pub first_version: i64,
    pub version_id: i64,
    pub generation: i64,
    pub chunking: i64,
    pub first_chunk: i64,
    pub chunk_count: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub sequence: i64,
}

#[derive(Debug)]
pub(super) struct VersionRow<'a> {
    pub id: i64,
    pub tenant: i64,
    pub document: i64,
    pub number: i64,
    pub put: &'a PutColumns,
    pub first_segment: i64,
    pub created_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct SegmentRow<'a> {
    pub id: i64,
    pub version: i64,
    pub segment: &'a Segment,
}

#[derive(Debug)]
pub(super) struct ChunkingRow<'a> {
    pub id: i64,
    pub version: i64,
    pub generation: i64,
    pub first_chunk: i64,
    pub columns: &'a ChunkingColumns,
}

#[derive(Debug)]
pub(super) struct ChunkRow<'a> {
    pub id: i64,
    pub tenant: i64,
    pub document: i64,
    pub chunking: i64,
    /// The generation in which it stands ready; `None`: it serves.
    pub standby_of: Option<i64>,
    pub columns: &'a ChunkColumns,
    pub segment: i64,
    pub segment_count: i64,
    pub embedding: Option<i64>,
    pub pending_input: Option<ContentHash>,
}

#[derive(Debug)]
pub(super) struct EmbeddingRow<'a> {
    pub id: i64,
    pub tenant: i64,
    pub embedder: i64,
    pub input_hash: ContentHash,
    pub vector: &'a [u8],
}

/// A chunk row whose embedding is another one now.
#[derive(Debug)]
pub(super) struct Reembedded {
    pub chunk: i64,
    pub embedding: Option<i64>,
    pub pending_input: Option<ContentHash>,
}

#[derive(Debug)]
pub(super) struct LogRow {
    pub sequence: i64,
    pub tenant: i64,
    pub collection: i64,
    pub generation: i64,
    pub document: i64,
    pub version: i64,
    pub operation: Operation,
    pub added: Vec<ChunkId>,
    pub removed: Vec<ChunkId>,
    pub at: Timestamp,
}

/// By how much the counts of a generation change, and the last sequence that changes them; 0: none does.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CountsRow {
    pub generation: i64,
    pub sequence: i64,
    pub documents: i64,
    /// Those of them that are served from it.
    pub serving: i64,
    pub chunks: i64,
    pub vectors: i64,
}

/// The number by which an operation is stored.
pub(super) fn operation_code(operation: Operation) -> i64 {
    match operation {
        Operation::Put => 1,
        Operation::Delete => 2,
    }
}

impl Rows<'_> {
    /// Applies everything, in the order that the schema's constraints ask for.
    pub(super) async fn apply(&self, connection: &mut SqliteConnection, now: Timestamp) -> Result<(), StoreError> {
        let mut script = Script::new(connection);
        // First: a chunk id may serve once only, and the new chunking may hold the same ids as the old.
        script.list(RETIRE, &self.retired, |(first, last)| format!("[{first},{last}]"));
        self.standby.clear(&mut script);
        script.insert(&EMBEDDINGS, &self.embeddings, EmbeddingRow::bind).await?;
        script.insert(&DOCUMENTS, &self.documents, DocumentRow::bind).await?;
        script.insert(&VERSIONS, &self.versions, VersionRow::bind).await?;
        script.insert(&SEGMENTS, &self.segments, SegmentRow::bind).await?;
        script.insert(&CHUNKINGS, &self.chunkings, ChunkingRow::bind).await?;
        script.insert(&CHUNKS, &self.chunks, ChunkRow::bind).await?;
        self.standby.settle(&mut script).await?;
        script.list(REEMBED, &self.reembedded, Reembedded::to_json);
        script.list(DELETE, &self.deleted, |(id, sequence)| format!("[{id},{sequence},{}]", now.0));
        script.list(TOUCH, &self.touched, |(id, sequence)| format!("[{id},{sequence}]"));
        script.insert(&LOG, &self.log, LogRow::bind).await?;
        script.list(COUNT, &self.counts, CountsRow::json);
        script.flush().await
    }
}

// The inner select names the chunks by primary key, so that no plan can walk the whole table.
const RETIRE: &str = "UPDATE chunks SET live = 0 WHERE id IN \
    (SELECT c.id FROM json_each(?) j CROSS JOIN chunks c ON c.id BETWEEN j.value ->> 0 AND j.value ->> 1)";
const REEMBED: &str = "UPDATE chunks SET embedding_id = change.embedding, pending_input = change.pending FROM \
    (SELECT value ->> 0 AS chunk, value ->> 1 AS embedding, unhex(value ->> 2) AS pending FROM json_each(?)) change \
    WHERE chunks.id = change.chunk";
const DELETE: &str = "UPDATE documents SET chunking_id = NULL, first_version = version + 1, \
    sequence = change.sequence, updated_at = change.at FROM \
    (SELECT value ->> 0 AS id, value ->> 1 AS sequence, value ->> 2 AS at FROM json_each(?)) change \
    WHERE documents.id = change.id";
const TOUCH: &str = "UPDATE documents SET sequence = change.sequence, placed_by = NULL FROM \
    (SELECT value ->> 0 AS id, value ->> 1 AS sequence FROM json_each(?)) change WHERE documents.id = change.id";
const COUNT: &str = "UPDATE generations SET last_sequence = MAX(last_sequence, change.sequence), \
    live_documents = live_documents + change.documents, serving_documents = serving_documents + change.serving, \
    live_chunks = live_chunks + change.chunks, live_vectors = live_vectors + change.vectors FROM \
    (SELECT value ->> 0 AS id, value ->> 1 AS sequence, value ->> 2 AS documents, value ->> 3 AS serving, \
    value ->> 4 AS chunks, value ->> 5 AS vectors FROM json_each(?)) change WHERE generations.id = change.id";

/// The statements that change rows found by other than an insert.
#[cfg(test)]
pub(super) const UPDATES: [&str; 5] = [RETIRE, REEMBED, DELETE, TOUCH, COUNT];

static DOCUMENTS: LazyLock<Insert> = LazyLock::new(|| {
    let fixed = ["id", "tenant_id", "collection_id", "name"];
    let changing = [
        "title",
        "source_uri",
        "media_type",
        "metadata",
        "acl",
        "head_hash",
        "content_hash",
        "version",
        "first_version",
        "version_id",
        "generation_id",
        "chunking_id",
        "first_chunk",
        "chunk_count",
        "created_at",
        "updated_at",
        "sequence",
        "placed_by",
    ];
    let updates = changing.map(|column| format!("{column} = excluded.{column}")).join(", ");
    let columns: Vec<&str> = fixed.into_iter().chain(changing).collect();
    Insert::into("documents", &columns, &format!("ON CONFLICT (id) DO UPDATE SET {updates}"))
});
static VERSIONS: LazyLock<Insert> = LazyLock::new(|| {
    let columns = [
        "id",
        "tenant_id",
        "document_id",
        "number",
        "content_hash",
        "text_hash",
        "outline",
        "first_segment",
        "segment_count",
        "created_at",
    ];
    Insert::into("versions", &columns, "")
});
static SEGMENTS: LazyLock<Insert> =
    LazyLock::new(|| Insert::into("segments", &["id", "version_id", "start", "text"], ""));
static CHUNKINGS: LazyLock<Insert> = LazyLock::new(|| {
    let columns = ["id", "version_id", "generation_id", "first_chunk", "chunk_count", "shape_hash", "chunker"];
    Insert::into("chunkings", &columns, "")
});
static CHUNKS: LazyLock<Insert> = LazyLock::new(|| {
    let columns = [
        "id",
        "tenant_id",
        "document_id",
        "chunking_id",
        "live",
        "standby_of",
        "chunk_id",
        "ordinal",
        "span_start",
        "span_end",
        "segment_id",
        "segment_count",
        "heading_path",
        "page",
        "token_count",
        "metadata",
        "context",
        "embedding_id",
        "pending_input",
    ];
    Insert::into("chunks", &columns, "")
});
static EMBEDDINGS: LazyLock<Insert> =
    LazyLock::new(|| Insert::into("embeddings", &["id", "tenant_id", "embedder_id", "input_hash", "vector"], ""));
static LOG: LazyLock<Insert> = LazyLock::new(|| {
    let columns = [
        "seq",
        "tenant_id",
        "collection_id",
        "generation_id",
        "document_id",
        "version",
        "op",
        "added",
        "removed",
        "at",
    ];
    Insert::into("oplog", &columns, "")
});

impl DocumentRow<'_> {
    fn bind(&self, to: &mut Parameters) {
        let put = self.put;
        to.add(self.id).add(self.tenant).add(self.collection).add(self.name);
        to.add(put.title.as_deref()).add(put.source_uri.as_deref()).add(put.media_type.as_str());
        to.add(put.metadata.as_str()).add(put.acl.as_deref());
        to.add(put.head_hash.0.as_slice()).add(put.content_hash.0.as_slice());
        to.add(self.version).add(self.first_version).add(self.version_id).add(self.generation);
        to.add(self.chunking).add(self.first_chunk).add(self.chunk_count);
        to.add(self.created_at.0).add(self.updated_at.0).add(self.sequence);
        to.add_null();
    }
}

impl VersionRow<'_> {
    fn bind(&self, to: &mut Parameters) {
        let put = self.put;
        to.add(self.id).add(self.tenant).add(self.document).add(self.number);
        to.add(put.content_hash.0.as_slice()).add(put.text_hash.as_slice()).add(put.outline.as_str());
        to.add(self.first_segment).add_count(put.segments.len()).add(self.created_at.0);
    }
}

impl SegmentRow<'_> {
    fn bind(&self, to: &mut Parameters) {
        to.add(self.id).add(self.version).add_count(self.segment.start).add(self.segment.text.as_str());
    }
}

impl ChunkingRow<'_> {
    fn bind(&self, to: &mut Parameters) {
        to.add(self.id).add(self.version).add(self.generation).add(self.first_chunk);
        let columns = self.columns;
        to.add_count(columns.chunks.len()).add(columns.shape_hash.as_slice()).add(columns.chunker.as_deref());
    }
}

impl ChunkRow<'_> {
    fn bind(&self, to: &mut Parameters) {
        let chunk = self.columns;
        to.add(self.id).add(self.tenant).add(self.document).add(self.chunking);
        to.add(i64::from(self.standby_of.is_none())).add(self.standby_of);
        to.add(chunk.id.0.as_slice()).add(chunk.ordinal).add_count(chunk.span.start).add_count(chunk.span.end);
        to.add(self.segment).add(self.segment_count);
        to.add(chunk.heading_path.as_deref()).add(chunk.page).add(chunk.token_count);
        to.add(chunk.metadata.as_deref()).add(chunk.context.as_deref());
        to.add(self.embedding).add(self.pending_input.map(|hash| hash.0.to_vec()));
    }
}

impl EmbeddingRow<'_> {
    fn bind(&self, to: &mut Parameters) {
        to.add(self.id).add(self.tenant).add(self.embedder).add(self.input_hash.0.as_slice()).add(self.vector);
    }
}

impl Reembedded {
    fn to_json(&self) -> String {
        let embedding = self.embedding.map_or("null".to_owned(), |id| id.to_string());
        let pending = self.pending_input.map_or("null".to_owned(), |hash| format!("\"{hash}\""));
        format!("[{},{embedding},{pending}]", self.chunk)
    }
}

impl LogRow {
    fn bind(&self, to: &mut Parameters) {
        to.add(self.sequence).add(self.tenant).add(self.collection).add(self.generation).add(self.document);
        to.add(self.version).add(operation_code(self.operation));
        to.add(ids_to_bytes(&self.added)).add(ids_to_bytes(&self.removed)).add(self.at.0);
    }
}

impl CountsRow {
    fn json(&self) -> String {
        let Self { generation, sequence, documents, serving, chunks, vectors } = self;
        format!("[{generation},{sequence},{documents},{serving},{chunks},{vectors}]")
    }
}
