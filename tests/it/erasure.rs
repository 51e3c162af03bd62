//! A document in every place that keeps something of it, and afterwards in none.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::bed::PATIENCE;
use crate::process::{Client, Server};

/// Stands in the secret document's text, its title, and what the model says of it, and nowhere else.
const MARK: &str = "zanzibarquux";

fn settings() -> String {
    format!(
        "[gateway]\nunknown_price = \"free\"\nreuse = \"exact\"\nledger_bodies = \"redacted\"\n\
         [gateway.providers.script]\nkind = \"scripted\"\nscript = [\"The {MARK} key opens the lock [1].\"]\n\
         [gateway.models.m]\nprovider = \"script\"\nmodel = \"m-1\"\n\
         [gateway.routes.default]\nmodels = [\"m\"]\n"
    )
}

fn document(id: &str, text: &str) -> Value {
    json!({"id": id, "title": format!("About {id}"), "text": text})
}

fn secret(version: usize) -> Value {
    let text = format!(
        "The brass {MARK} key number {version} opens the lock of the upper weir. Nobody but the keeper may turn it, \
         and the keeper sleeps at night."
    );
    json!({"id": "secret", "title": format!("Where the {MARK} key hangs"), "text": text})
}

async fn put(client: &Client, document: Value) {
    let told = client.post_ndjson(document.to_string(), "?wait=indexed").await.unwrap();
    assert_eq!(told["accepted"], 1, "{told}");
}

async fn done(client: &Client, order: Value) -> String {
    let (status, task) = client.post_json("/tasks?wait_ms=20000", order.to_string()).await;
    assert!(status < 300, "{task}");
    let id = task["id"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    loop {
        let (_, task) = client.get(&format!("/tasks/{id}")).await;
        if task["status"] == "succeeded" {
            return id;
        }
        assert!(begun.elapsed() < PATIENCE, "{task}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// How often the mark stands in the files whose path has `part` in it.
fn marks(dir: &Path, part: &str) -> usize {
    let mut count = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().is_some_and(|path| path.contains(part)) {
                let bytes = std::fs::read(&path).unwrap_or_default();
                count += bytes.windows(MARK.len()).filter(|window| *window == MARK.as_bytes()).count();
            }
        }
    }
    count
}

fn removed(receipt: &Value, place: &str) -> u64 {
    let places = receipt["places"].as_array().unwrap();
    let found = places.iter().find(|one| one["place"] == place).unwrap_or_else(|| panic!("no {place} in {receipt}"));
    assert_eq!(found["left"], 0, "{receipt}");
    found["removed"].as_u64().unwrap()
}

#[tokio::test]
async fn a_document_that_was_searched_answered_mapped_cached_and_deleted_is_erased_from_every_file() {
    let dir = tempdir().unwrap();
    let (data, config) = (dir.path().join("data"), dir.path().join("plumb.toml"));
    std::fs::write(&config, settings()).unwrap();
    let server = Server::start_with(&data, &["--config", config.to_str().unwrap()]);
    let client = server.client();
    put(&client, document("weirs", "A weir holds the water back until the keeper opens its gate at dawn.")).await;
    for version in 1..=3 {
        put(&client, secret(version)).await;
    }
    let (_, found) = client.post_json("/search", json!({"query": MARK}).to_string()).await;
    assert_eq!(found["hits"][0]["document_id"], "secret", "{found}");
    let question = json!({"question": "What opens the lock of the upper weir?"}).to_string();
    let (status, answer) = client.post_json("/answer", question).await;
    assert_eq!(status, 200, "{answer}");
    let prompt = "Say it shorter.\n{{text}}";
    let map = |document: &str| json!({"kind": "map", "input": {"documents": [document], "prompt": prompt}});
    let over_it = done(&client, map("secret")).await;
    let (_, deleted) = client.delete("/documents/secret").await;
    assert!(deleted["sequence"].as_u64().is_some() && deleted.get("receipt").is_none(), "{deleted}");
    // Its script speaks of the key, whatever it is asked.
    let over_another = done(
        &client,
        json!({"kind": "pipeline", "input": {"input": {}, "steps": [
        {"name": "find", "type": "search", "query": "gate at dawn", "mode": "lexical", "top_k": 1}]}}),
    )
    .await;
    let before = ["plumb.db", "cache"].map(|part| marks(&data, part));

    let (status, erased) = client.delete("/documents/secret?erase=true").await;

    assert_eq!(status, 200, "{erased}");
    assert!(before.iter().all(|count| *count > 0), "{before:?}");
    assert_eq!(marks(&data, ""), 0);
    let receipt = &erased["receipt"];
    assert_eq!((&receipt["document_id"], &erased["sequence"]), (&json!("secret"), &Value::Null));
    assert_eq!((removed(receipt, "versions"), removed(receipt, "tasks")), (3, 1), "{receipt}");
    for place in ["chunks", "cache", "call_texts", "indexes"] {
        assert!(removed(receipt, place) > 0, "{place}: {receipt}");
    }
    removed(receipt, "files");
    assert_eq!(client.get(&format!("/tasks/{over_it}")).await.0, 404);
    assert_eq!(client.get(&format!("/tasks/{over_another}")).await.0, 200);
    let (_, found) = client.post_json("/search", json!({"query": "keeper opens gate"}).to_string()).await;
    assert_eq!(found["hits"][0]["document_id"], "weirs", "{found}");
    let (_, usage) = client.get("/usage").await;
    assert!(usage.to_string().contains("attempts") || usage.to_string().contains("calls"), "{usage}");
    put(&client, document("secret", "Another text under the same name.")).await;
    assert_eq!(client.get("/documents/secret").await.1["version"], 1);
    assert!(server.terminate().success());
}

#[tokio::test]
async fn a_document_that_serves_is_erased_and_a_task_that_has_not_ended_holds_it_up() {
    let dir = tempdir().unwrap();
    let server = Server::start(dir.path());
    let client = server.client();
    put(&client, secret(1)).await;
    let later = json!({"kind": "pipeline", "delay_s": 3600, "input": {"input": {"about": "secret"}, "steps": [
        {"name": "find", "type": "search", "query": "weir", "mode": "lexical", "top_k": 1}]}});
    let (_, waiting) = client.post_json("/tasks", later.to_string()).await;
    let id = waiting["id"].as_str().unwrap();
    let order = json!({"kind": "erase", "input": {"document_id": "secret"}});

    let (_, erasing) = client.post_json("/tasks?wait_ms=500", order.to_string()).await;
    let held_up = erasing["error"]["detail"].as_str().unwrap_or_default().to_owned();
    let still_there = marks(dir.path(), "plumb.db");
    client.post_json(&format!("/tasks/{id}/cancel"), "{}").await;
    let (status, erased) = client.delete("/documents/secret?erase=true").await;

    assert!(held_up.contains(id) && held_up.contains("have not ended"), "{erasing}");
    assert!(still_there > 0);
    assert_eq!(status, 200, "{erased}");
    assert_eq!(marks(dir.path(), ""), 0);
    assert_eq!(client.get(&format!("/tasks/{id}")).await.0, 404);
    assert!(server.terminate().success());
}
