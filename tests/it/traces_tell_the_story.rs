//! What a trace says about real work, and what it must not say.

use plumb::domain::{Mode, TraceId};
use plumb::search::QueryOverrides;
use plumb::telemetry::{FinishedTrace, TraceSettings, finished_traces, recording};
use tempfile::tempdir;
use tokio::time::timeout;
use tracing::{Instrument, Span, info_span};

use crate::bed::{Bed, PATIENCE, name, text};
use crate::process::Server;

fn request() -> Span {
    info_span!(target: "plumb::test", "request", trace_id = %TraceId([7; 16]), tenant = "acme")
}

fn names(finished: &FinishedTrace) -> Vec<&str> {
    let mut names: Vec<&str> = finished.trace.spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    names
}

// One test alone in this process may record: a span that ends on a thread of a pool ends its parent through the
// process's own subscriber, not through that of a test's thread.
#[tokio::test]
async fn stages_are_told_in_numbers_and_texts_are_not_told() {
    tracing::subscriber::set_global_default(recording(&TraceSettings::default())).unwrap();
    let mut traces = finished_traces().unwrap();
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let hybrid = QueryOverrides { mode: Some(Mode::Hybrid), ..QueryOverrides::default() };
    let nowhere = QueryOverrides { collection: Some(name("nowhere")), ..QueryOverrides::default() };

    bed.put_indexed(vec![text("plan", "The zeppelin leaves at midnight.")]).instrument(request()).await;
    bed.search("zeppelin midnight", hybrid).instrument(request()).await.unwrap();
    let refused = bed.search("zeppelin midnight", nowhere).instrument(request()).await;

    let mut next = async || timeout(PATIENCE, traces.recv()).await.unwrap().unwrap();
    let (ingest, search, failed) = (next().await, next().await, next().await);
    for stage in ["ingest.embed", "ingest.parse", "ingest.write", "store.open_collection", "store.states"] {
        assert!(names(&ingest).contains(&stage), "{stage} is missing in {:?}", names(&ingest));
    }
    let stages = [
        "search",
        "search.embed",
        "search.fuse",
        "search.hydrate",
        "search.lexical",
        "search.vector",
        "store.collection",
        "store.hydrate",
    ];
    for stage in stages {
        assert!(names(&search).contains(&stage), "{stage} is missing in {:?}", names(&search));
    }
    let row = &search.searches[0];
    assert_eq!((row.tenant.as_str(), row.mode, row.hits), ("acme", Mode::Hybrid, 1));
    assert!(row.generation.is_some() && row.took_us > 0 && row.degraded.is_empty());
    assert!(refused.is_err() && failed.searches.is_empty());
    assert_eq!(failed.trace.kept, "sampled", "a caller's own fault is no failure");
    let told = format!("{ingest:?}{search:?}{failed:?}").to_lowercase();
    assert!(!told.contains("zeppelin") && !told.contains("midnight"), "{told}");
    bed.close().await;
}

#[tokio::test]
async fn a_lone_request_can_be_told_after_the_server_has_ended() {
    let dir = tempdir().unwrap();
    let server = Server::start(dir.path());
    let line = r#"{"id": "plan", "text": "The zeppelin leaves at midnight."}"#;
    server.client().post_ndjson(line, "?wait=indexed").await.unwrap();

    let (_, found) = server.client().post_json("/search", r#"{"query": "zeppelin"}"#).await;
    assert!(server.terminate().success());
    let server = Server::start(dir.path());
    let (status, told) = server.client().get(&format!("/traces/{}", found["trace_id"].as_str().unwrap())).await;

    assert_eq!(
        (status, &told["trace_id"], &told["requests"][0]["name"]),
        (200, &found["trace_id"], &"POST /search".into())
    );
    let kinds: Vec<&str> =
        told["timeline"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["request", "search"]);
    assert!(kinds[2..].contains(&"span"));
    assert!(!told.to_string().contains("zeppelin"));
}
