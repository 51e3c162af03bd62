//! What operators and machines ask about the server itself.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use crate::http::openapi::Problems;
use crate::http::ports::Severity;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::trace::{OwnBody, RequestContext};
use crate::http::wire::{
    LimitsBody, MAX_CASE_ID_BYTES, MAX_CASES_AT_ONCE, MAX_GRADE, MAX_RELEVANT_DOCUMENTS, ReadyBody, VersionInfoBody,
};
use crate::tasks::TaskSettings;

/// Alive
///
/// Answers as long as the process does. Looks at nothing else.
#[utoipa::path(get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "The process is alive", content_type = "application/json",
        example = json!({"status": "alive", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}))))]
pub(in crate::http) async fn healthz(Extension(context): Extension<RequestContext>) -> Response {
    Json(json!({"status": "alive", "trace_id": context.trace.to_string()})).into_response()
}

/// Ready
///
/// Whether the server can serve, and what is missing: models, damaged index files, an index that lags behind, a store
/// that no longer takes writes.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "It serves; `missing` says with less than it could", body = ReadyBody),
        (status = 503, description = "It cannot serve; `missing` says why", body = ReadyBody)))]
pub(in crate::http) async fn readyz(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
) -> Response {
    let missing = app.services.status.shortfalls().await;
    let blocked = missing.iter().any(|one| one.severity == Severity::Blocking);
    let (code, status) = match (blocked, missing.is_empty()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "unready"),
        (false, false) => (StatusCode::OK, "degraded"),
        (false, true) => (StatusCode::OK, "ready"),
    };
    let trace_id = context.trace.to_string();
    let body = ReadyBody { trace_id, status, missing: missing.into_iter().map(Into::into).collect() };
    (code, Extension(OwnBody), Json(body)).into_response()
}

/// Version
#[utoipa::path(get, path = "/version", tag = "operations",
    responses((status = 200, description = "Which program this is", body = VersionInfoBody)))]
pub(in crate::http) async fn version(Extension(context): Extension<RequestContext>) -> Json<VersionInfoBody> {
    let trace_id = context.trace.to_string();
    Json(VersionInfoBody { trace_id, name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") })
}

/// Limits
///
/// Every limit with its value, so that a client knows it before it runs into it.
#[utoipa::path(get, path = "/limits", tag = "operations",
    responses((status = 200, description = "The limits by name", body = LimitsBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn limits(
    State(app): State<AppState>,
    Extension(context): Extension<RequestContext>,
) -> Json<LimitsBody> {
    let own = app.settings.limits().into_iter().chain(task_limits(app.services.tasks.settings())).chain(CASE_LIMITS);
    let limits: BTreeMap<_, _> = own.chain(app.services.search.limits()).chain(app.services.ingest.limits()).collect();
    Json(LimitsBody { trace_id: context.trace.to_string(), limits })
}

/// What labelled queries may be, under names that no other room has.
const CASE_LIMITS: [(&str, u64); 4] = [
    ("max_cases_at_once", MAX_CASES_AT_ONCE as u64),
    ("max_case_id_bytes", MAX_CASE_ID_BYTES as u64),
    ("max_relevant_documents", MAX_RELEVANT_DOCUMENTS as u64),
    ("max_grade", MAX_GRADE as u64),
];

/// What the settings say of tasks, under names that no other room has.
fn task_limits(settings: &TaskSettings) -> [(&'static str, u64); 8] {
    [
        ("task_max_input_bytes", settings.max_input_bytes as u64),
        ("task_max_items", settings.max_items as u64),
        ("task_max_items_at_once", settings.max_items_at_once as u64),
        ("task_max_open_per_tenant", settings.max_open_per_tenant as u64),
        ("task_max_running", settings.max_running as u64),
        ("task_max_running_per_tenant", settings.max_running_per_tenant),
        ("task_max_attempts", u64::from(settings.max_attempts)),
        ("task_keep_days", u64::from(settings.keep_days)),
    ]
}

/// Metrics
///
/// In the text format of Prometheus. Where keys are configured, one with the permission `admin` is needed.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain"), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn metrics(State(app): State<AppState>) -> Response {
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, format)], app.services.status.metrics()).into_response()
}

/// Description of this API
#[utoipa::path(get, path = "/openapi.json", tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(in crate::http) async fn openapi(State(app): State<AppState>) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], app.openapi.clone()).into_response()
}

/// Front page
///
/// Where to go from here; HTML for browsers, JSON for everybody else.
#[utoipa::path(get, path = "/", tag = "operations",
    responses((status = 200, description = "Where to go from here", content(
        (String = "application/json"), (String = "text/html")))))]
pub(in crate::http) async fn front(Extension(context): Extension<RequestContext>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        return Html(FRONT_PAGE).into_response();
    }
    Json(json!({
        "trace_id": context.trace.to_string(),
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "documentation": "/docs",
        "openapi": "/openapi.json",
        "ready": "/readyz",
        "limits": "/limits",
    }))
    .into_response()
}

const FRONT_PAGE: &str = concat!(
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>plumb</title><h1>plumb ",
    env!("CARGO_PKG_VERSION"),
    "</h1><p>Documents go in, ranked passages and cited answers come out.</p><ul>",
    "<li><a href=\"/docs\">Try the API</a></li><li><a href=\"/openapi.json\">OpenAPI description</a></li>",
    "<li><a href=\"/readyz\">State of the server</a></li><li><a href=\"/limits\">Limits</a></li></ul></html>",
);

/// For paths that lead nowhere.
pub(in crate::http) async fn nowhere() -> Problem {
    Problem::not_found("path; see /openapi.json for those there are")
}

/// For methods that a path does not have; the header `Allow` names those it has.
pub(in crate::http) async fn wrong_method() -> Problem {
    let kind = crate::http::problem::ProblemKind::MethodNotAllowed;
    Problem::new(kind, "this path does not take this method; the header Allow names those it takes")
}
