//! `/usage`, `/budgets` and `/admin/kill-switch` on the wire.

use axum::body::Body;
use serde_json::{Value, json};

use crate::domain::{
    CacheUse, CallId, LlmCall, Nanousd, Permission, SpanId, TenantId, Timestamp, TraceId, Usage, UsageSource,
};
use crate::http::{AuthSettings, HttpSettings};
use crate::store::{Ledger, LedgerEntry};

use super::control_room::TODAY;
use super::world::{Reply, World, keyed, request};

/// A world with two tenants, and a key with every permission for each.
struct Two {
    world: World,
    acme: String,
    other: String,
}

impl Two {
    fn new() -> Self {
        let (acme, mut auth) = keyed("acme", &[Permission::Admin]);
        let (other, theirs) = keyed("other", &[Permission::Admin]);
        auth.keys.extend(theirs.keys);
        Self { world: World::with(HttpSettings::default(), AuthSettings { keys: auth.keys }), acme, other }
    }

    async fn send(&self, key: &str, method: &str, path: &str, body: &Value) -> Reply {
        send(&self.world, key, method, path, body).await
    }
}

async fn send(world: &World, key: &str, method: &str, path: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    world.send(request(method, path, &headers, body.to_string())).await
}

/// A call of two hundred tokens, begun so many days after [`TODAY`].
fn call(tenant: &str, model: &str, days: i64, cost: u64) -> LlmCall {
    LlmCall {
        call_id: CallId([1; 16]),
        attempt: 1,
        trace_id: TraceId([2; 16]),
        span_id: SpanId([3; 8]),
        tenant: TenantId::new(tenant).unwrap(),
        task: "answer".to_owned(),
        session_id: None,
        key_id: None,
        provider: "local".to_owned(),
        model: model.to_owned(),
        answered_model: None,
        prompt: None,
        started_at: Timestamp(TODAY.0 + days * 86_400_000_000),
        latency_us: 1,
        first_token_us: None,
        outcome: "ok".to_owned(),
        status: Some(200),
        finish: None,
        is_streamed: false,
        cache: CacheUse::Miss,
        usage: Usage { input_tokens: 150, cached_input_tokens: 0, output_tokens: 50 },
        usage_source: UsageSource::Reported,
        cost: Nanousd(cost),
        request_body: None,
        response_body: None,
    }
}

async fn spend(world: &World, calls: Vec<LlmCall>) {
    let entries = calls.into_iter().map(|call| LedgerEntry::Call(Box::new(call))).collect();
    world.rooms.ledger.record(entries).await.unwrap();
}

#[tokio::test]
async fn usage_is_added_up_by_group_for_the_tenant_of_the_key_alone() {
    let two = Two::new();
    let estimated = LlmCall { usage_source: UsageSource::Estimated, ..call("acme", "small", 0, 1_000_000) };
    let failed = LlmCall { outcome: "timeout".to_owned(), ..call("acme", "large", 0, 0) };
    let calls = vec![
        call("acme", "small", 0, 250_000),
        estimated,
        failed,
        call("acme", "small", -2, 7),
        call("other", "x", 0, 9),
    ];
    spend(&two.world, calls).await;

    let reply = two.send(&two.acme, "GET", "/usage?group_by=model&since=2026-11-23", &json!(null)).await;

    let expected = json!({
        "trace_id": reply.header("x-trace-id"), "group_by": "model", "since": "2026-11-23T00:00:00Z",
        "rows": [
            {"group": "small", "attempts": 2, "failed": 0, "input_tokens": 300, "output_tokens": 100,
                "cost_usd": 0.001_25, "estimated_cost_usd": 0.001},
            {"group": "large", "attempts": 1, "failed": 1, "input_tokens": 150, "output_tokens": 50,
                "cost_usd": 0.0, "estimated_cost_usd": 0.0},
        ],
        "total_cost_usd": 0.001_25,
    });
    assert_eq!(reply.json(), expected);
    let theirs = two.send(&two.other, "GET", "/usage?since=2026-11-01T00:00:00Z", &json!(null)).await.json();
    assert_eq!((&theirs["rows"][0]["group"], &theirs["total_cost_usd"]), (&json!("other"), &json!(9e-9)));
    assert_eq!(theirs["rows"].as_array().unwrap().len(), 1);
    let sessions = two.send(&two.acme, "GET", "/usage?group_by=session&since=2026-11-23", &json!(null)).await.json();
    assert_eq!(sessions["rows"][0]["group"], json!(null));
}

#[tokio::test]
async fn the_total_holds_groups_beyond_the_limit_too() {
    let world = World::open();
    let calls = [1, 2, 3].map(|cost| call("default", &format!("m-{cost}"), 0, cost * 1_000_000_000));
    spend(&world, calls.into()).await;

    let usage = world.get("/usage?group_by=model&since=2026-11-23&limit=2").await.json();

    let shown: Vec<_> = usage["rows"].as_array().unwrap().iter().map(|row| row["cost_usd"].as_f64().unwrap()).collect();
    assert_eq!((shown, &usage["total_cost_usd"]), (vec![3.0, 2.0], &json!(6.0)));
}

#[tokio::test]
async fn usage_counts_from_the_start_of_the_month_where_nothing_else_is_said() {
    let usage = World::open().get("/usage").await.json();

    assert_eq!(usage["group_by"], "tenant");
    assert!(usage["since"].as_str().unwrap().ends_with("-01T00:00:00Z"), "{usage}");
}

#[tokio::test]
async fn every_fault_of_a_question_for_usage_is_named() {
    let world = World::open();

    let reply = world.get("/usage?group_by=colour&since=2026-02-30&limit=0&by=day").await;

    assert_eq!(reply.pointers(), ["/group_by", "/since", "/limit", "/by"]);
    assert!(reply.text.contains("tenant, task, model, session, day, prompt_version"));
    assert_eq!(world.get("/usage?limit=1001").await.pointers(), ["/limit"]);
    assert_eq!(world.get("/usage?limit=-1").await.pointers(), ["/limit"]);
}

#[tokio::test]
async fn a_budget_that_was_set_is_shown_with_what_was_spent() {
    let two = Two::new();
    let body = json!({"period": "day", "limit_usd": 2.5, "limit_calls": 100});

    let set = two.send(&two.acme, "PUT", "/budgets/session%3A*", &body).await;
    two.world.rooms.leave_behind("acme", CallId([7; 16]), Nanousd(20_000_000));
    let listed = two.send(&two.acme, "GET", "/budgets", &json!(null)).await;

    assert_eq!(set.status, 200, "{}", set.text);
    assert_eq!(
        (&set.json()["trace_id"], &set.json()["scope"]),
        (&json!(set.header("x-trace-id")), &json!("tenant:acme+session:*"))
    );
    let expected = json!({
        "trace_id": listed.header("x-trace-id"),
        "budgets": [{
            "scope": "tenant:acme+session:*", "period": "day", "limit_usd": 2.5, "limit_tokens": null,
            "limit_calls": 100, "alert_at": 0.5, "source": "stored",
            "accounts": [{
                "name": "tenant:acme+session:s-1", "since": "2026-11-23T00:00:00Z", "spent_usd": 0.31,
                "spent_tokens": 120_400, "spent_calls": 41, "reserved_usd": 0.02,
                "unresolved": [{"call_id": format!("cal_{}", "07".repeat(16)), "cost_usd": 0.02,
                    "made_at": "2026-11-23T00:00:00Z"}],
            }],
        }],
    });
    assert_eq!(listed.json(), expected);
    let total = json!({"period": "total", "limit_tokens": 5, "alert_at": 1});
    let set = two.send(&two.acme, "PUT", "/budgets/tenant%3Aacme%2Btask%3Aa%252Bb", &total).await.json();
    assert_eq!((&set["scope"], &set["alert_at"]), (&json!("tenant:acme+task:a%2Bb"), &json!(1.0)));
    assert_eq!(set["accounts"][0]["since"], json!(null));
}

#[tokio::test]
async fn a_budget_never_leaves_the_tenant_of_the_key() {
    let two = Two::new();
    let body = json!({"period": "month", "limit_usd": 1});

    for (scope, sentence) in
        [("tenant:other", "another tenant"), ("tenant:*+task:answer", "all tenants"), ("everything", "all tenants")]
    {
        let reply = two.send(&two.acme, "PUT", &format!("/budgets/{scope}"), &body).await;

        assert_eq!(reply.pointers(), ["/scope"], "{scope}");
        assert!(reply.text.contains(sentence), "{}", reply.text);
    }
    assert!(two.world.rooms.controls.budgets.lock().is_empty());
}

#[tokio::test]
async fn a_key_of_another_tenant_sees_and_changes_nothing() {
    let two = Two::new();
    two.send(&two.acme, "PUT", "/budgets/task:answer", &json!({"period": "day", "limit_usd": 2})).await;
    two.world.rooms.leave_behind("acme", CallId([7; 16]), Nanousd(20_000_000));
    let resolve = format!("/budgets/reservations/cal_{}/resolve", "07".repeat(16));

    let budgets = two.send(&two.other, "GET", "/budgets", &json!(null)).await;
    let foreign = two.send(&two.other, "POST", &resolve, &json!({"cost_usd": 0})).await;
    let unknown = two.send(&two.other, "POST", &resolve.replace("07", "08"), &json!({"cost_usd": 0})).await;

    assert_eq!(budgets.json()["budgets"], json!([]));
    let sentence = |reply: &Reply| reply.problem(404, "not-found")["detail"].clone();
    assert_eq!(sentence(&foreign), sentence(&unknown));
    assert_eq!(two.world.rooms.controls.budgets.lock()[0].1.accounts[0].unresolved.len(), 1);
}

#[tokio::test]
async fn everything_wrong_with_a_budget_is_named_at_once() {
    let world = World::open();
    let put = async |scope: &str, body: Value| world.put(&format!("/budgets/{scope}"), body.to_string()).await;

    let values = json!({"period": "day", "limit_usd": -1, "alert_at": 1.5});
    assert_eq!(put("colour:red", values).await.pointers(), ["/scope", "/limit_usd", "/alert_at"]);
    let mut shapes = put("everything", json!({"period": "week", "limit": 1, "limit_tokens": -3, "limit_calls": 0.5}))
        .await
        .pointers();
    shapes.sort();
    assert_eq!(shapes, ["/limit", "/limit_calls", "/limit_tokens", "/period", "/scope"]);
    assert_eq!(put("task:answer", json!({"limit_usd": 1})).await.pointers(), ["/period"]);
    let unlimited = put("task:answer", json!({"period": "day", "alert_at": 0.9})).await;
    assert_eq!(unlimited.pointers(), [""]);
    assert!(unlimited.json()["detail"].as_str().unwrap().contains("at least one of limit_usd"));
    assert_eq!(put("task:answer", json!({"period": "day", "limit_usd": 1e30})).await.pointers(), ["/limit_usd"]);
    world.put("/budgets/task:answer", r#"{"period": "day", "limit_usd": NaN}"#).await.problem(400, "malformed-request");
    assert_eq!(put("task:answer?dry_run=1", json!({"period": "day", "limit_usd": 1})).await.pointers(), ["/dry_run"]);
    assert_eq!(world.asked().anything(), 0);
}

#[tokio::test]
async fn a_reservation_is_resolved_with_what_the_call_cost() {
    let world = World::open();
    world.put("/budgets/task:answer", r#"{"period": "day", "limit_usd": 2}"#).await;
    world.rooms.leave_behind("default", CallId([7; 16]), Nanousd(20_000_000));
    let path = format!("/budgets/reservations/cal_{}/resolve", "07".repeat(16));

    let resolved = world.post(&path, r#"{"cost_usd": 0.004}"#).await;

    assert_eq!((resolved.status.as_u16(), resolved.text.as_str()), (204, ""));
    let account = world.get("/budgets").await.json()["budgets"][0]["accounts"][0].clone();
    assert_eq!((&account["spent_usd"], &account["reserved_usd"]), (&json!(0.314), &json!(0.0)));
    assert_eq!(account["unresolved"], json!([]));
    world.post(&path, r#"{"cost_usd": 0.004}"#).await.problem(404, "not-found");
    world.post("/budgets/reservations/no-id/resolve", r#"{"cost_usd": 0}"#).await.problem(404, "not-found");
    assert_eq!(world.post(&path, r#"{"cost_usd": -0.1}"#).await.pointers(), ["/cost_usd"]);
    assert_eq!(world.post(&path, r#"{"cost": 1}"#).await.pointers().len(), 2);
}

#[tokio::test]
async fn the_kill_switch_says_whether_why_and_since_when() {
    let world = World::open();
    let shown = |reply: &Reply| {
        let body = reply.json();
        assert_eq!(body["trace_id"], reply.header("x-trace-id"));
        (body["on"].clone(), body["reason"].clone(), body["since"].clone())
    };

    let before = world.get("/admin/kill-switch").await;
    let on = world.post("/admin/kill-switch", r#"{"on": true, "reason": "charged twice"}"#).await;
    let after = world.get("/admin/kill-switch").await;
    let off = world.post("/admin/kill-switch", r#"{"on": false}"#).await;

    let since = json!("2026-11-23T00:00:00Z");
    assert_eq!(shown(&before), (json!(false), json!(null), json!(null)));
    assert_eq!(shown(&on), (json!(true), json!("charged twice"), since.clone()));
    assert_eq!(shown(&after), shown(&on));
    assert_eq!(shown(&off), (json!(false), json!(null), since));
    assert_eq!(world.post("/admin/kill-switch", r#"{"reason": 3, "off": true}"#).await.pointers().len(), 3);
    for reason in ["a\u{7}b".to_owned(), "a".repeat(201)] {
        let reply = world.post("/admin/kill-switch", json!({"on": true, "reason": reason}).to_string()).await;
        assert_eq!(reply.pointers(), ["/reason"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_server_can_still_be_switched() {
    let settings = HttpSettings { max_concurrent_requests: 1, max_queued_requests: 0, ..HttpSettings::default() };
    let world = std::sync::Arc::new(World::with(settings, AuthSettings::default()));
    world.rooms.stuck.store(true, std::sync::atomic::Ordering::SeqCst);
    let busy = tokio::spawn({
        let world = std::sync::Arc::clone(&world);
        async move { world.post("/search", r#"{"query": "whale"}"#).await }
    });
    while world.asked().last_search.lock().is_none() {
        tokio::task::yield_now().await;
    }

    let full = world.get("/usage").await;
    let switched = world.post("/admin/kill-switch", r#"{"on": true}"#).await;
    let capped = world.put("/budgets/task:answer", r#"{"period": "day", "limit_usd": 0}"#).await;

    full.problem(503, "unavailable");
    assert_eq!((switched.status.as_u16(), capped.status.as_u16()), (200, 200));
    busy.abort();
}

#[tokio::test]
async fn any_key_of_the_tenant_may_look_and_only_an_admin_may_change() {
    for permission in [Permission::Search, Permission::Answer, Permission::Write] {
        let (key, auth) = keyed("acme", &[permission]);
        let world = World::with(HttpSettings::default(), auth);
        let resolve = format!("/budgets/reservations/cal_{}/resolve", "07".repeat(16));

        assert_eq!(send(&world, &key, "GET", "/usage", &json!(null)).await.status, 200);
        assert_eq!(send(&world, &key, "GET", "/budgets", &json!(null)).await.status, 200);
        let asked = world.asked().anything();
        for (method, path) in [
            ("PUT", "/budgets/task:answer"),
            ("POST", resolve.as_str()),
            ("GET", "/admin/kill-switch"),
            ("POST", "/admin/kill-switch"),
        ] {
            send(&world, &key, method, path, &json!({"on": true})).await.problem(403, "forbidden");
        }
        assert_eq!(world.asked().anything(), asked);
    }
}

#[tokio::test]
async fn a_used_up_budget_and_the_kill_switch_have_problems_of_their_own() {
    let world = World::open();
    let ask = async |question: &str| world.post("/answer", json!({"question": question}).to_string()).await;

    let today = ask("over budget today").await;
    let ever = ask("over budget for ever").await;
    let killed = ask("switched off").await;

    let problem = today.problem(429, "budget-exceeded");
    assert_eq!(
        (&problem["detail"], today.header("retry-after")),
        (&json!("session:s-1 has spent 2 USD of 2 USD"), "3600")
    );
    ever.problem(429, "budget-exceeded");
    assert_eq!(ever.header("retry-after"), "");
    killed.problem(503, "kill-switch");
    assert_eq!(killed.header("retry-after"), "");
    let events = world.post("/answer", r#"{"question": "switched off", "stream": true}"#).await;
    events.problem(503, "kill-switch");
    assert!(
        world
            .send(request("GET", "/openapi.json", &[], Body::empty()))
            .await
            .text
            .contains("urn:plumb:problem:kill-switch")
    );
}
