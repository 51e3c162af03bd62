//! Collections and their generations: what the writer adds, and what readers look up.

use serde::Deserialize;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::domain::{
    Collection, CollectionName, Generation, GenerationId, GenerationPlan, GenerationState, Profile, Sequence, TenantId,
    Timestamp, hash_parts,
};
use crate::store::StoreError;

use super::codec::{Columns, damaged, from_json, hash_from_hex, to_json};

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
    const LIVE: &str = "UPDATE collections SET live_generation_id = $1 WHERE id = $2";
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
        Some(collection) => {
            let birth = Birth { tenant, collection, state: GenerationState::Live, now };
            let generation =
                create_generation(connection, (&new.tenant, &new.name), (&new.profile, None), birth).await?;
            sqlx::query(LIVE).bind(generation).bind(collection).execute(&mut *connection).await?;
            Ok(())
        }
    }
}

/// The rows that a generation belongs to, and how it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Birth {
    pub tenant: i64,
    pub collection: i64,
    pub state: GenerationState,
    pub now: Timestamp,
}

/// Adds a generation and returns its row. Its public id never repeats.
pub(super) async fn create_generation(
    connection: &mut SqliteConnection,
    (tenant, name): (&TenantId, &CollectionName),
    (profile, plan): (&Profile, Option<&GenerationPlan>),
    birth: Birth,
) -> Result<i64, StoreError> {
    const EMBEDDER: &str = "INSERT INTO embedders (fingerprint, dimensions) VALUES ($1, $2) \
        ON CONFLICT (fingerprint) DO UPDATE SET dimensions = excluded.dimensions RETURNING id";
    const GENERATION: &str = "INSERT INTO generations (tenant_id, collection_id, public_id, profile, fingerprint, \
        embedder_id, state, created_at, changed_at, promoted_at, plan, id) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, CASE $7 WHEN 'live' THEN $8 END, $9, $10) RETURNING id";
    // Numbers of rows are never given out again, even once the row is gone.
    const NEXT: &str = "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'generations'), 0) + 1";
    let number: i64 = sqlx::query_scalar(NEXT).fetch_one(&mut *connection).await?;
    let embedder: Option<i64> = match &profile.embedder {
        None => None,
        Some(embedder) => {
            let insert = sqlx::query_scalar(EMBEDDER)
                .bind(embedder.fingerprint().0.to_vec())
                .bind(i64::try_from(embedder.dimensions).unwrap_or(i64::MAX));
            Some(insert.fetch_one(&mut *connection).await?)
        }
    };
    let fingerprint = profile.fingerprint();
    // The time tells it from a generation of a database that was restored to before it.
    let public_id = hash_parts(&[
        b"generation",
        tenant.as_str().as_bytes(),
        name.as_str().as_bytes(),
        &fingerprint.0,
        &number.to_le_bytes(),
        &birth.now.0.to_le_bytes(),
    ]);
    let insert = sqlx::query_scalar(GENERATION)
        .bind(birth.tenant)
        .bind(birth.collection)
        .bind(public_id.to_vec())
        .bind(to_json(profile))
        .bind(fingerprint.0.to_vec())
        .bind(embedder)
        .bind(state_name(birth.state))
        .bind(birth.now.0)
        .bind(plan.map_or_else(|| "{}".to_owned(), to_json))
        .bind(number);
    Ok(insert.fetch_one(&mut *connection).await?)
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

/// A collection as it was read.
#[derive(Debug)]
pub(super) struct FoundCollection {
    pub collection: Collection,
    pub company: Company,
}

/// Whether other generations than the live one may have a part in a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Alone,
    Others,
}

macro_rules! select_collection {
    () => {
        "SELECT k.name, k.created_at, g.public_id, g.profile, g.state, g.created_at, \
         (SELECT json_group_array(json_array(hex(o.public_id), o.profile, o.state, o.created_at, o.serving_documents, \
         o.plan) ORDER BY o.id) FROM generations o WHERE o.collection_id = k.id AND o.id <> g.id \
         AND o.state <> 'retired') FROM tenants t \
         JOIN collections k ON k.tenant_id = t.id JOIN generations g ON g.id = k.live_generation_id "
    };
}

pub(super) async fn collection(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    name: &CollectionName,
) -> Result<Option<FoundCollection>, StoreError> {
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
    rows.iter().map(|row| Ok(read_collection(row)?.collection)).collect()
}

fn read_collection(row: &SqliteRow) -> Result<FoundCollection, StoreError> {
    let mut columns = Columns::of(row);
    let name: String = columns.take()?;
    let name = CollectionName::new(&name).map_err(|error| damaged("collections.name", &error.to_string()))?;
    let created_at = Timestamp(columns.take()?);
    let live = take_generation(&mut columns)?;
    let others: Vec<OtherColumns> = from_json("generations", columns.take()?)?;
    let company = if others.is_empty() { Company::Alone } else { Company::Others };
    let mut collection = Collection { name, created_at, live, also_serving: Vec::new(), shadow: None };
    for other in others {
        other.join(&mut collection)?;
    }
    Ok(FoundCollection { collection, company })
}

/// Id, profile, state, time of creation, number of documents that it serves, plan.
#[derive(Deserialize)]
struct OtherColumns(String, String, String, i64, u64, String);

impl OtherColumns {
    fn join(self, collection: &mut Collection) -> Result<(), StoreError> {
        let Self(id, profile, state, created_at, serving, plan) = self;
        let generation = Generation {
            id: GenerationId(hash_from_hex("generations.public_id", &id)?),
            profile: from_json("generations.profile", &profile)?,
            state: read_state(&state)?,
            created_at: Timestamp(created_at),
        };
        let plan: GenerationPlan = from_json("generations.plan", &plan)?;
        // Of several in shadow the newest; those that were live before ask for nothing.
        if generation.state == GenerationState::Shadow && plan.shadow_share > 0.0 {
            collection.shadow = Some((generation.clone(), plan.shadow_share));
        }
        // Also one that soon will serve: a search that begins now may end after the first documents have moved.
        if serving > 0 || (generation.state == GenerationState::Shadow && plan.rollout.share > 0.0) {
            collection.also_serving.push(generation);
        }
        Ok(())
    }
}

/// Reads `public_id`, `profile`, `state` and `created_at`.
pub(super) fn take_generation(columns: &mut Columns<'_>) -> Result<Generation, StoreError> {
    let id = GenerationId(columns.hash()?);
    let profile = from_json("generations.profile", columns.take()?)?;
    let state = read_state(columns.take()?)?;
    Ok(Generation { id, profile, state, created_at: Timestamp(columns.take()?) })
}

/// The name by which a state is stored.
pub(super) fn state_name(state: GenerationState) -> &'static str {
    match state {
        GenerationState::Building => "building",
        GenerationState::Shadow => "shadow",
        GenerationState::Live => "live",
        GenerationState::Retired => "retired",
    }
}

/// A state by the name that it is stored by.
pub(super) fn read_state(state: &str) -> Result<GenerationState, StoreError> {
    match state {
        "building" => Ok(GenerationState::Building),
        "shadow" => Ok(GenerationState::Shadow),
        "live" => Ok(GenerationState::Live),
        "retired" => Ok(GenerationState::Retired),
        other => Err(damaged("generations.state", other)),
    }
}
