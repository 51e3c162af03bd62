//! `/traces` on the wire.

use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};

use crate::domain::{
    CacheUse, CallId, CollectionName, ErrorKind, LlmCall, Mode, Nanousd, Permission, SearchRecord, SpanId, SpanRecord,
    StageTimings, StepName, TaskFailure, TaskId, TaskKind, TaskProblem, TenantId, Timestamp, TraceId, TraceRecord,
    TraceStep, TraceStory, Usage, UsageSource,
};
use crate::http::wire::TraceBody;
use crate::http::{HttpSettings, Services};
use crate::store::LedgerEntry;

use super::world::{World, keyed, request, services};

const TRACE: TraceId = TraceId([0x4b; 16]);
/// 2026-01-01T00:00:00Z.
const BEGIN: i64 = 1_767_225_600_000_000;

fn span(id: u8, parent: u8, name: &str, (after_us, duration_us): (i64, u64)) -> SpanRecord {
    SpanRecord {
        trace_id: TRACE,
        span_id: SpanId([id; 8]),
        parent: Some(SpanId([parent; 8])),
        name: name.to_owned(),
        started_at: Timestamp(BEGIN + after_us),
        duration_us,
        is_error: false,
        attributes: [("found".to_owned(), json!(7)), ("name".to_owned(), json!("own"))].into(),
    }
}

fn request_record(tenant: &TenantId) -> TraceRecord {
    let mut root = span(1, 0xff, "request", (0, 90_000));
    root.attributes.clear();
    TraceRecord {
        trace_id: TRACE,
        tenant: Some(tenant.clone()),
        name: "POST /answer".to_owned(),
        started_at: Timestamp(BEGIN),
        duration_us: 90_000,
        status: 200,
        kept: "model_call".to_owned(),
        spans: vec![
            root,
            span(2, 1, "search", (0, 2_600)),
            span(3, 2, "search.lexical", (100, 1_200)),
            span(4, 1, "gateway.attempt", (3_000, 80_000)),
        ],
    }
}

fn search_record(tenant: &TenantId) -> SearchRecord {
    SearchRecord {
        trace_id: TRACE,
        tenant: tenant.clone(),
        collection: CollectionName::new("default").unwrap(),
        mode: Mode::Hybrid,
        generation: None,
        top_k: 10,
        hits: 4,
        started_at: Timestamp(BEGIN),
        took_us: 2_500,
        timings: StageTimings { lexical_ms: 1.2, ..StageTimings::default() },
        degraded: vec!["rerank:deadline".to_owned()],
    }
}

fn call(tenant: &TenantId, outcome: &str, attempt: u32) -> LlmCall {
    LlmCall {
        call_id: CallId([9; 16]),
        attempt,
        trace_id: TRACE,
        span_id: SpanId([4; 8]),
        tenant: tenant.clone(),
        task: "answer".to_owned(),
        session_id: None,
        key_id: None,
        provider: "local".to_owned(),
        model: "small".to_owned(),
        answered_model: Some("small-1".to_owned()),
        prompt: None,
        started_at: Timestamp(BEGIN + 3_000 + i64::from(attempt)),
        latency_us: 79_000,
        first_token_us: Some(20_000),
        outcome: outcome.to_owned(),
        status: Some(200),
        finish: Some("stop".to_owned()),
        is_streamed: true,
        cache: CacheUse::Miss,
        usage: Usage { input_tokens: 700, cached_input_tokens: 0, output_tokens: 60 },
        usage_source: UsageSource::Reported,
        cost: Nanousd(210_000),
        request_body: Some("a secret question".to_owned()),
        response_body: Some("a secret answer".to_owned()),
    }
}

async fn tell(services: &Services, tenant: &str) {
    let tenant = TenantId::new(tenant).unwrap();
    let entries = vec![
        LedgerEntry::Trace(Box::new(request_record(&tenant))),
        LedgerEntry::Search(Box::new(search_record(&tenant))),
        LedgerEntry::Call(Box::new(call(&tenant, "overloaded", 1))),
        LedgerEntry::Call(Box::new(call(&tenant, "ok", 2))),
    ];
    services.ledger.record(entries).await.unwrap();
}

#[tokio::test]
async fn a_trace_is_told_on_one_timeline_with_its_cost() {
    let world = World::open();
    tell(&services(&world.rooms), "default").await;

    let reply = world.get(&format!("/traces/{TRACE}")).await;

    let body = reply.json();
    assert_eq!(body["trace_id"], TRACE.to_string());
    let head = json!([{"name": "POST /answer", "started_at": "2026-01-01T00:00:00Z", "duration_ms": 90.0, "status": 200,
        "kept": "model_call"}]);
    assert_eq!((&body["requests"], &body["cost_usd"], &body["llm_calls"]), (&head, &json!(0.000_42), &json!(2)));
    let told: Vec<(&str, &str, f64)> = body["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["kind"].as_str().unwrap(), one["name"].as_str().unwrap(), one["at_ms"].as_f64().unwrap()))
        .collect();
    let expected = [
        ("request", "POST /answer", 0.0),
        ("search", "search", 0.0),
        ("span", "search.lexical", 0.1),
        ("span", "gateway.attempt", 3.0),
        ("llm_call", "answer", 3.001),
        ("llm_call", "answer", 3.002),
    ];
    assert_eq!(told, expected);
    assert!(!reply.text.contains("secret"));
}

#[tokio::test]
async fn an_entry_names_its_span_and_carries_its_numbers() {
    let world = World::open();
    tell(&services(&world.rooms), "default").await;

    let timeline = world.get(&format!("/traces/{TRACE}")).await.json()["timeline"].clone();

    let id = |byte: u8| Value::from(SpanId([byte; 8]).to_string());
    let ids = |at: usize| (timeline[at]["span_id"].clone(), timeline[at]["parent_span_id"].clone());
    assert_eq!([ids(0), ids(1), ids(2)], [(id(1), id(0xff)), (id(2), id(1)), (id(3), id(2))]);
    assert_eq!([ids(3), ids(4)], [(id(4), id(1)), (id(4), id(1))]);
    let search = &timeline[1];
    assert_eq!((&search["duration_ms"], &search["hits"], &search["mode"]), (&json!(2.5), &json!(4), &json!("hybrid")));
    assert_eq!(search["timings_ms"]["lexical"], 1.2);
    assert_eq!((&timeline[2]["found"], &timeline[2]["field.name"]), (&json!(7), &json!("own")));
    assert_eq!((&timeline[4]["is_error"], &timeline[5]["is_error"]), (&json!(true), &json!(false)));
    assert_eq!((&timeline[5]["output_tokens"], &timeline[5]["cost_usd"]), (&json!(60), &json!(0.000_21)));
}

#[test]
fn steps_of_tasks_and_their_failures_stand_on_the_timeline() {
    let (task_id, kind, step) = (TaskId([7; 16]), TaskKind::new("map").unwrap(), StepName::new("summarize").unwrap());
    let record = TraceStep {
        task_id,
        run: 1,
        kind: kind.clone(),
        step: step.clone(),
        item: 2,
        of: 5,
        attempt: 2,
        started_at: Timestamp(BEGIN + 4_000),
        finished_at: Timestamp(BEGIN + 6_500),
    };
    let failure = TaskFailure {
        task_id,
        run: 1,
        kind,
        step: Some(step),
        item: Some(2),
        input_hash: None,
        problem: TaskProblem { kind: ErrorKind::Upstream, detail: "refused".to_owned() },
        model: Some("small".to_owned()),
        prompt_version: None,
        trace_id: TRACE,
        attempt: 1,
        is_final: false,
        at: Timestamp(BEGIN + 1_000),
    };

    let story = TraceStory { steps: vec![record], failures: vec![failure], ..TraceStory::default() };
    let timeline = serde_json::to_value(TraceBody::new(TRACE, story)).unwrap()["timeline"].clone();

    let place = |at: usize| (timeline[at]["kind"].clone(), timeline[at]["at_ms"].clone(), timeline[at]["item"].clone());
    assert_eq!(place(0), (json!("task_failure"), json!(0.0), json!(2)));
    assert_eq!(timeline[0]["error"], json!({"kind": "upstream", "detail": "refused"}));
    assert_eq!((&timeline[0]["is_error"], &timeline[0]["task_id"]), (&json!(true), &json!(task_id.to_string())));
    assert_eq!(place(1), (json!("task_step"), json!(3.0), json!(2)));
    assert_eq!((&timeline[1]["name"], &timeline[1]["duration_ms"]), (&json!("summarize"), &json!(2.5)));
}

#[tokio::test(start_paused = true)]
async fn who_asks_at_once_waits_for_the_trace_to_be_written() {
    let world = World::open();
    let services = services(&world.rooms);
    let writing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tell(&services, "default").await;
    };

    let path = format!("/traces/{TRACE}");
    let (reply, ()) = tokio::join!(world.get(&path), writing);

    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_trace_of_somebody_else_is_unknown() {
    let (key, auth) = keyed("acme", &[Permission::Search]);
    let world = World::with(HttpSettings::default(), auth);
    let bearer = format!("Bearer {key}");
    let ask = async |id: &str| {
        world.send(request("GET", &format!("/traces/{id}"), &[("authorization", &bearer)], Body::empty())).await
    };
    tell(&services(&world.rooms), "other").await;

    let foreign = ask(&TRACE.to_string()).await;
    let malformed = ask("no-id").await;
    tell(&services(&world.rooms), "acme").await;
    let own = ask(&TRACE.to_string()).await;

    foreign.problem(404, "not-found");
    malformed.problem(404, "not-found");
    assert_eq!(own.json()["requests"].as_array().unwrap().len(), 1);
    world.get(&format!("/traces/{TRACE}")).await.problem(401, "unauthenticated");
}
