//! Collections and their generations: what the writer adds, and what readers look up.

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::domain::{
    Collection, CollectionName, Generation, GenerationId, GenerationState, Profile, Sequence, TenantId, Timestamp,
    hash_parts,
};
use crate::store::StoreError;

use super::codec::{Columns, damaged, from_json, to_json};

/// Most watermarks kept for a generation; beyond it the older half is thinned out.
const WATERMARKS_MAX: i64 = 4096;

/// A collection that is to be there.
#[derive(Debug)]
pub(super) struct NewCollection {
    pub tenant: TenantId,
    pub name: CollectionName,
    pub profile: Profile,
}

/// Adds the collection with one live generation, unless it is there.
pub(super) async fn create(
    connection: &mut SqliteConnection,
    new: &NewCollection,
    now: Timestamp,
) -> Result<(), StoreError> {
    const TENANT: &str = "INSERT INTO tenants (name, created_at) VALUES ($1, $2) \
        ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id";
    const COLLECTION: &str = "INSERT INTO collections (tenant_id, name, created_at) VALUES ($1, $2, $3) \
        ON CONFLICT (tenant_id, name) DO NOTHING RETURNING id";
    let tenant: i64 =
        sqlx::query_scalar(TENANT).bind(new.tenant.as_str()).bind(now.0).fetch_one(&mut *connection).await?;
    let collection: Option<i64> = sqlx::query_scalar(COLLECTION)
        .bind(tenant)
        .bind(new.name.as_str())
        .bind(now.0)
        .fetch_optional(&mut *connection)
        .await?;
    match collection {
        None => Ok(()),
        Some(collection) => create_generation(connection, (tenant, collection), new, now).await,
    }
}

async fn create_generation(
    connection: &mut SqliteConnection,
    (tenant, collection): (i64, i64),
    new: &NewCollection,
    now: Timestamp,
) -> Result<(), StoreError> {
    const EMBEDDER: &str = "INSERT INTO embedders (fingerprint, dimensions) VALUES ($1, $2) \
        ON CONFLICT (fingerprint) DO UPDATE SET dimensions = excluded.dimensions RETURNING id";
    const GENERATION: &str = "INSERT INTO generations (tenant_id, collection_id, public_id, profile, fingerprint, \
        embedder_id, state, created_at) VALUES ($1, $2, $3, $4, $5, $6, 'live', $7) RETURNING id";
    const LIVE: &str = "UPDATE collections SET live_generation_id = $1 WHERE id = $2";
    let embedder: Option<i64> = match &new.profile.embedder {
        None => None,
        Some(embedder) => {
            let insert = sqlx::query_scalar(EMBEDDER)
                .bind(embedder.fingerprint().0.to_vec())
                .bind(i64::try_from(embedder.dimensions).unwrap_or(i64::MAX));
            Some(insert.fetch_one(&mut *connection).await?)
        }
    };
    let fingerprint = new.profile.fingerprint();
    // The row number and the time tell it from a generation of a collection that had this name before.
    let public_id = hash_parts(&[
        b"generation",
        new.tenant.as_str().as_bytes(),
        new.name.as_str().as_bytes(),
        &fingerprint.0,
        &collection.to_le_bytes(),
        &now.0.to_le_bytes(),
    ]);
    let generation: i64 = sqlx::query_scalar(GENERATION)
        .bind(tenant)
        .bind(collection)
        .bind(public_id.to_vec())
        .bind(to_json(&new.profile))
        .bind(fingerprint.0.to_vec())
        .bind(embedder)
        .bind(now.0)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(LIVE).bind(generation).bind(collection).execute(&mut *connection).await?;
    Ok(())
}

/// Records that the indexes of a generation have reached a sequence; does nothing if they had been further.
pub(super) async fn mark_indexed(
    connection: &mut SqliteConnection,
    generation: GenerationId,
    through: Sequence,
    now: Timestamp,
) -> Result<(), StoreError> {
    const MARK: &str = "INSERT INTO watermarks (generation_id, sequence, at) SELECT g.id, $2, $3 FROM generations g \
        WHERE g.public_id = $1 AND $2 > COALESCE( \
        (SELECT MAX(w.sequence) FROM watermarks w WHERE w.generation_id = g.id), 0) RETURNING generation_id";
    const COUNT: &str = "SELECT COUNT(*) FROM watermarks WHERE generation_id = $1";
    // Where a mark is missing the next one answers, so thinning makes `indexed_at` later, never earlier than true.
    const THIN: &str = "DELETE FROM watermarks WHERE generation_id = $1 AND sequence IN (SELECT sequence FROM \
        (SELECT sequence, row_number() OVER (ORDER BY sequence) AS place FROM watermarks WHERE generation_id = $1) \
        WHERE place % 2 = 1 AND place <= $2)";
    let marked: Option<i64> = sqlx::query_scalar(MARK)
        .bind(generation.0.to_vec())
        .bind(through.0 as i64)
        .bind(now.0)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = marked else { return Ok(()) };
    let count: i64 = sqlx::query_scalar(COUNT).bind(row).fetch_one(&mut *connection).await?;
    if count > WATERMARKS_MAX {
        sqlx::query(THIN).bind(row).bind(WATERMARKS_MAX / 2).execute(&mut *connection).await?;
    }
    Ok(())
}

macro_rules! select_collection {
    () => {
        "SELECT k.name, k.created_at, g.public_id, g.profile, g.state, g.created_at FROM tenants t \
         JOIN collections k ON k.tenant_id = t.id JOIN generations g ON g.id = k.live_generation_id "
    };
}

pub(super) async fn collection(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    name: &CollectionName,
) -> Result<Option<Collection>, StoreError> {
    const SQL: &str = concat!(select_collection!(), "WHERE t.name = $1 AND k.name = $2");
    let row = sqlx::query(SQL).bind(tenant.as_str()).bind(name.as_str()).fetch_optional(&mut *connection).await?;
    row.as_ref().map(read_collection).transpose()
}

/// By name.
pub(super) async fn collections(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
) -> Result<Vec<Collection>, StoreError> {
    const SQL: &str = concat!(select_collection!(), "WHERE t.name = $1 ORDER BY k.name");
    let rows = sqlx::query(SQL).bind(tenant.as_str()).fetch_all(&mut *connection).await?;
    rows.iter().map(read_collection).collect()
}

fn read_collection(row: &SqliteRow) -> Result<Collection, StoreError> {
    let mut columns = Columns::of(row);
    let name: String = columns.take()?;
    let name = CollectionName::new(&name).map_err(|error| damaged("collections.name", &error.to_string()))?;
    let created_at = Timestamp(columns.take()?);
    Ok(Collection { name, created_at, live: take_generation(&mut columns)? })
}

/// Reads `public_id`, `profile`, `state` and `created_at`.
pub(super) fn take_generation(columns: &mut Columns<'_>) -> Result<Generation, StoreError> {
    let id = GenerationId(columns.hash()?);
    let profile = from_json("generations.profile", columns.take()?)?;
    let state = read_state(columns.take()?)?;
    Ok(Generation { id, profile, state, created_at: Timestamp(columns.take()?) })
}

fn read_state(state: &str) -> Result<GenerationState, StoreError> {
    match state {
        "building" => Ok(GenerationState::Building),
        "shadow" => Ok(GenerationState::Shadow),
        "live" => Ok(GenerationState::Live),
        "retired" => Ok(GenerationState::Retired),
        other => Err(damaged("generations.state", other)),
    }
}
