//! Documents that move from one generation to another. Generations are switched by hand here, as later a re-index will.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::domain::{Collection, GenerationId, Sequence};
use crate::store::conformance::{Ingest, scope};
use crate::store::{
    CorpusStore as _, DocumentWrite, LiveCounts, Operation, OperationLog as _, StoreError, WithEmbeddings, WriteOutcome,
};

use super::fixture::{Fresh, fresh};

const NEXT: GenerationId = GenerationId([42; 16]);

/// Retires the live generation of the only collection and makes one of the same profile live.
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
    let hydrate = || fresh.store.hydrate(&owner, &old.name, &ids, WithEmbeddings::Yes);
    assert_eq!(hydrate().await.unwrap(), [], "a retired generation serves nothing");

    let stale = DocumentWrite::Put(Box::new(ingest.put(&owner, &old)));
    let refused = store.write_one(&owner, stale).await;
    let moved = store.put(&owner, &ingest).await;

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
