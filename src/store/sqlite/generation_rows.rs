//! What is read of a generation as a whole, by readers and by the writer.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::domain::{CollectionName, GenerationCounts, GenerationId, GenerationStatus, TaskId, TenantId, Timestamp};
use crate::store::StoreError;

use super::catalog::take_generation;
use super::codec::{Columns, damaged, from_json, from_text};

macro_rules! select_statuses {
    ($condition:literal) => {
        concat!(
            "SELECT k.name, g.public_id, g.profile, g.state, g.created_at, g.plan, \
             (SELECT SUM(o.serving_documents) FROM generations o WHERE o.collection_id = k.id), \
             g.live_documents, g.serving_documents, g.live_chunks, g.live_vectors, g.changed_at, \
             (SELECT p.public_id FROM generations p WHERE p.id = g.previous_id), g.task_id, g.removed_at \
             FROM tenants t CROSS JOIN collections k ON k.tenant_id = t.id \
             CROSS JOIN generations g ON g.collection_id = k.id WHERE t.name = $1 AND ",
            $condition,
            " ORDER BY g.id"
        )
    };
}

pub(super) const STATUS: &str = select_statuses!("g.public_id = $2");
pub(super) const STATUSES: &str = select_statuses!("k.name = $2");
pub(super) const ALL_STATUSES: &str = select_statuses!("$2 IS NULL");

pub(super) async fn status(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    id: GenerationId,
) -> Result<Option<GenerationStatus>, StoreError> {
    let query = sqlx::query(STATUS).bind(tenant.as_str()).bind(id.0.to_vec());
    query.fetch_optional(&mut *connection).await?.as_ref().map(read_status).transpose()
}

/// Oldest first.
pub(super) async fn statuses(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    collection: Option<&CollectionName>,
) -> Result<Vec<GenerationStatus>, StoreError> {
    let sql = if collection.is_some() { STATUSES } else { ALL_STATUSES };
    let query = sqlx::query(sql).bind(tenant.as_str()).bind(collection.map(CollectionName::as_str));
    query.fetch_all(&mut *connection).await?.iter().map(read_status).collect()
}

fn read_status(row: &SqliteRow) -> Result<GenerationStatus, StoreError> {
    let mut columns = Columns::of(row);
    let collection = from_text("collections.name", columns.take()?)?;
    let generation = take_generation(&mut columns)?;
    let plan = from_json("generations.plan", columns.take()?)?;
    let counts = GenerationCounts {
        documents: columns.unsigned()?,
        built: columns.unsigned()?,
        serving: columns.unsigned()?,
        chunks: columns.unsigned()?,
        vectors: columns.unsigned()?,
    };
    let changed_at = Timestamp(columns.take()?);
    let previous = columns.take::<Option<&[u8]>>()?.map(|bytes| id_of("generations.previous_id", bytes)).transpose()?;
    let task = columns.take::<Option<&[u8]>>()?.map(|bytes| id_of("generations.task_id", bytes)).transpose()?;
    Ok(GenerationStatus {
        generation,
        collection,
        plan,
        counts,
        changed_at,
        previous: previous.map(GenerationId),
        task: task.map(TaskId),
        removed_at: columns.take::<Option<i64>>()?.map(Timestamp),
    })
}

fn id_of<const N: usize>(column: &'static str, bytes: &[u8]) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| damaged(column, "its length is wrong"))
}
