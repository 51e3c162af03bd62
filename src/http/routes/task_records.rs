//! What is recorded of tasks: items of their steps, failed attempts, and failures by day.

use axum::Json;
use axum::extract::{Path, RawQuery, State};

use crate::domain::{StepName, Timestamp};
use crate::http::access::Call;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::wire::{FailureDaysBody, TaskFailuresBody, TaskItemsBody, days_before, since};

use super::tasks::{limit_param, run_param, wanted};

/// Days that `GET /failures` goes back where nothing else is asked for.
const DEFAULT_DAYS: i64 = 30;

/// Items of a step
///
/// Recorded items by number, a page at a time, each with everything to do it again.
#[utoipa::path(get, path = "/tasks/{task_id}/steps/{step}", tag = "tasks",
    params(
        ("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff"),
        ("step" = String, Path, description = "As in `steps` of the task"),
        ("run" = Option<u32>, Query, description = "The newest if left out"),
        ("from" = Option<u32>, Query, description = "The first item; the `next_from` of the page before"),
        ("limit" = Option<usize>, Query, description = "Items a page; see GET /limits"),
    ),
    responses((status = 200, description = "A page of items", body = TaskItemsBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_items(
    State(app): State<AppState>,
    call: Call,
    Path((id, step)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<TaskItemsBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    let run = run_param(&mut params);
    let from = params.value("from").unwrap_or_default();
    let limit = limit_param(&app, &mut params);
    params.finish()?;
    let task = wanted(&app, &call.caller.scope(), &id, run).await?;
    let unknown = || Problem::not_found("step");
    let step = StepName::new(&step).map_err(|_| unknown())?;
    let desk = &app.services.tasks;
    let records = desk.items(&task, &step, from, limit).await?;
    if records.is_empty() && !desk.steps(&task).await?.iter().any(|one| one.step == step) {
        return Err(unknown());
    }
    Ok(Json(TaskItemsBody::new(call.trace(), &task, &step, (&records, limit))))
}

/// Failures of a task
///
/// Failed attempts, the oldest first; of more than the limit the last ones.
#[utoipa::path(get, path = "/tasks/{task_id}/failures", tag = "tasks",
    params(
        ("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff"),
        ("run" = Option<u32>, Query, description = "The newest if left out"),
        ("limit" = Option<usize>, Query, description = "Most failures; see GET /limits"),
    ),
    responses((status = 200, description = "The failures", body = TaskFailuresBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_task_failures(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TaskFailuresBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    let run = run_param(&mut params);
    let limit = limit_param(&app, &mut params);
    params.finish()?;
    let task = wanted(&app, &call.caller.scope(), &id, run).await?;
    let failures = app.services.tasks.failures(&task, limit).await?;
    Ok(Json(TaskFailuresBody::new(call.trace(), &task, &failures)))
}

/// Failures by day
///
/// How many tasks of each kind failed on each day, among those that ended by themselves; the newest day first.
#[utoipa::path(get, path = "/failures", tag = "tasks",
    params(
        ("by" = Option<String>, Query, description = "`day` (UTC), which is also what is left out"),
        ("since" = Option<String>, Query, example = "2026-11-01",
            description = "A day or an RFC 3339 time; thirty days ago if left out"),
    ),
    responses((status = 200, description = "The days", body = FailureDaysBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_failures(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<FailureDaysBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    if params.text("by").is_some_and(|by| by != "day") {
        params.refuse("by", "must be day");
    }
    let start = match params.text("since").map(|text| since(&text)) {
        Some(Ok(start)) => start,
        Some(Err(fault)) => {
            params.refuse("since", fault);
            Timestamp::default()
        }
        None => days_before(jiff::Timestamp::now(), DEFAULT_DAYS),
    };
    params.finish()?;
    let days = app.services.tasks.failure_days(&call.caller.scope(), start).await?;
    Ok(Json(FailureDaysBody::new(call.trace(), start, days)))
}
