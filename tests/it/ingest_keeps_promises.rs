//! What ingestion promises, through the real store and indexes.

use std::sync::atomic::Ordering;

use futures::stream;
use plumb::domain::{DocumentId, ErrorKind};
use plumb::ingest::{
    IncomingBody, IncomingChunk, IncomingDocument, IngestOutcome, IngestStatus, ItemError, RejectedItem,
};
use plumb::search::QueryOverrides;
use plumb::store::{CorpusStore, StoreSettings};
use serde_json::json;
use tempfile::tempdir;

use crate::bed::{Bed, Making, degraded, metadata, name, text};

fn statuses(outcomes: &[IngestOutcome]) -> Vec<IngestStatus> {
    outcomes.iter().map(|outcome| outcome.status).collect()
}

const PARAGRAPHS: [&str; 3] = [
    "The white whale swam through the cold ocean for nearly one year.",
    "A hungry shark swam near the reef for all of that day.",
    "Nobody knows what the walrus did in all of this long time.",
];

#[tokio::test]
async fn the_same_content_again_is_unchanged_and_costs_no_embedding() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let document = text("a", &PARAGRAPHS.join("\n\n"));
    let first = bed.put(vec![document.clone()]).await;
    assert_eq!(bed.embedder.as_ref().unwrap().taken(), 3);

    let second = bed.put(vec![document]).await;

    assert_eq!(statuses(&first), [IngestStatus::Accepted]);
    assert_eq!(statuses(&second), [IngestStatus::Unchanged]);
    // Also the one that lost the first answer can wait for the index.
    assert_eq!((second[0].version, second[0].sequence), (Some(1), first[0].sequence));
    assert_eq!(first[0].content_hash, second[0].content_hash);
    assert_eq!(bed.embedder.as_ref().unwrap().taken(), 0);
    bed.close().await;
}

#[tokio::test]
async fn chunks_of_the_caller_say_so_also_in_versions_of_the_past() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let chunk = |text: &str| IncomingChunk { text: text.to_owned(), vector: None, metadata: None };
    let chunks = PARAGRAPHS.map(chunk).to_vec();
    bed.put(vec![IncomingDocument { body: IncomingBody::Chunks(chunks), ..text("a", "") }]).await;
    let id = DocumentId::new("a").unwrap();
    let chunker_of = async |version| {
        let chunks = bed.store.chunks(&bed.scope, &name("default"), &id, version).await.unwrap().unwrap();
        chunks[0].provenance.chunker.name.clone()
    };

    assert_eq!(chunker_of(None).await, "caller");
    bed.put_indexed(vec![text("a", &PARAGRAPHS[..2].join("\n\n"))]).await;
    assert_eq!(chunker_of(None).await, "structure");
    assert_eq!(chunker_of(Some(1)).await, "caller");
    let found = bed.search("shark", QueryOverrides::default()).await.unwrap();
    assert_eq!(found.hits[0].provenance.chunker.name, "structure");
    bed.close().await;
}

#[tokio::test]
async fn collections_are_limited_and_those_that_are_there_stay_open() {
    let dir = tempdir().unwrap();
    let making = Making {
        store: StoreSettings { max_collections_per_tenant: 2, ..StoreSettings::default() },
        ..Making::default()
    };
    let bed = Bed::with(dir.path(), making).await;
    let in_collection = |n: usize| IncomingDocument { collection: name(&format!("c{n}")), ..text("a", PARAGRAPHS[0]) };

    let outcomes = bed.put((0..4).map(in_collection).collect()).await;

    let taken = [IngestStatus::Accepted, IngestStatus::Accepted, IngestStatus::Failed, IngestStatus::Failed];
    assert_eq!(statuses(&outcomes), taken);
    assert!(outcomes[3].error.as_ref().unwrap().to_string().contains("no more than 2"));
    assert_eq!(statuses(&bed.put(vec![in_collection(1)]).await), [IngestStatus::Unchanged]);
    bed.close().await;
}

#[tokio::test]
async fn an_edit_embeds_only_what_it_touched_and_keeps_all_other_chunks() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let [first, second, third] = PARAGRAPHS;
    bed.put_indexed(vec![text("a", &[first, second, third].join("\n\n"))]).await;
    bed.embedder.as_ref().unwrap().taken();
    let chunks = async || {
        let id = DocumentId::new("a").unwrap();
        let chunks = bed.store.chunks(&bed.scope, &name("default"), &id, None).await.unwrap().unwrap();
        chunks.into_iter().map(|stored| stored.chunk.id).collect::<Vec<_>>()
    };
    let before = chunks().await;

    let edited = "An old turtle swam near the reef for all of that night.";
    let outcome = bed.put_indexed(vec![text("a", &[first, edited, third].join("\n\n"))]).await;

    let after = chunks().await;
    assert_eq!(outcome[0].version, Some(2));
    assert_eq!(bed.embedder.as_ref().unwrap().taken(), 1);
    assert_eq!((before.len(), after.len()), (3, 3));
    assert!(before[0] == after[0] && before[1] != after[1] && before[2] == after[2]);
    assert_eq!(bed.search("turtle", QueryOverrides::default()).await.unwrap().hits[0].chunk_id, after[1]);
    assert!(
        !bed.search("shark", QueryOverrides::default()).await.unwrap().hits.iter().any(|hit| hit.chunk_id == before[1])
    );
    bed.close().await;
}

#[tokio::test]
async fn equal_passages_are_embedded_once_whatever_document_they_stand_in() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;

    bed.put(vec![text("a", PARAGRAPHS[0]), text("b", PARAGRAPHS[0])]).await;
    bed.put(vec![text("c", PARAGRAPHS[0])]).await;

    assert_eq!(bed.embedder.as_ref().unwrap().taken(), 1);
    bed.close().await;
}

#[tokio::test]
async fn a_change_of_metadata_is_stored_and_found_without_embedding() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    bed.put_indexed(vec![text("a", PARAGRAPHS[0])]).await;
    bed.embedder.as_ref().unwrap().taken();

    let changed = IncomingDocument { metadata: metadata(json!({"year": 2024})), ..text("a", PARAGRAPHS[0]) };
    let outcome = bed.put_indexed(vec![changed]).await;

    assert_eq!((outcome[0].status, outcome[0].version), (IngestStatus::Accepted, Some(1)));
    assert_eq!(bed.embedder.as_ref().unwrap().taken(), 0);
    let filter = QueryOverrides { filter: Some(json!({"year": 2024})), ..QueryOverrides::default() };
    assert_eq!(bed.search("whale", filter).await.unwrap().hits.len(), 1);
    bed.close().await;
}

#[tokio::test]
async fn one_bad_document_never_fails_its_neighbours() {
    let dir = tempdir().unwrap();
    let mut making = Making::default();
    making.ingest.limits.max_document_bytes = 10_000;
    making.ingest.limits.max_chunks_per_document = 50;
    let bed = Bed::with(dir.path(), making).await;
    *bed.embedder.as_ref().unwrap().poison.lock().unwrap() = Some("poison".to_owned());
    let bytes = |id: &str, media_type: &str, bytes: &'static [u8]| IncomingDocument {
        body: IncomingBody::Bytes(bytes.into()),
        media_type: Some(media_type.to_owned()),
        ..text(id, "")
    };
    let many = "Every one of these is a sentence that is a paragraph.\n\n".repeat(120);

    let outcomes = bed
        .put_indexed(vec![
            text("first", PARAGRAPHS[0]),
            text("empty", " \n "),
            bytes("latin", "text/plain", b"caf\xE9"),
            bytes("film", "video/mp4", b"...."),
            text("large", &"x ".repeat(6000)),
            text("many", &many),
            text("poison", "this text is poison to the model"),
            IncomingDocument { title: Some("t".repeat(2000)), ..text("titled", "x") },
            text("last", PARAGRAPHS[1]),
        ])
        .await;

    let kinds: Vec<Option<ErrorKind>> =
        outcomes.iter().map(|outcome| outcome.error.as_ref().map(ItemError::kind)).collect();
    assert_eq!(
        kinds,
        [
            None,
            Some(ErrorKind::Unprocessable),
            Some(ErrorKind::Unprocessable),
            Some(ErrorKind::UnsupportedMediaType),
            Some(ErrorKind::TooLarge),
            Some(ErrorKind::TooLarge),
            Some(ErrorKind::Internal),
            Some(ErrorKind::TooLarge),
            None,
        ]
    );
    assert!(outcomes[2].error.as_ref().unwrap().to_string().contains("not valid UTF-8 at byte 3"));
    assert_eq!(bed.found("white whale ocean").await[0], "first");
    assert_eq!(bed.found("hungry shark reef").await[0], "last");
    assert!(bed.document("poison").await.is_none());
    bed.close().await;
}

#[tokio::test]
async fn an_id_twice_in_a_batch_is_applied_in_order() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    bed.put(vec![text("a", PARAGRAPHS[0])]).await;

    let outcomes = bed.put_indexed(vec![text("a", PARAGRAPHS[1]), text("a", PARAGRAPHS[0])]).await;

    assert_eq!(statuses(&outcomes), [IngestStatus::Accepted; 2]);
    assert_eq!((outcomes[0].version, outcomes[1].version), (Some(2), Some(3)));
    assert_eq!(bed.found("whale").await, ["a"]);
    assert!(bed.search("shark", QueryOverrides::default()).await.unwrap().hits[0].text.contains("whale"));
    bed.close().await;
}

#[tokio::test]
async fn an_id_that_is_not_given_comes_from_source_or_content() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let nameless = |source: Option<&str>, body: &str| IncomingDocument {
        id: None,
        source_uri: source.map(str::to_owned),
        ..text("x", body)
    };

    let outcomes = bed
        .put(vec![
            nameless(Some("https://example.org/a"), PARAGRAPHS[0]),
            nameless(Some("https://example.org/a"), PARAGRAPHS[1]),
            nameless(None, PARAGRAPHS[2]),
            nameless(None, PARAGRAPHS[2]),
        ])
        .await;

    assert_eq!(outcomes[0].id, outcomes[1].id);
    assert_eq!(outcomes[1].version, Some(2));
    assert_eq!(outcomes[2].id, outcomes[3].id);
    assert_eq!(outcomes[3].status, IngestStatus::Unchanged);
    bed.close().await;
}

#[tokio::test]
async fn documents_without_vectors_are_embedded_when_the_model_is_back() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let embedder = bed.embedder.as_ref().unwrap();
    embedder.absent.store(true, Ordering::SeqCst);
    let outcomes = bed.put_indexed(vec![text("a", PARAGRAPHS[0]), text("b", PARAGRAPHS[1])]).await;
    assert_eq!(statuses(&outcomes), [IngestStatus::Accepted; 2]);
    assert_eq!(outcomes[0].degraded[0].to_string(), "embed:embedder_unavailable");
    let result = bed.search("whale", QueryOverrides::default()).await.unwrap();
    assert_eq!((result.hits.len(), degraded(&result)), (1, vec!["vector:embedder_unavailable".to_owned()]));

    embedder.absent.store(false, Ordering::SeqCst);
    let filled = bed.ingestor.backfill(&bed.scope, &name("default")).await.unwrap();

    assert_eq!((filled, embedder.taken()), (2, 2));
    bed.indexed(Some(*bed.progress.written().borrow())).await;
    let result = bed.search("whale", QueryOverrides::default()).await.unwrap();
    assert!(result.hits.len() == 2 && result.hits.iter().all(|hit| hit.breakdown.vector.is_some()), "{result:?}");
    assert_eq!(bed.ingestor.backfill(&bed.scope, &name("default")).await.unwrap(), 0);
    bed.close().await;
}

#[tokio::test]
async fn an_edit_while_the_model_is_away_keeps_the_vectors_of_what_stayed() {
    let dir = tempdir().unwrap();
    let bed = Bed::open(dir.path()).await;
    let [first, second, third] = PARAGRAPHS;
    bed.put(vec![text("a", &[first, second].join("\n\n"))]).await;
    bed.close().await;

    let bed = Bed::with(dir.path(), Making { embedder: None, ..Making::default() }).await;
    let outcome = bed.put(vec![text("a", &[first, third].join("\n\n"))]).await;
    bed.close().await;

    assert_eq!(outcome[0].degraded[0].to_string(), "embed:embedder_unavailable");
    let bed = Bed::open(dir.path()).await;
    assert_eq!(bed.ingestor.backfill(&bed.scope, &name("default")).await.unwrap(), 1);
    bed.close().await;
}

#[tokio::test]
async fn a_full_embedder_is_waited_for_and_not_forever() {
    let dir = tempdir().unwrap();
    let mut making = Making::default();
    making.ingest.queue_wait_ms = 200;
    let bed = Bed::with(dir.path(), making).await;
    let embedder = bed.embedder.as_ref().unwrap();

    embedder.refusals.store(2, Ordering::SeqCst);
    let patient = bed.put(vec![text("a", PARAGRAPHS[0])]).await;
    embedder.refusals.store(usize::MAX, Ordering::SeqCst);
    let refused = bed.put(vec![text("b", PARAGRAPHS[1])]).await;

    assert_eq!(statuses(&patient), [IngestStatus::Accepted]);
    assert!(matches!(refused[0].error, Some(ItemError::Busy { .. })));
    assert!(bed.document("b").await.is_none());
    bed.close().await;
}

#[tokio::test]
async fn a_stream_of_any_length_is_taken_in_order_with_its_failures_named() {
    let dir = tempdir().unwrap();
    let mut making = Making::default();
    making.ingest.batch_documents = 16;
    making.ingest.failures_listed = 3;
    let bed = Bed::with(dir.path(), making).await;
    let item = |n: usize| match n {
        500..505 => Err(RejectedItem { id: None, kind: ErrorKind::InvalidInput, detail: format!("line {n}") }),
        _ => Ok(text(&format!("doc {n}"), &format!("This is the document with the number n{n}."))),
    };
    let mut seen = Vec::new();

    let report = bed
        .ingestor
        .put_stream(&bed.scope, stream::iter((0..1000).map(item)), |index, outcome| {
            seen.push((index, outcome.status == IngestStatus::Failed));
        })
        .await;

    assert_eq!((report.accepted, report.unchanged, report.failed), (995, 0, 5));
    assert!(report.stopped.is_none());
    let failures: Vec<(u64, &str)> =
        report.failures.iter().map(|failure| (failure.index, failure.detail.as_str())).collect();
    assert_eq!(failures, [(500, "line 500"), (501, "line 501"), (502, "line 502")]);
    assert!(
        seen.iter().enumerate().all(|(at, (index, failed))| at as u64 == *index && *failed == (500..505).contains(&at))
    );
    bed.indexed(report.sequence).await;
    for n in [0, 499, 505, 999] {
        assert_eq!(bed.found(&format!("n{n}")).await[0], format!("doc {n}"));
    }
    let again = bed.ingestor.put_stream(&bed.scope, stream::iter((0..499).map(item)), |_, _| {}).await;
    assert_eq!((again.accepted, again.unchanged), (0, 499));
    bed.close().await;
}

#[tokio::test]
async fn in_a_stream_the_last_word_on_a_document_counts() {
    let dir = tempdir().unwrap();
    let mut making = Making::default();
    making.ingest.batch_documents = 2;
    let bed = Bed::with(dir.path(), making).await;
    let versions = (0..20).map(|n| Ok(text("a", &format!("This is revision r{} of it.", n % 2))));

    let report = bed.ingestor.put_stream(&bed.scope, stream::iter(versions), |_, _| {}).await;

    assert_eq!((report.accepted, report.failed), (20, 0));
    bed.indexed(report.sequence).await;
    assert_eq!(bed.document("a").await.unwrap().version, 20);
    assert!(bed.search("revision", QueryOverrides::default()).await.unwrap().hits[0].text.contains("r1"));
    bed.close().await;
}
