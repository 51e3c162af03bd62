//! Bad input through the public door of the real server: a clear problem each, nothing lost, neighbours unharmed.
//!
//! The corpora of broken files lie outside the repository; `cargo test --test hostile` runs them.

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::process::Server;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_good_lines_are_taken_around_every_kind_of_poison() {
    let dir = tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let poison: Vec<Vec<u8>> = vec![
        b"{\"id\": \"cut\", \"text\": \"no end".to_vec(),
        b"{\"id\": \"latin-1\", \"text\": \"caf\xe9\"}".to_vec(),
        b"{\"id\": \"nan\", \"text\": \"x\", \"metadata\": {\"price\": NaN}}".to_vec(),
        b"{\"id\": \"typo\", \"txet\": \"x\"}".to_vec(),
        b"{\"id\": \"number\", \"text\": 7}".to_vec(),
        b"{\"id\": \"empty\"}".to_vec(),
        b"[]".to_vec(),
        b"\x00\x01\x02".to_vec(),
        format!("{{\"id\": \"deep\", \"text\": \"x\", \"metadata\": {{\"deep\": {deep}}}}}").into_bytes(),
        format!("{{\"id\": \"huge\", \"text\": \"{}\"}}", "a ".repeat(20 << 20)).into_bytes(),
    ];
    let mut body = Vec::new();
    for n in 0..10_000 {
        if n % 1_000 == 500 {
            body.extend_from_slice(&poison[n / 1_000]);
            body.push(b'\n');
        }
        let line = json!({"id": format!("good-{n}"), "text": format!("Part{n} is in its place.")});
        body.extend_from_slice(format!("{line}\n").as_bytes());
    }

    let answer = server.client().post_ndjson(body, "?wait=indexed").await.unwrap();

    assert_eq!((&answer["accepted"], &answer["failed"]), (&json!(10_000), &json!(poison.len())), "{answer}");
    let failed = answer["documents"].as_array().unwrap();
    assert_eq!(failed.len(), poison.len(), "{answer}");
    assert!(failed.iter().all(|one| one["status"] == "failed" && one["error"].is_object()), "{answer}");
    for n in [0, 499, 500, 4_321, 9_999] {
        let found = search(&server, &format!("part{n}")).await;
        assert_eq!(found["hits"][0]["document_id"], format!("good-{n}"), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_ten_thousand_terms_is_refused_and_one_within_limits_is_answered() {
    let dir = tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    server.client().post_ndjson("{\"id\": \"a\", \"text\": \"one term1999 two\"}", "?wait=indexed").await.unwrap();
    let terms = |count: usize| (0..count).map(|n| format!("term{n}")).collect::<Vec<_>>().join(" ");

    let (status, problem) = server.client().post_json("/search", query(&terms(10_000))).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/query")), "{problem}");

    let long = terms(8_000 / 9);
    let (status, found) = server.client().post_json("/search", query(&format!("{long} term1999"))).await;
    assert_eq!((status, &found["hits"][0]["document_id"]), (200, &json!("a")), "{found}");
}

fn query(text: &str) -> String {
    json!({"query": text, "mode": "lexical"}).to_string()
}

async fn search(server: &Server, text: &str) -> Value {
    server.client().post_json("/search", query(text)).await.1
}
