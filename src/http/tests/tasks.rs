//! `/tasks` and `/failures` on the wire, over a real store.

use axum::body::Body;
use serde_json::{Value, json};

use crate::domain::Permission;
use crate::http::HttpSettings;
use crate::store::TaskEnd;

use super::task_bench::{Bench, refused, succeeded};
use super::world::{Reply, request};

fn words(value: &Value, key: &str) -> Vec<String> {
    value.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn work_is_taken_with_its_place_and_the_same_work_again_is_the_same_task() {
    let bench = Bench::new().await;
    let order =
        json!({"kind": "copy", "input": {"items": [1, 2]}, "priority": 7, "session_id": "s-1", "model": "small"});

    let first = bench.post("/tasks", order.clone()).await;
    let second = bench.post("/tasks", order).await;

    assert_eq!((first.status.as_u16(), second.status.as_u16()), (202, 200), "{}", first.text);
    let body = first.json();
    let id = body["id"].as_str().unwrap();
    assert_eq!(first.header("location"), format!("/tasks/{id}"));
    assert_eq!(body["trace_id"], first.header("x-trace-id"));
    assert_ne!(body["task_trace_id"], body["trace_id"]);
    let expected = json!({"kind": "copy", "status": "queued", "run": 1, "priority": 7, "attempts": 0,
        "progress": {"done": 0, "total": 2}, "input": {"items": [1, 2]}, "steps": [], "model": "small", "prompt": null,
        "session_id": "s-1", "forked_from": null, "usage": {"calls": 0, "input_tokens": 0, "output_tokens": 0},
        "cost_usd": 0.0, "started_at": null, "finished_at": null});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&body[field], value, "{field}");
    }
    assert!(body.get("error").is_none() && body.get("wish").is_none());
    assert_eq!((second.json()["id"].as_str(), &second.json()["run"]), (Some(id), &json!(1)));
}

#[tokio::test]
async fn forced_work_is_another_run_once_the_first_has_ended() {
    let bench = Bench::new().await;
    let order = json!({"kind": "copy", "input": {"items": [1]}, "force": true});
    let id = bench.submit(json!([1])).await;

    let while_queued = bench.post("/tasks", order.clone()).await;
    let task = bench.claim().await;
    bench.end(&task, succeeded(json!(1))).await;
    let afterwards = bench.post("/tasks", order).await;

    assert_eq!((while_queued.status.as_u16(), &while_queued.json()["run"]), (200, &json!(1)));
    assert_eq!((afterwards.status.as_u16(), &afterwards.json()["run"]), (202, &json!(2)));
    assert_eq!(bench.get(&format!("/tasks/{id}?run=1")).await.json()["status"], "succeeded");
    assert_eq!(bench.get(&format!("/tasks/{id}")).await.json()["status"], "queued");
}

#[tokio::test]
async fn every_fault_of_an_order_is_named() {
    let bench = Bench::new().await;
    let order = |change: Value| {
        let mut order = json!({"kind": "copy", "input": {"items": []}});
        order.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        bench.post("/tasks", order)
    };

    let many = json!({"priority": 101, "delay_s": 2_592_001, "session_id": "a\nb", "model": ""});
    assert_eq!(order(many).await.pointers(), ["/priority", "/delay_s", "/model", "/session_id"]);
    assert_eq!(order(json!({"prioritty": 1, "force": "yes"})).await.pointers(), ["/force", "/prioritty"]);
    assert_eq!(order(json!({"input": {"items": 3}})).await.pointers(), ["/input/items"]);
    let unknown = order(json!({"kind": "inward"})).await;
    assert_eq!(unknown.pointers(), ["/kind"]);
    assert!(unknown.text.contains("there are copy"), "{}", unknown.text);
    assert_eq!(bench.post("/tasks", json!({"kind": "copy"})).await.pointers(), ["/input"]);
    order(json!({"input": {"items": ["x".repeat(5_000)]}})).await.problem(413, "too-large");
    assert_eq!(bench.post("/tasks?wait_ms=20001", json!({})).await.pointers(), ["/wait_ms"]);
    assert_eq!(bench.post("/tasks?wait=5", json!({})).await.pointers(), ["/wait"]);
    assert!(bench.get("/tasks").await.json()["tasks"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_kind_asks_for_its_own_permission_and_any_key_may_look() {
    let bench = Bench::with(HttpSettings::default(), &[Permission::Search]).await;

    let reply = bench.post("/tasks", json!({"kind": "copy", "input": {"items": []}})).await;

    reply.problem(403, "forbidden");
    assert_eq!(bench.get("/tasks").await.status, 200);
    assert_eq!(bench.get("/failures").await.status, 200);
}

#[tokio::test]
async fn a_tenant_with_too_many_tasks_is_told_to_come_again() {
    let bench = Bench::new().await;
    for item in 0..10 {
        bench.submit(json!([item])).await;
    }

    let reply = bench.post("/tasks", json!({"kind": "copy", "input": {"items": [10]}})).await;

    let problem = reply.problem(429, "rate-limited");
    assert!(problem["detail"].as_str().unwrap().contains("10 unfinished tasks"), "{problem}");
    assert!(!reply.header("retry-after").is_empty());
}

#[tokio::test]
async fn a_task_shows_its_steps_as_they_stand() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([1, 2, 3, 4])).await;
    let task = bench.claim().await;
    for item in 0..2 {
        bench.record(&task, (item, 4), json!("done")).await;
    }
    bench.fail_item(&task, 2).await;

    let body = bench.get(&format!("/tasks/{id}")).await.json();

    assert_eq!((&body["status"], &body["attempts"]), (&json!("running"), &json!(1)));
    assert_eq!((&body["progress"]["done"], &body["progress"]["total"]), (&json!(2), &json!(4)));
    // Its items were recorded as begun in 1970: at that pace the other two take as long as the time since.
    assert!(body["progress"]["eta_ms"].as_u64().unwrap() > 1_000_000_000);
    let step = &body["steps"][0];
    let expected = json!({"name": "copy", "status": "running", "done": 2, "items": 4, "attempts": 3,
        "started_at": "1970-01-01T00:00:01Z", "finished_at": null,
        "error": {"kind": "upstream", "detail": "the model server refused"}});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&step[field], value, "{field}");
    }
    assert_eq!(step["input_hash"].as_str().unwrap().len(), 64);
}

#[tokio::test]
async fn tasks_are_listed_newest_first_by_status_and_kind_a_page_at_a_time() {
    let bench = Bench::new().await;
    let ended = bench.ended(json!([0])).await;
    let (second, third) = (bench.submit(json!([1])).await, bench.submit(json!([2])).await);

    let all = bench.get("/tasks?limit=2").await.json();
    let cursor = all["next_cursor"].as_str().unwrap();
    let rest = bench.get(&format!("/tasks?limit=2&cursor={cursor}")).await.json();

    assert_eq!(words(&all["tasks"], "id"), [third.clone(), second.clone()]);
    assert!(all["tasks"][0].get("input").is_none());
    assert_eq!((words(&rest["tasks"], "id"), &rest["next_cursor"]), (vec![ended.clone()], &Value::Null));
    let listed = async |query: &str| words(&bench.get(&format!("/tasks?{query}")).await.json()["tasks"], "id");
    assert_eq!(listed("status=succeeded").await, [ended]);
    assert_eq!(listed("status=queued&kind=copy").await, [third, second]);
    assert!(listed("kind=map").await.is_empty());
    let wrong = bench.get("/tasks?status=done&limit=0&cursr=x").await;
    assert_eq!(wrong.pointers(), ["/status", "/limit", "/cursr"]);
    assert_eq!(bench.get("/tasks?cursor=nonsense").await.pointers(), ["/cursor"]);
}

#[tokio::test]
async fn a_task_of_another_tenant_is_an_unknown_task() {
    let bench = Bench::new().await;
    let id = bench.ended(json!([1])).await;
    let unknown = "tsk_00000000000000000000000000000000";
    let fork = json!({"step": "copy", "input": 1});
    let routes = [
        ("GET", "", None),
        ("GET", "/events", None),
        ("GET", "/result", None),
        ("GET", "/steps/copy", None),
        ("GET", "/failures", None),
        ("POST", "/cancel", None),
        ("POST", "/pause", None),
        ("POST", "/resume", None),
        ("POST", "/redrive", None),
        ("POST", "/fork", Some(fork)),
    ];
    let ask = async |key: &str, id: &str, (method, route, body): &(&str, &str, Option<Value>)| -> Reply {
        let bearer = format!("Bearer {key}");
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let headers =
            [("authorization", bearer.as_str()), ("traceparent", trace), ("content-type", "application/json")];
        let body = body.as_ref().map_or(Body::empty(), |body| Body::from(body.to_string()));
        bench.world.send(request(method, &format!("/tasks/{id}{route}"), &headers, body)).await
    };

    for route in &routes {
        let foreign = ask(&bench.other, &id, route).await;
        foreign.problem(404, "not-found");
        assert_eq!(foreign.text, ask(&bench.acme, unknown, route).await.text, "{route:?}");
        assert_eq!(foreign.text, ask(&bench.acme, "no-id", route).await.text, "{route:?}");
    }
    let theirs = bench.send(&bench.other, "GET", "/tasks", None).await.json();
    assert!(theirs["tasks"].as_array().unwrap().is_empty());
    let days = bench.send(&bench.other, "GET", "/failures", None).await.json();
    assert!(days["days"].as_array().unwrap().is_empty());
    assert_eq!(bench.get(&format!("/tasks/{id}")).await.json()["run"], 1, "nothing was begun again");
}

#[tokio::test]
async fn a_result_is_there_once_the_task_has_ended() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([1])).await;
    let early = bench.get(&format!("/tasks/{id}/result")).await;
    let task = bench.claim().await;
    bench.end(&task, succeeded(json!({"copied": 1}))).await;
    let failed = bench.submit(json!([2])).await;
    let task = bench.claim().await;
    bench.end(&task, TaskEnd::Failed { problem: refused() }).await;

    let reply = bench.get(&format!("/tasks/{id}/result")).await;
    let failed = bench.get(&format!("/tasks/{failed}/result")).await.json();

    early.problem(409, "task-not-finished");
    assert_eq!(early.header("retry-after"), "1");
    let body = reply.json();
    assert_eq!((&body["id"], &body["run"], &body["status"]), (&json!(id), &json!(1), &json!("succeeded")));
    assert_eq!((&body["result"], body.get("error")), (&json!({"copied": 1}), None));
    assert_eq!((&failed["status"], &failed["result"]), (&json!("failed"), &Value::Null));
    assert_eq!(failed["error"], json!({"kind": "upstream", "detail": "the model server refused"}));
    assert_eq!(bench.get(&format!("/tasks/{id}/result?run=2")).await.status, 404);
}

#[tokio::test]
async fn a_task_is_cancelled_paused_and_resumed_where_that_fits() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([1])).await;
    let tell = async |action: &str| bench.send(&bench.acme, "POST", &format!("/tasks/{id}/{action}"), None).await;

    tell("resume").await.problem(409, "task-not-paused");
    assert_eq!(tell("pause").await.json()["status"], "paused");
    assert_eq!(tell("pause").await.json()["status"], "paused", "what is so already fits");
    assert_eq!(tell("resume").await.json()["status"], "queued");
    let task = bench.claim().await;
    let running = tell("pause").await.json();
    assert_eq!((&running["status"], &running["wish"]), (&json!("running"), &json!("pause")));
    tell("resume").await.problem(409, "task-not-paused");
    assert_eq!(tell("cancel").await.json()["wish"], "cancel");
    bench.end(&task, TaskEnd::Cancelled).await;
    assert_eq!(tell("cancel").await.json()["status"], "cancelled");
    for action in ["pause", "resume"] {
        tell(action).await.problem(409, "task-ended");
    }
    assert_eq!(bench.post(&format!("/tasks/{id}/cancel"), json!({"why": "x"})).await.pointers(), ["/why"]);
}

#[tokio::test]
async fn an_ended_task_cannot_be_stopped_any_more() {
    let bench = Bench::new().await;
    let id = bench.ended(json!([1])).await;

    for action in ["cancel", "pause", "resume"] {
        let reply = bench.post(&format!("/tasks/{id}/{action}"), json!({})).await;
        let problem = reply.problem(409, "task-ended");
        assert!(problem["detail"].as_str().unwrap().contains("has succeeded"), "{problem}");
    }
}

#[tokio::test]
async fn an_ended_task_is_driven_again_as_another_run() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([1])).await;
    let path = format!("/tasks/{id}/redrive");
    bench.post(&path, json!({})).await.problem(409, "task-not-finished");
    let task = bench.claim().await;
    bench.record(&task, (0, 1), json!("kept")).await;
    bench.end(&task, TaskEnd::Failed { problem: refused() }).await;

    let wrong = bench.post(&path, json!({"from_step": "no-such"})).await;
    let impossible = bench.post(&path, json!({"from_step": "a b"})).await;
    let untyped =
        bench.world.send(request("POST", &path, &[("authorization", &format!("Bearer {}", bench.acme))], "{}"));
    untyped.await.problem(415, "unsupported-media-type");
    let without_body = bench.send(&bench.acme, "POST", &path, None).await;

    assert_eq!((wrong.pointers(), impossible.pointers()), (vec!["/from_step".into()], vec!["/from_step".into()]));
    assert_eq!(without_body.status, 202, "{}", without_body.text);
    assert_eq!(without_body.header("location"), format!("/tasks/{id}"));
    let body = without_body.json();
    assert_eq!((&body["run"], &body["status"], &body["progress"]["done"]), (&json!(2), &json!("queued"), &json!(1)));
}

#[tokio::test]
async fn a_fork_is_another_task_with_the_same_begin() {
    let bench = Bench::new().await;
    let id = bench.ended(json!([1])).await;
    let path = format!("/tasks/{id}/fork");

    let first = bench.post(&path, json!({"step": "copy", "input": {"style": "short"}})).await;
    let again = bench.post(&path, json!({"step": "copy", "input": {"style": "short"}})).await;

    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 200), "{}", first.text);
    let fork = first.json();
    assert_ne!(fork["id"], json!(id));
    assert_eq!((&fork["forked_from"], &fork["id"]), (&json!(id), &again.json()["id"]));
    assert_eq!(first.header("location"), format!("/tasks/{}", fork["id"].as_str().unwrap()));
    assert_eq!(bench.post(&path, json!({"step": "no-such", "input": 1})).await.pointers(), ["/step"]);
    assert_eq!(bench.post(&path, json!({"step": "copy"})).await.pointers(), ["/input"]);
    assert_eq!(bench.get(&format!("/tasks/{id}")).await.json()["status"], "succeeded");
}

#[tokio::test]
async fn items_of_a_step_are_read_a_page_at_a_time() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([1, 2, 3])).await;
    let task = bench.claim().await;
    for item in 0..3 {
        bench.record(&task, (item, 3), json!({ "out": item })).await;
    }

    let first = bench.get(&format!("/tasks/{id}/steps/copy?limit=2")).await.json();
    let last = bench.get(&format!("/tasks/{id}/steps/copy?limit=2&from=2")).await.json();

    assert_eq!((&first["step"], &first["next_from"]), (&json!("copy"), &json!(2)));
    let item = &first["items"][1];
    assert_eq!((&item["item"], &item["items"], &item["attempt"]), (&json!(1), &json!(3), &json!(1)));
    assert_eq!((&item["input"], &item["output"]), (&json!({"item": 1}), &json!({"out": 1})));
    assert_eq!(item["input_hash"].as_str().unwrap().len(), 64);
    assert_eq!((last["items"].as_array().unwrap().len(), &last["next_from"]), (1, &Value::Null));
    assert_eq!(bench.get(&format!("/tasks/{id}/steps/copy?from=9")).await.json()["items"], json!([]));
    bench.get(&format!("/tasks/{id}/steps/other")).await.problem(404, "not-found");
    let wrong = bench.get(&format!("/tasks/{id}/steps/copy?from=-1&limit=1001&run=x")).await;
    assert_eq!(wrong.pointers(), ["/run", "/from", "/limit"]);
}

#[tokio::test]
async fn failures_are_told_by_task_and_by_day() {
    let bench = Bench::new().await;
    bench.ended(json!([0])).await;
    let id = bench.submit(json!([1, 2])).await;
    let task = bench.claim().await;
    bench.fail_item(&task, 0).await;
    bench.fail_item(&task, 1).await;
    bench.end(&task, TaskEnd::Failed { problem: refused() }).await;

    let failures = bench.get(&format!("/tasks/{id}/failures")).await.json()["failures"].clone();
    let days = bench.get("/failures?by=day").await.json();

    assert_eq!(failures.as_array().unwrap().len(), 2);
    let expected = json!({"step": "copy", "item": 0, "attempt": 1, "final": false, "model": "small",
        "prompt_version": null, "input_hash": null, "error": {"kind": "upstream", "detail": "the model server refused"}});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&failures[0][field], value, "{field}");
    }
    let day = &days["days"][0];
    assert_eq!((&day["kind"], &day["succeeded"], &day["failed"]), (&json!("copy"), &json!(1), &json!(1)));
    assert_eq!((&day["failures"], &day["failure_rate"]), (&json!(2), &json!(0.5)));
    assert_eq!(bench.get("/failures?since=2999-01-01").await.json()["days"], json!([]));
    assert_eq!(bench.get("/failures?by=week&since=soon").await.pointers(), ["/by", "/since"]);
}
