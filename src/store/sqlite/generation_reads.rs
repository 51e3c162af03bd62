//! Reads what building a generation needs: where documents stand, and what they are made of.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use crate::domain::{
    CollectionName, ContentHash, DocumentHead, DocumentId, GenerationId, Outline, Standing, TenantId, TenantScope,
};
use crate::store::{DocumentSource, Page, StoreError};

use super::chunks::load_range;
use super::codec::{Columns, from_json, hex_list, to_json};
use super::cursor;
use super::records::{document_json, take_document};

/// Documents that one page looks at, however few of them stand as was asked.
const LOOK_AT_ONCE: i64 = 4096;

macro_rules! placements {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            document_json!(),
            " FROM generations g CROSS JOIN collections k ON k.id = g.collection_id \
             CROSS JOIN documents d ON d.collection_id = k.id AND d.name > $2 AND ($3 IS NULL OR d.name <= $3) \
             AND d.chunking_id IS NOT NULL WHERE g.id = $1 AND ",
            $condition,
            " ORDER BY d.name LIMIT $4"
        )
    };
}

const ABSENT: &str = placements!(
    "d.generation_id <> g.id AND NOT EXISTS \
     (SELECT 1 FROM standbys s WHERE s.generation_id = g.id AND s.document_id = d.id)"
);
const STANDBY: &str =
    placements!("EXISTS (SELECT 1 FROM standbys s WHERE s.generation_id = g.id AND s.document_id = d.id)");
const SERVING: &str = placements!("d.generation_id = g.id");
const GENERATION: &str = "SELECT g.id, g.collection_id FROM tenants t \
    CROSS JOIN generations g ON g.tenant_id = t.id AND g.public_id = $2 WHERE t.name = $1";
/// The last document that a page looks at, if there are more behind it.
const PAGE_END: &str =
    "SELECT name FROM documents WHERE collection_id = $1 AND name > $2 ORDER BY name LIMIT 2 OFFSET $3";

/// By document id. Pages end after so many documents that were looked at.
pub(super) async fn placements(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    (id, standing): (GenerationId, Standing),
    (cursor, limit): (Option<&str>, usize),
) -> Result<Page<DocumentHead>, StoreError> {
    let row =
        sqlx::query(GENERATION).bind(tenant.as_str()).bind(id.0.to_vec()).fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(Page { items: Vec::new(), next: None }) };
    let mut columns = Columns::of(&row);
    let (generation, collection): (i64, i64) = (columns.take()?, columns.take()?);
    let (sql, name) = match standing {
        Standing::Absent => (ABSENT, "absent"),
        Standing::Standby => (STANDBY, "standby"),
        Standing::Serving => (SERVING, "serving"),
    };
    let listing = format!("{id}/{name}");
    let after = match cursor {
        None => String::new(),
        Some(cursor) => cursor::decode(tenant, &listing, cursor)?,
    };
    if limit == 0 {
        return Ok(Page { items: Vec::new(), next: cursor.map(str::to_owned) });
    }
    // Two rows tell the last document of the page, and that there is another one behind it.
    let ends: Vec<String> = sqlx::query_scalar(PAGE_END)
        .bind(collection)
        .bind(&after)
        .bind(LOOK_AT_ONCE - 1)
        .fetch_all(&mut *connection)
        .await?;
    let end = if ends.len() > 1 { ends.into_iter().next() } else { None };
    let rows = sqlx::query(sql)
        .bind(generation)
        .bind(after)
        .bind(&end)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
    let mut items = Vec::with_capacity(rows.len());
    for row in &rows {
        items.push(take_document(&mut Columns::of(row))?.head);
    }
    let last = if items.len() == limit { items.last().map(|head| head.id.to_string()) } else { end };
    let next = last.map(|last| cursor::encode(tenant, &listing, &last));
    Ok(Page { items, next })
}

pub(super) async fn sources(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    collection: &CollectionName,
    documents: &[DocumentId],
) -> Result<Vec<Option<DocumentSource>>, StoreError> {
    const SQL: &str = concat!(
        "SELECT j.key, d.first_chunk, v.outline, (SELECT group_concat(s.text, '' ORDER BY s.id) FROM segments s \
         WHERE s.id BETWEEN v.first_segment AND v.first_segment + v.segment_count - 1), ",
        document_json!(),
        " FROM tenants t CROSS JOIN collections k ON k.tenant_id = t.id CROSS JOIN json_each($3) j \
         CROSS JOIN documents d ON d.collection_id = k.id AND d.name = j.value AND d.chunking_id IS NOT NULL \
         CROSS JOIN versions v ON v.id = d.version_id WHERE t.name = $1 AND k.name = $2"
    );
    let rows = sqlx::query(SQL)
        .bind(scope.tenant.as_str())
        .bind(collection.as_str())
        .bind(to_json(documents))
        .fetch_all(&mut *connection)
        .await?;
    let mut found: Vec<Option<DocumentSource>> = documents.iter().map(|_| None).collect();
    for row in &rows {
        let mut columns = Columns::of(row);
        let (place, first_chunk): (usize, i64) = (columns.index()?, columns.take()?);
        let outline: Outline = from_json("versions.outline", columns.take()?)?;
        let text: String = columns.take()?;
        let record = take_document(&mut columns)?;
        if !scope.sees(record.head.acl.as_deref()) {
            continue;
        }
        // Only what the caller cut has a chunker of its own.
        let caller_chunks = match &record.chunker {
            None => None,
            Some(_) => Some(load_range(connection, (first_chunk, record.chunk_count as i64)).await?),
        };
        found[place] = Some(DocumentSource {
            head: record.head,
            seen: record.sequence,
            text,
            outline,
            chunker: record.chunker,
            caller_chunks,
        });
    }
    Ok(found)
}

pub(super) async fn contexts(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    inputs: &[ContentHash],
) -> Result<HashMap<ContentHash, String>, StoreError> {
    let query =
        sqlx::query(CONTEXTS).bind(tenant.as_str()).bind(hex_list(inputs.iter().map(|input| input.0.as_slice())));
    let rows = query.fetch_all(&mut *connection).await?;
    let read = |row| {
        let mut columns = Columns::of(row);
        Ok((ContentHash(columns.hash()?), columns.take()?))
    };
    rows.iter().map(read).collect()
}

const CONTEXTS: &str = "SELECT c.input_hash, c.text FROM tenants t CROSS JOIN json_each($2) j \
    CROSS JOIN contexts c ON c.tenant_id = t.id AND c.input_hash = unhex(j.value) WHERE t.name = $1";

/// All statements.
#[cfg(test)]
pub(super) const READS: [&str; 6] = [ABSENT, STANDBY, SERVING, GENERATION, PAGE_END, CONTEXTS];
