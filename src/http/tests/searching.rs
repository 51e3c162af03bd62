//! `/search` on the wire.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::domain::{FusionMethod, GroupBy, Mode, Sequence};
use crate::http::HttpSettings;

use super::world::World;

#[tokio::test]
async fn the_response_has_the_shape_of_the_contract() {
    let world = World::open();

    let reply = world.post("/search", json!({"query": "backup", "explain": true}).to_string()).await;

    let body = reply.json();
    assert_eq!(body["trace_id"], reply.header("x-trace-id"));
    assert_eq!(body["took_ms"], 12.3);
    let timings = json!({"embed": 0.0, "lexical": 1.235, "vector": 0.0, "fusion": 0.0, "rerank": 0.0, "hydrate": 0.0});
    assert_eq!(body["timings_ms"], timings);
    assert_eq!((&body["mode"], &body["sequence"]), (&json!("hybrid"), &json!(123)));
    assert_eq!(body["degraded"], json!(["rerank:deadline"]));
    let expected = json!({
        "rank": 1, "score": 0.93, "chunk_id": format!("chk_{}", "ab".repeat(16)), "document_id": "a.md",
        "title": "Backup", "text": "Back up daily.", "highlights": [[0, 4]],
        "after": [{"chunk_id": format!("chk_{}", "02".repeat(16)), "text": "And test it."}],
        "metadata": {},
        "provenance": {
            "document_id": "a.md", "document_version": 2, "content_hash": blake3::hash(b"content").to_hex().to_string(),
            "source_uri": "file:///a.md", "byte_range": [10, 22], "heading_path": ["Operations", "Backup"],
            "ordinal": 3, "chunker": {"name": "structure", "version": 1, "params": {"max_tokens": "200"}},
            "embedder": {"name": "hashing", "revision": "1"}, "generation": format!("gen_{}", "01".repeat(16)),
            "indexed_at": "2026-01-01T00:00:00Z",
        },
        "explain": {
            "lexical": {"rank": 3, "score": 11.2}, "fusion": {"method": "convex", "rank": 1, "score": 0.032},
            "rerank": {"rank": 1, "score": 0.93},
        },
    });
    assert_eq!(body["hits"], json!([expected]));
}

#[tokio::test]
async fn scores_of_stages_are_shown_only_if_asked_for() {
    let reply = World::open().post("/search", json!({"query": "backup"}).to_string()).await;

    assert!(reply.json()["hits"][0].get("explain").is_none());
}

#[tokio::test]
async fn every_option_reaches_the_search() {
    let world = World::open();
    let body = json!({
        "query": "whale", "collection": "books", "mode": "lexical", "top_k": 7, "filter": {"year": 2020},
        "candidate_depth": 50, "fusion": {"method": "rrf", "rrf_k": 10, "weights": {"lexical": 2.0, "vector": 0.5}},
        "rerank": {"enabled": false, "depth": 5}, "group_by": "author", "context": {"before": 1, "after": 2},
        "deadline_ms": 200, "min_sequence": 9, "exact": true, "explain": true,
    });

    assert_eq!(world.post("/search", body.to_string()).await.status, 200);

    let (_, query) = world.asked().last_search.lock().clone().unwrap();
    assert_eq!((query.collection.as_str(), query.mode, query.top_k), ("books", Mode::Lexical, 7));
    assert_eq!((query.candidate_depth, query.deadline_ms), (50, Some(200)));
    assert_eq!((query.fusion.method, query.fusion.rrf_k), (FusionMethod::Rrf, 10));
    assert_eq!((query.fusion.lexical_weight, query.fusion.vector_weight), (2.0, 0.5));
    assert_eq!((query.rerank.enabled, query.rerank.depth), (false, 5));
    assert_eq!(query.group_by, Some(GroupBy::Metadata("author".to_owned())));
    assert_eq!((query.context.before, query.context.after), (1, 2));
    assert_eq!(query.min_sequence, Some(Sequence(9)));
    assert!(query.exact && query.explain && query.filter.is_some());
}

#[tokio::test]
async fn null_is_the_same_as_leaving_out() {
    let world = World::open();
    let body = json!({"query": "whale", "group_by": null, "deadline_ms": null, "fusion": null, "principals": null});

    assert_eq!(world.post("/search", body.to_string()).await.status, 200);
}

#[tokio::test]
async fn the_quick_form_searches_too() {
    let world = World::open();

    let reply = world.get("/search?q=white%20whale&top_k=3&mode=vector&collection=books").await;

    assert_eq!(reply.json()["mode"], "vector");
    let (_, query) = world.asked().last_search.lock().clone().unwrap();
    assert_eq!((query.text.as_str(), query.top_k, query.collection.as_str()), ("white whale", 3, "books"));
}

#[tokio::test]
async fn one_bad_query_of_a_batch_harms_no_other() {
    let world = World::open();
    let batch = json!({"queries": [{"query": "a"}, {"query": "b", "top_k": 0}, {"qery": "c"}, {"query": "panicky"}]});

    let reply = world.post("/search/batch", batch.to_string()).await;

    let body = reply.json();
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert_eq!(results[0]["hits"].as_array().unwrap().len(), 1);
    assert_eq!(results[1]["errors"][0]["pointer"], "/queries/1/top_k");
    assert_eq!(results[2]["errors"][0]["pointer"], "/queries/2/qery");
    assert_eq!(results[2]["status"], 422);
    assert!(results.iter().all(|result| result["trace_id"] == body["trace_id"]));
    let all_bad = json!({"queries": [{"query": ""}, {"query": "b", "top_k": 0}]});
    let reply = world.post("/search/batch", all_bad.to_string()).await;
    assert_eq!(reply.pointers(), ["/queries/0/query", "/queries/1/top_k"]);
    for queries in [json!([]), json!(vec![json!({"query": "a"}); 65])] {
        assert_eq!(world.post("/search/batch", json!({"queries": queries}).to_string()).await.pointers(), ["/queries"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_that_takes_too_long_is_ended() {
    let world = World::open();
    world.rooms.stuck.store(true, Ordering::SeqCst);

    let reply = world.post("/search", r#"{"query": "whale"}"#).await;

    reply.problem(504, "deadline-exceeded");
}

#[tokio::test(start_paused = true)]
async fn a_full_server_answers_503_and_still_says_that_it_lives() {
    let settings = HttpSettings { max_concurrent_requests: 1, max_queued_requests: 0, ..HttpSettings::default() };
    let world = std::sync::Arc::new(World::with(settings, Default::default()));
    world.rooms.stuck.store(true, Ordering::SeqCst);
    let busy = tokio::spawn({
        let world = world.clone();
        async move { world.post("/search", r#"{"query": "whale"}"#).await }
    });
    while world.asked().last_search.lock().is_none() {
        tokio::task::yield_now().await;
    }

    let refused = world.post("/search", r#"{"query": "whale"}"#).await;

    refused.problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(world.get("/healthz").await.status, 200);
    assert_eq!(world.get("/metrics").await.status, 200);
    let upload = world.put("/documents/a", json!({"text": "a"}).to_string()).await;
    assert_eq!(upload.status, 202, "uploads have places of their own");
    assert_eq!(busy.await.unwrap().status, 504);
    assert_eq!(world.get("/documents").await.status, 200);
}
