//! Errors on the wire: RFC 9457 problem details.
//!
//! A [`Problem`] leaves a handler as a mark on an empty response; the outermost layer writes the body, since it alone
//! knows the trace id. `detail` is a sentence for the client and never holds the chain of causes, a path or a secret.

use std::error::Error;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::domain::{ErrorKind, TraceId};

/// What went wrong, as a stable slug; each has one status and one title.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ProblemKind {
    Malformed,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    TooLarge,
    UnsupportedMediaType,
    Misdirected,
    Unprocessable,
    RateLimited,
    Internal,
    Upstream,
    Unavailable,
    DeadlineExceeded,
    StorageFull,
    BudgetExceeded,
    KillSwitch,
    TaskNotFinished,
    TaskEnded,
    TaskNotPaused,
}

impl ProblemKind {
    /// Every kind, for the documentation and the tests.
    pub(super) const ALL: [Self; 22] = [
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Misdirected,
        Self::Unprocessable,
        Self::RateLimited,
        Self::Internal,
        Self::Upstream,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::StorageFull,
        Self::BudgetExceeded,
        Self::KillSwitch,
        Self::TaskNotFinished,
        Self::TaskEnded,
        Self::TaskNotPaused,
    ];

    /// Status, slug and title.
    pub(super) fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed-request", "The request cannot be read"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "A valid key is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "The key may not do this"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is nothing here"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The method does not fit the path")
            }
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request came too slowly"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "The request contradicts the present state"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is larger than the limit"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The media type is not supported")
            }
            Self::Misdirected => {
                (StatusCode::MISDIRECTED_REQUEST, "misdirected-request", "The server does not go by this name")
            }
            Self::Unprocessable => {
                (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable-request", "A value in the request is not acceptable")
            }
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "The server failed"),
            Self::Upstream => (StatusCode::BAD_GATEWAY, "upstream-failed", "A model server failed"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The server cannot do this now"),
            Self::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline-exceeded", "The work took too long"),
            Self::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, "storage-full", "No space is left for writes"),
            Self::BudgetExceeded => (StatusCode::TOO_MANY_REQUESTS, "budget-exceeded", "A budget is used up"),
            Self::KillSwitch => {
                (StatusCode::SERVICE_UNAVAILABLE, "kill-switch", "Calls to language models are switched off")
            }
            Self::TaskNotFinished => (StatusCode::CONFLICT, "task-not-finished", "The task has not ended"),
            Self::TaskEnded => (StatusCode::CONFLICT, "task-ended", "The task has ended"),
            Self::TaskNotPaused => (StatusCode::CONFLICT, "task-not-paused", "The task is not paused"),
        }
    }

    pub(super) fn status(self) -> StatusCode {
        self.parts().0
    }

    /// The `type` of the problem document. A URN: it names, it claims no address.
    pub(super) fn type_uri(self) -> String {
        format!("urn:plumb:problem:{}", self.parts().1)
    }
}

impl From<ErrorKind> for ProblemKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::Malformed,
            ErrorKind::Unprocessable => Self::Unprocessable,
            ErrorKind::Unauthenticated => Self::Unauthenticated,
            ErrorKind::Forbidden => Self::Forbidden,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::TooLarge => Self::TooLarge,
            ErrorKind::UnsupportedMediaType => Self::UnsupportedMediaType,
            ErrorKind::RateLimited => Self::RateLimited,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::DeadlineExceeded => Self::DeadlineExceeded,
            ErrorKind::StorageFull => Self::StorageFull,
            ErrorKind::Upstream => Self::Upstream,
            // A client can do nothing about damaged bytes; `/readyz` tells the operator.
            ErrorKind::Corrupt | ErrorKind::Internal => Self::Internal,
        }
    }
}

/// A fault of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where, as a JSON pointer (RFC 6901) into the body; for a query or path parameter, into the object of parameters.
    #[schema(example = "/top_k")]
    pub pointer: String,
    /// What is wrong there and what is allowed.
    #[schema(example = "top_k must be between 1 and 1000")]
    pub detail: String,
}

impl FieldError {
    pub(super) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// A failure on its way to the client.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub kind: ProblemKind,
    /// What was wrong and what to do; safe to show.
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub retry_after: Option<Duration>,
    /// Further members of the document (RFC 9457 §3.2).
    pub members: Map<String, Value>,
}

/// The body of every error response.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProblemBody {
    /// A stable name of the problem: `urn:plumb:problem:<slug>`.
    #[serde(rename = "type")]
    #[schema(example = "urn:plumb:problem:unprocessable-request")]
    pub type_uri: String,
    #[schema(example = "A value in the request is not acceptable")]
    pub title: &'static str,
    #[schema(example = 422)]
    pub status: u16,
    /// What was wrong and what to do.
    pub detail: String,
    #[schema(example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    pub trace_id: String,
    /// All faults that could be found, not the first alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Further members, such as the counts of a batch of which nothing was taken.
    #[serde(flatten)]
    #[schema(ignore)]
    pub members: Map<String, Value>,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None, members: Map::new() }
    }

    /// 422 with every fault that was found.
    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.pointer.is_empty() => one.detail.clone(),
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} values are not acceptable; see errors", many.len()),
        };
        Self { errors, ..Self::new(ProblemKind::Unprocessable, detail) }
    }

    /// The one answer for ids that are unknown and for ids of somebody else.
    pub(super) fn not_found(what: &'static str) -> Self {
        Self::new(ProblemKind::NotFound, format!("no such {what}"))
    }

    pub(super) fn too_large(what: &str, limit_bytes: usize) -> Self {
        Self::new(ProblemKind::TooLarge, format!("{what} must not exceed {limit_bytes} bytes; see GET /limits"))
    }

    /// 503 with the time after which to try again.
    pub(super) fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ProblemKind::Unavailable, detail) }
    }

    /// A failure of a room below: the chain goes to the log, a sentence chosen by kind to the client.
    pub(super) fn from_failure(kind: ErrorKind, error: &(dyn Error + 'static)) -> Self {
        let problem = ProblemKind::from(kind);
        if problem.status().is_server_error() {
            tracing::error!(error = %chain(error), ?kind, "request failed");
        } else {
            tracing::info!(error = %chain(error), ?kind, "request refused");
        }
        Self { retry_after: Self::default_retry(kind), ..Self::new(problem, safe_sentence(kind)) }
    }

    /// When to try again if nothing better is known; `None` where trying again does not help.
    pub(super) fn default_retry(kind: ErrorKind) -> Option<Duration> {
        kind.is_retryable().then_some(RETRY_AFTER)
    }

    /// The same fault of a part of the request: `at` goes in front of every pointer.
    pub(super) fn inside(mut self, at: &str) -> Self {
        for error in &mut self.errors {
            error.pointer.insert_str(0, at);
        }
        if let [one] = self.errors.as_slice() {
            self.detail = format!("{}: {}", one.pointer, one.detail);
        }
        self
    }

    /// The document, once the trace is known.
    pub(super) fn into_body(self, trace: TraceId) -> ProblemBody {
        let (status, _, title) = self.kind.parts();
        ProblemBody {
            type_uri: self.kind.type_uri(),
            title,
            status: status.as_u16(),
            detail: self.detail,
            trace_id: trace.to_string(),
            errors: self.errors,
            members: self.members,
        }
    }

    /// The complete response.
    pub(super) fn render(self, trace: TraceId) -> Response {
        let (kind, retry_after) = (self.kind, self.retry_after);
        let mut response = (kind.status(), Json(self.into_body(trace))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if kind == ProblemKind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"plumb\""));
        }
        if let Some(wait) = retry_after {
            // Rounded up: "after 0 seconds" would invite a storm.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000).max(1) as u64));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// How long to wait before a retry when nothing better is known: an overload of this process passes in about that.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error with its causes, for the log.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What a client is told about a failure of this kind when nothing more precise is safe to say.
pub(super) fn safe_sentence(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidInput => "the request cannot be read",
        ErrorKind::Unprocessable => "a value in the request is not acceptable",
        ErrorKind::Unauthenticated => "send a valid key as `Authorization: Bearer <key>`",
        ErrorKind::Forbidden => "the key may not do this",
        ErrorKind::NotFound => "there is nothing under this id",
        ErrorKind::Conflict => "the request contradicts the present state",
        ErrorKind::TooLarge => "the request is larger than the limit; see GET /limits",
        ErrorKind::UnsupportedMediaType => "the media type is not supported",
        ErrorKind::RateLimited => "too many requests; try again later",
        ErrorKind::Unavailable => "the server cannot do this now; try again later, see GET /readyz",
        ErrorKind::DeadlineExceeded => "the work was not done in time; try again or ask for less",
        ErrorKind::StorageFull => "no space is left for writes; reads go on",
        ErrorKind::Upstream => "a model server failed; try again later",
        ErrorKind::Corrupt => "stored data are damaged; the operator finds the place in GET /readyz and in the log",
        ErrorKind::Internal => "the server failed; the log has the cause under this trace id",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_problem_has_its_own_slug_and_an_error_status() {
        let slugs: HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.parts().1).collect();

        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        assert!(ProblemKind::ALL.iter().all(|kind| kind.status().as_u16() >= 400));
    }

    #[test]
    fn a_failure_tells_the_client_nothing_of_its_cause() {
        let cause = std::io::Error::other("/var/lib/secret/path: token=abc");

        let problem = Problem::from_failure(ErrorKind::Internal, &cause);

        assert!(!format!("{problem:?}").contains("secret"));
    }
}
