//! Taking documents back: from sight at once, and from everywhere by a task.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::domain::{Task, TaskStatus};
use crate::http::access::{Call, ERASE_PARAMETER};
use crate::http::openapi::Problems;
use crate::http::problem::{Problem, ProblemKind};
use crate::http::state::AppState;
use crate::http::wire::DeletedBody;
use crate::jobs::{ERASE, Receipt, erase_input};
use crate::tasks::{Again, TaskError, TaskOrder};
use crate::telemetry::new_trace_id;

use super::documents::Wanted;
use super::tasks::ended;

/// Delete a document
///
/// Removes a document with all its versions from sight; it holds from the next response on. With `erase=true` a task
/// also removes its versions, chunks and vectors, and whatever caches, tasks, kept texts of model calls and traces tell
/// of its text, searches every place again, and gives a receipt. The id need not be in sight: what was deleted before
/// is erased as well.
#[utoipa::path(delete, path = "/documents/{document_id}", tag = "documents",
    params(
        ("document_id" = String, Path, description = "Percent-encoded, slashes too"),
        ("collection" = Option<String>, Query, description = "`default` if left out"),
        ("erase" = Option<bool>, Query, description = "`true`: from everywhere, with a receipt; `wait_task_timeout_ms` \
            of GET /limits says how long this waits for it"),
    ),
    responses(
        (status = 200, description = "It is gone", body = DeletedBody),
        (status = 202, description = "The task that erases it goes on", body = DeletedBody,
            headers(("location" = String, description = "`/tasks/{task_id}`"))),
        Problems),
    security(("key" = [])))]
pub(in crate::http) async fn delete_document(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let (wanted, mut params) = Wanted::read(&app, &id, query.as_deref())?;
    let is_erased = params.value::<bool>(ERASE_PARAMETER).unwrap_or_default();
    params.finish()?;
    if is_erased {
        return erase(&app, &call, &wanted).await;
    }
    let removed = app.services.ingest.delete(&call.caller.scope(), &wanted.collection, &wanted.document).await?;
    let sequence = removed.ok_or_else(|| Problem::not_found("document"))?;
    Ok(Json(DeletedBody { sequence: Some(sequence.0), ..DeletedBody::new(call.trace()) }).into_response())
}

async fn erase(app: &AppState, call: &Call, wanted: &Wanted) -> Result<Response, Problem> {
    let order = TaskOrder {
        kind: ERASE.to_owned(),
        input: erase_input(&wanted.collection, &wanted.document),
        model: None,
        priority: 0,
        delay: Duration::ZERO,
        // One that has ended says nothing of what was written down since.
        again: Again::Force,
        session_id: None,
        trace_id: new_trace_id(),
        slot: None,
    };
    let scope = call.caller.scope();
    let submitted = app.services.tasks.submit(&scope, order).await?;
    let (id, key) = (submitted.task.id, scope.key_id.as_deref());
    tracing::info!(tenant = %scope.tenant, key, task = %id, "a document is to be erased");
    let limit = Duration::from_millis(app.settings.wait_task_timeout_ms);
    let task = ended(app, &scope, submitted.task, limit).await?;
    let body = DeletedBody { task_id: Some(id.to_string()), ..DeletedBody::new(call.trace()) };
    if !task.status.is_ended() {
        let place = HeaderValue::from_str(&format!("/tasks/{id}")).expect("an id consists of letters and digits");
        return Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(body)).into_response());
    }
    let receipt = receipt_of(&task)?;
    let sequence = receipt.sequence.map(|sequence| sequence.0);
    Ok(Json(DeletedBody { sequence, receipt: Some(receipt.into()), ..body }).into_response())
}

fn receipt_of(task: &Task) -> Result<Receipt, Problem> {
    let unreadable = || Problem::new(ProblemKind::Internal, "the receipt of the task cannot be read");
    match (&task.output, &task.problem) {
        (Some(output), _) if task.status == TaskStatus::Succeeded => output.read().map_err(|_| unreadable()),
        (_, Some(problem)) => Err(TaskError::failed(problem.kind, problem.detail.clone()).into()),
        _ => Err(Problem::new(ProblemKind::Conflict, "the task that erases it was cancelled")),
    }
}
