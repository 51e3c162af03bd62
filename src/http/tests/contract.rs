//! What holds for every route: traces, the description, limits, readiness.

use std::collections::BTreeSet;

use axum::body::Body;
use serde_json::{Value, json};

use crate::http::problem::ProblemKind;
use crate::http::{Severity, Shortfall};

use super::world::{World, request};

/// The routes of the contract.
const ROUTES: [(&str, &[&str]); 43] = [
    ("/", &["get"]),
    ("/admin/kill-switch", &["get", "post"]),
    ("/answer", &["post"]),
    ("/budgets", &["get"]),
    ("/budgets/reservations/{call_id}/resolve", &["post"]),
    ("/budgets/{scope}", &["put"]),
    ("/chunks/{chunk_id}", &["get"]),
    ("/collections", &["get"]),
    ("/documents", &["get", "post"]),
    ("/documents/{document_id}", &["delete", "get", "put"]),
    ("/documents/{document_id}/chunks", &["get"]),
    ("/documents/{document_id}/content", &["get"]),
    ("/documents/{document_id}/versions", &["get"]),
    ("/evals/cases", &["get", "put"]),
    ("/evals/cases/{case_id}", &["delete"]),
    ("/failures", &["get"]),
    ("/generations", &["get", "post"]),
    ("/generations/{generation_id}", &["get"]),
    ("/generations/{generation_id}/plan", &["put"]),
    ("/generations/{generation_id}/promote", &["post"]),
    ("/generations/{generation_id}/report", &["get"]),
    ("/generations/{generation_id}/retire", &["post"]),
    ("/generations/{generation_id}/rollback", &["post"]),
    ("/healthz", &["get"]),
    ("/limits", &["get"]),
    ("/metrics", &["get"]),
    ("/openapi.json", &["get"]),
    ("/readyz", &["get"]),
    ("/search", &["get", "post"]),
    ("/search/batch", &["post"]),
    ("/tasks", &["get", "post"]),
    ("/tasks/{task_id}", &["get"]),
    ("/tasks/{task_id}/cancel", &["post"]),
    ("/tasks/{task_id}/events", &["get"]),
    ("/tasks/{task_id}/failures", &["get"]),
    ("/tasks/{task_id}/fork", &["post"]),
    ("/tasks/{task_id}/pause", &["post"]),
    ("/tasks/{task_id}/redrive", &["post"]),
    ("/tasks/{task_id}/result", &["get"]),
    ("/tasks/{task_id}/resume", &["post"]),
    ("/tasks/{task_id}/steps/{step}", &["get"]),
    ("/traces/{trace_id}", &["get"]),
    ("/usage", &["get"]),
];

fn filled_in(path: &str) -> String {
    let path = path.replace("{document_id}", "a").replace("{chunk_id}", "b").replace("{trace_id}", "c");
    path.replace("{generation_id}", "i")
        .replace("{scope}", "d")
        .replace("{call_id}", "e")
        .replace("{task_id}", "f")
        .replace("{step}", "g")
        .replace("{case_id}", "h")
}

fn description() -> Value {
    serde_json::from_str(&crate::http::openapi_json()).unwrap()
}

#[tokio::test]
async fn the_description_names_exactly_the_routes_there_are() {
    let world = World::open();
    let api = description();
    let mut expected: BTreeSet<(String, String)> = ROUTES
        .iter()
        .flat_map(|(path, methods)| methods.iter().map(|method| ((*path).to_owned(), (*method).to_owned())))
        .collect();
    expected.insert(("/version".to_owned(), "get".to_owned()));

    let found: BTreeSet<(String, String)> = api["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(|method| (path.clone(), method.clone())))
        .collect();

    assert_eq!(found, expected);
    for (path, _) in &found {
        let path = filled_in(path);
        for method in ["get", "put", "post", "delete", "patch"] {
            let status = world.send(request(&method.to_uppercase(), &path, &[], Body::empty())).await.status;
            let template = found.iter().any(|(known, has)| filled_in(known) == path && has == method);
            assert_eq!(status != 405, template, "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn the_description_is_served_and_whole() {
    let world = World::open();

    let served = world.get("/openapi.json").await.json();

    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(served, description());
    let text = served.to_string();
    for kind in ProblemKind::ALL {
        assert!(text.contains(&kind.type_uri()), "{kind:?} is not described");
    }
    let schemas = served["components"]["schemas"].as_object().unwrap();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name} is referred to but not described");
    }
}

#[tokio::test]
async fn the_page_to_try_the_api_needs_nothing_from_elsewhere() {
    let world = World::open();

    let redirect = world.get("/docs").await;
    let page = world.get("/docs/").await;
    let script = world.get("/docs/swagger-initializer.js").await;

    assert!(redirect.status.is_redirection());
    assert_eq!(page.status, 200);
    assert!(!page.text.contains("https://"));
    assert!(script.text.contains("/openapi.json"));
}

#[tokio::test]
async fn request_fields_are_described_as_they_are_read() {
    let api = description();
    let world = World::open();
    let cases = [("SearchRequestBody", "/search"), ("AnswerRequestBody", "/answer")];

    for (schema, path) in cases {
        let properties = api["components"]["schemas"][schema]["properties"].as_object().unwrap();
        assert!(properties.len() >= 9);
        for property in properties.keys() {
            let body: Value = [(property.clone(), json!({"no": ["such", "value"]}))].into_iter().collect();
            let text = world.post(path, body.to_string()).await.text;
            assert!(!text.contains(&format!("unknown field `{property}`")), "{path} does not read {property}: {text}");
        }
    }
}

#[tokio::test]
async fn a_valid_traceparent_is_continued_and_anything_else_starts_a_trace() {
    let world = World::open();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let sent = async |values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|value| ("traceparent", *value)).collect();
        let reply = world.send(request("GET", "/version", &headers, Body::empty())).await;
        assert_eq!(reply.json()["trace_id"], reply.header("x-trace-id"));
        reply.header("x-trace-id").to_owned()
    };

    let valid = format!("00-{trace}-00f067aa0ba902b7-01");
    assert_eq!(sent(&[&valid]).await, trace);
    let mut seen = BTreeSet::new();
    for values in [&[][..], &["junk"], &["00-0-0-0"], &[&valid, &valid], &[""]] {
        let fresh = sent(values).await;
        assert!(fresh.len() == 32 && fresh != trace && seen.insert(fresh.clone()), "{values:?}: {fresh}");
    }
}

#[tokio::test]
async fn every_response_carries_a_trace_and_is_not_sniffed() {
    let world = World::open();
    for (method, path) in
        [("GET", "/"), ("GET", "/nowhere"), ("PATCH", "/search"), ("GET", "/docs/"), ("GET", "/metrics")]
    {
        let reply = world.send(request(method, path, &[], Body::empty())).await;
        assert_eq!(reply.header("x-trace-id").len(), 32, "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
    }
}

#[tokio::test]
async fn limits_of_all_rooms_are_listed() {
    let limits = World::open().get("/limits").await.json()["limits"].clone();

    for name in ["max_query_body_bytes", "max_top_k", "max_title_bytes", "request_timeout_ms", "task_max_items"] {
        assert!(limits[name].as_u64().is_some_and(|value| value > 0), "{name} is missing in {limits}");
    }
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let world = World::open();
    let shortfall = |part, severity| Shortfall { part, detail: "run `plumb models fetch`".to_owned(), severity };

    assert_eq!(world.get("/readyz").await.json()["status"], "ready");
    world.rooms.shortfalls.lock().push(shortfall("embedder", Severity::Degraded));
    let degraded = world.get("/readyz").await;
    world.rooms.shortfalls.lock().push(shortfall("store", Severity::Blocking));
    let unready = world.get("/readyz").await;

    assert_eq!((degraded.status.as_u16(), &degraded.json()["status"]), (200, &json!("degraded")));
    assert_eq!(unready.status, 503);
    let expected = json!([
        {"part": "embedder", "detail": "run `plumb models fetch`", "blocks": false},
        {"part": "store", "detail": "run `plumb models fetch`", "blocks": true},
    ]);
    assert_eq!((&unready.json()["status"], &unready.json()["missing"]), (&json!("unready"), &expected));
    assert_eq!(world.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn the_front_page_speaks_to_people_and_programs() {
    let world = World::open();

    let page = world.send(request("GET", "/", &[("accept", "text/html,*/*")], Body::empty())).await;
    let object = world.get("/").await.json();

    assert!(page.text.contains("href=\"/docs\""));
    assert_eq!(object["documentation"], "/docs");
    assert_eq!(world.get("/metrics").await.text, "plumb_up 1\n");
}
