//! `/tasks/{task_id}/events`: a task as it goes on.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use axum::response::sse::Event;
use futures::stream::unfold;
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::domain::{JsonText, Task, TenantScope, TraceId};
use crate::http::access::Call;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::sse::{event, event_stream};
use crate::http::state::AppState;
use crate::http::task_looks::Looks;
use crate::http::wire::{TaskBody, ToldTask};

use super::tasks::{now, run_param, told, unknown_task, wanted};

/// Shortest time between two events of a stream: five a second are more than an eye follows.
const GAP: Duration = Duration::from_millis(500);

/// Watch a task
///
/// `text/event-stream`: `task` at once and after each change, at most five a second; `done` when the run has ended, and
/// then no more. Each holds the task without its input. `error` (a problem) ends the stream too. A server that stops
/// ends it without either; the task goes on after the start.
#[utoipa::path(get, path = "/tasks/{task_id}/events", tag = "tasks",
    params(
        ("task_id" = String, Path, example = "tsk_00112233445566778899aabbccddeeff"),
        ("run" = Option<u32>, Query, description = "The newest if left out; a later run is not followed"),
    ),
    responses((status = 200, description = "The task as it goes on", content((String = "text/event-stream"))), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_task_events(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut params = Params::read(query.as_deref());
    let run = run_param(&mut params);
    params.finish()?;
    let scope = call.caller.scope();
    // Listens before it looks, so that nothing changes in between unseen.
    let looks = Looks::new(&app.services.tasks, GAP);
    let task = wanted(&app, &scope, &id, run).await?;
    let stopping = app.stopping.clone();
    let watching = Watching { app, scope, trace: call.trace(), looks, task, last: None };
    Ok(event_stream(events(watching, stopping)))
}

fn events(watching: Watching, stopping: CancellationToken) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let told = unfold(Some(watching), |state| async move {
        let mut watching = state?;
        let (event, is_last) = watching.next().await;
        Some((Ok(event), (!is_last).then_some(watching)))
    });
    // Else a stream would hold up the stop for the whole grace time.
    told.take_until(stopping.cancelled_owned())
}

/// A run that somebody watches.
struct Watching {
    app: AppState,
    scope: TenantScope,
    trace: TraceId,
    looks: Looks,
    /// As it was found at the begin.
    task: Task,
    /// What was told last.
    last: Option<ToldTask>,
}

impl Watching {
    /// The next event, and whether it is the last.
    async fn next(&mut self) -> (Event, bool) {
        loop {
            if self.last.is_some() {
                self.looks.next().await;
            }
            let seen = match self.look().await {
                Ok(seen) => seen,
                Err(problem) => return (event("error", &problem.into_body(self.trace)), true),
            };
            if self.last.as_ref() != Some(&seen) {
                let is_ended = seen.task.status.is_ended();
                let body = TaskBody::without_input(self.trace, &seen, now());
                self.last = Some(seen);
                return (event(if is_ended { "done" } else { "task" }, &body), is_ended);
            }
        }
    }

    async fn look(&self) -> Result<ToldTask, Problem> {
        let (id, run) = (self.task.id, Some(self.task.run));
        let mut task = self.app.services.tasks.task(&self.scope, id, run).await?.ok_or_else(unknown_task)?;
        // Neither is told, and both may be large.
        task.input = JsonText::of_value(&serde_json::Value::Null);
        task.output = None;
        told(&self.app, task).await
    }
}
