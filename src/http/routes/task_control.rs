//! Stopping tasks, setting them going again, and making others of them.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::domain::{Task, TaskStatus, Wish};
use crate::http::access::Call;
use crate::http::body::{read_json, read_optional_json};
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::{FieldError, Problem, ProblemKind};
use crate::http::state::AppState;
use crate::http::wire::{ForkInput, NoInput, RedriveInput, TaskBody, step_name};
use crate::tasks::DeskError;
use crate::telemetry::new_trace_id;

use super::search::bound;
use super::tasks::{now, shown, task_bound, task_id, told, unknown_task};

/// Cancel a task
///
/// Stops it for good, also in the middle of a call; a running one within a second. What it has recorded stays.
#[utoipa::path(post, path = "/tasks/{task_id}/cancel", tag = "tasks",
    params(("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "The task as it is now; `wish` until it has stopped", body = TaskBody),
        Problems),
    security(("key" = [])))]
pub(in crate::http) async fn cancel_task(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<TaskBody>, Problem> {
    wish(&app, &call, &id, (request, Wish::Cancel)).await
}

/// Pause a task
///
/// Stops it after the items that are under way.
#[utoipa::path(post, path = "/tasks/{task_id}/pause", tag = "tasks",
    params(("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "The task as it is now; `wish` until it has stopped", body = TaskBody),
        Problems),
    security(("key" = [])))]
pub(in crate::http) async fn pause_task(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<TaskBody>, Problem> {
    wish(&app, &call, &id, (request, Wish::Pause)).await
}

/// Resume a task
///
/// Puts a paused task back in line; it goes on where it was.
#[utoipa::path(post, path = "/tasks/{task_id}/resume", tag = "tasks",
    params(("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff")),
    responses((status = 200, description = "The task as it is now", body = TaskBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn resume_task(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<TaskBody>, Problem> {
    wish(&app, &call, &id, (request, Wish::Resume)).await
}

/// Do a task again
///
/// Puts an ended task in line once more, as another run: what is recorded stays, and the rest is done; or all from a step
/// on.
#[utoipa::path(post, path = "/tasks/{task_id}/redrive", tag = "tasks", request_body = Option<RedriveInput>,
    params(("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff")),
    responses((status = 202, description = "The new run", body = TaskBody,
        headers(("location" = String, description = "`/tasks/{task_id}`"))), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn redrive_task(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let input: RedriveInput = read_optional_json(&parts.headers, body, bound(&app, "a wish for a task")).await?;
    let id = task_id(&id)?;
    let from = input.from_step.map(|step| step_name(&step, "/from_step")).transpose();
    let from = from.map_err(|fault| Problem::fields(vec![fault]))?;
    let scope = call.caller.scope();
    let rerun = app.services.tasks.redrive(&scope, id, from.as_ref(), new_trace_id()).await;
    let task = rerun.map_err(|error| step_at(error, "/from_step"))?.ok_or_else(unknown_task)?;
    tracing::info!(tenant = %scope.tenant, key = scope.key_id.as_deref(), task = %id, run = task.run, "task redriven");
    shown(&app, call.trace(), (StatusCode::ACCEPTED, task)).await
}

/// Fork a task
///
/// Makes another task that takes over the steps before one, and gives that one another input. The original stays as it is.
#[utoipa::path(post, path = "/tasks/{task_id}/fork", tag = "tasks", request_body = ForkInput,
    params(("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff")),
    responses(
        (status = 200, description = "The same fork was there already", body = TaskBody,
            headers(("location" = String, description = "`/tasks/{task_id}` of the fork"))),
        (status = 202, description = "The fork, in line", body = TaskBody,
            headers(("location" = String, description = "`/tasks/{task_id}` of the fork"))),
        Problems),
    security(("key" = [])))]
pub(in crate::http) async fn fork_task(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let ForkInput { step, input } = read_json(&parts.headers, body, task_bound(&app, "a fork")).await?;
    let id = task_id(&id)?;
    let step = step_name(&step, "/step").map_err(|fault| Problem::fields(vec![fault]))?;
    let scope = call.caller.scope();
    let forked = app.services.tasks.fork(&scope, id, (&step, input), new_trace_id()).await?.ok_or_else(unknown_task)?;
    let (fork, is_new) = (forked.task.id, forked.is_new);
    tracing::info!(tenant = %scope.tenant, key = scope.key_id.as_deref(), task = %id, %fork, is_new, "task forked");
    let status = if is_new { StatusCode::ACCEPTED } else { StatusCode::OK };
    shown(&app, call.trace(), (status, forked.task)).await
}

async fn wish(
    app: &AppState,
    call: &Call,
    id: &str,
    (request, wish): (Request, Wish),
) -> Result<Json<TaskBody>, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let NoInput {} = read_optional_json(&parts.headers, body, bound(app, "a wish for a task")).await?;
    let (id, scope) = (task_id(id)?, call.caller.scope());
    let before = app.services.tasks.task(&scope, id, None).await?.ok_or_else(unknown_task)?;
    let after = app.services.tasks.wish(&scope, id, wish).await?.ok_or_else(unknown_task)?;
    if let Some(problem) = refusal(wish, &before, &after) {
        return Err(problem);
    }
    let (status, wish) = (after.status.as_str(), wish.as_str());
    tracing::info!(tenant = %scope.tenant, key = scope.key_id.as_deref(), task = %id, wish, status, "task told");
    Ok(Json(TaskBody::new(call.trace(), &told(app, after).await?, now())))
}

/// Why a wish did not fit the task; a wish for what is so already fits.
fn refusal(wish: Wish, before: &Task, after: &Task) -> Option<Problem> {
    let could_resume = before.status == TaskStatus::Paused || before.wish == Some(Wish::Pause);
    match wish {
        Wish::Cancel if after.status == TaskStatus::Cancelled => None,
        // The wish may have set a paused task going that has ended since.
        Wish::Resume if could_resume && after.wish != Some(Wish::Pause) => None,
        _ if after.status.is_ended() => {
            let detail = format!("the task has {}; redrive it to do it again", past(after.status));
            Some(Problem::new(ProblemKind::TaskEnded, detail))
        }
        Wish::Resume if after.wish == Some(Wish::Pause) => {
            let detail = "the task is about to pause; resume it once it has";
            Some(Problem::new(ProblemKind::TaskNotPaused, detail))
        }
        Wish::Resume => {
            let detail = format!("the task is {}, so there is nothing to resume", after.status.as_str());
            Some(Problem::new(ProblemKind::TaskNotPaused, detail))
        }
        Wish::Cancel | Wish::Pause => None,
    }
}

fn past(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Succeeded => "succeeded",
        TaskStatus::Failed => "failed",
        TaskStatus::Cancelled => "been cancelled",
        TaskStatus::Queued | TaskStatus::Waiting | TaskStatus::Running | TaskStatus::Paused => "not ended",
    }
}

/// The same failure, with a step that is not there as a fault of the field at `pointer`.
fn step_at(error: DeskError, pointer: &'static str) -> Problem {
    match error {
        DeskError::UnknownStep { .. } => Problem::fields(vec![FieldError::new(pointer, error.to_string())]),
        error => error.into(),
    }
}
