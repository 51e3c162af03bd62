//! Bad input: each a clear problem, within limits, and the server goes on.

use axum::body::Body;
use axum::http::header;
use serde_json::json;

use crate::http::HttpSettings;

use super::world::{World, request};

#[tokio::test]
async fn what_is_not_json_is_400_with_the_place() {
    let world = World::open();
    for path in ["/search", "/answer", "/search/batch", "/documents"] {
        for body in [&b""[..], b"  ", b"{", b"{\"query\": NaN}", b"\xff\xfe{}", b"{\"query\": \"\xc3\x28\"}", b"{} {}"]
        {
            let problem = world.post(path, Body::from(body)).await.problem(400, "malformed-request");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() < 500), "{path} {body:?}");
        }
    }
    assert!(world.post("/search", "{\n \"top_k\" 3}").await.json()["detail"].as_str().unwrap().contains("line 2"));
}

#[tokio::test]
async fn deep_nesting_is_refused_and_the_server_goes_on() {
    let world = World::open();
    for open in ["[", "{\"a\":", "{\"$not\":"] {
        let deep = open.repeat(100_000);
        for body in
            [deep.clone(), format!("{{\"query\": \"a\", \"filter\": {deep}"), format!("{{\"documents\": [{deep}")]
        {
            for path in ["/search", "/documents"] {
                let status = world.post(path, body.clone()).await.status.as_u16();
                assert!(matches!(status, 400 | 422), "{path}: {status}");
            }
        }
    }
    let nested = (0..20).fold(json!({"year": 1}), |inner, _| json!({"$not": inner}));
    let reply = world.post("/search", json!({"query": "a", "filter": nested}).to_string()).await;
    assert!(reply.pointers()[0].starts_with("/filter/$not"));
    assert_eq!(world.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413_and_names_the_limit() {
    let world = World::with(
        HttpSettings { max_query_body_bytes: 1 << 20, max_json_body_bytes: 2 << 20, ..HttpSettings::default() },
        Default::default(),
    );
    let ten_megabytes = format!("{{\"query\": \"{}\"}}", "a".repeat(10 << 20));

    for path in ["/search", "/answer", "/search/batch", "/documents"] {
        let problem = world.post(path, ten_megabytes.clone()).await.problem(413, "too-large");
        assert!(problem["detail"].as_str().unwrap().contains("bytes"), "{problem}");
    }
    world.put("/documents/a", ten_megabytes).await.problem(413, "too-large");
}

#[tokio::test]
async fn every_unknown_field_and_wrong_type_is_named_at_once() {
    let world = World::open();

    let search = json!({"query": 1, "topk": 3, "top_k": "ten", "mode": "fast", "fusion": {"weights": {"lexcal": 1}},
        "context": {"before": -1}, "exact": "yes", "tenant": "other"});
    let mut pointers = world.post("/search", search.to_string()).await.pointers();
    pointers.sort();
    assert_eq!(
        pointers,
        ["/context/before", "/exact", "/fusion/weights/lexcal", "/mode", "/query", "/tenant", "/top_k", "/topk"]
    );

    let answer = json!({"question": "a", "messages": [], "search": {"query": "b", "topk": 1}});
    assert_eq!(world.post("/answer", answer.to_string()).await.pointers(), ["/search/topk"]);
    let answer = json!({"question": "a", "messages": [{"role": "user", "content": "b"}], "search": {"query": "b"}});
    assert_eq!(world.post("/answer", answer.to_string()).await.pointers(), ["/messages", "/search/query"]);
    assert_eq!(world.post("/answer", json!({"question": " "}).to_string()).await.pointers(), ["/question"]);
    assert_eq!(world.post("/answer", "{}").await.pointers(), ["/question"]);

    let put = json!({"titel": "a", "text": 3, "metadata": [1], "acl": "me"});
    let mut pointers = world.put("/documents/a", put.to_string()).await.pointers();
    pointers.sort();
    assert_eq!(pointers, ["/acl", "/metadata", "/text", "/titel"]);
}

#[tokio::test]
async fn values_out_of_bounds_are_all_named() {
    let world = World::open();
    let query = |body: serde_json::Value| body.to_string();

    assert_eq!(world.post("/search", query(json!({"query": "a", "top_k": 0}))).await.pointers(), ["/top_k"]);
    let huge = json!({"query": "a", "top_k": 1_000_000_000, "rerank": {"depth": 0}, "fusion": {"rrf_k": 0}});
    assert_eq!(world.post("/search", query(huge)).await.pointers(), ["/top_k", "/fusion/rrf_k", "/rerank/depth"]);
    let long = world.post("/search", query(json!({"query": "term ".repeat(10_000)}))).await;
    assert_eq!(long.pointers(), ["/query"]);
    assert_eq!(world.post("/search", "{}").await.pointers(), ["/query"]);
    let vector = json!({"vector": [0.0, 0.0]});
    assert_eq!(world.post("/search", query(vector)).await.pointers(), ["/vector"]);
    world.post("/search", r#"{"query": "a", "vector": [1e999]}"#).await.problem(400, "malformed-request");
    assert_eq!(world.post("/search", r#"{"vector": [1e39]}"#).await.pointers(), ["/vector"]);
    let crowd: Vec<String> = (0..300).map(|one| format!("user:{one}")).collect();
    assert_eq!(
        world.post("/search", query(json!({"query": "a", "principals": crowd}))).await.pointers(),
        ["/principals"]
    );
    let reply = world.post("/search", query(json!({"query": "a", "collection": "../x"}))).await;
    assert_eq!(reply.pointers(), ["/collection"]);
}

#[tokio::test]
async fn query_syntax_is_plain_text() {
    let world = World::open();
    for text in ["title:secret AND -x", "tenant:other^9 \"unclosed", "(((", "a\u{0}b", "*:*", "{{7*7}} %s ${x}"] {
        let reply = world.post("/search", json!({"query": text}).to_string()).await;

        assert_eq!(reply.status, 200);
        let (scope, query) = world.asked().last_search.lock().clone().unwrap();
        assert_eq!((scope.tenant.as_str(), query.text.as_str()), ("default", text));
    }
}

#[tokio::test]
async fn unknown_media_types_are_415_with_what_is_supported() {
    let world = World::open();
    let cases = [
        ("PUT", "/documents/a", Some("application/x-msdownload"), "text/markdown"),
        ("PUT", "/documents/a", None, "application/json"),
        ("POST", "/documents", Some("text/csv"), "application/x-ndjson"),
        ("POST", "/search", Some("application/x-www-form-urlencoded"), "application/json"),
        ("POST", "/answer", None, "application/json"),
    ];

    for (method, path, media_type, listed) in cases {
        let headers: Vec<_> = media_type.map(|media_type| ("content-type", media_type)).into_iter().collect();
        let (body, read) = super::world::counted(vec!["x".into()]);

        let problem = world.send(request(method, path, &headers, body)).await.problem(415, "unsupported-media-type");

        assert!(problem["detail"].as_str().unwrap().contains(listed), "{problem}");
        assert_eq!(read.load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn packed_bodies_are_refused_as_such() {
    let world = World::open();
    for (method, path, media_type) in [
        ("PUT", "/documents/a", "text/plain"),
        ("POST", "/documents", "application/x-ndjson"),
        ("POST", "/search", "application/json"),
    ] {
        let headers = [("content-type", media_type), ("content-encoding", "gzip")];
        let problem = world.send(request(method, path, &headers, "x")).await.problem(415, "unsupported-media-type");
        assert!(problem["detail"].as_str().unwrap().contains("gzip"), "{problem}");
    }
}

#[tokio::test]
async fn methods_and_paths_that_are_not_there_say_so() {
    let world = World::open();

    let wrong = world.send(request("PATCH", "/documents/a", &[], Body::empty())).await;
    wrong.problem(405, "method-not-allowed");
    let mut allowed: Vec<_> = wrong.header(header::ALLOW.as_str()).split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PUT"]);
    world.send(request("POST", "/healthz", &[], Body::empty())).await.problem(405, "method-not-allowed");
    for path in ["/nowhere", "/documents/", "/tasks/", "/feedback", "/v1/embeddings", "/documents/a/b"] {
        world.get(path).await.problem(404, "not-found");
    }
}

#[tokio::test]
async fn unknown_parameters_are_errors_on_every_route() {
    let world = World::open();
    for path in [
        "/documents?colection=a",
        "/documents/a?x=1",
        "/documents/a/chunks?versoin=1",
        "/search?q=a&topk=3",
        "/collections?x=1",
        "/chunks/chk_00?x=1",
        "/tasks?statsu=queued",
        "/tasks/tsk_00?x=1",
        "/tasks/tsk_00/events?x=1",
        "/tasks/tsk_00/result?x=1",
        "/tasks/tsk_00/steps/a?x=1",
        "/tasks/tsk_00/failures?x=1",
        "/failures?x=1",
    ] {
        assert_eq!(world.get(path).await.pointers().len(), 1, "{path}");
    }
    assert_eq!(world.post("/search?explain=true", r#"{"query": "a"}"#).await.pointers(), ["/explain"]);
    let erase = world.send(request("DELETE", "/documents/a.md?erase=perhaps", &[], Body::empty())).await;
    assert_eq!(erase.pointers(), ["/erase"]);
    assert_eq!(world.get("/search?mode=fast&top_k=-1").await.pointers(), ["/q", "/top_k", "/mode"]);
}

#[tokio::test]
async fn a_panic_is_a_problem_without_its_cause() {
    let world = World::open();

    let problem = world.post("/search", r#"{"query": "panic"}"#).await.problem(500, "internal-error");

    assert!(!problem.to_string().contains("secret"));
    assert_eq!(world.post("/search", r#"{"query": "whale"}"#).await.status, 200);
}

#[tokio::test]
async fn failures_below_are_told_safely_and_with_a_time_where_waiting_helps() {
    let world = World::open();

    let lagging = world.post("/search", r#"{"query": "lagging"}"#).await;
    let corrupt = world.post("/search", r#"{"query": "corrupt"}"#).await;

    let problem = lagging.problem(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("sequence 3, not yet 9"));
    assert_eq!(lagging.header("retry-after"), "2");
    assert!(!corrupt.problem(500, "internal-error").to_string().contains("secret"));
}
