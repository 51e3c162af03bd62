//! `/generations`: changing how a collection's text becomes searchable, beside what serves.

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::time::Duration;

use crate::domain::{CollectionName, GenerationId};
use crate::http::access::Call;
use crate::http::body::read_json;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::wire::{
    GenerationInput, GenerationsBody, OneGenerationBody, PlanInput, ReportBody, StartedBody, TransitionBody,
};
use crate::jobs::{DeskError, Force};
use crate::tasks::{Again, TaskOrder};
use crate::telemetry::new_trace_id;

use super::search::bound;

/// List generations
///
/// Every build of every collection, or of one: the live ones, those beside them, and the retired.
#[utoipa::path(get, path = "/generations", tag = "generations",
    params(("collection" = Option<String>, Query, description = "All if left out")),
    responses((status = 200, description = "The generations, oldest first", body = GenerationsBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn list_generations(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<GenerationsBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    let collection = params.value::<CollectionName>("collection");
    params.finish()?;
    let generations = app.services.generations.list(&call.caller.scope(), collection.as_ref()).await?;
    Ok(Json(GenerationsBody::new(call.trace(), generations)))
}

/// Build a generation
///
/// Puts a task in line that builds the collection anew in another profile, beside what serves: nothing that is embedded
/// already is embedded again, and searches go on. Once it is built it is in shadow: see its report, let it serve a
/// share of the documents, promote it.
#[utoipa::path(post, path = "/generations", tag = "generations", request_body = GenerationInput,
    responses((status = 202, description = "The task is in line", body = StartedBody,
        headers(("location" = String, description = "`/tasks/{task_id}`"))), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn post_generation(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let input: GenerationInput = read_json(&parts.headers, body, bound(&app, "a generation")).await?;
    let order = TaskOrder {
        kind: "reindex".to_owned(),
        input: input.into_task_input(),
        model: None,
        priority: 0,
        delay: Duration::ZERO,
        // The same change asked for again may have more to do: documents have come since.
        again: Again::Force,
        session_id: None,
        trace_id: new_trace_id(),
        slot: None,
    };
    let submitted = app.services.tasks.submit(&call.caller.scope(), order).await.map_err(in_this_request)?;
    let body = StartedBody::new(call.trace(), submitted.task.id);
    let location = HeaderValue::from_str(&format!("/tasks/{}", body.task_id)).expect("an id is plain letters");
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

// Pointers lead into the task's input, which is this request's body.
fn in_this_request(error: crate::tasks::DeskError) -> Problem {
    let mut problem = Problem::from(error);
    for fault in &mut problem.errors {
        if let Some(pointer) = fault.pointer.strip_prefix("/input") {
            fault.pointer = pointer.to_owned();
        }
    }
    problem
}

/// A generation
///
/// How far it is built, and whom it serves.
#[utoipa::path(get, path = "/generations/{generation_id}", tag = "generations",
    params(("generation_id" = String, Path, example = "gen_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "The generation", body = OneGenerationBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_generation(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<OneGenerationBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    let view = app.services.generations.one(&call.caller.scope(), id_of(&id)?).await?;
    Ok(Json(OneGenerationBody::new(call.trace(), view)))
}

/// Change a generation's plan
///
/// Who is served from it before it is promoted, how many searches it sees in shadow, and who decides.
#[utoipa::path(put, path = "/generations/{generation_id}/plan", tag = "generations", request_body = PlanInput,
    params(("generation_id" = String, Path, example = "gen_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "The generation with its new plan", body = OneGenerationBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn put_plan(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<OneGenerationBody>, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let input: PlanInput = read_json(&parts.headers, body, bound(&app, "a plan")).await?;
    let patch = input.into_patch().map_err(Problem::fields)?;
    let view = app.services.generations.plan(&call.caller.scope(), id_of(&id)?, patch).await.map_err(in_a_plan)?;
    Ok(Json(OneGenerationBody::new(call.trace(), view)))
}

/// Promote a generation
///
/// It takes writes from now on, and all documents are moved to it. What it replaces stays until `retire_at`, so that it
/// can be gone back to; what is written meanwhile is built there only after a going back.
#[utoipa::path(post, path = "/generations/{generation_id}/promote", tag = "generations",
    params(
        ("generation_id" = String, Path, example = "gen_00112233445566778899aabbccddeeff"),
        ("force" = Option<bool>, Query,
            description = "`true`: also while documents are not built in it; they stay where they are until then"),
    ),
    responses((status = 200, description = "It is live", body = TransitionBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn promote_generation(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TransitionBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    let force = if params.value::<bool>("force") == Some(true) { Force::Yes } else { Force::No };
    params.finish()?;
    let scope = call.caller.scope();
    let moved = app.services.generations.promote(&scope, id_of(&id)?, force).await?;
    tracing::info!(tenant = %scope.tenant, key = scope.key_id.as_deref(), generation = %id, "generation promoted");
    Ok(Json(TransitionBody::new(call.trace(), moved)))
}

/// Roll a generation back
///
/// A live one gives its place back to the one that it replaced; one in shadow serves nobody any more.
#[utoipa::path(post, path = "/generations/{generation_id}/rollback", tag = "generations",
    params(("generation_id" = String, Path, example = "gen_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "It serves nobody, or soon will", body = TransitionBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn roll_generation_back(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TransitionBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    let scope = call.caller.scope();
    let moved = app.services.generations.rollback(&scope, id_of(&id)?).await?;
    tracing::info!(tenant = %scope.tenant, key = scope.key_id.as_deref(), generation = %id, "generation rolled back");
    Ok(Json(TransitionBody::new(call.trace(), moved)))
}

/// Retire a generation
///
/// Gives up one that is not live; what belongs to it is removed in the background, see `removed_at`.
#[utoipa::path(post, path = "/generations/{generation_id}/retire", tag = "generations",
    params(("generation_id" = String, Path, example = "gen_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "It is retired", body = TransitionBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn retire_generation(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TransitionBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    let scope = call.caller.scope();
    let moved = app.services.generations.retire(&scope, id_of(&id)?).await?;
    tracing::info!(tenant = %scope.tenant, key = scope.key_id.as_deref(), generation = %id, "generation retired");
    Ok(Json(TransitionBody::new(call.trace(), moved)))
}

// A rollout stands in an object of its own here.
fn in_a_plan(error: DeskError) -> Problem {
    let mut problem = Problem::from(error);
    for fault in &mut problem.errors {
        if fault.pointer.starts_with("/filter") || fault.pointer.starts_with("/share") {
            fault.pointer = format!("/rollout{}", fault.pointer);
        }
    }
    problem
}

/// How good a generation is
///
/// Puts the collection's eval cases to it and to the live one and compares, query by query; with what live searches in
/// shadow have shown. Runs up to four searches for each case, so it may take as long as its limit lets it.
#[utoipa::path(get, path = "/generations/{generation_id}/report", tag = "generations",
    params(("generation_id" = String, Path, example = "gen_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "The comparison", body = ReportBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_report(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<ReportBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    let report = app.services.reports.report(&call.caller.scope(), id_of(&id)?).await?;
    let report = report.ok_or_else(|| Problem::not_found("generation"))?;
    Ok(Json(ReportBody::new(call.trace(), report)))
}

fn id_of(text: &str) -> Result<GenerationId, Problem> {
    text.parse().map_err(|_| Problem::not_found("generation"))
}
