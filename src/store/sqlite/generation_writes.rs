//! Generations begin, change their state and are given a plan: inside the one writer.

use sqlx::SqliteConnection;

use crate::domain::{
    CollectionName, GenerationId, GenerationPlan, GenerationState, Profile, Rollout, TaskId, TenantId, Timestamp,
};
use crate::store::{GenerationChange, StoreError};

use super::catalog::{Birth, create_generation, read_state, state_name};
use super::codec::{Columns, from_json, to_json};
use super::generation_requests::GenerationAnswer;
use super::generation_rows::status;

/// An error inside is the request's own.
type Told = Result<GenerationAnswer, StoreError>;

pub(super) async fn begin(
    connection: &mut SqliteConnection,
    (tenant, name): (&TenantId, &CollectionName),
    (profile, plan): (&Profile, &GenerationPlan),
    now: Timestamp,
) -> Result<Told, StoreError> {
    let fingerprint = profile.fingerprint();
    let found =
        sqlx::query(COLLECTION).bind(tenant.as_str()).bind(name.as_str()).fetch_optional(&mut *connection).await?;
    let Some(row) = found else { return Ok(Err(StoreError::NoCollection { name: name.to_string() })) };
    let mut columns = Columns::of(&row);
    let (tenant_row, collection): (i64, i64) = (columns.take()?, columns.take()?);
    if columns.hash()? == fingerprint.0 {
        return Ok(Err(StoreError::AlreadyLive));
    }
    let mut other = None;
    for row in &sqlx::query(UNDER_WAY).bind(collection).fetch_all(&mut *connection).await? {
        let mut columns = Columns::of(row);
        let id = GenerationId(columns.hash()?);
        if columns.hash()? == fingerprint.0 {
            return Ok(Ok(self::plan(connection, tenant, id, plan).await?));
        }
        let was_live: bool = columns.take()?;
        other = other.or(Some(id).filter(|_| !was_live));
    }
    if let Some(other) = other {
        return Ok(Err(StoreError::AlreadyBuilding { other }));
    }
    let birth = Birth { tenant: tenant_row, collection, state: GenerationState::Building, now };
    let row = create_generation(connection, (tenant, name), (profile, Some(plan)), birth).await?;
    let id: Vec<u8> = sqlx::query_scalar(PUBLIC_ID).bind(row).fetch_one(&mut *connection).await?;
    let id = id.try_into().map_err(|_| StoreError::Sql(sqlx::Error::RowNotFound))?;
    Ok(Ok(told(connection, tenant, GenerationId(id)).await?))
}

async fn told(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    id: GenerationId,
) -> Result<GenerationAnswer, StoreError> {
    Ok(GenerationAnswer::Status(status(connection, tenant, id).await?.map(Box::new)))
}

pub(super) async fn plan(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    id: GenerationId,
    plan: &GenerationPlan,
) -> Result<GenerationAnswer, StoreError> {
    let query = sqlx::query(PLAN).bind(to_json(plan)).bind(id.0.to_vec()).bind(tenant.as_str());
    query.execute(&mut *connection).await?;
    told(connection, tenant, id).await
}

pub(super) async fn assign(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    id: GenerationId,
    task: TaskId,
) -> Result<GenerationAnswer, StoreError> {
    let query = sqlx::query(ASSIGN).bind(task.0.to_vec()).bind(id.0.to_vec()).bind(tenant.as_str());
    query.execute(&mut *connection).await?;
    Ok(GenerationAnswer::Done)
}

/// A generation before it changes.
struct Standing {
    row: i64,
    state: GenerationState,
    serving: u64,
    plan: GenerationPlan,
    collection: i64,
    live: i64,
    live_plan: GenerationPlan,
}

async fn standing(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    id: GenerationId,
) -> Result<Option<Standing>, StoreError> {
    let row = sqlx::query(STANDING).bind(tenant.as_str()).bind(id.0.to_vec()).fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(None) };
    let mut columns = Columns::of(&row);
    Ok(Some(Standing {
        row: columns.take()?,
        state: read_state(columns.take()?)?,
        serving: columns.unsigned()?,
        plan: from_json("generations.plan", columns.take()?)?,
        collection: columns.take()?,
        live: columns.take()?,
        live_plan: from_json("generations.plan", columns.take()?)?,
    }))
}

pub(super) async fn change(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    (id, change): (GenerationId, GenerationChange),
    now: Timestamp,
) -> Result<Told, StoreError> {
    use GenerationState::{Building, Live, Retired, Shadow};
    let Some(standing) = standing(connection, tenant, id).await? else { return Ok(Ok(GenerationAnswer::Status(None))) };
    match (change, standing.state) {
        // Nothing is left to do.
        (GenerationChange::Shadow, Shadow)
        | (GenerationChange::Promote, Live)
        | (GenerationChange::Retire, Retired) => {}
        (GenerationChange::Shadow, Building) => enter(connection, standing.row, Shadow, now).await?,
        (GenerationChange::Promote, Shadow) if standing.plan.sample < 1.0 => {
            return Ok(Err(StoreError::WrongState { state: "only a sample" }));
        }
        (GenerationChange::Promote, Shadow) => promote(connection, standing, now).await?,
        (GenerationChange::Retire, Building | Shadow) if standing.serving > 0 => {
            return Ok(Err(StoreError::StillServing { documents: standing.serving }));
        }
        (GenerationChange::Retire, Building | Shadow) => {
            enter(connection, standing.row, Retired, now).await?;
            sqlx::query(FORGET_PREVIOUS).bind(standing.collection).bind(standing.row).execute(&mut *connection).await?;
        }
        (_, state) => return Ok(Err(StoreError::WrongState { state: state_name(state) })),
    }
    Ok(Ok(told(connection, tenant, id).await?))
}

async fn enter(
    connection: &mut SqliteConnection,
    row: i64,
    state: GenerationState,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(ENTER).bind(state_name(state)).bind(now.0).bind(row).execute(&mut *connection).await?;
    Ok(())
}

// What was planned for the one that goes would take documents back from the one that comes.
async fn promote(connection: &mut SqliteConnection, standing: Standing, now: Timestamp) -> Result<(), StoreError> {
    let Standing { row, collection, live, .. } = standing;
    let replaced = GenerationPlan { rollout: Rollout::default(), shadow_share: 0.0, ..standing.live_plan };
    let plan = GenerationPlan { retire_at: None, ..standing.plan };
    sqlx::query(REPLACED).bind(to_json(&replaced)).bind(now.0).bind(live).execute(&mut *connection).await?;
    sqlx::query(PROMOTED).bind(to_json(&plan)).bind(now.0).bind(live).bind(row).execute(&mut *connection).await?;
    sqlx::query(TAKE_WRITES).bind(row).bind(collection).execute(&mut *connection).await?;
    Ok(())
}

const COLLECTION: &str = "SELECT t.id, k.id, g.fingerprint FROM tenants t \
    CROSS JOIN collections k ON k.tenant_id = t.id CROSS JOIN generations g ON g.id = k.live_generation_id \
    WHERE t.name = $1 AND k.name = $2";
const UNDER_WAY: &str = "SELECT public_id, fingerprint, promoted_at IS NOT NULL FROM generations \
    WHERE collection_id = $1 AND state IN ('building', 'shadow') ORDER BY id DESC";
const PUBLIC_ID: &str = "SELECT public_id FROM generations WHERE id = $1";
const PLAN: &str = "UPDATE generations SET plan = $1 WHERE public_id = $2 \
    AND tenant_id = (SELECT id FROM tenants WHERE name = $3)";
const ASSIGN: &str = "UPDATE generations SET task_id = $1 WHERE public_id = $2 \
    AND tenant_id = (SELECT id FROM tenants WHERE name = $3)";
const STANDING: &str = "SELECT g.id, g.state, g.serving_documents, g.plan, k.id, l.id, l.plan FROM tenants t \
    CROSS JOIN generations g ON g.tenant_id = t.id AND g.public_id = $2 \
    CROSS JOIN collections k ON k.id = g.collection_id CROSS JOIN generations l ON l.id = k.live_generation_id \
    WHERE t.name = $1";
const ENTER: &str = "UPDATE generations SET state = $1, changed_at = $2 WHERE id = $3";
const REPLACED: &str = "UPDATE generations SET state = 'shadow', plan = $1, changed_at = $2, previous_id = NULL \
    WHERE id = $3";
const PROMOTED: &str = "UPDATE generations SET state = 'live', plan = $1, changed_at = $2, promoted_at = $2, \
    previous_id = $3 WHERE id = $4";
const TAKE_WRITES: &str = "UPDATE collections SET live_generation_id = $1 WHERE id = $2";
const FORGET_PREVIOUS: &str = "UPDATE generations SET previous_id = NULL WHERE collection_id = $1 AND previous_id = $2";

/// All statements.
#[cfg(test)]
pub(super) const WRITES: [&str; 10] =
    [COLLECTION, UNDER_WAY, PUBLIC_ID, PLAN, ASSIGN, STANDING, ENTER, REPLACED, PROMOTED, FORGET_PREVIOUS];
