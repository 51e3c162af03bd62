//! What a request leaves behind: one trace, with the head that only this room knows.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ::tracing::subscriber::DefaultGuard;
use axum::body::Body;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::mpsc::Receiver;

use crate::domain::{Permission, SpanId};
use crate::http::HttpSettings;
use crate::telemetry::{FinishedTrace, TraceSettings, finished_traces, recording};

use super::world::{World, keyed, request};

fn record() -> (DefaultGuard, Receiver<FinishedTrace>) {
    let settings = TraceSettings { max_per_second: u32::MAX, ..TraceSettings::default() };
    let guard = ::tracing::subscriber::set_default(recording(&settings));
    (guard, finished_traces().unwrap())
}

fn streamed_question() -> axum::http::Request<Body> {
    let body = json!({"question": "a", "stream": true}).to_string();
    request("POST", "/answer", &[("content-type", "application/json")], body)
}

#[tokio::test]
async fn a_trace_names_route_status_and_tenant_and_no_path() {
    let (_guard, mut traces) = record();
    let (key, auth) = keyed("acme", &[Permission::Write]);
    let world = World::with(HttpSettings::default(), auth);
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let bearer = format!("Bearer {key}");

    let headers = [("authorization", bearer.as_str()), ("traceparent", parent)];
    world.send(request("GET", "/documents/docs%2Fa.md/versions", &headers, Body::empty())).await;
    world.send(request("GET", "/documents/docs%2Fa.md/versions", &[], Body::empty())).await;
    world.get("/healthz").await;

    let known = traces.try_recv().unwrap();
    assert!(traces.try_recv().is_err(), "what belongs to nobody is not kept");
    assert_eq!(known.trace.name, "GET /documents/{document_id}/versions");
    assert_eq!((known.trace.status, known.trace.tenant.as_ref().unwrap().as_str()), (200, "acme"));
    assert_eq!(known.trace.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(known.trace.spans[0].parent, Some(SpanId([0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7])));
    let told = format!("{known:?}");
    assert!(!told.contains("a.md") && !told.contains(&key));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_told_with_its_tenant() {
    let (_guard, mut traces) = record();
    let world = World::open();
    world.rooms.stuck.store(true, Ordering::SeqCst);

    let asked = world.post("/search", json!({"query": "a"}).to_string());
    assert!(tokio::time::timeout(Duration::from_secs(1), asked).await.is_err());

    let trace = traces.try_recv().unwrap().trace;
    assert_eq!((trace.name.as_str(), trace.status), ("POST /search", 499));
    assert_eq!(trace.tenant.unwrap().as_str(), "default");
}

#[tokio::test]
async fn the_trace_of_a_streamed_answer_ends_with_its_body() {
    let (_guard, mut traces) = record();
    let world = World::open();

    let response = world.begin(streamed_question()).await;
    assert!(traces.try_recv().is_err());
    let frames = response.into_body().into_data_stream().count().await;

    assert!(frames > 1);
    assert_eq!(traces.try_recv().unwrap().trace.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_is_told() {
    let (_guard, mut traces) = record();
    let world = World::open();

    let mut frames = world.begin(streamed_question()).await.into_body().into_data_stream();
    assert!(frames.next().await.is_some());
    drop(frames);

    assert_eq!(traces.try_recv().unwrap().trace.status, 499);
}
