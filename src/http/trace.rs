//! The outermost layer: gives each request a trace id, counts and logs it, and writes problems.
//!
//! The log line names method, route template, status, time and tenant; never a path, a query string, a body or a key.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::{FutureExt, Stream};
use metrics::{counter, gauge, histogram};
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};

use crate::domain::{TenantId, TraceId};
use crate::telemetry::{TraceParent, new_trace_id, parse_traceparent};

use super::problem::{Problem, ProblemKind};

/// What is known of a request before anything else.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestContext {
    pub trace: TraceId,
    /// When the request was taken: deadlines count from here.
    pub taken_at: Instant,
}

/// Set on a response by the layer that knows the caller.
#[derive(Debug, Clone)]
pub(super) struct ServedTenant(pub TenantId);

/// The header that names the trace in every response.
pub(super) const TRACE_HEADER: HeaderName = HeaderName::from_static("x-trace-id");

/// Runs the request inside its trace.
pub(super) async fn trace(mut request: Request, next: Next) -> Response {
    let parent = parent_of(&request);
    let trace = parent.map_or_else(new_trace_id, |parent| parent.trace);
    let context = RequestContext { trace, taken_at: Instant::now() };
    request.extensions_mut().insert(context);
    let span = request_span(trace, parent);
    let record = Record::open(&request, context, span.clone());
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    // The panic itself is in the log already, with its place.
    let response = response.unwrap_or_else(|_| {
        let detail = "the server failed; the log has the cause under this trace id";
        axum::response::IntoResponse::into_response(Problem::new(ProblemKind::Internal, detail))
    });
    let tenant = response.extensions().get::<ServedTenant>().cloned();
    let mut response = finished(response, context.trace);
    response.headers_mut().insert(TRACE_HEADER, header_value(context.trace));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    record.close(response.status(), tenant);
    if is_streamed(&response) { traced(response, span) } else { response }
}

fn parent_of(request: &Request) -> Option<TraceParent> {
    let mut headers = request.headers().get_all("traceparent").iter();
    // Several contradict each other: none of them is valid (Trace Context §3.2).
    let single = headers.next().filter(|_| headers.next().is_none());
    single.and_then(|value| value.to_str().ok()).and_then(parse_traceparent)
}

/// The root of everything that the request sets going; its fields become the head of its trace.
fn request_span(trace: TraceId, parent: Option<TraceParent>) -> Span {
    let span = tracing::info_span!(
        "request",
        trace_id = %trace,
        parent_span_id = Empty,
        method = Empty,
        route = Empty,
        status = Empty,
        tenant = Empty,
    );
    if let Some(parent) = parent {
        span.record("parent_span_id", display(parent.span));
    }
    span
}

/// Names the caller in the trace of the request that is being worked on.
pub(super) fn record_tenant(tenant: &TenantId) {
    Span::current().record("tenant", tenant.as_str());
}

/// Work goes on while the body is sent, and the trace ends with it.
fn traced(response: Response, span: Span) -> Response {
    response.map(|body| Body::from_stream(TracedBody { frames: body.into_data_stream(), span, is_over: false }))
}

struct TracedBody {
    frames: BodyDataStream,
    span: Span,
    is_over: bool,
}

impl Stream for TracedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let span = self.span.clone();
        let _inside = span.enter();
        let frame = Pin::new(&mut self.frames).poll_next(context);
        self.is_over |= matches!(frame, Poll::Ready(None));
        frame
    }
}

impl Drop for TracedBody {
    fn drop(&mut self) {
        if !self.is_over {
            self.span.record("status", CLIENT_CLOSED);
        }
    }
}

fn header_value(trace: TraceId) -> HeaderValue {
    HeaderValue::from_str(&trace.to_string()).expect("hexadecimal digits fit into a header")
}

// Problems get their body here; so does any error response that something else made.
fn finished(mut response: Response, trace: TraceId) -> Response {
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None => match foreign_problem(&response) {
            Some(problem) => problem,
            None => return response,
        },
    };
    let allow = response.headers_mut().remove(header::ALLOW);
    let mut rendered = problem.render(trace);
    if let Some(allow) = allow {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    rendered
}

fn foreign_problem(response: &Response) -> Option<Problem> {
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_JSON);
    if status.as_u16() < 400 || is_problem || response.extensions().get::<OwnBody>().is_some() {
        return None;
    }
    let kind = ProblemKind::ALL.into_iter().find(|kind| kind.status() == status);
    let kind = kind.unwrap_or(if status.is_server_error() { ProblemKind::Internal } else { ProblemKind::Malformed });
    Some(Problem::new(kind, kind.parts().2.to_lowercase()))
}

const PROBLEM_JSON: &str = "application/problem+json";

/// Marks a response with an error status whose body is not a problem by intent (`/readyz`).
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnBody;

/// One request in the metrics and in the log; a request whose client goes away first is recorded as 499.
struct Record {
    method: &'static str,
    route: String,
    context: RequestContext,
    span: tracing::Span,
    closed: bool,
}

/// The status of requests whose client closed the connection, as nginx has it.
const CLIENT_CLOSED: u16 = 499;

impl Record {
    fn open(request: &Request, context: RequestContext, span: tracing::Span) -> Self {
        gauge!("plumb_http_requests_in_flight").increment(1.0);
        let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
        let method = method_label(request);
        span.record("method", method).record("route", route.as_str());
        Self { method, route, context, span, closed: false }
    }

    fn close(mut self, status: StatusCode, tenant: Option<ServedTenant>) {
        self.closed = true;
        self.write(status.as_u16(), tenant.as_ref().map_or("-", |tenant| tenant.0.as_str()));
    }

    fn write(&self, status: u16, tenant: &str) {
        let took = self.context.taken_at.elapsed();
        self.span.record("status", status);
        let code = status.to_string();
        let labels = [("method", self.method.to_owned()), ("route", self.route.clone()), ("status", code)];
        counter!("plumb_http_requests_total", &labels).increment(1);
        histogram!("plumb_http_request_duration_seconds", &labels).record(took.as_secs_f64());
        let latency_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        let (method, route) = (self.method, self.route.as_str());
        self.span.in_scope(|| tracing::info!(method, route, status, latency_ms, tenant, "request"));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        gauge!("plumb_http_requests_in_flight").decrement(1.0);
        if !self.closed {
            self.write(CLIENT_CLOSED, "-");
        }
    }
}

// A method is a caller's free text; as a label it must be one of a few.
fn method_label(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "PUT" => "PUT",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

/// True if a response is still being made while it is sent.
pub(super) fn is_streamed(response: &Response) -> bool {
    response.body().size_hint().exact().is_none()
}
