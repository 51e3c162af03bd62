//! Documents in and out on the wire.

use std::sync::atomic::Ordering;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::domain::Principal;
use crate::http::HttpSettings;
use crate::ingest::IncomingBody;

use super::rooms::BATCH;
use super::world::{World, request};

fn only(world: &World) -> crate::ingest::IncomingDocument {
    world.asked().documents.lock().last().cloned().unwrap()
}

#[tokio::test]
async fn a_document_is_put_under_an_id_with_slashes() {
    let world = World::open();
    let body = json!({"title": "Backup", "text": "daily", "metadata": {"year": 2026}, "acl": ["group:eng"]});

    let reply = world.put("/documents/docs%2Fa%20b.md?collection=books", body.to_string()).await;

    assert_eq!(reply.status, 202);
    let body = reply.json();
    assert_eq!((&body["accepted"], &body["unchanged"], &body["failed"]), (&json!(1), &json!(0), &json!(0)));
    assert_eq!((&body["task_id"], &body["sequence"]), (&Value::Null, &json!(1)));
    let expected = json!([{"id": "docs/a b.md", "status": "accepted", "version": 1,
        "content_hash": blake3::hash(b"content").to_hex().to_string()}]);
    assert_eq!(body["documents"], expected);
    let document = only(&world);
    assert_eq!(document.collection.as_str(), "books");
    assert_eq!(document.acl, Some(vec![Principal::new("group:eng").unwrap()]));
    assert_eq!(document.body, IncomingBody::Text("daily".to_owned()));
}

#[tokio::test]
async fn a_raw_body_takes_its_description_from_parameters() {
    let world = World::open();
    let path = "/documents/a?title=T&source_uri=file:///a&metadata=%7B%22y%22:1%7D&acl=user:ann&acl=group:eng";

    let headers = [("content-type", "text/html; charset=ISO-8859-1")];
    let reply = world.send(request("PUT", path, &headers, Body::from(&b"<p>\xe4</p>"[..]))).await;

    assert_eq!(reply.status, 202);
    let document = only(&world);
    assert_eq!(document.media_type.as_deref(), Some("text/html; charset=iso-8859-1"));
    assert_eq!(document.body, IncomingBody::Bytes(Bytes::from_static(b"<p>\xe4</p>")));
    assert_eq!((document.title.as_deref(), document.acl.map(|acl| acl.len())), (Some("T"), Some(2)));
    let headers = [("content-type", "text/markdown; charset=UTF-8")];
    world.send(request("PUT", "/documents/a", &headers, "# a")).await;
    assert_eq!(only(&world).media_type.as_deref(), Some("text/markdown"));
    let bad = world.send(request("PUT", "/documents/a?metadata=x&acl=", &headers, "# a")).await;
    assert_eq!(bad.pointers(), ["/metadata", "/acl"]);
}

#[tokio::test]
async fn the_callers_chunks_and_vectors_come_through() {
    let world = World::open();
    let body = json!({"chunks": [{"text": "a", "vector": [0.5, 1.0]}, {"text": "b", "metadata": {"k": 1}}]});

    assert_eq!(world.put("/documents/a", body.to_string()).await.status, 202);

    let IncomingBody::Chunks(chunks) = only(&world).body else { panic!("chunks were sent") };
    assert_eq!((chunks.len(), chunks[0].vector.as_deref()), (2, Some(&[0.5, 1.0][..])));
    let infinite = r#"{"chunks": [{"text": "a", "vector": [1e39]}]}"#;
    assert_eq!(world.put("/documents/a", infinite).await.pointers(), ["/chunks/0/vector"]);
    let both = json!({"text": "a", "chunks": []});
    assert_eq!(world.put("/documents/a", both.to_string()).await.pointers(), ["/chunks"]);
    assert_eq!(world.put("/documents/a", "{}").await.pointers(), ["/text"]);
}

#[tokio::test]
async fn ids_and_collections_must_not_contradict_each_other() {
    let world = World::open();

    let id = world.put("/documents/a", json!({"id": "b", "text": "x"}).to_string()).await;
    let collection = world.put("/documents/a?collection=x", json!({"text": "x", "collection": "y"}).to_string()).await;

    assert_eq!(id.pointers(), ["/id"]);
    assert_eq!(collection.pointers(), ["/collection"]);
    assert_eq!(world.put("/documents/a%0Ab", json!({"text": "x"}).to_string()).await.pointers(), ["/document_id"]);
    assert_eq!(world.asked().anything(), 0);
}

#[tokio::test]
async fn one_refused_document_is_a_problem() {
    let world = World::open();

    let problem = world.put("/documents/a", json!({"text": "poison"}).to_string()).await;

    assert_eq!(problem.problem(422, "unprocessable-request")["detail"], "the document holds no text");
}

#[tokio::test]
async fn waiting_for_the_index_changes_the_status() {
    let world = World::open();
    let body = json!({"text": "x"}).to_string();

    assert_eq!(world.put("/documents/a?wait=indexed", body.clone()).await.status, 200);
    assert_eq!(world.put("/documents/a?wait=durable", body).await.pointers(), ["/wait"]);
    let lines = "{\"text\":\"x\"}\n".repeat(1_500);
    let reply = world.ndjson("/documents?wait=indexed", lines).await;
    assert_eq!(reply.status, 202, "an index that is too late is told by 202");
}

#[tokio::test]
async fn a_batch_tells_the_fate_of_each_and_harms_no_neighbour() {
    let world = World::open();
    let batch = json!({"documents": [
        {"id": "a", "text": "x"}, {"id": "b", "text": "known"}, {"id": "c", "text": "poison"},
        {"id": "a", "text": "again"}, {"id": "d", "titel": 1, "text": 2}, {"text": "no id"}, 7,
    ]});

    let reply = world.post("/documents", batch.to_string()).await;

    assert_eq!(reply.status, 202);
    let body = reply.json();
    assert_eq!((&body["accepted"], &body["unchanged"], &body["failed"]), (&json!(2), &json!(1), &json!(4)));
    let statuses: Vec<_> = body["documents"].as_array().unwrap().iter().map(|row| row["status"].clone()).collect();
    assert_eq!(statuses, ["accepted", "unchanged", "failed", "failed", "failed", "accepted", "failed"]);
    let error = |index: usize| body["documents"][index]["error"].clone();
    assert_eq!(error(2)["type"], "urn:plumb:problem:unprocessable-request");
    assert_eq!(error(3)["errors"][0]["pointer"], "/documents/3/id");
    let pointers: Vec<_> = error(4)["errors"].as_array().unwrap().iter().map(|one| one["pointer"].clone()).collect();
    assert_eq!(pointers, ["/documents/4/text", "/documents/4/titel"]);
    assert_eq!(error(6)["errors"][0]["pointer"], "/documents/6");
    assert!(body["documents"][5]["id"].as_str().unwrap().starts_with("doc_"));
}

#[tokio::test]
async fn a_batch_of_which_nothing_was_taken_is_a_problem_with_the_whole_account() {
    let world = World::open();
    let batch = json!({"documents": [{"id": "c", "text": "poison"}, {"txt": "x"}]});

    let problem = world.post("/documents", batch.to_string()).await.problem(422, "unprocessable-request");

    assert_eq!((&problem["failed"], problem["documents"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    assert_eq!(world.post("/documents", json!({"documents": []}).to_string()).await.pointers(), ["/documents"]);
    let many = json!({"documents": vec![json!({"text": "x"}); 1_001]});
    assert_eq!(world.post("/documents", many.to_string()).await.pointers(), ["/documents"]);
    world.ndjson("/documents", "\n \n").await.problem(422, "unprocessable-request");
}

#[tokio::test]
async fn a_poison_line_fails_alone_by_its_number() {
    let world =
        World::with(HttpSettings { max_document_body_bytes: 200, ..HttpSettings::default() }, Default::default());
    let mut lines = b"{\"id\":\"a\",\"text\":\"x\"}\n\n{\"id\":\"b\",\"text\":\"\xff\"}\n{\"id\":\"c\",\n".to_vec();
    lines.extend(format!("{{\"text\":\"{}\"}}\n", "y".repeat(300)).as_bytes());
    lines.extend(b"{\"id\":\"d\",\"text\":\"poison\"}\r\n{\"id\":\"e\",\"text\":\"x\",\"colour\":1}\n{\"id\":\"f\",\"text\":\"z\"}");

    let reply = world.ndjson("/documents", lines).await;

    assert_eq!(reply.status, 202);
    let body = reply.json();
    assert_eq!((&body["accepted"], &body["failed"]), (&json!(2), &json!(5)));
    let failed: Vec<(u64, String)> = body["documents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["status"] == "failed")
        .map(|row| (row["line"].as_u64().unwrap(), row["error"]["type"].as_str().unwrap().to_owned()))
        .collect();
    let kind = |slug: &str| format!("urn:plumb:problem:{slug}");
    assert_eq!(
        failed,
        [
            (3, kind("malformed-request")),
            (4, kind("malformed-request")),
            (5, kind("too-large")),
            (6, kind("unprocessable-request")),
            (7, kind("unprocessable-request")),
        ]
    );
}

#[tokio::test]
async fn a_long_stream_is_taken_at_constant_memory_and_lists_failures_only() {
    let world = World::open();
    let lines = futures::stream::iter(0..200_000_u32).map(|index| {
        let text = if index == 150_000 { "poison" } else { "x" };
        Ok::<_, std::io::Error>(Bytes::from(format!("{{\"id\":\"{index}\",\"text\":\"{text}\"}}\n")))
    });

    let reply = world.ndjson("/documents", Body::from_stream(lines)).await;

    let body = reply.json();
    assert_eq!((&body["accepted"], &body["failed"]), (&json!(199_999), &json!(1)));
    assert_eq!(body["documents"].as_array().unwrap().len(), 1);
    assert_eq!((&body["documents"][0]["id"], &body["documents"][0]["line"]), (&json!("150000"), &json!(150_001)));
    assert!(world.asked().most_held.load(Ordering::SeqCst) <= BATCH);
}

#[tokio::test]
async fn the_body_is_read_no_faster_than_the_room_below_takes_it() {
    let world = World::open();
    world.rooms.breaks_after.store(10, Ordering::SeqCst);
    let frames = (0..100_000).map(|_| Bytes::from_static(b"{\"text\":\"x\"}\n")).collect();
    let (body, read) = super::world::counted(frames);

    let reply = world.ndjson("/documents", body).await;

    let problem = reply.problem(503, "unavailable");
    assert_eq!(problem["accepted"], 10, "what was taken before stays taken and is told");
    assert_eq!(problem["documents"].as_array().unwrap().len(), 10);
    assert!(read.load(Ordering::SeqCst) <= BATCH + 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_is_given_up_with_an_account() {
    let world = World::open();
    let lines = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{\"text\":\"x\"}\n"))]);

    let reply = world.ndjson("/documents", Body::from_stream(lines.chain(futures::stream::pending()))).await;

    assert_eq!(reply.problem(408, "request-timeout")["accepted"], 1);
}

#[tokio::test]
async fn files_of_a_form_become_documents() {
    let world = World::open();
    let part = |head: &str, body: &str| format!("--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n");
    let typed = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"docs/a.md\"\r\n\
        Content-Type: text/markdown\r\n\r\n# A\r\n";
    let form = [
        &part("name=\"collection\"", "books"),
        &part("name=\"metadata\"", "{\"y\":1}"),
        &part("name=\"acl\"", "user:ann"),
        typed,
        &part("name=\"file\"; filename=\"b.txt\"", "B"),
        "--XX--\r\n",
    ]
    .concat();
    let headers = [("content-type", "multipart/form-data; boundary=XX")];

    let reply = world.send(request("POST", "/documents", &headers, form.clone())).await;

    assert_eq!((reply.status.as_u16(), &reply.json()["accepted"]), (202, &json!(2)));
    let documents = world.asked().documents.lock().clone();
    assert_eq!(documents[0].id.as_ref().unwrap().as_str(), "docs/a.md");
    assert_eq!(documents[0].media_type.as_deref(), Some("text/markdown"));
    assert_eq!((documents[1].collection.as_str(), documents[1].metadata["y"].as_u64()), ("books", Some(1)));
    let unknown = [&part("name=\"colour\"", "x"), "--XX--\r\n"].concat();
    assert_eq!(world.send(request("POST", "/documents", &headers, unknown)).await.pointers(), ["/colour"]);
    let cut = &form[..form.len() - 8];
    let cut = world.send(request("POST", "/documents", &headers, cut.to_owned())).await;
    assert_eq!(cut.problem(400, "malformed-request")["accepted"], 1);
    let bare = [("content-type", "multipart/form-data")];
    world.send(request("POST", "/documents", &bare, form)).await.problem(400, "malformed-request");
}

#[tokio::test]
async fn a_removal_is_told_once_and_then_there_is_nothing() {
    let world = World::open();

    let gone = world.send(request("DELETE", "/documents/a.md", &[], Body::empty())).await;
    let unknown = world.send(request("DELETE", "/documents/b.md", &[], Body::empty())).await;

    assert_eq!(gone.status, 200);
    assert_eq!(gone.json(), json!({"trace_id": gone.header("x-trace-id"), "task_id": null, "sequence": 7}));
    unknown.problem(404, "not-found");
}
