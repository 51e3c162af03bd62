//! What generations are judged by: labelled queries, shadow searches, and the texts that models wrote about chunks.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use crate::domain::{CollectionName, ContentHash, DocumentId, GenerationId, TenantId, Timestamp, TraceId};
use crate::store::{EvalCase, Page, ShadowSearch, StoreError};

use super::codec::{Columns, from_json, from_text, to_json};
use super::cursor;
use super::generation_requests::GenerationAnswer;

/// Shadow searches of a generation that stay: more than a paired comparison needs.
const SHADOW_SEARCHES_KEPT: i64 = 5_000;

pub(super) async fn keep_contexts(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    texts: &[(ContentHash, String)],
    now: Timestamp,
) -> Result<GenerationAnswer, StoreError> {
    let rows: Vec<(String, &str)> = texts.iter().map(|(input, text)| (input.to_string(), text.as_str())).collect();
    let query = sqlx::query(KEEP_CONTEXTS).bind(to_json(&rows)).bind(now.0).bind(tenant.as_str());
    query.execute(&mut *connection).await?;
    Ok(GenerationAnswer::Done)
}

pub(super) async fn put_cases(
    connection: &mut SqliteConnection,
    (tenant, collection): (&TenantId, &CollectionName),
    cases: &[EvalCase],
    now: Timestamp,
) -> Result<Result<GenerationAnswer, StoreError>, StoreError> {
    let query = sqlx::query_as(COLLECTION).bind(tenant.as_str()).bind(collection.as_str());
    let found: Option<(i64, i64)> = query.fetch_optional(&mut *connection).await?;
    let Some((tenant, row)) = found else {
        return Ok(Err(StoreError::NoCollection { name: collection.to_string() }));
    };
    let columns = |case: &EvalCase| {
        let relevant: BTreeMap<&str, u32> = case.relevant.iter().map(|(id, grade)| (id.as_str(), *grade)).collect();
        (case.name.clone(), case.query.clone(), to_json(&relevant))
    };
    let rows: Vec<(String, String, String)> = cases.iter().map(columns).collect();
    let put = sqlx::query(PUT_CASES).bind(to_json(&rows)).bind(tenant).bind(row).bind(now.0);
    put.execute(&mut *connection).await?;
    let count: i64 = sqlx::query_scalar(COUNT_CASES).bind(row).fetch_one(&mut *connection).await?;
    Ok(Ok(GenerationAnswer::Cases(count.unsigned_abs())))
}

pub(super) async fn delete_case(
    connection: &mut SqliteConnection,
    (tenant, collection): (&TenantId, &CollectionName),
    name: &str,
) -> Result<GenerationAnswer, StoreError> {
    let query = sqlx::query(DELETE_CASE).bind(tenant.as_str()).bind(collection.as_str()).bind(name);
    Ok(GenerationAnswer::Cases(query.execute(&mut *connection).await?.rows_affected()))
}

/// By name.
pub(super) async fn cases(
    connection: &mut SqliteConnection,
    (tenant, collection): (&TenantId, &CollectionName),
    (cursor, limit): (Option<&str>, usize),
) -> Result<Page<EvalCase>, StoreError> {
    let listing = format!("{collection}/cases");
    let after = cursor.map(|cursor| cursor::decode(tenant, &listing, cursor)).transpose()?;
    if limit == 0 {
        return Ok(Page { items: Vec::new(), next: cursor.map(str::to_owned) });
    }
    // One more than asked for tells whether there is a next page.
    let rows = sqlx::query(CASES)
        .bind(tenant.as_str())
        .bind(collection.as_str())
        .bind(after)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
        .fetch_all(&mut *connection)
        .await?;
    let items = rows.iter().take(limit).map(read_case).collect::<Result<Vec<_>, _>>()?;
    let last = items.last().filter(|_| rows.len() > limit);
    let next = last.map(|last| cursor::encode(tenant, &listing, &last.name));
    Ok(Page { items, next })
}

fn read_case(row: &SqliteRow) -> Result<EvalCase, StoreError> {
    let mut columns = Columns::of(row);
    let (name, query): (String, String) = (columns.take()?, columns.take()?);
    let grades: BTreeMap<String, u32> = from_json("eval_cases.relevant", columns.take()?)?;
    let read = |(id, grade): (String, u32)| Ok((from_text::<DocumentId>("eval_cases.relevant", &id)?, grade));
    let relevant = grades.into_iter().map(read).collect::<Result<_, StoreError>>()?;
    Ok(EvalCase { name, query, relevant })
}

pub(super) async fn record_shadow(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    searches: &[ShadowSearch],
) -> Result<GenerationAnswer, StoreError> {
    let mut generations: Vec<GenerationId> = Vec::new();
    for search in searches {
        let query = sqlx::query(RECORD_SHADOW)
            .bind(tenant.as_str())
            .bind(search.generation.0.to_vec())
            .bind(search.trace_id.to_string())
            .bind(to_json(&search.mode))
            .bind(search.top_k as i64)
            .bind(search.overlap)
            .bind(i64::try_from(search.live_us).unwrap_or(i64::MAX))
            .bind(i64::try_from(search.shadow_us).unwrap_or(i64::MAX))
            .bind(search.at.0);
        query.execute(&mut *connection).await?;
        if !generations.contains(&search.generation) {
            generations.push(search.generation);
        }
    }
    for generation in generations {
        let query = sqlx::query(FORGET_SHADOW).bind(tenant.as_str()).bind(generation.0.to_vec());
        query.bind(SHADOW_SEARCHES_KEPT).execute(&mut *connection).await?;
    }
    Ok(GenerationAnswer::Done)
}

/// Newest first.
pub(super) async fn shadow_searches(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    generation: GenerationId,
    limit: usize,
) -> Result<Vec<ShadowSearch>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = sqlx::query(SHADOW_SEARCHES).bind(tenant.as_str()).bind(generation.0.to_vec()).bind(limit);
    let read = |row: &SqliteRow| {
        let mut columns = Columns::of(row);
        Ok(ShadowSearch {
            generation,
            trace_id: from_text::<TraceId>("shadow_searches.trace_id", columns.take()?)?,
            mode: from_json("shadow_searches.mode", columns.take()?)?,
            top_k: columns.index()?,
            overlap: columns.take()?,
            live_us: columns.unsigned()?,
            shadow_us: columns.unsigned()?,
            at: Timestamp(columns.take()?),
        })
    };
    query.fetch_all(&mut *connection).await?.iter().map(read).collect()
}

const KEEP_CONTEXTS: &str = "INSERT INTO contexts (tenant_id, input_hash, text, written_at) \
    SELECT t.id, unhex(j.value ->> 0), j.value ->> 1, $2 FROM json_each($1) j CROSS JOIN tenants t \
    WHERE t.name = $3 ON CONFLICT (tenant_id, input_hash) DO NOTHING";
const COLLECTION: &str = "SELECT t.id, k.id FROM tenants t CROSS JOIN collections k ON k.tenant_id = t.id \
    WHERE t.name = $1 AND k.name = $2";
const PUT_CASES: &str = "INSERT INTO eval_cases (tenant_id, collection_id, name, query, relevant, updated_at) \
    SELECT $2, $3, value ->> 0, value ->> 1, value ->> 2, $4 FROM json_each($1) WHERE true \
    ON CONFLICT (collection_id, name) DO UPDATE SET query = excluded.query, relevant = excluded.relevant, \
    updated_at = excluded.updated_at";
const COUNT_CASES: &str = "SELECT COUNT(*) FROM eval_cases WHERE collection_id = $1";
const DELETE_CASE: &str = "DELETE FROM eval_cases WHERE name = $3 AND collection_id = (SELECT k.id FROM tenants t \
    CROSS JOIN collections k ON k.tenant_id = t.id WHERE t.name = $1 AND k.name = $2)";
const CASES: &str = "SELECT e.name, e.query, e.relevant FROM tenants t \
    CROSS JOIN collections k ON k.tenant_id = t.id CROSS JOIN eval_cases e ON e.collection_id = k.id \
    AND e.name > COALESCE($3, '') WHERE t.name = $1 AND k.name = $2 ORDER BY e.name LIMIT $4";
const RECORD_SHADOW: &str = "INSERT INTO shadow_searches \
    (tenant_id, generation_id, trace_id, mode, top_k, overlap, live_us, shadow_us, at) \
    SELECT t.id, g.id, $3, $4, $5, $6, $7, $8, $9 FROM tenants t \
    CROSS JOIN generations g ON g.tenant_id = t.id AND g.public_id = $2 WHERE t.name = $1";
const FORGET_SHADOW: &str = "DELETE FROM shadow_searches WHERE id IN (SELECT s.id FROM tenants t \
    CROSS JOIN generations g ON g.tenant_id = t.id AND g.public_id = $2 \
    CROSS JOIN shadow_searches s ON s.generation_id = g.id WHERE t.name = $1 ORDER BY s.id DESC LIMIT -1 OFFSET $3)";
const SHADOW_SEARCHES: &str = "SELECT s.trace_id, s.mode, s.top_k, s.overlap, s.live_us, s.shadow_us, s.at \
    FROM tenants t CROSS JOIN generations g ON g.tenant_id = t.id AND g.public_id = $2 \
    CROSS JOIN shadow_searches s ON s.generation_id = g.id WHERE t.name = $1 ORDER BY s.id DESC LIMIT $3";

/// All statements.
#[cfg(test)]
pub(super) const CASE_STATEMENTS: [&str; 9] = [
    KEEP_CONTEXTS,
    COLLECTION,
    PUT_CASES,
    COUNT_CASES,
    DELETE_CASE,
    CASES,
    RECORD_SHADOW,
    FORGET_SHADOW,
    SHADOW_SEARCHES,
];
