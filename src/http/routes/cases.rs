//! Labelled queries of a collection: what its generations are judged by.
//!
//! They name documents whatever their ACL, so whoever reads them must be allowed to see all: only those who may write.

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::StatusCode;

use crate::http::access::Call;
use crate::http::body::{BodyBound, read_json};
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::{FieldError, Problem};
use crate::http::state::AppState;
use crate::http::wire::{CasesBody, CasesInput, CasesStoredBody, case_id_fault};
use crate::search::QueryOverrides;

use super::search::collection_param;

/// Set labelled queries
///
/// Adds cases to a collection, replacing those of the same id. `GET /generations/{generation_id}/report` scores a
/// generation by them.
#[utoipa::path(put, path = "/evals/cases", tag = "evals", request_body = CasesInput,
    responses((status = 200, description = "How many cases the collection has now", body = CasesStoredBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn put_cases(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Json<CasesStoredBody>, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let max_bytes = app.settings.max_json_body_bytes;
    let bound = BodyBound { what: "a batch of cases", max_bytes, idle: app.settings.body_idle_timeout() };
    let input: CasesInput = read_json(&parts.headers, body, bound).await?;
    // Whatever could not be searched for cannot be scored.
    let query_fault = |query: &str| {
        let made = app.services.search.query(Some(query.to_owned()), QueryOverrides::default());
        made.err().and_then(|invalid| invalid.0.into_iter().next()).map(|fault| fault.detail)
    };
    let (collection, cases) = input.into_parts(query_fault).map_err(Problem::fields)?;
    let collection = collection.unwrap_or_else(|| app.default_collection.clone());
    let cases = app.services.cases.put_cases(&call.caller.scope(), &collection, &cases).await?;
    Ok(Json(CasesStoredBody { trace_id: call.trace().to_string(), collection: collection.into(), cases }))
}

/// List labelled queries
///
/// The cases of a collection, ordered by id, a page at a time.
#[utoipa::path(get, path = "/evals/cases", tag = "evals",
    params(
        ("collection" = Option<String>, Query, description = "`default` if left out"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<usize>, Query, description = "Cases a page; see GET /limits"),
    ),
    responses((status = 200, description = "A page of cases", body = CasesBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn list_cases(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<CasesBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    let collection = collection_param(&mut params);
    let cursor = params.text("cursor");
    let max = app.settings.max_page_size;
    let limit = params.value("limit").unwrap_or(app.settings.default_page_size);
    if limit == 0 || limit > max {
        params.refuse("limit", format!("is {limit}, from 1 to {max} are allowed"));
    }
    params.finish()?;
    let collection = collection.unwrap_or_else(|| app.default_collection.clone());
    let page = app.services.cases.cases(&call.caller.scope(), &collection, (cursor.as_deref(), limit)).await?;
    Ok(Json(CasesBody::new(call.trace(), collection, page)))
}

/// Remove a labelled query
///
/// Reports leave it out from the next one on.
#[utoipa::path(delete, path = "/evals/cases/{case_id}", tag = "evals",
    params(
        ("case_id" = String, Path, description = "Percent-encoded, slashes too"),
        ("collection" = Option<String>, Query, description = "`default` if left out"),
    ),
    responses((status = 204, description = "The case is gone"), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn delete_case(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Problem> {
    let mut params = Params::read(query.as_deref());
    let collection = collection_param(&mut params).unwrap_or_else(|| app.default_collection.clone());
    if let Some(detail) = case_id_fault(&id) {
        return Err(Problem::fields(vec![FieldError::new("/case_id", detail)]));
    }
    params.finish()?;
    if app.services.cases.delete_case(&call.caller.scope(), &collection, &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("case"))
    }
}
