//! `/answer`: a question in, a cited answer out, whole or as it is made.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::domain::{TenantScope, TraceId};
use crate::http::access::Call;
use crate::http::body::read_json;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::ports::{AnswerEvent, AnswerRequest, Role, Turn};
use crate::http::problem::{FieldError, Problem, ProblemKind};
use crate::http::sse::{event, event_stream};
use crate::http::state::AppState;
use crate::http::wire::{
    AnswerBody, AnswerRequestBody, CitationBody, ClaimBody, DeltaBody, MessageBody, RoleBody, SourcesBody,
};

use super::search::{bound, check_principals};

/// Answer
///
/// Answers a question from the stored documents, each sentence with citations, or says that the sources do not support
/// an answer. With `stream: true` the response is `text/event-stream` with the events `sources`, `delta`, `citation`,
/// `claim` and at last `done` (the whole answer) or `error` (a problem). Closing the connection stops the work.
#[utoipa::path(post, path = "/answer", tag = "answer", request_body = AnswerRequestBody,
    responses(
        (status = 200, description = "The answer", content(
            (AnswerBody = "application/json"), (String = "text/event-stream"))),
        Problems),
    security(("key" = [])))]
pub(in crate::http) async fn post_answer(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let asked: AnswerRequestBody = read_json(&parts.headers, body, bound(&app, "a question")).await?;
    let streamed = asked.stream;
    let (scope, request) = understood(&call, asked)?;
    let trace = call.trace();
    if !streamed {
        let answer = app.services.answer.answer(&scope, request).await?;
        return Ok(Json(AnswerBody::new(trace, answer)).into_response());
    }
    let events = app.services.answer.stream(&scope, request).await?;
    let limit = Duration::from_millis(app.settings.answer_timeout_ms);
    let until = Instant::from_std(call.context.taken_at) + limit;
    Ok(event_stream(written(events, trace, until)))
}

fn understood(call: &Call, asked: AnswerRequestBody) -> Result<(TenantScope, AnswerRequest), Problem> {
    let mut faults = Vec::new();
    let (question, history) = question(asked.question, asked.messages, &mut faults);
    let (text, principals, mut search) = asked.search.unwrap_or_default().into_parts();
    if text.is_some() {
        faults.push(FieldError::new("/search/query", "the question is the query; leave this out"));
    }
    match (&asked.collection, &search.collection) {
        (Some(outer), Some(inner)) if outer != inner => {
            faults.push(FieldError::new("/search/collection", "differs from /collection; give one of them"));
        }
        _ => search.collection = asked.collection.or(search.collection),
    }
    if asked.max_tokens == Some(0) {
        faults.push(FieldError::new("/max_tokens", "must be at least 1"));
    }
    if !faults.is_empty() {
        return Err(Problem::fields(faults));
    }
    check_principals(principals.as_deref(), "/search")?;
    let request = AnswerRequest {
        question,
        history,
        search,
        model: asked.model,
        prompt_version: asked.prompt_version,
        max_tokens: asked.max_tokens,
        session_id: asked.session_id,
        trace_id: call.trace(),
        taken_at: call.context.taken_at,
    };
    Ok((call.caller.scope_as(principals), request))
}

fn question(
    question: Option<String>,
    messages: Option<Vec<MessageBody>>,
    faults: &mut Vec<FieldError>,
) -> (String, Vec<Turn>) {
    let mut refuse = |pointer: &str, detail: &str| faults.push(FieldError::new(pointer, detail));
    let (pointer, question, history) = match (question, messages) {
        (Some(question), None) => ("/question", question, Vec::new()),
        (None, Some(mut messages)) => {
            let last = messages.pop().filter(|last| last.role == RoleBody::User);
            let Some(last) = last else {
                refuse("/messages", "the last message must come from the user");
                return (String::new(), Vec::new());
            };
            ("/messages", last.content, messages.into_iter().map(Into::into).collect())
        }
        (Some(_), Some(_)) => {
            refuse("/messages", "give either question or messages, not both");
            return (String::new(), Vec::new());
        }
        (None, None) => {
            refuse("/question", "is required (or messages)");
            return (String::new(), Vec::new());
        }
    };
    if question.trim().is_empty() {
        refuse(pointer, "the question must not be empty");
    }
    (question, history)
}

impl From<MessageBody> for Turn {
    fn from(message: MessageBody) -> Self {
        let role = match message.role {
            RoleBody::User => Role::User,
            RoleBody::Assistant => Role::Assistant,
        };
        Self { role, content: message.content }
    }
}

// Ends after `done` or `error`, and with an `error` if the work stops without either or takes too long.
fn written(
    events: BoxStream<'static, AnswerEvent>,
    trace: TraceId,
    until: Instant,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    futures::stream::unfold(Some(events), move |state| async move {
        let mut events = state?;
        let next = match timeout_at(until, events.next()).await {
            Ok(Some(event)) => event,
            Ok(None) => {
                let problem = Problem::new(ProblemKind::Internal, "the answer ended before it was complete");
                return Some((Ok(event("error", &problem.into_body(trace))), None));
            }
            Err(_) => {
                let problem = Problem::new(ProblemKind::DeadlineExceeded, "the answer took too long");
                return Some((Ok(event("error", &problem.into_body(trace))), None));
            }
        };
        let is_last = matches!(next, AnswerEvent::Done(_) | AnswerEvent::Failed(_));
        Some((Ok(shown(next, trace)), (!is_last).then_some(events)))
    })
}

fn shown(next: AnswerEvent, trace: TraceId) -> Event {
    match next {
        AnswerEvent::Sources(hits) => event("sources", &SourcesBody::new(trace, hits)),
        AnswerEvent::Delta(text) => event("delta", &DeltaBody { text }),
        AnswerEvent::Citation(citation) => event("citation", &CitationBody::from(*citation)),
        AnswerEvent::Claim(claim) => event("claim", &ClaimBody::from(claim)),
        AnswerEvent::Done(answer) => event("done", &AnswerBody::new(trace, *answer)),
        AnswerEvent::Failed(failure) => event("error", &Problem::from(failure).into_body(trace)),
    }
}
