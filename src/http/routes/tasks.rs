//! `/tasks`: asking for durable work, and looking at it.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, timeout_at};

use crate::domain::{Task, TaskId, TaskKind, TaskStatus, TenantScope, Timestamp, TraceId};
use crate::http::access::{Call, WAIT_PARAMETER};
use crate::http::body::{BodyBound, read_json};
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::{Problem, ProblemKind};
use crate::http::state::AppState;
use crate::http::task_looks::Looks;
use crate::http::wire::{TaskBody, TaskInput, TaskResultBody, TasksBody, ToldTask};
use crate::store::TaskFilter;
use crate::telemetry::new_trace_id;

/// Shortest time between two looks at a task that somebody waits for. 20 ms: short tasks are answered soon.
const WAIT_GAP: Duration = Duration::from_millis(20);
/// When to ask for a result again.
const RESULT_RETRY: Duration = Duration::from_secs(1);

/// Ask for work
///
/// Puts a task in line; durable when this answers. The same work asked for again is the same task and is done once.
#[utoipa::path(post, path = "/tasks", tag = "tasks", request_body = TaskInput,
    params(("wait_ms" = Option<u64>, Query,
        description = "Answer when the task has ended, or as it is after this time; see GET /limits")),
    responses(
        (status = 200, description = "It was there already, or has ended while this waited", body = TaskBody,
            headers(("location" = String, description = "`/tasks/{task_id}`"))),
        (status = 202, description = "It is in line", body = TaskBody,
            headers(("location" = String, description = "`/tasks/{task_id}`"))),
        Problems),
    security(("key" = [])))]
pub(in crate::http) async fn post_task(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let mut params = Params::read(parts.uri.query());
    let wait = wait_param(&app, &mut params);
    params.finish()?;
    let input: TaskInput = read_json(&parts.headers, body, task_bound(&app, "a task")).await?;
    // A trace of its own: several tasks asked for under one trace would have their costs mixed.
    let order = input.into_order(new_trace_id(), app.settings.max_task_delay_s).map_err(Problem::fields)?;
    let scope = call.caller.scope();
    let submitted = app.services.tasks.submit(&scope, order).await?;
    let (id, kind, is_new) = (submitted.task.id, &submitted.task.kind, submitted.is_new);
    tracing::info!(tenant = %scope.tenant, key = scope.key_id.as_deref(), task = %id, %kind, is_new, "task asked for");
    let task = ended(&app, &scope, submitted.task, wait).await?;
    let status = if is_new && !task.status.is_ended() { StatusCode::ACCEPTED } else { StatusCode::OK };
    shown(&app, call.trace(), (status, task)).await
}

/// List tasks
///
/// The newest run of each task that the key may see, the newest task first, a page at a time.
#[utoipa::path(get, path = "/tasks", tag = "tasks",
    params(
        ("status" = Option<String>, Query, description = "`queued`, `waiting`, `running`, `paused`, `succeeded`, \
            `failed` or `cancelled`; all if left out"),
        ("kind" = Option<String>, Query, description = "All if left out"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<usize>, Query, description = "Tasks a page; see GET /limits"),
    ),
    responses((status = 200, description = "A page of tasks", body = TasksBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn list_tasks(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<TasksBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    let filter = TaskFilter { status: status_param(&mut params), kind: params.value::<TaskKind>("kind") };
    let cursor = params.text("cursor");
    let limit = limit_param(&app, &mut params);
    params.finish()?;
    let page = app.services.tasks.tasks(&call.caller.scope(), &filter, cursor.as_deref(), limit).await?;
    Ok(Json(TasksBody::new(call.trace(), &page)))
}

/// A task
///
/// How far it has come, step by step, and what it has cost so far.
#[utoipa::path(get, path = "/tasks/{task_id}", tag = "tasks",
    params(
        ("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff"),
        ("run" = Option<u32>, Query, description = "The newest if left out"),
    ),
    responses((status = 200, description = "The task", body = TaskBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_task(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TaskBody>, Problem> {
    let run = only_run(query.as_deref())?;
    let task = wanted(&app, &call.caller.scope(), &id, run).await?;
    Ok(Json(TaskBody::new(call.trace(), &told(&app, task).await?, now())))
}

/// The result of a task
///
/// What came out, once it has ended; 409 with `Retry-After` until then.
#[utoipa::path(get, path = "/tasks/{task_id}/result", tag = "tasks",
    params(
        ("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff"),
        ("run" = Option<u32>, Query, description = "The newest if left out"),
    ),
    responses((status = 200, description = "How it has ended", body = TaskResultBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_result(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TaskResultBody>, Problem> {
    let run = only_run(query.as_deref())?;
    let task = wanted(&app, &call.caller.scope(), &id, run).await?;
    if !task.status.is_ended() {
        let detail = format!("the task is {}; there is no result yet", task.status.as_str());
        return Err(Problem { retry_after: Some(RESULT_RETRY), ..Problem::new(ProblemKind::TaskNotFinished, detail) });
    }
    Ok(Json(TaskResultBody::new(call.trace(), &task)))
}

/// A run of a task, the newest if none is named; 404 for what is unknown, somebody else's, or no id at all.
pub(super) async fn wanted(app: &AppState, scope: &TenantScope, id: &str, run: Option<u32>) -> Result<Task, Problem> {
    let found = app.services.tasks.task(scope, task_id(id)?, run).await?;
    found.ok_or_else(unknown_task)
}

/// What cannot be an id is an id that nothing has.
pub(super) fn task_id(text: &str) -> Result<TaskId, Problem> {
    text.parse().map_err(|_| unknown_task())
}

pub(super) fn unknown_task() -> Problem {
    Problem::not_found("task")
}

/// The task with its steps and costs.
pub(super) async fn told(app: &AppState, task: Task) -> Result<ToldTask, Problem> {
    let (steps, cost) = tokio::try_join!(app.services.tasks.steps(&task), app.services.tasks.cost(&task))?;
    Ok(ToldTask { task, steps, cost })
}

/// Progress is measured against the clock.
pub(super) fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_microsecond())
}

/// The response to a request that made a task or set it going.
pub(super) async fn shown(
    app: &AppState,
    trace: TraceId,
    (status, task): (StatusCode, Task),
) -> Result<Response, Problem> {
    let place = HeaderValue::from_str(&format!("/tasks/{}", task.id)).expect("an id consists of letters and digits");
    let body = TaskBody::new(trace, &told(app, task).await?, now());
    Ok((status, [(header::LOCATION, place)], Json(body)).into_response())
}

pub(super) fn run_param(params: &mut Params) -> Option<u32> {
    params.value("run")
}

/// For routes that take no other parameter.
fn only_run(query: Option<&str>) -> Result<Option<u32>, Problem> {
    let mut params = Params::read(query);
    let run = run_param(&mut params);
    params.finish().map(|()| run)
}

pub(super) fn limit_param(app: &AppState, params: &mut Params) -> usize {
    let max = app.settings.max_page_size;
    let limit = params.value("limit").unwrap_or(app.settings.default_page_size);
    if limit == 0 || limit > max {
        params.refuse("limit", format!("is {limit}, from 1 to {max} are allowed"));
    }
    limit
}

/// A body that carries an input may be as large as an input.
pub(super) fn task_bound(app: &AppState, what: &'static str) -> BodyBound {
    let max_bytes = app.services.tasks.settings().max_input_bytes;
    BodyBound { what, max_bytes, idle: app.settings.body_idle_timeout() }
}

fn wait_param(app: &AppState, params: &mut Params) -> Duration {
    let wait_ms: u64 = params.value(WAIT_PARAMETER).unwrap_or_default();
    let max = app.settings.wait_task_timeout_ms;
    if wait_ms > max {
        params.refuse(WAIT_PARAMETER, format!("is {wait_ms}, at most {max} is allowed"));
    }
    Duration::from_millis(wait_ms)
}

fn status_param(params: &mut Params) -> Option<TaskStatus> {
    let word = params.text("status")?;
    let status = TaskStatus::from_word(&word);
    if status.is_none() {
        let known = "queued, waiting, running, paused, succeeded, failed, cancelled";
        params.refuse("status", format!("must be one of {known}"));
    }
    status
}

/// The run once it has ended, or as it is after `limit` or when the server stops.
pub(super) async fn ended(
    app: &AppState,
    scope: &TenantScope,
    mut task: Task,
    limit: Duration,
) -> Result<Task, Problem> {
    let until = Instant::now() + limit;
    let mut looks = Looks::new(&app.services.tasks, WAIT_GAP);
    while !limit.is_zero() && !task.status.is_ended() {
        // Also the first time: it may have ended between its submission and the first change that is seen here.
        task = app.services.tasks.task(scope, task.id, Some(task.run)).await?.ok_or_else(unknown_task)?;
        if task.status.is_ended() {
            break;
        }
        let stopped = app.stopping.run_until_cancelled(timeout_at(until, looks.next())).await;
        if !matches!(stopped, Some(Ok(()))) {
            break;
        }
    }
    Ok(task)
}
