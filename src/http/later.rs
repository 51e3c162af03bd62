//! `Prefer: respond-async` (RFC 7240): documents are put in line as a task, and the request does not wait for their work.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::domain::{TenantScope, TraceId};
use crate::ingest::IncomingDocument;
use crate::jobs::{NotAsWork, ingest_input};
use crate::tasks::{Again, TaskOrder};
use crate::telemetry::new_trace_id;

use super::problem::{Problem, ProblemKind};
use super::state::AppState;
use super::wire::IngestBody;

const PREFERENCE: &str = "respond-async";

/// True if the client would rather be answered before the work is done.
pub(super) fn is_preferred(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split(',')).any(|one| {
        let name = one.split([';', '=']).next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case(PREFERENCE)
    })
}

/// Puts the documents in line; durable when this answers. What becomes of each is in the result of the task.
pub(super) async fn take_later(
    app: &AppState,
    trace: TraceId,
    scope: &TenantScope,
    documents: Vec<IncomingDocument>,
) -> Result<Response, Problem> {
    let input = ingest_input(&documents).map_err(not_as_work)?;
    let order = TaskOrder {
        kind: "ingest".to_owned(),
        input: input.read::<Value>().map_err(|error| not_as_work(NotAsWork::NotJson { index: 0, source: error }))?,
        model: None,
        priority: 0,
        delay: std::time::Duration::ZERO,
        again: Again::No,
        session_id: None,
        trace_id: new_trace_id(),
        // A write of its own each time: the same content sent again after another one must come out on top.
        slot: Some(new_trace_id().to_string()),
    };
    let submitted = app.services.tasks.submit(scope, order).await?;
    let id = submitted.task.id.to_string();
    let mut response = (StatusCode::ACCEPTED, Json(IngestBody { task_id: Some(id.clone()), ..IngestBody::new(trace) }))
        .into_response();
    let location = format!("/tasks/{id}");
    let location = HeaderValue::from_str(&location).expect("an id of a task is plain letters and digits");
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert("preference-applied", HeaderValue::from_static(PREFERENCE));
    Ok(response)
}

fn not_as_work(error: NotAsWork) -> Problem {
    Problem::new(ProblemKind::Unprocessable, format!("{error}; send it without Prefer: {PREFERENCE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preference_is_found_among_others_whatever_its_case() {
        let prefers = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append("prefer", HeaderValue::from_static(value));
            });
            is_preferred(&headers)
        };

        assert!(prefers(&["respond-async"]));
        assert!(prefers(&["wait=10, Respond-Async"]));
        assert!(prefers(&["return=minimal", "respond-async;x=1"]));
        assert!(!prefers(&["return=minimal"]));
        assert!(!prefers(&[]));
    }
}
