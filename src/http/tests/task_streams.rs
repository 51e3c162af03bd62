//! Watching tasks and waiting for them.

use std::time::Duration;

use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::domain::{Permission, Wish};
use crate::http::HttpSettings;
use crate::store::{TaskEnd, TaskStore};

use super::task_bench::{Bench, asked, refused, scope, succeeded};

/// The events of a stream as they come.
struct Events {
    frames: axum::body::BodyDataStream,
    text: String,
}

impl Events {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { frames: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
                }
                continue;
            }
            self.text.push_str(std::str::from_utf8(&self.frames.next().await?.unwrap()).unwrap());
        }
    }

    /// The next event's name, status and items that are done.
    async fn told(&mut self) -> (String, Value, Value) {
        let (name, body) = self.next().await.unwrap();
        (name, body["status"].clone(), body["progress"]["done"].clone())
    }
}

async fn watch(bench: &Bench, id: &str) -> Events {
    Events::of(bench.world.begin(asked(&bench.acme, "GET", &format!("/tasks/{id}/events"), None)).await)
}

#[tokio::test]
async fn a_watched_task_is_told_at_each_change_and_done_comes_last() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([1, 2])).await;
    let mut events = watch(&bench, &id).await;
    let told = |name: &str, status: &str, done: u64| (name.to_owned(), json!(status), json!(done));

    let (name, first) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &first["id"], &first["status"]), ("task", &json!(id), &json!("queued")));
    assert!(first.get("input").is_none());
    let task = bench.claim().await;
    assert_eq!(events.told().await, told("task", "running", 0));
    bench.record(&task, (0, 2), json!("a")).await;
    assert_eq!(events.told().await, told("task", "running", 1));
    bench.fail_item(&task, 1).await;
    let (_, failed) = events.next().await.unwrap();
    assert_eq!(failed["steps"][0]["error"]["kind"], "upstream");
    bench.end(&task, succeeded(json!("result"))).await;

    assert_eq!(events.told().await, told("done", "succeeded", 1));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn an_ended_task_is_told_once() {
    let bench = Bench::new().await;
    let id = bench.ended(json!([1])).await;

    let mut events = watch(&bench, &id).await;

    assert_eq!(events.told().await.0, "done");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_burst_of_changes_is_told_at_most_five_times_a_second() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([])).await;
    let task = bench.claim().await;
    let mut events = watch(&bench, &id).await;
    assert_eq!(events.told().await.2, 0);
    let begin = std::time::Instant::now();

    for item in 0..50 {
        bench.record(&task, (item, 51), json!(item)).await;
    }
    bench.end(&task, TaskEnd::Failed { problem: refused() }).await;
    let mut count = 0;
    while events.next().await.is_some() {
        count += 1;
    }

    let most = begin.elapsed().as_millis() / 200 + 1;
    assert!(count >= 1 && count <= most, "{count} events, at most {most}");
}

#[tokio::test]
async fn what_another_process_did_is_seen_within_a_second() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([1])).await;
    let mut events = watch(&bench, &id).await;
    assert_eq!(events.told().await.1, "queued");

    // No bell: the store changes behind the back of this process.
    bench.store.wish(&scope("acme"), id.parse().unwrap(), Wish::Cancel).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(5), events.told()).await.unwrap();

    assert_eq!((told.0.as_str(), told.1), ("done", json!("cancelled")));
}

#[tokio::test]
async fn watchers_take_no_place_from_others() {
    let settings = HttpSettings {
        max_concurrent_watches: 1,
        max_queued_watches: 0,
        max_concurrent_requests: 1,
        max_queued_requests: 0,
        ..HttpSettings::default()
    };
    let bench = Bench::with(settings, &[Permission::Admin]).await;
    let id = bench.submit(json!([1])).await;

    let events = watch(&bench, &id).await;
    let second = bench.get(&format!("/tasks/{id}/events")).await;
    let waiting = bench.post("/tasks?wait_ms=10", json!({"kind": "copy", "input": {"items": [1]}})).await;
    let other = bench.get(&format!("/tasks/{id}")).await;
    drop(events);
    let freed = bench.post("/tasks?wait_ms=10", json!({"kind": "copy", "input": {"items": [1]}})).await;

    second.problem(503, "unavailable");
    waiting.problem(503, "unavailable");
    assert_eq!((other.status.as_u16(), freed.status.as_u16()), (200, 200));
}

#[tokio::test]
async fn who_waits_is_answered_when_the_task_has_ended() {
    let bench = Bench::new().await;
    let order = json!({"kind": "copy", "input": {"items": [1]}});
    let working = async {
        // The hand that works looks for the task as a runner does.
        while bench.get("/tasks?status=queued").await.json()["tasks"] == json!([]) {
            tokio::task::yield_now().await;
        }
        let task = bench.claim().await;
        bench.end(&task, succeeded(json!("result"))).await;
    };

    let (reply, ()) = tokio::join!(bench.post("/tasks?wait_ms=20000", order), working);

    assert_eq!((reply.status.as_u16(), &reply.json()["status"]), (200, &json!("succeeded")));
    assert!(!reply.header("location").is_empty());
}

#[tokio::test]
async fn who_has_waited_long_enough_is_shown_the_task_as_it_is() {
    let bench = Bench::new().await;

    let reply = bench.post("/tasks?wait_ms=30", json!({"kind": "copy", "input": {"items": [1]}})).await;

    assert_eq!((reply.status.as_u16(), &reply.json()["status"]), (202, &json!("queued")));
}

#[tokio::test]
async fn a_server_that_stops_keeps_no_watcher_and_nobody_who_waits() {
    let bench = Bench::new().await;
    let id = bench.submit(json!([1])).await;
    let mut events = watch(&bench, &id).await;
    assert_eq!(events.told().await.0, "task");

    bench.world.stopping.cancel();
    let end = events.next().await;
    let begin = std::time::Instant::now();
    let waited = bench.post("/tasks?wait_ms=20000", json!({"kind": "copy", "input": {"items": [2]}})).await;

    assert_eq!(end, None);
    assert_eq!((waited.status.as_u16(), &waited.json()["status"]), (202, &json!("queued")));
    assert!(begin.elapsed() < Duration::from_secs(10));
}
