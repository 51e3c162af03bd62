//! `/answer` on the wire.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{HttpSettings, Role};

use super::world::World;

fn events(text: &str) -> Vec<(String, Value)> {
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()));
        line.unwrap_or_default()
    };
    let blocks = text.split("\n\n").filter(|block| block.contains("event:"));
    blocks.map(|block| (field(block, "event:"), serde_json::from_str(&field(block, "data:")).unwrap())).collect()
}

#[tokio::test]
async fn the_response_has_the_shape_of_the_contract() {
    let world = World::open();

    let reply = world.post("/answer", json!({"question": "How often?"}).to_string()).await;

    let body = reply.json();
    let trace = reply.header("x-trace-id");
    assert_eq!((&body["trace_id"], &body["answer_id"]), (&json!(trace), &json!(format!("ans_{trace}"))));
    assert_eq!((&body["status"], &body["answer"]), (&json!("fallback"), &json!("Back up daily. [1]")));
    let claim = json!({"text": "Back up daily.", "start": 0, "end": 14, "citations": [1], "support": 1.0,
        "verdict": "supported"});
    assert_eq!(body["claims"], json!([claim]));
    let citation = &body["citations"][0];
    assert_eq!((&citation["marker"], &citation["byte_range"]), (&json!(1), &json!([10, 24])));
    assert_eq!(citation["provenance"]["document_version"], 2);
    assert_eq!(body["sources"].as_array().unwrap().len(), 1);
    for field in ["model", "provider", "prompt"] {
        assert_eq!(body[field], Value::Null, "{field}");
    }
    assert_eq!(body["usage"], json!({"input_tokens": 0, "output_tokens": 0}));
    assert_eq!((&body["cost_usd"], &body["cached"]), (&json!(0.0), &json!(false)));
    assert_eq!((&body["attempts"], &body["degraded"]), (&json!([]), &json!([])));
    assert_eq!(body["timings_ms"], json!({"search": 1.0, "model": 0.0}));
}

#[tokio::test]
async fn a_conversation_ends_with_the_question() {
    let world = World::open();
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let messages = json!([message("user", "a"), message("assistant", "b"), message("user", "c")]);

    let body = json!({"messages": messages, "collection": "books", "search": {"top_k": 3}, "max_tokens": 9});
    assert_eq!(world.post("/answer", body.to_string()).await.status, 200);

    let (_, request) = world.asked().last_answer.lock().clone().unwrap();
    assert_eq!((request.question.as_str(), request.history.len()), ("c", 2));
    assert_eq!(request.history[1].role, Role::Assistant);
    assert_eq!(request.search.collection.unwrap().as_str(), "books");
    assert_eq!((request.search.top_k, request.max_tokens), (Some(3), Some(9)));
    let unanswered = json!({"messages": [message("assistant", "b")]});
    assert_eq!(world.post("/answer", unanswered.to_string()).await.pointers(), ["/messages"]);
    let contradiction = json!({"question": "a", "collection": "x", "search": {"collection": "y"}, "max_tokens": 0});
    assert_eq!(
        world.post("/answer", contradiction.to_string()).await.pointers(),
        ["/search/collection", "/max_tokens"]
    );
}

#[tokio::test]
async fn a_streamed_answer_comes_in_events_and_ends_with_the_whole() {
    let world = World::open();

    let reply = world.post("/answer", json!({"question": "a", "stream": true}).to_string()).await;

    assert_eq!(reply.header("content-type"), "text/event-stream");
    let events = events(&reply.text);
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["sources", "delta", "citation", "claim", "done"]);
    assert_eq!(events[1].1, json!({"text": "Back up\ndaily."}));
    assert_eq!(events[4].1["trace_id"], reply.header("x-trace-id"));
    assert_eq!(events[4].1["answer"], "Back up daily. [1]");
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error() {
    let world = World::open();

    let reply = world.post("/answer", json!({"question": "cut", "stream": true}).to_string()).await;

    let events = events(&reply.text);
    let (name, problem) = events.last().unwrap();
    assert_eq!((name.as_str(), &problem["status"]), ("error", &json!(500)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_too_long_is_ended_and_its_work_stopped() {
    let settings = HttpSettings { answer_timeout_ms: 100, ..HttpSettings::default() };
    let world = World::with(settings, Default::default());

    let body = json!({"question": "endless", "stream": true}).to_string();
    let reply = tokio::time::timeout(Duration::from_secs(60), world.post("/answer", body)).await.unwrap();

    assert_eq!(events(&reply.text).last().unwrap().1["status"], 504);
    assert!(world.asked().dropped.load(Ordering::SeqCst));
}
