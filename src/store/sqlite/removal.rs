//! Removes a retired generation, a bounded number of rows at a time, so that others can write in between.

use sqlx::SqliteConnection;

use crate::domain::{GenerationId, GenerationState, TenantId, Timestamp};
use crate::store::{Remains, StoreError};

use super::catalog::{read_state, state_name};
use super::codec::{Columns, to_json};
use super::generation_requests::GenerationAnswer;

/// Vectors that are looked at in one read: some milliseconds.
const LOOK_AT_ONCE: i64 = 4096;

/// Removes up to `limit` rows, and those of the vectors `unused` that no chunk uses.
pub(super) async fn remove(
    connection: &mut SqliteConnection,
    (tenant, id): (&TenantId, GenerationId),
    (limit, unused): (usize, Option<&UnusedVectors>),
    now: Timestamp,
) -> Result<Result<GenerationAnswer, StoreError>, StoreError> {
    let row = sqlx::query(RETIRED).bind(tenant.as_str()).bind(id.0.to_vec()).fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(Ok(GenerationAnswer::Remains(Remains::default()))) };
    let mut columns = Columns::of(&row);
    let (generation, state): (i64, GenerationState) = (columns.take()?, read_state(columns.take()?)?);
    if state != GenerationState::Retired {
        return Ok(Err(StoreError::WrongState { state: state_name(state) }));
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).max(1);
    let standbys = sqlx::query(STANDBYS).bind(generation).bind(limit).execute(&mut *connection).await?.rows_affected();
    let rest = limit - standbys as i64;
    if rest > 0 {
        sqlx::query(WATERMARKS).bind(generation).execute(&mut *connection).await?;
        remove_chunkings(connection, generation, rest).await?;
    }
    let mut remains = count(connection, generation).await?;
    if let Some(unused) = unused {
        sqlx::query(VECTORS).bind(to_json(&unused.rows)).execute(&mut *connection).await?;
        remains.vectors = unused.others;
    }
    let counts = sqlx::query(COUNTED).bind(remains.documents as i64).bind(remains.chunks as i64).bind(generation);
    counts.execute(&mut *connection).await?;
    if remains == Remains::default() && unused.is_some() {
        sqlx::query(REMOVED).bind(now.0).bind(generation).execute(&mut *connection).await?;
    }
    Ok(Ok(GenerationAnswer::Remains(remains)))
}

// A chunking that is too long for what is left of the limit loses chunks from its end.
async fn remove_chunkings(connection: &mut SqliteConnection, generation: i64, limit: i64) -> Result<(), StoreError> {
    let rows = sqlx::query(CHUNKINGS).bind(generation).bind(limit).fetch_all(&mut *connection).await?;
    let (mut rest, mut gone, mut shorter, mut ranges) = (limit, Vec::new(), None, Vec::new());
    for row in &rows {
        let mut columns = Columns::of(row);
        let (chunking, first, count): (i64, i64, i64) = (columns.take()?, columns.take()?, columns.take()?);
        if count < rest {
            ranges.push([first, first + count - 1]);
            gone.push(chunking);
            rest -= count + 1;
        } else {
            ranges.push([first + count - rest, first + count - 1]);
            shorter = Some((chunking, count - rest));
            rest = 0;
        }
        if rest == 0 {
            break;
        }
    }
    let ranges = to_json(&ranges);
    let vectors: Vec<i64> = sqlx::query_scalar(VECTORS_OF).bind(&ranges).fetch_all(&mut *connection).await?;
    sqlx::query(CHUNKS).bind(&ranges).execute(&mut *connection).await?;
    sqlx::query(VECTORS).bind(to_json(&vectors)).execute(&mut *connection).await?;
    sqlx::query(GONE).bind(to_json(&gone)).execute(&mut *connection).await?;
    if let Some((chunking, left)) = shorter {
        sqlx::query(SHORTER).bind(left).bind(chunking).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn count(connection: &mut SqliteConnection, generation: i64) -> Result<Remains, StoreError> {
    let row = sqlx::query(LEFT).bind(generation).fetch_one(&mut *connection).await?;
    let mut columns = Columns::of(&row);
    Ok(Remains {
        documents: columns.unsigned()?,
        chunkings: columns.unsigned()?,
        chunks: columns.unsigned()?,
        vectors: 0,
    })
}

/// What readers have found of vectors that no chunk uses.
#[derive(Debug, Default)]
pub(super) struct UnusedVectors {
    /// Those that are to go.
    pub rows: Vec<i64>,
    /// How many there are beside them.
    pub others: u64,
}

/// Whether nothing but vectors may be left of a generation: only then is it worth looking for them.
pub(super) async fn holds_no_chunks(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    id: GenerationId,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(EMPTY).bind(tenant.as_str()).bind(id.0.to_vec()).fetch_one(&mut *connection).await?)
}

/// Looks for unused vectors of a generation's embedder behind row `after`, as far as one read goes, and takes note of
/// them. Where to go on; `None`: all were looked at.
pub(super) async fn unused_vectors(
    connection: &mut SqliteConnection,
    (tenant, id): (&TenantId, GenerationId),
    after: i64,
    (limit, unused): (usize, &mut UnusedVectors),
) -> Result<Option<i64>, StoreError> {
    let last: Option<i64> = sqlx::query_scalar("SELECT MAX(id) FROM embeddings").fetch_one(&mut *connection).await?;
    let end = after.saturating_add(LOOK_AT_ONCE);
    let query = sqlx::query_scalar(UNUSED).bind(tenant.as_str()).bind(id.0.to_vec()).bind(after).bind(end);
    let found: Vec<i64> = query.fetch_all(&mut *connection).await?;
    let taken = limit.saturating_sub(unused.rows.len()).min(found.len());
    unused.rows.extend(&found[..taken]);
    unused.others += (found.len() - taken) as u64;
    Ok(last.filter(|last| *last > end).map(|_| end))
}

const RETIRED: &str = "SELECT g.id, g.state FROM tenants t \
    CROSS JOIN generations g ON g.tenant_id = t.id AND g.public_id = $2 WHERE t.name = $1";
const STANDBYS: &str = "DELETE FROM standbys WHERE generation_id = $1 AND document_id IN \
    (SELECT document_id FROM standbys WHERE generation_id = $1 ORDER BY document_id LIMIT $2)";
const WATERMARKS: &str = "DELETE FROM watermarks WHERE generation_id = $1";
const CHUNKINGS: &str =
    "SELECT id, first_chunk, chunk_count FROM chunkings WHERE generation_id = $1 ORDER BY id LIMIT $2";
const VECTORS_OF: &str = "SELECT DISTINCT c.embedding_id FROM json_each($1) j \
    CROSS JOIN chunks c ON c.id BETWEEN j.value ->> 0 AND j.value ->> 1 WHERE c.embedding_id IS NOT NULL";
const CHUNKS: &str = "DELETE FROM chunks WHERE id IN (SELECT c.id FROM json_each($1) j \
    CROSS JOIN chunks c ON c.id BETWEEN j.value ->> 0 AND j.value ->> 1)";
const VECTORS: &str = "DELETE FROM embeddings WHERE id IN (SELECT value FROM json_each($1)) \
    AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.embedding_id = embeddings.id)";
const GONE: &str = "DELETE FROM chunkings WHERE id IN (SELECT value FROM json_each($1))";
const SHORTER: &str = "UPDATE chunkings SET chunk_count = $1 WHERE id = $2";
const LEFT: &str = "SELECT (SELECT COUNT(*) FROM standbys s WHERE s.generation_id = $1) \
    + (SELECT COUNT(*) FROM documents d WHERE d.generation_id = $1 AND d.chunking_id IS NOT NULL), \
    COUNT(*), COALESCE(SUM(chunk_count), 0) FROM chunkings WHERE generation_id = $1";
const COUNTED: &str = "UPDATE generations SET live_documents = $1, live_chunks = MIN(live_chunks, $2), \
    live_vectors = MIN(live_vectors, $2) WHERE id = $3";
const REMOVED: &str = "UPDATE generations SET removed_at = COALESCE(removed_at, $1) WHERE id = $2";
const EMPTY: &str = "SELECT NOT EXISTS (SELECT 1 FROM tenants t \
    CROSS JOIN generations g ON g.tenant_id = t.id AND g.public_id = $2 \
    CROSS JOIN chunkings c ON c.generation_id = g.id WHERE t.name = $1)";
const UNUSED: &str = "SELECT e.id FROM tenants t CROSS JOIN generations g ON g.tenant_id = t.id AND g.public_id = $2 \
    CROSS JOIN embeddings e ON e.id > $3 AND e.id <= $4 AND e.tenant_id = t.id AND e.embedder_id = g.embedder_id \
    WHERE t.name = $1 AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.embedding_id = e.id)";

/// All statements.
#[cfg(test)]
pub(super) const REMOVALS: [&str; 13] = [
    RETIRED, STANDBYS, WATERMARKS, CHUNKINGS, VECTORS_OF, CHUNKS, VECTORS, GONE, SHORTER, COUNTED, REMOVED, EMPTY,
    UNUSED,
];
