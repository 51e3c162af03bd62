//! `/search`: ranked passages.

use axum::Json;
use axum::extract::{Request, State};
use futures::StreamExt;
use serde_json::value::RawValue;

use crate::domain::{CollectionName, Principal};
use crate::http::access::Call;
use crate::http::body::{BodyBound, read_json};
use crate::http::json::read_object;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::{FieldError, Problem, ProblemKind};
use crate::http::state::AppState;
use crate::http::wire::{
    BatchItemBody, ModeBody, SearchBatchBody, SearchBatchRequestBody, SearchBody, SearchRequestBody, rounded,
};

/// Most principals that one request may name.
const MAX_PRINCIPALS: usize = 256;
/// Queries of a batch that run side by side: enough to keep both legs busy, too few to crowd out other callers.
const BATCH_WIDTH: usize = 4;

/// Search
///
/// Ranked passages for a query. Both legs run side by side, are fused, reranked, and read back from the truth, so that
/// nothing deleted or forbidden is shown.
#[utoipa::path(post, path = "/search", tag = "search", request_body = SearchRequestBody,
    responses((status = 200, description = "The passages, best first", body = SearchBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn post_search(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Json<SearchBody>, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let wanted = read_json(&parts.headers, body, bound(&app, "a search")).await?;
    run(&app, &call, wanted).await.map(Json)
}

/// Quick search
///
/// The same with the four most used options in the URL.
#[utoipa::path(get, path = "/search", tag = "search",
    params(
        ("q" = String, Query, description = "Plain text", example = "restore a backup"),
        ("collection" = Option<String>, Query, description = "`default` if left out"),
        ("top_k" = Option<usize>, Query, description = "Number of passages"),
        ("mode" = Option<ModeBody>, Query, description = "Which legs retrieve"),
    ),
    responses((status = 200, description = "The passages, best first", body = SearchBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_search(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Json<SearchBody>, Problem> {
    let mut params = Params::read(request.uri().query());
    let query = params.text("q");
    if query.is_none() {
        params.refuse("q", "is required");
    }
    let collection = collection_param(&mut params);
    let top_k = params.value("top_k");
    let mode = params.text("mode").and_then(|mode| match mode.as_str() {
        "hybrid" => Some(ModeBody::Hybrid),
        "lexical" => Some(ModeBody::Lexical),
        "vector" => Some(ModeBody::Vector),
        _ => {
            params.refuse("mode", "must be hybrid, lexical or vector");
            None
        }
    });
    params.finish()?;
    run(&app, &call, SearchRequestBody { query, collection, top_k, mode, ..SearchRequestBody::default() })
        .await
        .map(Json)
}

/// Several searches
///
/// Runs several searches under one trace. A query that is not acceptable yields a problem in its place.
#[utoipa::path(post, path = "/search/batch", tag = "search", request_body = SearchBatchRequestBody,
    responses((status = 200, description = "Results in the order of the queries", body = SearchBatchBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn post_search_batch(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Json<SearchBatchBody>, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let batch: SearchBatchRequestBody = read_json(&parts.headers, body, bound(&app, "a search batch")).await?;
    let (count, limit) = (batch.queries.len(), app.settings.max_batch_queries);
    if count == 0 || count > limit {
        let detail = format!("holds {count} queries, from 1 to {limit} are allowed");
        return Err(Problem::fields(vec![FieldError::new("/queries", detail)]));
    }
    let runs = batch.queries.into_iter().enumerate().map(|(index, query)| one_of_batch(&app, &call, index, query));
    let outcomes: Vec<_> = futures::stream::iter(runs).buffered(BATCH_WIDTH).collect().await;
    if outcomes.iter().all(|one| one.as_ref().is_err_and(|problem| problem.kind == ProblemKind::Unprocessable)) {
        return Err(Problem::fields(outcomes.into_iter().filter_map(Result::err).flat_map(|one| one.errors).collect()));
    }
    let item = |outcome: Result<SearchBody, Problem>| match outcome {
        Ok(result) => BatchItemBody::Result(Box::new(result)),
        Err(problem) => BatchItemBody::Problem(Box::new(problem.into_body(call.trace()))),
    };
    let took_ms = rounded(call.context.taken_at.elapsed().as_secs_f64() * 1e3);
    let trace_id = call.trace().to_string();
    Ok(Json(SearchBatchBody { trace_id, took_ms, results: outcomes.into_iter().map(item).collect() }))
}

async fn one_of_batch(app: &AppState, call: &Call, index: usize, query: Box<RawValue>) -> Result<SearchBody, Problem> {
    let outcome = match read_object(query.get().as_bytes()) {
        Ok(wanted) => run(app, call, wanted).await,
        Err(fault) => Err(fault.into()),
    };
    outcome.map_err(|problem| problem.inside(&format!("/queries/{index}")))
}

async fn run(app: &AppState, call: &Call, wanted: SearchRequestBody) -> Result<SearchBody, Problem> {
    let (text, principals, overrides) = wanted.into_parts();
    check_principals(principals.as_deref(), "")?;
    let scope = call.caller.scope_as(principals);
    let query = app.services.search.query(text, overrides)?;
    let result = app.services.search.search(&scope, &query, call.context.taken_at).await?;
    Ok(SearchBody::new(call.trace(), &query, result))
}

/// Refuses long lists; `at` is the pointer of the search inside the body.
pub(super) fn check_principals(principals: Option<&[Principal]>, at: &str) -> Result<(), Problem> {
    let count = principals.map_or(0, <[_]>::len);
    if count > MAX_PRINCIPALS {
        let detail = format!("holds {count} principals, at most {MAX_PRINCIPALS} are allowed");
        return Err(Problem::fields(vec![FieldError::new(format!("{at}/principals"), detail)]));
    }
    Ok(())
}

/// The parameter `collection`.
pub(super) fn collection_param(params: &mut Params) -> Option<CollectionName> {
    let name = params.text("collection")?;
    CollectionName::new(&name).map_err(|error| params.refuse("collection", error.to_string())).ok()
}

pub(super) fn bound(app: &AppState, what: &'static str) -> BodyBound {
    BodyBound { what, max_bytes: app.settings.max_query_body_bytes, idle: app.settings.body_idle_timeout() }
}
