//! Reads documents, their versions and their text.

use std::collections::HashMap;

use half::f16;
use sqlx::SqliteConnection;

use crate::domain::{
    ChunkerSpec, CollectionName, ContentHash, Document, DocumentId, Fingerprint, GenerationId, Sequence, TenantScope,
    Timestamp, VersionSummary, Visibility,
};
use crate::store::{DocumentState, Page, StoreError};

use super::codec::{Columns, damaged, from_json, hex_list, to_json, vector_from_bytes};
use super::cursor;
use super::records::{DocumentRecord, Generations, document_json, generation_of, take_document};

/// Live documents `d` of a tenant's collection: `$1` is the tenant, `$2` the collection.
macro_rules! live_documents {
    () => {
        " FROM tenants t CROSS JOIN collections k ON k.tenant_id = t.id \
         CROSS JOIN documents d ON d.collection_id = k.id AND d.chunking_id IS NOT NULL \
         WHERE t.name = $1 AND k.name = $2 "
    };
}

/// A live document that the scope may see, with what leads to its text and chunks.
pub(super) struct Visible {
    pub record: DocumentRecord,
    pub row: i64,
    pub version_id: i64,
    pub first_version: u64,
    pub chunking: i64,
}

pub(super) async fn find_visible(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    collection: &CollectionName,
    document: &DocumentId,
) -> Result<Option<Visible>, StoreError> {
    const SQL: &str = concat!(
        "SELECT d.id, d.version_id, d.first_version, d.chunking_id, ",
        document_json!(),
        live_documents!(),
        "AND d.name = $3"
    );
    let row = sqlx::query(SQL)
        .bind(scope.tenant.as_str())
        .bind(collection.as_str())
        .bind(document.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let mut columns = Columns::of(&row);
    let found = Visible {
        row: columns.take()?,
        version_id: columns.take()?,
        first_version: columns.unsigned()?,
        chunking: columns.take()?,
        record: take_document(&mut columns)?,
    };
    Ok(Some(found).filter(|found| scope.sees(found.record.head.acl.as_deref())))
}

pub(super) async fn document(
    connection: &mut SqliteConnection,
    generations: &Generations,
    scope: &TenantScope,
    (collection, document): (&CollectionName, &DocumentId),
) -> Result<Option<Document>, StoreError> {
    let Some(found) = find_visible(connection, scope, collection, document).await? else { return Ok(None) };
    let row = found.record.generation;
    let generations = generations.get(connection, std::iter::once(row)).await?;
    Ok(Some(found.record.into_document(generation_of(&generations, row)?)))
}

/// Where a listing goes on and where it ends.
pub(super) struct PageRequest<'a> {
    pub cursor: Option<&'a str>,
    pub limit: usize,
}

pub(super) async fn documents(
    connection: &mut SqliteConnection,
    generations: &Generations,
    scope: &TenantScope,
    collection: &CollectionName,
    page: PageRequest<'_>,
) -> Result<Page<Document>, StoreError> {
    // `$5` lists the principals; NULL: whoever asks sees everything. Ids are never empty, so '' is before them all.
    const SQL: &str = concat!(
        "SELECT ",
        document_json!(),
        live_documents!(),
        "AND d.name > $3 AND ($5 IS NULL OR d.acl IS NULL OR EXISTS \
         (SELECT 1 FROM json_each(d.acl) a WHERE a.value IN (SELECT value FROM json_each($5)))) \
         ORDER BY d.name LIMIT $4"
    );
    let after = match page.cursor {
        None => String::new(),
        Some(cursor) => cursor::decode(&scope.tenant, collection.as_str(), cursor)?,
    };
    if page.limit == 0 {
        return Ok(Page { items: Vec::new(), next: page.cursor.map(str::to_owned) });
    }
    let principals = match &scope.visibility {
        Visibility::All => None,
        Visibility::Principals(principals) => Some(to_json(principals)),
    };
    // One more than asked for tells whether there is a next page.
    let rows = sqlx::query(SQL)
        .bind(scope.tenant.as_str())
        .bind(collection.as_str())
        .bind(after)
        .bind(i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1))
        .bind(principals)
        .fetch_all(&mut *connection)
        .await?;
    let more = rows.len() > page.limit;
    let mut records = Vec::with_capacity(rows.len().min(page.limit));
    for row in rows.iter().take(page.limit) {
        records.push(take_document(&mut Columns::of(row))?);
    }
    let known = generations.get(connection, records.iter().map(|record| record.generation)).await?;
    let mut items = Vec::with_capacity(records.len());
    for record in records {
        let generation = generation_of(&known, record.generation)?;
        items.push(record.into_document(generation));
    }
    let last = items.last().filter(|_| more);
    let next = last.map(|last: &Document| cursor::encode(&scope.tenant, collection.as_str(), last.head.id.as_str()));
    Ok(Page { items, next })
}

pub(super) async fn versions(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    collection: &CollectionName,
    document: &DocumentId,
) -> Result<Vec<VersionSummary>, StoreError> {
    const SQL: &str = "SELECT v.number, v.content_hash, v.created_at, \
        CASE v.id WHEN $3 THEN $4 ELSE COALESCE((SELECT g.chunk_count FROM chunkings g WHERE g.version_id = v.id \
        ORDER BY g.id DESC LIMIT 1), 0) END FROM versions v WHERE v.document_id = $1 AND v.number >= $2 ORDER BY v.number DESC";
    let Some(found) = find_visible(connection, scope, collection, document).await? else { return Ok(Vec::new()) };
    let rows = sqlx::query(SQL)
        .bind(found.row)
        .bind(found.first_version as i64)
        .bind(found.version_id)
        .bind(found.record.chunk_count as i64)
        .fetch_all(&mut *connection)
        .await?;
    let read = |row| {
        let mut columns = Columns::of(row);
        Ok(VersionSummary {
            version: columns.unsigned()?,
            content_hash: ContentHash(columns.hash()?),
            created_at: Timestamp(columns.take()?),
            chunk_count: columns.unsigned()?,
        })
    };
    rows.iter().map(read).collect()
}

/// A version's rows: its own, its chunks', and what tells its chunks' origin.
pub(super) struct VersionRows {
    pub version: u64,
    pub content_hash: ContentHash,
    pub text_hash: [u8; 16],
    pub first_segment: i64,
    pub segment_count: i64,
    pub first_chunk: i64,
    pub chunk_count: i64,
    pub generation: i64,
    /// `None`: the generation's.
    pub chunker: Option<ChunkerSpec>,
}

/// A version of a visible document; `None` as `version` means the live one.
pub(super) async fn find_version(
    connection: &mut SqliteConnection,
    found: &Visible,
    version: Option<u64>,
) -> Result<Option<VersionRows>, StoreError> {
    // Of an older version, the chunks that it had last; none, if they went with their generation.
    const SQL: &str = "SELECT v.number, v.content_hash, v.text_hash, v.first_segment, v.segment_count, \
        COALESCE(g.first_chunk, 1), COALESCE(g.chunk_count, 0), COALESCE(g.generation_id, $6), g.chunker FROM versions v \
        LEFT JOIN chunkings g ON g.version_id = v.id \
        WHERE v.document_id = $1 AND v.number = $2 AND v.number >= $3 AND (v.id <> $4 OR g.id = $5) \
        ORDER BY g.id DESC LIMIT 1";
    let number = version.unwrap_or(found.record.version);
    let Ok(number) = i64::try_from(number) else { return Ok(None) };
    let row = sqlx::query(SQL)
        .bind(found.row)
        .bind(number)
        .bind(found.first_version as i64)
        .bind(found.version_id)
        .bind(found.chunking)
        .bind(found.record.generation)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let mut columns = Columns::of(&row);
    Ok(Some(VersionRows {
        version: columns.unsigned()?,
        content_hash: ContentHash(columns.hash()?),
        text_hash: columns.hash()?,
        first_segment: columns.take()?,
        segment_count: columns.take()?,
        first_chunk: columns.take()?,
        chunk_count: columns.take()?,
        generation: columns.take()?,
        chunker: columns.take::<Option<&str>>()?.map(|json| from_json("chunkings.chunker", json)).transpose()?,
    }))
}

pub(super) async fn content(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    (collection, document): (&CollectionName, &DocumentId),
    version: Option<u64>,
) -> Result<Option<String>, StoreError> {
    const SQL: &str = "SELECT group_concat(text, '' ORDER BY id) FROM segments WHERE id BETWEEN $1 AND $2";
    let Some(found) = find_visible(connection, scope, collection, document).await? else { return Ok(None) };
    let Some(rows) = find_version(connection, &found, version).await? else { return Ok(None) };
    let last = rows.first_segment + rows.segment_count - 1;
    let text: String = sqlx::query_scalar(SQL).bind(rows.first_segment).bind(last).fetch_one(&mut *connection).await?;
    // A byte that has rotted inside a text leaves every page and index in order: only the hash tells.
    if blake3::hash(text.as_bytes()).as_bytes()[..16] != rows.text_hash {
        return Err(damaged("segments.text", "it is not the text that was stored"));
    }
    Ok(Some(text))
}

pub(super) async fn states(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    collection: &CollectionName,
    documents: &[DocumentId],
) -> Result<Vec<Option<DocumentState>>, StoreError> {
    const SQL: &str = "SELECT j.key, d.sequence, d.version, d.content_hash, d.head_hash, g.public_id FROM tenants t \
        CROSS JOIN collections k ON k.tenant_id = t.id CROSS JOIN json_each($3) j \
        CROSS JOIN documents d ON d.collection_id = k.id AND d.name = j.value AND d.chunking_id IS NOT NULL \
        CROSS JOIN generations g ON g.id = d.generation_id WHERE t.name = $1 AND k.name = $2";
    let rows = sqlx::query(SQL)
        .bind(scope.tenant.as_str())
        .bind(collection.as_str())
        .bind(to_json(documents))
        .fetch_all(&mut *connection)
        .await?;
    let mut states = vec![None; documents.len()];
    for row in &rows {
        let mut columns = Columns::of(row);
        let index = columns.index()?;
        states[index] = Some(DocumentState {
            sequence: Sequence(columns.unsigned()?),
            version: columns.unsigned()?,
            content_hash: ContentHash(columns.hash()?),
            head_hash: ContentHash(columns.hash()?),
            generation: GenerationId(columns.hash()?),
        });
    }
    Ok(states)
}

pub(super) async fn known_embeddings(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    embedder: Fingerprint,
    inputs: &[ContentHash],
) -> Result<HashMap<ContentHash, Vec<f16>>, StoreError> {
    const SQL: &str = "SELECT v.input_hash, v.vector FROM tenants t CROSS JOIN embedders e CROSS JOIN json_each($3) j \
        CROSS JOIN embeddings v ON v.tenant_id = t.id AND v.embedder_id = e.id AND v.input_hash = unhex(j.value) \
        WHERE t.name = $1 AND e.fingerprint = $2";
    let rows = sqlx::query(SQL)
        .bind(scope.tenant.as_str())
        .bind(embedder.0.to_vec())
        .bind(hex_list(inputs.iter().map(|input| input.0.as_slice())))
        .fetch_all(&mut *connection)
        .await?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let input = ContentHash(columns.hash()?);
        known.entry(input).or_insert(vector_from_bytes(columns.take()?));
    }
    Ok(known)
}
