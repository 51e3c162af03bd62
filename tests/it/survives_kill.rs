//! The binary is killed while it takes documents in: everything it has acknowledged is there when it comes back.

use std::collections::HashSet;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::bed::PATIENCE;
use crate::process::Server;

const DOCUMENTS: usize = 20_000;
const LINES: usize = 500;
/// Documents that one query names.
const SOUGHT_AT_ONCE: usize = 20;
/// How far into taking a request the server is killed, in milliseconds.
const KILL_AFTER_MS: [u64; 4] = [3, 40, 110, 260];

fn line(n: usize) -> String {
    let text = format!("The plate of unit{n} says it was made in hall {} by shift {}.", n % 17, n % 3);
    json!({"id": format!("doc-{n}"), "title": format!("Unit {n}"), "text": text}).to_string()
}

fn ndjson(lines: &[usize]) -> String {
    lines.iter().map(|n| line(*n) + "\n").collect()
}

/// Waits for the index: after a kill it catches up, which takes what it takes on a busy machine.
async fn search(server: &Server, query: &str, sequence: u64) -> Value {
    let body =
        json!({"query": query, "mode": "lexical", "top_k": SOUGHT_AT_ONCE, "min_sequence": sequence}).to_string();
    let asked = Instant::now();
    loop {
        let (status, found) = server.client().post_json("/search", body.clone()).await;
        if status != 503 || asked.elapsed() > PATIENCE {
            return found;
        }
    }
}

async fn document_status(server: &Server, n: usize) -> u16 {
    server.client().get(&format!("/documents/doc-{n}")).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_kill_9_in_the_middle_of_an_ingest() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    let all: Vec<usize> = (0..DOCUMENTS).collect();
    let mut requests = all.chunks(LINES);
    let mut server = Server::start(&data);
    let mut acknowledged = Vec::new();
    let mut sequence = 0;

    for kill_after_ms in KILL_AFTER_MS {
        for lines in requests.by_ref().take(DOCUMENTS / LINES / KILL_AFTER_MS.len() - 1) {
            let answer = server.client().post_ndjson(ndjson(lines), "").await.unwrap();
            assert_eq!(answer["accepted"], lines.len(), "{answer}");
            sequence = answer["sequence"].as_u64().unwrap();
            acknowledged.extend(lines);
        }
        let in_flight = requests.next().unwrap().to_vec();
        let (client, sent) = (server.client(), in_flight.clone());
        let sending = tokio::spawn(async move { client.post_ndjson(ndjson(&sent), "").await });
        tokio::time::sleep(Duration::from_millis(kill_after_ms)).await;
        server.kill();
        let answer = sending.await.unwrap();
        if let Some(answer) = answer {
            sequence = answer["sequence"].as_u64().unwrap();
            acknowledged.extend(&in_flight);
        }

        server = Server::start(&data);
        let last = *acknowledged.last().unwrap();
        let found = search(&server, &format!("unit{last}"), sequence).await;
        assert_eq!(found["hits"][0]["document_id"], format!("doc-{last}"), "{found}");
    }

    for some in acknowledged.chunks(SOUGHT_AT_ONCE) {
        let query: Vec<String> = some.iter().map(|n| format!("unit{n}")).collect();
        let found = search(&server, &query.join(" "), sequence).await;
        let ids: HashSet<&str> =
            found["hits"].as_array().unwrap().iter().filter_map(|hit| hit["document_id"].as_str()).collect();
        let missing: Vec<&usize> = some.iter().filter(|n| !ids.contains(format!("doc-{n}").as_str())).collect();
        assert!(missing.is_empty(), "not found: {missing:?}");
    }
    for n in acknowledged.iter().step_by(97) {
        assert_eq!(document_status(&server, *n).await, 200, "doc-{n}");
    }

    // Sending everything again brings the rest and changes nothing that is there.
    let (mut accepted, mut unchanged) = (0, 0);
    for lines in all.chunks(LINES) {
        let answer = server.client().post_ndjson(ndjson(lines), "?wait=indexed").await.unwrap();
        accepted += answer["accepted"].as_u64().unwrap() as usize;
        unchanged += answer["unchanged"].as_u64().unwrap() as usize;
    }
    assert_eq!(accepted + unchanged, DOCUMENTS);
    assert!(unchanged >= acknowledged.len(), "{unchanged} of {} acknowledged were there", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_says_so_and_harms_nothing() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    server.client().post_ndjson(ndjson(&[1]), "?wait=indexed").await.unwrap();

    let second = Command::new(env!("CARGO_BIN_EXE_plumb"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .env("PLUMB_MODELS_DIR", dir.path())
        .output()
        .unwrap();

    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another process") || said.contains("in use") || said.contains("locked"), "{said}");
    assert_eq!(document_status(&server, 1).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_server_in_order_although_clients_hold_connections_open() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    server.client().post_ndjson(ndjson(&[1]), "").await.unwrap();
    let address = server.address();
    let _silent = std::net::TcpStream::connect(address).unwrap();

    let asked = Instant::now();
    let status = tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();

    assert!(status.success(), "{status}");
    assert!(asked.elapsed() < PATIENCE);
    TcpListener::bind(address).unwrap();
    let back = Server::start(&data);
    assert_eq!(document_status(&back, 1).await, 200);
}
