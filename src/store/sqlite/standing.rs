//! How things stand before a write: what the writer reads to decide what changes.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use crate::domain::{
    ByteSpan, ChunkId, CollectionName, ContentHash, GenerationId, GenerationState, TenantId, Timestamp,
};
use crate::store::StoreError;

use super::catalog::read_state;
use super::codec::{Columns, from_json, hex_list, to_json};

/// The collection that a write goes to, with its live generation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub tenant: i64,
    pub collection: i64,
    pub generation: i64,
    pub generation_id: GenerationId,
    pub embedder: Option<EmbedderRow>,
}

/// The generation that a build or a move names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub collection: i64,
    pub generation: i64,
    pub state: GenerationState,
    pub embedder: Option<EmbedderRow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EmbedderRow {
    pub id: i64,
    pub dimensions: usize,
}

/// A document that was written before, deleted or not.
#[derive(Debug)]
pub(super) struct Known {
    pub id: i64,
    pub version: i64,
    pub first_version: i64,
    pub created_at: Timestamp,
    /// `None`: deleted.
    pub live: Option<Live>,
}

/// What a document serves at present.
#[derive(Debug)]
pub(super) struct Live {
    pub generation: i64,
    pub embedder: Option<EmbedderRow>,
    pub head_hash: ContentHash,
    pub content_hash: ContentHash,
    pub text_hash: [u8; 16],
    pub shape_hash: [u8; 16],
    pub version_id: i64,
    pub first_segment: i64,
    pub segment_count: i64,
    pub chunking: i64,
    pub first_chunk: i64,
    pub chunk_count: i64,
    pub sequence: i64,
    /// The operation by which its generation came to hold it.
    pub placed_by: i64,
    pub standbys: Vec<Standby>,
}

/// What a document has ready in a generation that does not serve it.
#[derive(Debug)]
pub(super) struct Standby {
    pub generation: i64,
    pub chunking: i64,
    pub first_chunk: i64,
    pub chunk_count: i64,
    pub sequence: i64,
    /// In order; filled in only where they are dropped or replaced.
    pub chunks: Vec<PreviousChunk>,
}

/// A chunk that is there at present.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreviousChunk {
    pub row: i64,
    pub id: ChunkId,
    pub embedding: Option<i64>,
    pub pending_input: Option<ContentHash>,
}

/// A stored vector that was made from a given input.
#[derive(Debug)]
pub(super) struct StoredVector {
    pub id: i64,
    pub input_hash: ContentHash,
    pub bytes: Vec<u8>,
}

/// The collection, or `None` if the tenant has none of this name.
pub(super) async fn load_place(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    collection: &CollectionName,
) -> Result<Option<Place>, StoreError> {
    const SQL: &str = "SELECT t.id, k.id, g.id, g.public_id, e.id, e.dimensions FROM tenants t \
        JOIN collections k ON k.tenant_id = t.id JOIN generations g ON g.id = k.live_generation_id \
        LEFT JOIN embedders e ON e.id = g.embedder_id WHERE t.name = $1 AND k.name = $2";
    let row = sqlx::query(SQL).bind(tenant.as_str()).bind(collection.as_str()).fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(None) };
    let mut columns = Columns::of(&row);
    Ok(Some(Place {
        tenant: columns.take()?,
        collection: columns.take()?,
        generation: columns.take()?,
        generation_id: GenerationId(columns.hash()?),
        embedder: take_embedder(&mut columns)?,
    }))
}

/// The generations among `ids`, of whichever tenant.
pub(super) async fn load_targets(
    connection: &mut SqliteConnection,
    ids: impl Iterator<Item = &GenerationId>,
) -> Result<HashMap<GenerationId, Target>, StoreError> {
    const SQL: &str = "SELECT g.public_id, g.collection_id, g.id, g.state, e.id, e.dimensions FROM json_each($1) j \
        CROSS JOIN generations g ON g.public_id = unhex(j.value) LEFT JOIN embedders e ON e.id = g.embedder_id";
    let rows = sqlx::query(SQL).bind(hex_list(ids.map(|id| id.0.as_slice()))).fetch_all(&mut *connection).await?;
    let mut targets = HashMap::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let id = GenerationId(columns.hash()?);
        let target = Target {
            collection: columns.take()?,
            generation: columns.take()?,
            state: read_state(columns.take()?)?,
            embedder: take_embedder(&mut columns)?,
        };
        targets.insert(id, target);
    }
    Ok(targets)
}

/// The documents of a collection among `names`, each with its index in `names`.
pub(super) async fn load_known(
    connection: &mut SqliteConnection,
    collection: i64,
    names: &[&str],
) -> Result<Vec<(usize, Known)>, StoreError> {
    const SQL: &str = "SELECT j.key, d.id, d.version, d.first_version, d.created_at, d.chunking_id, d.generation_id, \
        e.id, e.dimensions, d.head_hash, d.content_hash, v.text_hash, g.shape_hash, d.version_id, v.first_segment, \
        v.segment_count, d.first_chunk, d.chunk_count, d.sequence, COALESCE(d.placed_by, d.sequence), \
        (SELECT json_group_array(json_array(s.generation_id, s.chunking_id, s.first_chunk, s.chunk_count, s.sequence)) \
        FROM standbys s WHERE s.document_id = d.id) FROM json_each($1) j \
        CROSS JOIN documents d ON d.collection_id = $2 AND d.name = j.value \
        LEFT JOIN versions v ON v.id = d.version_id LEFT JOIN chunkings g ON g.id = d.chunking_id \
        JOIN generations n ON n.id = d.generation_id LEFT JOIN embedders e ON e.id = n.embedder_id";
    let rows = sqlx::query(SQL).bind(to_json(names)).bind(collection).fetch_all(&mut *connection).await?;
    let mut known = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let index = columns.index()?;
        known.push((index, take_known(&mut columns)?));
    }
    Ok(known)
}

fn take_known(columns: &mut Columns<'_>) -> Result<Known, StoreError> {
    let id = columns.take()?;
    let version = columns.take()?;
    let first_version = columns.take()?;
    let created_at = Timestamp(columns.take()?);
    let chunking: Option<i64> = columns.take()?;
    let live = match chunking {
        None => None,
        Some(chunking) => Some(Live {
            chunking,
            generation: columns.take()?,
            embedder: take_embedder(columns)?,
            head_hash: ContentHash(columns.hash()?),
            content_hash: ContentHash(columns.hash()?),
            text_hash: columns.hash()?,
            shape_hash: columns.hash()?,
            version_id: columns.take()?,
            first_segment: columns.take()?,
            segment_count: columns.take()?,
            first_chunk: columns.take()?,
            chunk_count: columns.take()?,
            sequence: columns.take()?,
            placed_by: columns.take()?,
            standbys: read_standbys(columns.take()?)?,
        }),
    };
    Ok(Known { id, version, first_version, created_at, live })
}

fn read_standbys(json: &str) -> Result<Vec<Standby>, StoreError> {
    let rows: Vec<[i64; 5]> = from_json("standbys", json)?;
    let read = |[generation, chunking, first_chunk, chunk_count, sequence]: [i64; 5]| Standby {
        generation,
        chunking,
        first_chunk,
        chunk_count,
        sequence,
        chunks: Vec::new(),
    };
    Ok(rows.into_iter().map(read).collect())
}

fn take_embedder(columns: &mut Columns<'_>) -> Result<Option<EmbedderRow>, StoreError> {
    let id: Option<i64> = columns.take()?;
    match id {
        None => {
            columns.skip(1);
            Ok(None)
        }
        Some(id) => Ok(Some(EmbedderRow { id, dimensions: columns.index()? })),
    }
}

/// The chunks in each range of rows (`first`, `count`), in order, each with the index of its range.
pub(super) async fn load_previous(
    connection: &mut SqliteConnection,
    ranges: &[(i64, i64)],
) -> Result<Vec<(usize, PreviousChunk)>, StoreError> {
    const SQL: &str = "SELECT j.key, c.id, c.chunk_id, c.embedding_id, c.pending_input FROM json_each($1) j \
        CROSS JOIN chunks c ON c.id BETWEEN j.value ->> 0 AND j.value ->> 1 ORDER BY j.key, c.id";
    let bounds: Vec<[i64; 2]> = ranges.iter().map(|(first, count)| [*first, first + count - 1]).collect();
    let rows = sqlx::query(SQL).bind(to_json(&bounds)).fetch_all(&mut *connection).await?;
    let mut chunks = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let range = columns.index()?;
        let row = columns.take()?;
        let id = ChunkId(columns.hash()?);
        let embedding = columns.take()?;
        let pending: Option<&[u8]> = columns.take()?;
        let pending_input = pending.and_then(|bytes| bytes.try_into().ok()).map(ContentHash);
        chunks.push((range, PreviousChunk { row, id, embedding, pending_input }));
    }
    Ok(chunks)
}

/// All vectors of the tenant that this embedder made from these inputs.
pub(super) async fn load_vectors(
    connection: &mut SqliteConnection,
    (tenant, embedder): (i64, i64),
    inputs: impl Iterator<Item = &ContentHash>,
) -> Result<Vec<StoredVector>, StoreError> {
    const SQL: &str = "SELECT e.id, e.input_hash, e.vector FROM json_each($1) j CROSS JOIN embeddings e \
        ON e.tenant_id = $2 AND e.embedder_id = $3 AND e.input_hash = unhex(j.value)";
    let list = hex_list(inputs.map(|input| input.0.as_slice()));
    let rows = sqlx::query(SQL).bind(list).bind(tenant).bind(embedder).fetch_all(&mut *connection).await?;
    let mut vectors = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let id = columns.take()?;
        vectors.push(StoredVector { id, input_hash: ContentHash(columns.hash()?), bytes: columns.take()? });
    }
    Ok(vectors)
}

/// Where the stored pieces of a version lie in its text.
pub(super) async fn load_pieces(connection: &mut SqliteConnection, live: &Live) -> Result<Vec<ByteSpan>, StoreError> {
    const SQL: &str = "SELECT start, length(CAST(text AS BLOB)) FROM segments WHERE id BETWEEN $1 AND $2 ORDER BY id";
    let last = live.first_segment + live.segment_count - 1;
    let rows = sqlx::query(SQL).bind(live.first_segment).bind(last).fetch_all(&mut *connection).await?;
    let mut pieces = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let start = columns.index()?;
        pieces.push(ByteSpan::new(start, start + columns.index()?));
    }
    Ok(pieces)
}

/// Items by the index of what they belong to.
pub(super) fn group_by_index<T>(items: Vec<(usize, T)>) -> HashMap<usize, Vec<T>> {
    let mut groups: HashMap<usize, Vec<T>> = HashMap::new();
    for (index, item) in items {
        groups.entry(index).or_default().push(item);
    }
    groups
}
