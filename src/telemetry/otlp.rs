//! Finished traces on their way to a collector: OTLP over HTTP in its JSON encoding (OpenTelemetry protocol 1.x,
//! "JSON Protobuf Encoding"), spans of model calls by the GenAI semantic conventions.
//!
//! In that encoding ids are hexadecimal, 64-bit integers are strings and enums are numbers.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::redirect::Policy;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::domain::{SpanRecord, TraceRecord};

use super::error::TelemetryError;
use super::finished::FinishedTrace;
use super::recorder::trace_dropped;

/// Most traces in one request.
const BATCH: usize = 64;
/// Longest wait for the collector, each time; the specification's default.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Times that a batch is sent before it is given up.
const ATTEMPTS: u32 = 3;
/// Wait before a second attempt; a third waits twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// The span of one attempt to call a model.
const MODEL_ATTEMPT: &str = "gateway.attempt";

const KIND_INTERNAL: u8 = 1;
const KIND_SERVER: u8 = 2;
const KIND_CLIENT: u8 = 3;
const STATUS_ERROR: u8 = 2;

/// Sends traces to one collector.
pub struct TraceExporter {
    client: reqwest::Client,
    address: String,
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error("the collector cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("the collector answered {0}")]
    Refused(StatusCode),
}

impl TraceExporter {
    /// Sends to `/v1/traces` below `endpoint`. The process's TLS must have been installed.
    pub fn new(endpoint: &str) -> Result<Self, TelemetryError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("plumb/", env!("CARGO_PKG_VERSION")))
            .timeout(SEND_TIMEOUT)
            .redirect(Policy::none())
            .no_proxy();
        if endpoint.starts_with("http:") {
            // No certificate is ever checked, so a machine without any can still reach a local collector.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|source| TelemetryError::Exporter { source: Box::new(source) })?;
        Ok(Self { client, address: format!("{}/v1/traces", endpoint.trim_end_matches('/')) })
    }

    /// Sends what comes until there is no more. While a batch is on its way the next one gathers.
    pub async fn run(self, mut traces: mpsc::Receiver<FinishedTrace>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut is_lost = false;
        while traces.recv_many(&mut batch, BATCH).await > 0 {
            let outcome = self.deliver(&batch).await;
            match &outcome {
                Err(error) => {
                    trace_dropped("undelivered", batch.len());
                    // Once, not for each batch of a night without a collector.
                    if !is_lost {
                        tracing::warn!(error = error as &dyn std::error::Error, "traces cannot be sent");
                    }
                }
                Ok(()) if is_lost => tracing::info!("traces can be sent again"),
                Ok(()) => {}
            }
            is_lost = outcome.is_err();
            batch.clear();
        }
    }

    async fn deliver(&self, batch: &[FinishedTrace]) -> Result<(), Undelivered> {
        let body = request(batch).to_string();
        let mut attempt = 1;
        loop {
            match self.send(body.clone()).await {
                Err(error) if attempt < ATTEMPTS && error.may_pass() => sleep(PAUSE * attempt).await,
                outcome => return outcome,
            }
            attempt += 1;
        }
    }

    async fn send(&self, body: String) -> Result<(), Undelivered> {
        let request = self.client.post(&self.address).header("content-type", "application/json").body(body);
        let response = request.send().await.map_err(Undelivered::Unreachable)?;
        if response.status().is_success() { Ok(()) } else { Err(Undelivered::Refused(response.status())) }
    }
}

impl Undelivered {
    /// The codes that the specification calls retryable.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn request(batch: &[FinishedTrace]) -> Value {
    let spans: Vec<Value> = batch.iter().flat_map(|one| spans(&one.trace)).collect();
    let version = env!("CARGO_PKG_VERSION");
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            attribute("service.name", &json!("plumb")),
            attribute("service.version", &json!(version)),
        ]},
        "scopeSpans": [{"scope": {"name": "plumb", "version": version}, "spans": spans}],
    }]})
}

fn spans(trace: &TraceRecord) -> impl Iterator<Item = Value> {
    // The root comes first; see `finished`.
    trace.spans.iter().enumerate().map(|(at, span)| match at {
        0 => head(trace, span),
        _ if span.name == MODEL_ATTEMPT => model_call(span),
        _ => encoded(span, KIND_INTERNAL, own_attributes(span)),
    })
}

fn head(trace: &TraceRecord, span: &SpanRecord) -> Value {
    let mut attributes = own_attributes(span);
    let mut put = |key: &str, value: Value| attributes.push((key.to_owned(), value));
    let mut kind = KIND_INTERNAL;
    if let Some((method, route)) = trace.name.split_once(' ') {
        kind = KIND_SERVER;
        put("http.request.method", method.into());
        put("http.route", route.into());
        put("http.response.status_code", trace.status.into());
    }
    put("plumb.kept", trace.kept.as_str().into());
    if let Some(tenant) = &trace.tenant {
        put("plumb.tenant", tenant.as_str().into());
    }
    let mut encoded = encoded(span, kind, attributes);
    encoded["name"] = trace.name.as_str().into();
    if trace.status >= 500 {
        encoded["status"] = json!({"code": STATUS_ERROR});
    }
    encoded
}

/// By the semantic conventions for spans of generative AI clients.
fn model_call(span: &SpanRecord) -> Value {
    const OPERATION: &str = "chat";
    let names = [
        ("provider", "gen_ai.provider.name"),
        ("model", "gen_ai.request.model"),
        ("answered_model", "gen_ai.response.model"),
        ("input_tokens", "gen_ai.usage.input_tokens"),
        ("output_tokens", "gen_ai.usage.output_tokens"),
        ("task", "plumb.task"),
    ];
    let mut attributes = vec![("gen_ai.operation.name".to_owned(), json!(OPERATION))];
    let mut is_error = span.is_error;
    for (name, value) in own_attributes(span) {
        if name == "outcome" {
            if value != "ok" {
                is_error = true;
                attributes.push(("error.type".to_owned(), value));
            }
            continue;
        }
        let known = names.iter().find(|(own, _)| *own == name).map(|(_, known)| (*known).to_owned());
        attributes.push((known.unwrap_or(name), value));
    }
    let mut encoded = encoded(span, KIND_CLIENT, attributes);
    if let Some(model) = span.attributes.get("model").and_then(Value::as_str) {
        encoded["name"] = format!("{OPERATION} {model}").into();
    }
    if is_error {
        encoded["status"] = json!({"code": STATUS_ERROR});
    }
    encoded
}

fn own_attributes(span: &SpanRecord) -> Vec<(String, Value)> {
    span.attributes.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn encoded(span: &SpanRecord, kind: u8, attributes: Vec<(String, Value)>) -> Value {
    let begin_ns = i128::from(span.started_at.0) * 1_000;
    let end_ns = begin_ns + i128::from(span.duration_us) * 1_000;
    let attributes: Vec<Value> = attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    let mut encoded = Map::new();
    let mut put = |key: &str, value: Value| encoded.insert(key.to_owned(), value);
    put("traceId", span.trace_id.to_string().into());
    put("spanId", span.span_id.to_string().into());
    if let Some(parent) = span.parent {
        put("parentSpanId", parent.to_string().into());
    }
    put("name", span.name.as_str().into());
    put("kind", kind.into());
    put("startTimeUnixNano", begin_ns.to_string().into());
    put("endTimeUnixNano", end_ns.to_string().into());
    put("attributes", attributes.into());
    if span.is_error {
        put("status", json!({"code": STATUS_ERROR}));
    }
    Value::Object(encoded)
}

fn attribute(key: &str, value: &Value) -> Value {
    let typed = match value {
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(number) if !number.is_f64() => json!({"intValue": number.to_string()}),
        Value::Number(number) => json!({"doubleValue": number}),
        Value::String(text) => json!({"stringValue": text}),
        other => json!({"stringValue": other.to_string()}),
    };
    json!({"key": key, "value": typed})
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::State;
    use axum::http::HeaderMap;
    use axum::routing::post;
    use tokio::net::TcpListener;

    use super::*;
    use crate::domain::{SpanId, TenantId, Timestamp, TraceId};

    const TRACE: TraceId = TraceId([0x4b; 16]);
    /// 2026-01-01T00:00:00Z.
    const BEGIN: i64 = 1_767_225_600_000_000;

    fn span(id: u8, parent: Option<u8>, name: &str, attributes: Value) -> SpanRecord {
        SpanRecord {
            trace_id: TRACE,
            span_id: SpanId([id; 8]),
            parent: parent.map(|parent| SpanId([parent; 8])),
            name: name.to_owned(),
            started_at: Timestamp(BEGIN + i64::from(id)),
            duration_us: 1_500,
            is_error: false,
            attributes: serde_json::from_value(attributes).unwrap(),
        }
    }

    fn finished() -> FinishedTrace {
        let attempt = json!({
            "provider": "openai", "model": "small", "answered_model": "small-1", "input_tokens": 700,
            "output_tokens": 60, "task": "answer", "outcome": "overloaded", "attempt": 1
        });
        let trace = TraceRecord {
            trace_id: TRACE,
            tenant: Some(TenantId::new("acme").unwrap()),
            name: "POST /answer".to_owned(),
            started_at: Timestamp(BEGIN),
            duration_us: 2_000,
            status: 200,
            kept: "model_call".to_owned(),
            spans: vec![
                span(1, Some(0xff), "request", json!({})),
                span(
                    2,
                    Some(1),
                    "search.lexical",
                    json!({"found": 7, "share": 0.5, "is_cached": true, "mode": "hybrid"}),
                ),
                span(3, Some(1), "gateway.attempt", attempt),
            ],
        };
        FinishedTrace { trace, searches: Vec::new() }
    }

    fn attributes(span: &Value) -> Value {
        let pairs = span["attributes"].as_array().unwrap().iter();
        pairs.map(|one| (one["key"].as_str().unwrap().to_owned(), one["value"].clone())).collect()
    }

    type Arrived = (HeaderMap, Value);

    /// A collector that answers with these statuses in turn, and what arrives there.
    async fn collector(statuses: &[u16]) -> (String, mpsc::Receiver<Arrived>) {
        crate::gateway::install_tls();
        let (sender, arrived) = mpsc::channel(8);
        let statuses = std::sync::Arc::new(parking_lot::Mutex::new(statuses.to_vec()));
        let take = async |State(sender): State<mpsc::Sender<Arrived>>, headers: HeaderMap, body: String| {
            sender.send((headers, serde_json::from_str(&body).unwrap())).await.unwrap();
        };
        let answer = move |state: State<mpsc::Sender<Arrived>>, headers: HeaderMap, body: String| {
            let status = statuses.lock().remove(0);
            async move {
                take(state, headers, body).await;
                StatusCode::from_u16(status).unwrap()
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(answer)).with_state(sender);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (address, arrived)
    }

    async fn export(address: &str) {
        let (sender, receiver) = mpsc::channel(1);
        sender.send(finished()).await.unwrap();
        drop(sender);
        TraceExporter::new(address).unwrap().run(receiver).await;
    }

    #[tokio::test]
    async fn a_collector_gets_the_spans_with_their_own_ids_and_times() {
        let (address, mut arrived) = collector(&[200]).await;

        export(&address).await;

        let (headers, body) = arrived.recv().await.unwrap();
        assert_eq!(headers["content-type"], "application/json");
        let resource = &body["resourceSpans"][0];
        assert_eq!(attributes(&resource["resource"])["service.name"], json!({"stringValue": "plumb"}));
        let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
        let (root, leg) = (&spans[0], &spans[1]);
        assert_eq!((&root["traceId"], &root["spanId"]), (&json!(TRACE.to_string()), &json!("0101010101010101")));
        assert_eq!((&root["parentSpanId"], &leg["parentSpanId"]), (&json!("ff".repeat(8)), &json!("01".repeat(8))));
        assert_eq!((&root["name"], &root["kind"], &leg["kind"]), (&json!("POST /answer"), &json!(2), &json!(1)));
        assert_eq!(root["startTimeUnixNano"], "1767225600000001000");
        assert_eq!(root["endTimeUnixNano"], "1767225600001501000");
        let own = json!({"found": {"intValue": "7"}, "share": {"doubleValue": 0.5}, "is_cached": {"boolValue": true},
            "mode": {"stringValue": "hybrid"}});
        assert_eq!(attributes(leg), own);
        let head = attributes(root);
        assert_eq!(
            (&head["http.route"], &head["plumb.tenant"]),
            (&json!({"stringValue": "/answer"}), &json!({"stringValue": "acme"}))
        );
        assert!(root.get("status").is_none());
    }

    #[test]
    fn a_model_call_follows_the_conventions_for_generative_ai() {
        let body = request(&[finished()]);

        let call = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][2];
        assert_eq!(
            (&call["name"], &call["kind"], &call["status"]["code"]),
            (&json!("chat small"), &json!(3), &json!(2))
        );
        let text = |text: &str| json!({"stringValue": text});
        let expected = json!({
            "gen_ai.operation.name": text("chat"), "gen_ai.provider.name": text("openai"),
            "gen_ai.request.model": text("small"), "gen_ai.response.model": text("small-1"),
            "gen_ai.usage.input_tokens": {"intValue": "700"}, "gen_ai.usage.output_tokens": {"intValue": "60"},
            "plumb.task": text("answer"), "error.type": text("overloaded"), "attempt": {"intValue": "1"}
        });
        assert_eq!(attributes(call), expected);
    }

    #[tokio::test]
    async fn a_busy_collector_is_asked_again_and_one_that_refuses_is_not() {
        let (busy, mut at_busy) = collector(&[503, 200]).await;
        let (refusing, mut at_refusing) = collector(&[400, 200]).await;

        export(&busy).await;
        export(&refusing).await;

        assert_eq!(at_busy.recv().await.unwrap(), at_busy.recv().await.unwrap());
        assert!(at_busy.try_recv().is_err());
        assert!(at_refusing.recv().await.is_some());
        assert!(at_refusing.try_recv().is_err());
    }
}
