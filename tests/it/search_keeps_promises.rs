//! What a search promises, through the real store and indexes.

use std::sync::atomic::Ordering;
use std::time::Instant;

use plumb::domain::{
    Context, ErrorKind, FusionMethod, GroupBy, Mode, Principal, Sequence, StageScore, TenantId, TenantScope,
};
use plumb::ingest::{IncomingBody, IncomingDocument};
use plumb::search::{QueryOverrides, SearchError};
use serde_json::json;
use tempfile::tempdir;

use crate::bed::{Bed, HashingEmbedder, Making, degraded, documents, hashed, metadata, name, text};

async fn sea(dir: &std::path::Path) -> Bed {
    let bed = Bed::open(dir).await;
    bed.put_indexed(sea_documents()).await;
    bed
}

fn sea_documents() -> Vec<IncomingDocument> {
    vec![
        text("whale", "The white whale swam through the cold ocean."),
        text("shark", "A hungry shark swam near the reef all day."),
        text("error", "Restart the pump when ERR_CONN_4012 shows up on the panel."),
    ]
}

fn mode(mode: Mode) -> QueryOverrides {
    QueryOverrides { mode: Some(mode), ..QueryOverrides::default() }
}

#[tokio::test]
async fn every_mode_finds_the_document_and_says_where_its_scores_come_from() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;

    let hybrid = bed.search("white whale", mode(Mode::Hybrid)).await.unwrap();
    let lexical = bed.search("white whale", mode(Mode::Lexical)).await.unwrap();
    let vector = bed.search("white whale", mode(Mode::Vector)).await.unwrap();

    for result in [&hybrid, &lexical, &vector] {
        assert_eq!(documents(result)[0], "whale");
        assert_eq!(result.hits[0].text, "The white whale swam through the cold ocean.");
        assert!(result.degraded.is_empty());
        assert!(result.hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }
    let rank = |place: Option<StageScore>| place.map(|place| place.rank);
    let best = &hybrid.hits[0].breakdown;
    assert_eq!((rank(best.lexical), rank(best.vector), rank(best.fusion)), (Some(1), Some(1), Some(1)));
    assert_eq!((lexical.hits[0].breakdown.vector, lexical.hits[0].breakdown.fusion), (None, None));
    assert_eq!(lexical.hits.len(), 1, "a chunk that matches no word is not a lexical hit");
    bed.close().await;
}

#[tokio::test]
async fn both_fusions_answer_and_the_same_question_gives_the_same_answer() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;

    for method in [FusionMethod::Rrf, FusionMethod::Convex] {
        let overrides = QueryOverrides { fusion_method: Some(method), ..QueryOverrides::default() };
        let first = bed.search("swam reef", overrides.clone()).await.unwrap();
        let second = bed.search("swam reef", overrides).await.unwrap();

        assert_eq!(first.hits, second.hits);
        assert_eq!(documents(&first)[0], "shark");
    }
    bed.close().await;
}

#[tokio::test]
async fn highlights_mark_the_words_that_were_asked_for() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;

    let result = bed.search("whales ocean", mode(Mode::Lexical)).await.unwrap();

    let hit = &result.hits[0];
    let marked: Vec<&str> = hit.highlights.iter().filter_map(|span| span.slice(&hit.text)).collect();
    assert_eq!(marked, ["whale", "ocean"]);
    bed.close().await;
}

#[tokio::test]
async fn an_identifier_finds_its_document_and_query_syntax_is_plain_text() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;

    assert_eq!(bed.found("ERR_CONN_4012").await[0], "error");
    for hostile in ["title:whale AND (", "\"", "*:*", "whale~2^5 OR +-\\", "[a TO z]", "\u{0}"] {
        bed.search(hostile, QueryOverrides::default()).await.unwrap();
    }
    bed.close().await;
}

#[tokio::test]
async fn a_deleted_document_is_never_found_again_even_before_the_index_knows() {
    let dir = tempdir().unwrap();
    let mut bed = sea(dir.path()).await;
    bed.stop_indexer().await;

    let whale = plumb::domain::DocumentId::new("whale").unwrap();
    let deleted = bed.ingestor.delete(&bed.scope, &name("default"), &whale).await.unwrap();

    assert!(deleted.is_some());
    for mode in [Mode::Hybrid, Mode::Lexical, Mode::Vector] {
        let result =
            bed.search("white whale", QueryOverrides { mode: Some(mode), ..QueryOverrides::default() }).await.unwrap();
        assert!(!documents(&result).contains(&"whale".to_owned()), "{mode:?}");
    }
    assert_eq!(bed.ingestor.delete(&bed.scope, &name("default"), &whale).await.unwrap(), None);
    bed.close().await;
}

#[tokio::test]
async fn hits_that_are_gone_are_made_up_for_from_further_down() {
    let dir = tempdir().unwrap();
    let mut bed = Bed::open(dir.path()).await;
    let whales = (0..30).map(|n| text(&format!("whale {n:02}"), &format!("The whale number {n} swims.")));
    bed.put_indexed(whales.collect()).await;
    bed.stop_indexer().await;
    let before = bed.found("whale swims").await;
    for id in &before {
        let id = plumb::domain::DocumentId::new(id).unwrap();
        bed.ingestor.delete(&bed.scope, &name("default"), &id).await.unwrap();
    }

    let after = bed.found("whale swims").await;

    assert_eq!((before.len(), after.len()), (10, 10));
    assert!(after.iter().all(|id| !before.contains(id)));
    bed.close().await;
}

#[tokio::test]
async fn only_what_passes_the_filter_and_the_acl_is_found() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let whale = |id: &str, year: i64, acl: Option<&str>| IncomingDocument {
        metadata: metadata(json!({ "year": year })),
        acl: acl.map(|one| vec![Principal::new(one).unwrap()]),
        ..text(id, "A whale in the ocean.")
    };
    bed.put_indexed(vec![whale("old", 1999, None), whale("new", 2024, None), whale("secret", 2024, Some("group:eng"))])
        .await;
    let recent = QueryOverrides { filter: Some(json!({"year": {"$gte": 2020}})), ..QueryOverrides::default() };
    let by_id = QueryOverrides { filter: Some(json!({"document_id": "old"})), ..QueryOverrides::default() };
    let future = QueryOverrides { filter: Some(json!({"created_at": {"$gt": "2999"}})), ..QueryOverrides::default() };

    let sorted = |mut found: Vec<String>| {
        found.sort();
        found
    };
    for mode in [Mode::Hybrid, Mode::Lexical, Mode::Vector] {
        let with = |overrides: &QueryOverrides| QueryOverrides { mode: Some(mode), ..overrides.clone() };
        let all = bed.search("whale", with(&recent)).await.unwrap();
        assert_eq!(sorted(documents(&all)), ["new", "secret"], "{mode:?}");
        assert_eq!(documents(&bed.search("whale", with(&by_id)).await.unwrap()), ["old"], "{mode:?}");
        assert!(bed.search("whale", with(&future)).await.unwrap().hits.is_empty(), "{mode:?}");

        let stranger = bed.search_as(&bed.reader(&[]), "whale", with(&recent)).await.unwrap();
        let engineer = bed.search_as(&bed.reader(&["group:eng"]), "whale", with(&recent)).await.unwrap();
        assert_eq!(documents(&stranger), ["new"], "{mode:?}");
        assert_eq!(sorted(documents(&engineer)), ["new", "secret"], "{mode:?}");
    }
    bed.close().await;
}

#[tokio::test]
async fn another_tenant_finds_nothing_and_cannot_tell_that_there_is_something() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;
    let mut named = text("n", "A whale of another collection.");
    named.collection = name("named");
    bed.put_indexed(vec![named]).await;
    let stranger = TenantScope::everything(TenantId::new("other").unwrap());

    let result = bed.search_as(&stranger, "whale", QueryOverrides::default()).await.unwrap();
    assert!(result.hits.is_empty() && result.generation.is_none());
    let known = QueryOverrides { collection: Some(name("named")), ..QueryOverrides::default() };
    let unknown = QueryOverrides { collection: Some(name("nowhere")), ..QueryOverrides::default() };
    let known = bed.search_as(&stranger, "whale", known).await.unwrap_err();
    let unknown = bed.search_as(&stranger, "whale", unknown).await.unwrap_err();
    assert_eq!((known.kind(), unknown.kind()), (ErrorKind::NotFound, ErrorKind::NotFound));
    assert_eq!(known.to_string().replace("named", "nowhere"), unknown.to_string());
    bed.close().await;
}

#[tokio::test]
async fn a_query_in_a_script_that_the_embedder_cannot_read_is_answered_by_words() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;
    let ask = async |mode| {
        let overrides = QueryOverrides { mode: Some(mode), ..QueryOverrides::default() };
        bed.search("φάλαινα whale", overrides).await.unwrap()
    };

    let hybrid = ask(Mode::Hybrid).await;
    let vector = ask(Mode::Vector).await;

    assert_eq!((documents(&hybrid)[0].as_str(), degraded(&hybrid)), ("whale", vec!["vector:script".to_owned()]));
    assert!(vector.degraded.is_empty() && !vector.hits.is_empty(), "who asks for vectors gets them");
    bed.close().await;
}

#[tokio::test]
async fn without_an_embedder_hybrid_answers_by_words_and_says_so() {
    let dir = tempdir().unwrap();
    sea(dir.path()).await.close().await;

    let bed = Bed::with(dir.path(), Making { embedder: None, ..Making::default() }).await;

    let result = bed.search("white whale", QueryOverrides::default()).await.unwrap();
    assert_eq!(documents(&result), ["whale"]);
    assert_eq!(degraded(&result), ["vector:embedder_unavailable"]);
    let refused = bed.search("white whale", mode(Mode::Vector)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let own = QueryOverrides { vector: Some(hashed("white whale")), ..mode(Mode::Vector) };
    assert_eq!(documents(&bed.search("", own).await.unwrap())[0], "whale");
    bed.close().await;
}

#[tokio::test]
async fn an_embedder_that_is_not_the_collections_own_is_not_asked() {
    let dir = tempdir().unwrap();
    sea(dir.path()).await.close().await;
    let other = HashingEmbedder::new("2");

    let bed = Bed::with(dir.path(), Making { embedder: Some(other), ..Making::default() }).await;

    let result = bed.search("white whale", QueryOverrides::default()).await.unwrap();
    assert_eq!(degraded(&result), ["vector:embedder_unavailable"]);
    bed.close().await;
}

#[tokio::test]
async fn a_busy_embedder_costs_the_vector_leg_and_nothing_else() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;
    bed.embedder.as_ref().unwrap().refusals.store(1, Ordering::SeqCst);

    let result = bed.search("white whale", QueryOverrides::default()).await.unwrap();

    assert_eq!(documents(&result), ["whale"]);
    assert_eq!(degraded(&result), ["vector:overloaded"]);
    bed.close().await;
}

#[tokio::test]
async fn a_deadline_of_zero_is_answered_with_what_there_is() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;
    let now = QueryOverrides { deadline_ms: Some(0), ..QueryOverrides::default() };

    let result = bed.search("white whale", now).await.unwrap();

    assert!(result.hits.is_empty());
    assert_eq!(degraded(&result), ["lexical:deadline", "vector:deadline"]);
    bed.close().await;
}

#[tokio::test]
async fn a_full_compute_queue_is_an_error_that_says_when_to_come_again() {
    let dir = tempdir().unwrap();
    sea(dir.path()).await.close().await;

    let bed = Bed::with(dir.path(), Making { compute_limit: 0, ..Making::default() }).await;

    let error = bed.search("white whale", QueryOverrides::default()).await.unwrap_err();
    assert!(matches!(error, SearchError::Overloaded { .. }));
    assert_eq!((error.kind(), error.retry_after_ms()), (ErrorKind::Unavailable, Some(1000)));
    bed.close().await;
}

#[tokio::test]
async fn a_vector_of_the_wrong_length_is_refused_with_both_numbers() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;
    let short = QueryOverrides { vector: Some(vec![1.0; 3]), ..QueryOverrides::default() };

    let error = bed.search("whale", short).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Unprocessable);
    assert_eq!(error.to_string(), "the query vector has 3 dimensions, the vectors of the collection have 64");
    bed.close().await;
}

#[tokio::test]
async fn the_default_collection_is_empty_before_the_first_write() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;

    let result = bed.search("whale", QueryOverrides::default()).await.unwrap();

    assert!(result.hits.is_empty() && result.generation.is_none() && result.degraded.is_empty());
    bed.close().await;
}

#[tokio::test]
async fn a_search_waits_for_the_write_it_must_see_and_not_forever() {
    let dir = tempdir().unwrap();
    let mut bed = sea(dir.path()).await;
    let outcomes = bed.put(vec![text("late", "A very late walrus.")]).await;
    let must_see = |sequence| QueryOverrides { min_sequence: Some(sequence), ..QueryOverrides::default() };

    let result = bed.search("walrus", must_see(outcomes[0].sequence.unwrap())).await.unwrap();
    assert_eq!(documents(&result)[0], "late");
    assert!(Some(result.sequence) >= outcomes[0].sequence);

    bed.stop_indexer().await;
    let outcomes = bed.put(vec![text("later", "An even later walrus.")]).await;
    let soon = QueryOverrides { deadline_ms: Some(20), ..must_see(outcomes[0].sequence.unwrap()) };
    let error = bed.search("walrus", soon).await.unwrap_err();
    assert!(matches!(error, SearchError::IndexLagging { wanted, reached, .. } if wanted > reached));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let from_nowhere = QueryOverrides { deadline_ms: Some(1), ..must_see(Sequence(u64::MAX)) };
    assert!(bed.search("walrus", from_nowhere).await.is_err());
    bed.close().await;
}

#[tokio::test]
async fn one_hit_for_each_document_where_that_is_asked_for() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let paragraph = |n: usize| format!("The whale number {n} swims in the ocean with all of its friends.");
    let long = (0..40).map(paragraph).collect::<Vec<_>>().join("\n\n");
    bed.put_indexed(vec![text("long", &long), text("short", "One whale here."), text("other", "Whale song.")]).await;
    let grouped = QueryOverrides { group_by: Some(GroupBy::Document), ..QueryOverrides::default() };

    let plain = bed.search("whale swims ocean", QueryOverrides::default()).await.unwrap();
    let grouped = bed.search("whale swims ocean", grouped).await.unwrap();

    assert!(documents(&plain).iter().filter(|id| *id == "long").count() > 5);
    let mut found = documents(&grouped);
    found.sort();
    assert_eq!(found, ["long", "other", "short"]);
    assert_eq!(grouped.hits.iter().map(|hit| hit.rank).collect::<Vec<_>>(), [1, 2, 3]);
    bed.close().await;
}

#[tokio::test]
async fn neighbours_come_along_where_they_are_asked_for() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let parts = [
        "First there is a long paragraph about something else entirely, you see.",
        "Then comes the walrus that everybody has been waiting for all day.",
        "And last there is another paragraph which nobody has asked for yet.",
    ];
    bed.put_indexed(vec![text("a", &parts.join("\n\n"))]).await;
    let overrides =
        QueryOverrides { context: Some(Context { before: 2, after: 1 }), top_k: Some(1), ..QueryOverrides::default() };

    let result = bed.search("walrus", overrides).await.unwrap();

    let hit = &result.hits[0];
    let before: Vec<&str> = hit.before.iter().map(|one| one.text.trim()).collect();
    let after: Vec<&str> = hit.after.iter().map(|one| one.text.trim()).collect();
    assert_eq!((before, hit.text.trim(), after), (vec![parts[0]], parts[1], vec![parts[2]]));
    bed.close().await;
}

#[tokio::test]
async fn ten_searches_at_once_get_the_answers_of_one() {
    let dir = tempdir().unwrap();
    let bed = sea(dir.path()).await;
    let query = bed.query("white whale", QueryOverrides::default());
    let alone = bed.searcher.search(&bed.scope, &query, Instant::now()).await.unwrap();

    let searches = (0..10).map(|_| bed.searcher.search(&bed.scope, &query, Instant::now()));
    let together = futures::future::join_all(searches).await;

    assert!(together.into_iter().all(|result| result.unwrap().hits == alone.hits));
    bed.close().await;
}

#[tokio::test]
async fn callers_vectors_are_searched_by_callers_vectors() {
    let dir = tempdir().unwrap();
    let mut making = Making::default();
    let own = plumb::ingest::CallerVectors { name: "mine".to_owned(), dimensions: 3 };
    making.ingest.caller_vectors.insert("vectors".to_owned(), own);
    let bed = Bed::with(dir.path(), making).await;
    let chunk = |text: &str, vector: Vec<f32>| plumb::ingest::IncomingChunk {
        text: text.to_owned(),
        vector: Some(vector),
        metadata: None,
    };
    let mut document = text("v", "");
    document.collection = name("vectors");
    document.body = IncomingBody::Chunks(vec![chunk("east", vec![9.0, 0.0, 0.0]), chunk("north", vec![0.0, 2.0, 0.1])]);
    bed.put_indexed(vec![document]).await;
    let query = QueryOverrides {
        collection: Some(name("vectors")),
        vector: Some(vec![0.0, 1.0, 0.0]),
        ..QueryOverrides::default()
    };

    let result = bed.search("", query).await.unwrap();
    let by_text = QueryOverrides { collection: Some(name("vectors")), ..QueryOverrides::default() };
    let by_text = bed.search("east", by_text).await.unwrap();

    assert_eq!(result.hits.iter().map(|hit| hit.text.as_str()).collect::<Vec<_>>(), ["north", "east"]);
    assert_eq!(
        (by_text.hits[0].text.as_str(), degraded(&by_text)),
        ("east", vec!["vector:embedder_unavailable".to_owned()])
    );
    assert_eq!(bed.embedder.as_ref().unwrap().taken(), 0);
    bed.close().await;
}
