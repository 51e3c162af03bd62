//! Reads the operation log and what a follower needs beside it.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::domain::{CollectionName, DocumentId, GenerationId, Sequence, TenantId};
use crate::store::{LiveCounts, LogEntry, Operation, OwnedGeneration, StoreError};

use super::catalog::take_generation;
use super::codec::{Columns, damaged, ids_from_bytes};
use super::rows::operation_code;

macro_rules! entries {
    ($condition:literal) => {
        concat!(
            "SELECT o.seq, t.name, k.name, g.public_id, d.name, o.op, o.added, o.removed FROM oplog o \
             CROSS JOIN tenants t ON t.id = o.tenant_id CROSS JOIN collections k ON k.id = o.collection_id \
             CROSS JOIN generations g ON g.id = o.generation_id CROSS JOIN documents d ON d.id = o.document_id \
             WHERE o.seq > $1 ",
            $condition,
            " ORDER BY o.seq LIMIT $2"
        )
    };
}

pub(super) async fn entries(
    connection: &mut SqliteConnection,
    generation: Option<GenerationId>,
    after: Sequence,
    limit: usize,
) -> Result<Vec<LogEntry>, StoreError> {
    const ALL: &str = entries!("");
    const ONE: &str = entries!("AND o.generation_id = (SELECT id FROM generations WHERE public_id = $3)");
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = match generation {
        None => sqlx::query(ALL).bind(after).bind(limit),
        Some(generation) => sqlx::query(ONE).bind(after).bind(limit).bind(generation.0.to_vec()),
    };
    query.fetch_all(&mut *connection).await?.iter().map(read_entry).collect()
}

fn read_entry(row: &SqliteRow) -> Result<LogEntry, StoreError> {
    let mut columns = Columns::of(row);
    Ok(LogEntry {
        sequence: Sequence(columns.unsigned()?),
        tenant: take_tenant(&mut columns)?,
        collection: take_collection(&mut columns)?,
        generation: GenerationId(columns.hash()?),
        document: DocumentId::new(columns.take()?).map_err(|error| damaged("documents.name", &error.to_string()))?,
        operation: read_operation(columns.take()?)?,
        chunks_added: ids_from_bytes(columns.take()?),
        chunks_removed: ids_from_bytes(columns.take()?),
    })
}

fn read_operation(code: i64) -> Result<Operation, StoreError> {
    [Operation::Put, Operation::Delete]
        .into_iter()
        .find(|operation| operation_code(*operation) == code)
        .ok_or_else(|| damaged("oplog.op", "there is no such operation"))
}

fn take_tenant(columns: &mut Columns<'_>) -> Result<TenantId, StoreError> {
    TenantId::new(columns.take()?).map_err(|error| damaged("tenants.name", &error.to_string()))
}

fn take_collection(columns: &mut Columns<'_>) -> Result<CollectionName, StoreError> {
    CollectionName::new(columns.take()?).map_err(|error| damaged("collections.name", &error.to_string()))
}

pub(super) async fn last_sequence_of(
    connection: &mut SqliteConnection,
    generation: GenerationId,
) -> Result<Sequence, StoreError> {
    const SQL: &str = "SELECT last_sequence FROM generations WHERE public_id = $1";
    let last: Option<i64> =
        sqlx::query_scalar(SQL).bind(generation.0.to_vec()).fetch_optional(&mut *connection).await?;
    Ok(Sequence(last.unwrap_or(0) as u64))
}

pub(super) async fn live_counts(
    connection: &mut SqliteConnection,
    generation: GenerationId,
) -> Result<LiveCounts, StoreError> {
    const SQL: &str = "SELECT live_documents, live_chunks, live_vectors FROM generations WHERE public_id = $1";
    let row = sqlx::query(SQL).bind(generation.0.to_vec()).fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(LiveCounts::default()) };
    let mut columns = Columns::of(&row);
    Ok(LiveCounts { documents: columns.unsigned()?, chunks: columns.unsigned()?, vectors: columns.unsigned()? })
}

pub(super) async fn generations(connection: &mut SqliteConnection) -> Result<Vec<OwnedGeneration>, StoreError> {
    const SQL: &str = "SELECT t.name, k.name, g.public_id, g.profile, g.state, g.created_at FROM generations g \
        JOIN tenants t ON t.id = g.tenant_id JOIN collections k ON k.id = g.collection_id \
        WHERE g.state <> 'retired' ORDER BY g.id";
    let rows = sqlx::query(SQL).fetch_all(&mut *connection).await?;
    let read = |row| {
        let mut columns = Columns::of(row);
        Ok(OwnedGeneration {
            tenant: take_tenant(&mut columns)?,
            collection: take_collection(&mut columns)?,
            generation: take_generation(&mut columns)?,
        })
    };
    rows.iter().map(read).collect()
}
