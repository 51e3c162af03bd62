//! Generations beyond their contract: what survives a restart, what a check finds, and what becomes of documents whose
//! generation was switched by hand.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::domain::{Collection, ContextSpec, GenerationId, GenerationPlan, Profile, Sequence, Standing};
use crate::store::conformance::{Ingest, profile, scope};
use crate::store::{
    CorpusStore as _, DocumentWrite, GenerationChange, GenerationStore as _, LiveCounts, Operation, OperationLog as _,
    StoreError, View, WithEmbeddings, WriteOutcome, check_truth,
};

use super::fixture::{Fresh, fresh};

const NEXT: GenerationId = GenerationId([42; 16]);

/// Retires the live generation of the only collection, though it serves, and makes one of the same profile live.
async fn switch_generation(fresh: &Fresh) {
    let mut connection = SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap();
    let sql = "INSERT INTO generations (tenant_id, collection_id, public_id, profile, fingerprint, embedder_id, state, \
        created_at) SELECT tenant_id, collection_id, ?, profile, fingerprint, embedder_id, 'live', 1 FROM generations";
    sqlx::query(sql).bind(NEXT.0.to_vec()).execute(&mut connection).await.unwrap();
    let sql = "UPDATE generations SET state = 'retired' WHERE id = 1";
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    sqlx::query("UPDATE collections SET live_generation_id = 2").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_document_moves_with_its_text_and_each_index_learns_of_it() {
    let fresh = fresh().await;
    let (store, owner) = (fresh.subject(), scope("acme"));
    let ingest = Ingest::new("c", "d", &(0..30).collect::<Vec<_>>());
    let old: Collection = store.open(&owner, "c").await;
    store.put(&owner, &ingest).await;
    switch_generation(&fresh).await;
    fresh.store.forget_collections();
    let ids = ingest.chunk_ids(&owner.tenant);
    let hydrate = || fresh.store.hydrate(&owner, (&old.name, View::Serving), &ids, WithEmbeddings::Yes);
    assert_eq!(hydrate().await.unwrap(), [], "a retired generation serves nothing");

    let stale = DocumentWrite::Put(Box::new(ingest.put(&owner, &old)));
    let refused = store.write_one(&owner, stale).await;
    // The same again would be unchanged, wherever it is served from.
    let retitled = ingest.clone().metadata("k", "v");
    let moved = store.put(&owner, &retitled).await;

    assert!(matches!(refused, WriteOutcome::Failed(StoreError::NotLive { .. })), "{refused:?}");
    assert!(matches!(moved, WriteOutcome::Written { version: 1, .. }), "{moved:?}");
    let hits = hydrate().await.unwrap();
    assert_eq!(hits.len(), 30);
    assert!(hits.iter().zip(&ingest.paragraphs).all(|(hit, text)| &hit.chunk.text == text));
    assert!(hits.iter().all(|hit| hit.provenance.generation == NEXT && hit.embedding.is_some()));
    let left = fresh.store.entries(Some(old.live.id), Sequence(1), 9).await.unwrap();
    assert_eq!((left[0].operation, &left[0].chunks_removed), (Operation::Delete, &ids));
    let arrived = fresh.store.entries(Some(NEXT), Sequence(0), 9).await.unwrap();
    assert_eq!((arrived[0].operation, &arrived[0].chunks_added), (Operation::Put, &ids));
    assert_eq!(arrived[0].chunks_removed, []);
    assert_eq!(fresh.store.live_counts(old.live.id).await.unwrap(), LiveCounts::default());
    let counts = fresh.store.live_counts(NEXT).await.unwrap();
    assert_eq!((counts.documents, counts.chunks, counts.vectors), (1, 30, 30));
    let document = fresh.store.document(&owner, &ingest.collection, &ingest.document).await.unwrap().unwrap();
    assert_eq!((document.generation, document.sequence), (NEXT, arrived[0].sequence));
}

#[tokio::test]
async fn a_document_of_a_retired_generation_can_be_read_and_deleted() {
    let fresh = fresh().await;
    let (store, owner) = (fresh.subject(), scope("acme"));
    let ingest = Ingest::new("c", "d", &[1, 2]);
    let old = store.open(&owner, "c").await;
    store.put(&owner, &ingest).await;
    switch_generation(&fresh).await;

    let content = fresh.store.content(&owner, &ingest.collection, &ingest.document, None).await.unwrap();
    let deleted = store.delete(&owner, "c", "d").await;

    assert_eq!(content, Some(ingest.text()));
    assert!(matches!(deleted, WriteOutcome::Deleted { .. }));
    let left = fresh.store.entries(Some(old.live.id), Sequence(1), 9).await.unwrap();
    assert_eq!(left[0].chunks_removed, ingest.chunk_ids(&owner.tenant));
    let live = fresh.store.generations().await.unwrap();
    assert_eq!(live.iter().map(|owned| owned.generation.id).collect::<Vec<_>>(), [NEXT], "retired ones are not listed");
}

/// Two documents that stand ready in a second generation, one of them served from there.
async fn in_rollout() -> (Fresh, GenerationId) {
    let fresh = fresh().await;
    let (store, owner) = (fresh.subject(), scope("acme"));
    let collection = store.open(&owner, "c").await;
    let profile = Profile { context: ContextSpec::None, ..profile() };
    let plan = GenerationPlan { shadow_share: 0.5, ..GenerationPlan::default() };
    let begun = fresh.store.begin_generation(&owner, &collection.name, &profile, &plan).await.unwrap();
    let next = begun.generation.id;
    for name in ["x", "y"] {
        let ingest = Ingest::new("c", name, &[1, 2]);
        let WriteOutcome::Written { sequence, .. } = store.put(&owner, &ingest).await else { panic!("not written") };
        let build = ingest.build(&owner, &collection, next, sequence);
        let built = store.write_one(&owner, DocumentWrite::Build(Box::new(build))).await;
        assert!(matches!(built, WriteOutcome::Written { .. }), "{built:?}");
    }
    let Ingest { collection, document, .. } = Ingest::new("c", "y", &[]);
    let served = store.write_one(&owner, DocumentWrite::Serve { collection, document, generation: next }).await;
    assert!(matches!(served, WriteOutcome::Serves), "{served:?}");
    fresh.store.change_generation(&owner, next, GenerationChange::Shadow).await.unwrap().unwrap();
    (fresh, next)
}

#[tokio::test]
async fn a_rollout_goes_on_after_a_restart() {
    let (fresh, next) = in_rollout().await;
    let owner = scope("acme");
    let collection = fresh.subject().open(&owner, "c").await;
    let statuses = fresh.store.generation_statuses(&owner, None).await.unwrap();
    let document = Ingest::new("c", "y", &[]).document;
    let before = fresh.store.document(&owner, &collection.name, &document).await.unwrap();

    let fresh = fresh.reopen().await;

    assert_eq!(fresh.subject().open(&owner, "c").await, collection);
    assert_eq!(collection.shadow.map(|(generation, share)| (generation.id, share)), Some((next, 0.5)));
    assert_eq!(fresh.store.generation_statuses(&owner, None).await.unwrap(), statuses);
    let after = fresh.store.document(&owner, &collection.name, &document).await.unwrap();
    assert_eq!(after, before);
    assert_eq!(after.unwrap().generation, next);
    let ready = fresh.store.placements(&owner, next, Standing::Standby, (None, 9)).await.unwrap();
    assert_eq!(ready.items.len(), 1);
}

/// The index of the generation that serves a document decides when it can be found.
#[tokio::test]
async fn indexed_at_is_that_of_the_generation_that_serves() {
    let (fresh, next) = in_rollout().await;
    let (owner, Ingest { collection, document, .. }) = (scope("acme"), Ingest::new("c", "y", &[]));
    let indexed_at = async || fresh.store.document(&owner, &collection, &document).await.unwrap().unwrap().indexed_at;
    let built = fresh.store.last_sequence_of(next).await.unwrap();

    // The other one has it, and this one has not come so far.
    fresh.store.mark_indexed(fresh.subject().open(&owner, "c").await.live.id, built).await.unwrap();
    fresh.store.mark_indexed(next, Sequence(built.0 - 1)).await.unwrap();
    assert_eq!(indexed_at().await, None);
    fresh.store.mark_indexed(next, built).await.unwrap();

    assert!(indexed_at().await.is_some());
}

#[tokio::test]
async fn a_check_names_what_contradicts_itself_about_generations() {
    let cases = [
        ("UPDATE generations SET state = 'live'", "is not the only one that is live"),
        ("UPDATE documents SET generation_id = 1 WHERE name = 'y'", "document y: it is not served from chunks of its"),
        ("UPDATE documents SET chunk_count = 1 WHERE name = 'x'", "document x: it is not served from chunks of its"),
        ("UPDATE standbys SET generation_id = 3 - generation_id", "what stands ready is not of a version"),
        ("UPDATE chunks SET live = 0 WHERE id = 1", "document x: chunks say otherwise"),
        ("UPDATE chunks SET standby_of = NULL", "chunks say otherwise"),
        ("UPDATE generations SET serving_documents = 7 WHERE id = 2", "it has 7 documents that it serves, and has 1"),
        ("UPDATE generations SET live_documents = 7 WHERE id = 2", "it has 7 documents, and has 2"),
        ("UPDATE generations SET live_vectors = 7 WHERE id = 1", "it has 7 vectors, and has 4"),
    ];
    for (sql, expected) in cases {
        let (fresh, _) = in_rollout().await;
        assert_eq!(check_truth(&fresh.path()).await.unwrap().findings, [""; 0]);
        let mut connection = SqliteConnectOptions::new().filename(fresh.path()).connect().await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();

        let report = check_truth(&fresh.path()).await.unwrap();

        assert!(report.findings.iter().any(|finding| finding.contains(expected)), "{sql}: {:?}", report.findings);
    }
}
