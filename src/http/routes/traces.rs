//! `/traces`: what happened under one id.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use tokio::time::sleep;

use crate::domain::TraceId;
use crate::http::access::Call;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::wire::TraceBody;

/// Traces are written down a moment after their response: whoever asks at once waits for that, and so does whoever asks
/// for what there is not. 100 ms: the ledger's queue takes a fifth of that.
const WRITTEN_WITHIN: Duration = Duration::from_millis(100);

/// A trace
///
/// What happened under the id that a response carried as `x-trace-id`, or a task as `task_trace_id`: requests, the stages
/// of their work, searches, calls to language models with their cost, steps of tasks and their failures, in order of
/// start. Failed requests, slow ones and those that called a model are always kept, others as far as the setting
/// `trace.max_per_second` allows. Holds numbers, names and ids; no text of documents, questions or prompts.
#[utoipa::path(get, path = "/traces/{trace_id}", tag = "operations",
    params(("trace_id" = String, Path, description = "32 hexadecimal digits, lower case")),
    responses((status = 200, description = "The trace", body = TraceBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_trace(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<TraceBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    let unknown = || Problem::not_found("trace");
    let trace: TraceId = id.parse().map_err(|_| unknown())?;
    let scope = call.caller.scope();
    let mut story = app.services.ledger.trace(&scope, trace).await?;
    if story.is_none() {
        sleep(WRITTEN_WITHIN).await;
        story = app.services.ledger.trace(&scope, trace).await?;
    }
    Ok(Json(TraceBody::new(trace, story.ok_or_else(unknown)?)))
}
