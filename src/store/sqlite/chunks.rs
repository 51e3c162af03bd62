//! Reads chunks: for search, for citation, for indexing.

use half::f16;
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::domain::{
    Chunk, ChunkId, CollectionName, DocumentHead, DocumentId, GenerationId, Provenance, TenantId, TenantScope,
};
use crate::store::{HydratedChunk, IndexableChunk, IndexableDocument, StoreError, StoredChunk, View, WithEmbeddings};

use super::codec::{Columns, bytes_from_hex, damaged, from_json, hex_list, to_json, vector_from_bytes};
use super::documents::{find_version, find_visible};
use super::records::{
    ChunkRecord, DocumentRecord, Generations, chunk_json, document_json, generation_of, held_document_json,
    read_document, take_chunk, take_document,
};

// One row, however many chunks: each row more would be another hand-over between two threads.
macro_rules! hydrate_sql {
    ($vector:literal, [$($document:tt)*], [$($from:tt)*]) => {
        concat!(
            "SELECT json_group_array(json_array(j.key, ",
            $vector,
            ", ",
            chunk_json!(),
            ", ",
            $($document)*,
            "))",
            $($from)*,
            "WHERE t.name = $2 AND k.name = $3"
        )
    };
}

macro_rules! serving_chunks {
    () => {
        " FROM tenants t CROSS JOIN collections k ON k.tenant_id = t.id CROSS JOIN json_each($1) j \
         CROSS JOIN chunks c ON c.tenant_id = t.id AND c.chunk_id = unhex(j.value) AND c.live = 1 \
         CROSS JOIN documents d ON d.id = c.document_id AND d.collection_id = k.id \
         AND d.chunking_id = c.chunking_id CROSS JOIN generations g ON g.id = d.generation_id \
         AND g.state <> 'retired' CROSS JOIN segments s ON s.id = c.segment_id "
    };
}

// A chunk id may stand ready in the generation and serve from another one: two chunks, of which the first is meant.
macro_rules! held_chunks {
    () => {
        " FROM tenants t CROSS JOIN collections k ON k.tenant_id = t.id \
         CROSS JOIN generations g ON g.public_id = $4 AND g.collection_id = k.id AND g.state <> 'retired' \
         CROSS JOIN json_each($1) j CROSS JOIN chunks c ON c.id = COALESCE( \
         (SELECT a.id FROM chunks a WHERE a.standby_of = g.id AND a.chunk_id = unhex(j.value)), \
         (SELECT b.id FROM chunks b WHERE b.tenant_id = t.id AND b.chunk_id = unhex(j.value) AND b.live = 1)) \
         CROSS JOIN documents d ON d.id = c.document_id AND d.collection_id = k.id AND d.chunking_id IS NOT NULL \
         AND (c.standby_of = g.id OR d.generation_id = g.id) \
         LEFT JOIN standbys y ON y.generation_id = g.id AND y.document_id = d.id \
         CROSS JOIN segments s ON s.id = c.segment_id "
    };
}

/// [`held_document_json`] of `generations g` and what stands ready there, `standbys y`, if it does not serve.
macro_rules! standby_document_json {
    () => {
        held_document_json!(
            "g.id",
            "COALESCE(y.chunking_id, d.chunking_id)",
            "COALESCE(y.chunk_count, d.chunk_count)",
            "COALESCE(y.sequence, d.placed_by, d.sequence)"
        )
    };
}

fn hydrate_sql(view: View, embeddings: WithEmbeddings) -> &'static str {
    macro_rules! vectors {
        () => {
            "LEFT JOIN embeddings e ON e.id = c.embedding_id "
        };
    }
    match (view, embeddings) {
        (View::Serving, WithEmbeddings::No) => hydrate_sql!("''", [document_json!()], [serving_chunks!()]),
        (View::Serving, WithEmbeddings::Yes) => {
            hydrate_sql!("hex(e.vector)", [document_json!()], [serving_chunks!(), vectors!()])
        }
        (View::Of(_), WithEmbeddings::No) => hydrate_sql!("''", [standby_document_json!()], [held_chunks!()]),
        (View::Of(_), WithEmbeddings::Yes) => {
            hydrate_sql!("hex(e.vector)", [standby_document_json!()], [held_chunks!(), vectors!()])
        }
    }
}

/// The statements that hydrate.
#[cfg(test)]
pub(super) fn hydrations() -> [&'static str; 4] {
    use WithEmbeddings::{No, Yes};
    let of = View::Of(GenerationId([0; 16]));
    let each = [(View::Serving, Yes), (View::Serving, No), (of, Yes), (of, No)];
    each.map(|(view, embeddings)| hydrate_sql(view, embeddings))
}

pub(super) async fn hydrate(
    connection: &mut SqliteConnection,
    generations: &Generations,
    scope: &TenantScope,
    (collection, view, ids): (&CollectionName, View, &[ChunkId]),
    embeddings: WithEmbeddings,
) -> Result<Vec<HydratedChunk>, StoreError> {
    let query = sqlx::query(hydrate_sql(view, embeddings))
        .bind(hex_list(ids.iter().map(|id| id.0.as_slice())))
        .bind(scope.tenant.as_str())
        .bind(collection.as_str());
    let query = match view {
        View::Serving => query,
        View::Of(generation) => query.bind(generation.0.to_vec()),
    };
    let row = query.fetch_one(&mut *connection).await?;
    let candidates: Vec<Candidate<'_>> = from_json("hydrated chunks", Columns::of(&row).take()?)?;
    let mut found = Vec::with_capacity(candidates.len());
    for Candidate(place, vector, chunk, document) in candidates {
        let record = read_document(document.get())?;
        if scope.sees(record.head.acl.as_deref()) {
            found.push((place, chunk.into_chunk()?, record, read_vector(vector)?));
        }
    }
    found.sort_by_key(|(place, ..)| *place);
    let known = generations.get(connection, found.iter().map(|(_, _, record, _)| record.generation)).await?;
    let finish = |(_, chunk, record, embedding): (usize, Chunk, DocumentRecord, Option<Vec<f16>>)| {
        let provenance = record.provenance(&chunk, generation_of(&known, record.generation)?);
        let DocumentRecord { head, created_at, updated_at, .. } = record;
        Ok(HydratedChunk { chunk, provenance, head, created_at, updated_at, embedding })
    };
    found.into_iter().map(finish).collect()
}

/// A chunk that may be hydrated: its place among those asked for, its vector in hexadecimal, itself, its document.
#[derive(Deserialize)]
struct Candidate<'a>(usize, &'a str, #[serde(borrow)] ChunkRecord<'a>, #[serde(borrow)] &'a RawValue);

fn read_vector(hex: &str) -> Result<Option<Vec<f16>>, StoreError> {
    if hex.is_empty() {
        return Ok(None);
    }
    let bytes = bytes_from_hex(hex).ok_or_else(|| damaged("embeddings.vector", "it is not hexadecimal"))?;
    Ok(Some(vector_from_bytes(&bytes)))
}

fn take_vector(columns: &mut Columns<'_>) -> Result<Option<Vec<f16>>, StoreError> {
    Ok(columns.take::<Option<&[u8]>>()?.map(vector_from_bytes))
}

pub(super) async fn chunk(
    connection: &mut SqliteConnection,
    generations: &Generations,
    scope: &TenantScope,
    id: ChunkId,
) -> Result<Option<StoredChunk>, StoreError> {
    // Chunks of one chunking have consecutive row ids.
    const SQL: &str = concat!(
        "SELECT (SELECT p.chunk_id FROM chunks p WHERE p.id = c.id - 1 AND p.chunking_id = c.chunking_id), \
         (SELECT n.chunk_id FROM chunks n WHERE n.id = c.id + 1 AND n.chunking_id = c.chunking_id), ",
        chunk_json!(),
        ", ",
        document_json!(),
        " FROM tenants t CROSS JOIN chunks c ON c.tenant_id = t.id AND c.chunk_id = $2 AND c.live = 1 \
         CROSS JOIN documents d ON d.id = c.document_id AND d.chunking_id = c.chunking_id \
         CROSS JOIN collections k ON k.id = d.collection_id CROSS JOIN segments s ON s.id = c.segment_id \
         WHERE t.name = $1"
    );
    let row = sqlx::query(SQL).bind(scope.tenant.as_str()).bind(id.0.to_vec()).fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(None) };
    let mut columns = Columns::of(&row);
    let (previous, next) = (take_id(&mut columns)?, take_id(&mut columns)?);
    let chunk = take_chunk(&mut columns)?;
    let record = take_document(&mut columns)?;
    if !scope.sees(record.head.acl.as_deref()) {
        return Ok(None);
    }
    let known = generations.get(connection, std::iter::once(record.generation)).await?;
    let provenance = record.provenance(&chunk, generation_of(&known, record.generation)?);
    Ok(Some(StoredChunk { chunk, provenance, previous, next }))
}

fn take_id(columns: &mut Columns<'_>) -> Result<Option<ChunkId>, StoreError> {
    let bytes: Option<&[u8]> = columns.take()?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(ChunkId))
}

pub(super) async fn chunks(
    connection: &mut SqliteConnection,
    generations: &Generations,
    scope: &TenantScope,
    (collection, document): (&CollectionName, &DocumentId),
    version: Option<u64>,
) -> Result<Option<Vec<StoredChunk>>, StoreError> {
    let Some(found) = find_visible(connection, scope, collection, document).await? else { return Ok(None) };
    let Some(rows) = find_version(connection, &found, version).await? else { return Ok(None) };
    let chunks = load_range(connection, (rows.first_chunk, rows.chunk_count)).await?;
    let known = generations.get(connection, std::iter::once(rows.generation)).await?;
    let generation = generation_of(&known, rows.generation)?;
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
    let is_live = rows.version == found.record.version;
    let origin = |chunk: &Chunk| Provenance {
        document_version: rows.version,
        content_hash: rows.content_hash,
        // An index holds the live version only.
        indexed_at: found.record.indexed_at.filter(|_| is_live),
        chunker: rows.chunker.as_ref().unwrap_or(&generation.profile.chunker).clone(),
        ..found.record.provenance(chunk, generation)
    };
    let place = |(index, chunk): (usize, Chunk)| StoredChunk {
        provenance: origin(&chunk),
        previous: index.checked_sub(1).map(|before| ids[before]),
        next: ids.get(index + 1).copied(),
        chunk,
    };
    Ok(Some(chunks.into_iter().enumerate().map(place).collect()))
}

/// The chunks of a range of rows: the first, and how many.
pub(super) async fn load_range(
    connection: &mut SqliteConnection,
    (first, count): (i64, i64),
) -> Result<Vec<Chunk>, StoreError> {
    const SQL: &str = concat!(
        "SELECT ",
        chunk_json!(),
        " FROM chunks c CROSS JOIN segments s ON s.id = c.segment_id WHERE c.id BETWEEN $1 AND $2 ORDER BY c.id"
    );
    let rows = sqlx::query(SQL).bind(first).bind(first + count - 1).fetch_all(&mut *connection).await?;
    rows.iter().map(|row| take_chunk(&mut Columns::of(row))).collect()
}

/// The chunks before and after a live chunk, each in order of position.
pub(super) async fn neighbours(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    id: ChunkId,
    (before, after): (u32, u32),
) -> Result<(Vec<Chunk>, Vec<Chunk>), StoreError> {
    const SQL: &str = concat!(
        "SELECT c.id > m.id, d.acl, ",
        chunk_json!(),
        " FROM tenants t CROSS JOIN chunks m ON m.tenant_id = t.id AND m.chunk_id = $2 AND m.live = 1 \
         CROSS JOIN documents d ON d.id = m.document_id AND d.chunking_id = m.chunking_id \
         CROSS JOIN chunks c ON c.id BETWEEN m.id - $3 AND m.id + $4 AND c.chunking_id = m.chunking_id \
         AND c.id <> m.id CROSS JOIN segments s ON s.id = c.segment_id WHERE t.name = $1 ORDER BY c.id"
    );
    let rows = sqlx::query(SQL)
        .bind(scope.tenant.as_str())
        .bind(id.0.to_vec())
        .bind(before)
        .bind(after)
        .fetch_all(&mut *connection)
        .await?;
    let (mut earlier, mut later) = (Vec::new(), Vec::new());
    for row in &rows {
        let mut columns = Columns::of(row);
        let is_later: bool = columns.take()?;
        let acl: Option<&str> = columns.take()?;
        let acl: Option<Vec<_>> = acl.map(|json| from_json("documents.acl", json)).transpose()?;
        if !scope.sees(acl.as_deref()) {
            return Ok((Vec::new(), Vec::new()));
        }
        let chunk = take_chunk(&mut columns)?;
        if is_later { later.push(chunk) } else { earlier.push(chunk) }
    }
    Ok((earlier, later))
}

pub(super) async fn unembedded(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    collection: &CollectionName,
    limit: usize,
) -> Result<Vec<(DocumentHead, Vec<Chunk>)>, StoreError> {
    const DOCUMENTS: &str = concat!(
        "SELECT d.id, ",
        document_json!(),
        " FROM (SELECT DISTINCT c.document_id FROM tenants t CROSS JOIN chunks c ON c.tenant_id = t.id \
         WHERE t.name = $1 AND c.live = 1 AND c.pending_input IS NOT NULL) p \
         CROSS JOIN documents d ON d.id = p.document_id CROSS JOIN collections k ON k.id = d.collection_id \
         AND k.live_generation_id = d.generation_id WHERE k.name = $2 LIMIT $3"
    );
    const CHUNKS: &str = concat!(
        "SELECT j.key, ",
        chunk_json!(),
        " FROM json_each($2) j CROSS JOIN tenants t CROSS JOIN chunks c ON c.tenant_id = t.id \
         AND c.document_id = j.value AND c.live = 1 AND c.pending_input IS NOT NULL \
         CROSS JOIN segments s ON s.id = c.segment_id WHERE t.name = $1 ORDER BY j.key, c.id"
    );
    let rows = sqlx::query(DOCUMENTS)
        .bind(scope.tenant.as_str())
        .bind(collection.as_str())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
    let mut ids: Vec<i64> = Vec::with_capacity(rows.len());
    let mut documents = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        ids.push(columns.take()?);
        documents.push((take_document(&mut columns)?.head, Vec::new()));
    }
    if ids.is_empty() {
        return Ok(documents);
    }
    let rows = sqlx::query(CHUNKS).bind(scope.tenant.as_str()).bind(to_json(&ids)).fetch_all(&mut *connection).await?;
    for row in &rows {
        let mut columns = Columns::of(row);
        let index = columns.index()?;
        documents[index].1.push(take_chunk(&mut columns)?);
    }
    Ok(documents)
}

pub(super) async fn indexable(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    (collection, generation, documents): (&CollectionName, GenerationId, &[DocumentId]),
    embeddings: WithEmbeddings,
) -> Result<Vec<Option<IndexableDocument>>, StoreError> {
    const SQL: &str = concat!(
        "SELECT j.key, COALESCE(y.first_chunk, d.first_chunk), ",
        standby_document_json!(),
        " FROM tenants t CROSS JOIN collections k ON k.tenant_id = t.id \
         CROSS JOIN generations g ON g.public_id = $4 AND g.collection_id = k.id CROSS JOIN json_each($3) j \
         CROSS JOIN documents d ON d.collection_id = k.id AND d.name = j.value AND d.chunking_id IS NOT NULL \
         LEFT JOIN standbys y ON y.generation_id = g.id AND y.document_id = d.id \
         WHERE t.name = $1 AND k.name = $2 AND (y.chunking_id IS NOT NULL OR d.generation_id = g.id)"
    );
    let rows = sqlx::query(SQL)
        .bind(tenant.as_str())
        .bind(collection.as_str())
        .bind(to_json(documents))
        .bind(generation.0.to_vec())
        .fetch_all(&mut *connection)
        .await?;
    let mut found: Vec<Option<IndexableDocument>> = documents.iter().map(|_| None).collect();
    let (mut places, mut ranges) = (Vec::new(), Vec::new());
    for row in &rows {
        let mut columns = Columns::of(row);
        let place = columns.index()?;
        let first: i64 = columns.take()?;
        let DocumentRecord { head, created_at, updated_at, chunk_count, .. } = take_document(&mut columns)?;
        found[place] = Some(IndexableDocument { head, created_at, updated_at, chunks: Vec::new() });
        places.push(place);
        ranges.push([first, first + chunk_count as i64 - 1]);
    }
    for row in &load_indexable_chunks(connection, &ranges, embeddings).await? {
        let mut columns = Columns::of(row);
        let place = places[columns.index()?];
        let embedding = take_vector(&mut columns)?;
        let Chunk { id, text, heading_path, metadata, context, .. } = take_chunk(&mut columns)?;
        if let Some(document) = &mut found[place] {
            document.chunks.push(IndexableChunk { id, text, heading_path, metadata, context, embedding });
        }
    }
    Ok(found)
}

async fn load_indexable_chunks(
    connection: &mut SqliteConnection,
    ranges: &[[i64; 2]],
    embeddings: WithEmbeddings,
) -> Result<Vec<SqliteRow>, StoreError> {
    macro_rules! from_ranges {
        () => {
            " FROM json_each($1) j CROSS JOIN chunks c ON c.id BETWEEN j.value ->> 0 AND j.value ->> 1 \
             CROSS JOIN segments s ON s.id = c.segment_id "
        };
    }
    const BARE: &str = concat!("SELECT j.key, NULL, ", chunk_json!(), from_ranges!(), "ORDER BY j.key, c.id");
    const WITH_EMBEDDINGS: &str = concat!(
        "SELECT j.key, e.vector, ",
        chunk_json!(),
        from_ranges!(),
        "LEFT JOIN embeddings e ON e.id = c.embedding_id ORDER BY j.key, c.id"
    );
    let sql = match embeddings {
        WithEmbeddings::Yes => WITH_EMBEDDINGS,
        WithEmbeddings::No => BARE,
    };
    Ok(sqlx::query(sql).bind(to_json(ranges)).fetch_all(&mut *connection).await?)
}
