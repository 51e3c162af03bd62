//! A task in the life of its user: killed in the middle, failed and driven again, forked; and what the numbers say of it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::bed::PATIENCE;
use crate::echo_server::EchoServer;
use crate::process::{Client, Server};

const PARTS: usize = 40;
const STALLED: u64 = 27;

fn settings(model_server: &str) -> String {
    format!(
        "[tasks]\nmax_items_at_once = 1\nmax_attempts = 1\n\
         [gateway]\nunknown_price = \"free\"\nreload_every_ms = 50\nbackoff_base_ms = 1\nbackoff_max_ms = 2\n\
         [gateway.providers.echo]\nbase_url = \"{model_server}\"\nbreaker_failures = 0\n\
         [gateway.models.m]\nprovider = \"echo\"\nmodel = \"m-1\"\n\
         [gateway.routes.default]\nmodels = [\"m\"]\n"
    )
}

async fn with_book(client: &Client) {
    let parts: Vec<Value> = (0..PARTS).map(|n| json!({"text": format!("Part {n} tells of lock gate {n}.")})).collect();
    let book = json!({"id": "book", "title": "Lock gates", "chunks": parts}).to_string();
    client.post_ndjson(book, "?wait=indexed").await.unwrap();
}

async fn ask(client: &Client, order: Value) -> String {
    let (status, task) = client.post_json("/tasks", order.to_string()).await;
    assert_eq!(status, 202, "{task}");
    task["id"].as_str().unwrap().to_owned()
}

async fn until(client: &Client, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let (_, task) = client.get(&format!("/tasks/{id}")).await;
        if holds(&task) {
            return task;
        }
        assert!(begun.elapsed() < PATIENCE, "{task}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ended(client: &Client, id: &str) -> Value {
    let has_ended = |task: &Value| ["succeeded", "failed"].map(Value::from).contains(&task["status"]);
    until(client, id, has_ended).await
}

fn sql(data: &Path, query: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["sql", "--format", "csv", query, "--data-dir"])
        .arg(data)
        .env("PLUMB_MODELS_DIR", data.join("no-models"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

fn summary() -> Value {
    json!({"kind": "map", "input": {"documents": ["book"], "over": "chunks", "prompt": "Say it shorter.\n{{text}}"}})
}

#[tokio::test]
async fn a_summary_of_forty_parts_that_is_killed_after_26_goes_on_with_the_27th() {
    let dir = tempdir().unwrap();
    let (data, config) = (dir.path().join("data"), dir.path().join("plumb.toml"));
    let model = EchoServer::start_stalling(STALLED).await;
    std::fs::write(&config, settings(&model.base_url())).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let mut server = Server::start_with(&data, &arguments);
    with_book(&server.client()).await;

    let id = ask(&server.client(), summary()).await;
    let at_the_kill = until(&server.client(), &id, |_| model.requests() == STALLED).await;
    server.kill();
    let server = Server::start_with(&data, &arguments);
    let task = ended(&server.client(), &id).await;

    let progress = &at_the_kill["progress"];
    assert_eq!((&progress["done"], &progress["total"]), (&json!(STALLED - 1), &json!(PARTS)));
    assert_eq!((&task["status"], &task["progress"]["done"]), (&json!("succeeded"), &json!(PARTS)), "{task}");
    assert_eq!(model.answered(), PARTS as u64);
    assert_eq!(model.requests(), PARTS as u64 + 1, "the call that the kill cut off is made again, no other");
    assert_eq!(model.asked().len(), PARTS, "under its own key");
    let outcomes = sql(&data, "SELECT outcome, count(*) FROM llm_calls GROUP BY 1 ORDER BY 1");
    assert_eq!(outcomes, "outcome,count(*)\nok,40\nunknown,1\n");
    let (_, result) = server.client().get(&format!("/tasks/{id}/result")).await;
    assert_eq!(result["result"]["items"].as_array().unwrap().len(), PARTS);
    assert!(server.terminate().success());
}

#[tokio::test]
async fn what_failed_is_counted_driven_again_and_forked() {
    let dir = tempdir().unwrap();
    let (data, config) = (dir.path().join("data"), dir.path().join("plumb.toml"));
    // Port 9 (discard) is reserved, and nothing listens there.
    std::fs::write(&config, settings("http://127.0.0.1:9/v1")).unwrap();
    let server = Server::start_with(&data, &["--config", config.to_str().unwrap()]);
    let client = server.client();
    with_book(&client).await;
    let id = ask(&client, summary()).await;
    let failed = ended(&client, &id).await;
    assert_eq!((&failed["status"], &failed["error"]["kind"]), (&json!("failed"), &json!("upstream")), "{failed}");

    let (_, days) = client.get("/failures?by=day").await;
    let told = &days["days"][0];
    let told =
        format!("{},{},{},{}", told["kind"].as_str().unwrap(), told["succeeded"], told["failed"], told["failures"]);
    let view = sql(&data, "SELECT kind, succeeded, failed, failures FROM task_days");
    assert_eq!(view, format!("kind,succeeded,failed,failures\n{told}\n"));
    let counted = sql(&data, "SELECT count(*) FROM task_failures");
    assert_eq!((told.as_str(), counted.as_str()), ("map,0,1,10", "count(*)\n10\n"));

    let model = EchoServer::start(Duration::ZERO).await;
    std::fs::write(&config, settings(&model.base_url())).unwrap();
    let again = loop {
        let (status, task) = client.post_json(&format!("/tasks/{id}/redrive"), "{}").await;
        assert!(status < 300, "{task}");
        let task = ended(&client, &id).await;
        // The settings file is read a moment later.
        if task["status"] == "succeeded" {
            break task;
        }
    };
    assert_eq!(again["progress"]["done"], json!(PARTS));
    assert_eq!(model.requests(), PARTS as u64);

    let pipeline = json!({"kind": "pipeline", "input": {"input": {"gate": "3"}, "steps": [
        {"name": "find", "type": "search", "query": "lock gate {{input.gate}}", "mode": "lexical", "top_k": 1},
        {"name": "tell", "type": "extract", "from": "{{find.hits.0.text}}", "schema": {"type": "object"}},
    ]}});
    let first = ask(&client, pipeline).await;
    ended(&client, &first).await;
    let changed = json!({"step": "tell", "input": {"from": "Another text.", "schema": {"type": "object"}}});
    let (status, fork) = client.post_json(&format!("/tasks/{first}/fork"), changed.to_string()).await;
    assert_eq!((status, &fork["forked_from"]), (202, &json!(first)), "{fork}");
    let forked = ended(&client, fork["id"].as_str().unwrap()).await;
    assert_eq!(forked["status"], "succeeded", "{forked}");
    let result = async |id: &str| client.get(&format!("/tasks/{id}/result")).await.1["result"]["outputs"].clone();
    let (before, after) = (result(&first).await, result(fork["id"].as_str().unwrap()).await);
    assert_eq!(before["find"], after["find"], "what comes before the changed step is taken over");
    assert_ne!(before["tell"], after["tell"]);
    assert!(server.terminate().success());
}

#[tokio::test]
async fn what_was_written_while_a_document_waited_in_line_stays() {
    let dir = tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let client = server.client();
    let (_, first) = client.put_json("/documents/gate", r#"{"text": "The first."}"#).await;
    assert_eq!(first["accepted"], 1, "{first}");
    let late = json!({"kind": "ingest", "delay_s": 1, "input": {"documents": [
        {"id": "gate", "text": "The late one."}, {"id": "other", "text": "Another."}]}});

    let id = ask(&client, late).await;
    client.put_json("/documents/gate", r#"{"text": "The newest."}"#).await;
    let task = ended(&client, &id).await;

    assert_eq!(task["status"], "succeeded", "{task}");
    let (_, result) = client.get(&format!("/tasks/{id}/result")).await;
    let documents = &result["result"]["documents"];
    assert_eq!((&documents[0]["status"], &documents[1]["status"]), (&json!("failed"), &json!("accepted")), "{result}");
    assert_eq!(documents[0]["error"]["kind"], "conflict");
    let (_, gate) = client.get("/documents/gate").await;
    assert_eq!(gate["version"], 2, "the late content made no version: {gate}");
    assert!(server.terminate().success());
}

#[tokio::test]
async fn of_documents_that_wait_in_line_the_one_sent_last_stands_last() {
    let dir = tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let client = server.client();

    let mut ids = Vec::new();
    // The first content comes again once the others stand: it is a write of its own, not the first one's task.
    for (sent, last) in [(&["A", "B", "C"][..], "Text C."), (&["A"], "Text A.")] {
        for text in sent {
            let (status, answer) =
                client.put_later("/documents/raced", &json!({"text": format!("Text {text}.")})).await;
            assert_eq!(status, 202, "{answer}");
            ids.push(answer["task_id"].as_str().unwrap().to_owned());
        }
        for id in &ids {
            assert_eq!(ended(&client, id).await["status"], "succeeded");
        }
        let (_, chunks) = client.get("/documents/raced/chunks").await;
        assert_eq!(chunks["chunks"][0]["text"], last, "{chunks}");
    }

    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    assert!(server.terminate().success());
}
