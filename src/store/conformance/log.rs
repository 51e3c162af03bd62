//! Promises about the operation log.

use crate::domain::{GenerationId, Sequence};
use crate::store::{LiveCounts, Operation, View, WithEmbeddings};

use super::fixture::{Ingest, Subject, collection_name, document_id, scope, vector, written};

pub(crate) async fn sequences_grow_and_can_be_followed(store: Subject<'_>) {
    let owner = scope("acme");
    let collection = store.open(&owner, "c").await;
    assert_eq!(store.log.last_sequence().await.unwrap(), Sequence(0));
    assert_eq!(store.log.entries(None, Sequence(0), 9).await.unwrap(), []);
    let ingest = Ingest::new("c", "d", &[1]);
    let (_, first) = written(&store.put(&owner, &ingest).await);
    let (_, second) = written(&store.put(&owner, &Ingest::new("c", "e", &[2])).await);
    store.delete(&owner, "c", "d").await;

    let rows = store.log.entries(None, Sequence(0), 9).await.unwrap();

    let last = store.log.last_sequence().await.unwrap();
    let sequences: Vec<u64> = rows.iter().map(|row| row.sequence.0).collect();
    assert_eq!(sequences, [first, second, last.0]);
    assert!(sequences.is_sorted());
    assert!(rows.iter().all(|row| row.tenant == owner.tenant && row.generation == collection.live.id));
    assert!(rows.iter().all(|row| row.collection == collection.name));
    let operations: Vec<(&str, Operation)> = rows.iter().map(|row| (row.document.as_str(), row.operation)).collect();
    assert_eq!(operations, [("d", Operation::Put), ("e", Operation::Put), ("d", Operation::Delete)]);
    assert_eq!(rows[0].chunks_added, ingest.chunk_ids(&owner.tenant));
    assert_eq!(store.log.entries(None, Sequence(first), 1).await.unwrap(), rows[1..2]);
    assert_eq!(store.log.entries(None, last, 9).await.unwrap(), []);
    assert_eq!(store.log.entries(None, Sequence(u64::MAX), 9).await.unwrap(), []);
}

pub(crate) async fn each_generation_can_be_followed_alone(store: Subject<'_>) {
    let owner = scope("acme");
    let (a, b) = (store.open(&owner, "a").await, store.open(&owner, "b").await);
    assert_eq!(store.log.last_sequence_of(a.live.id).await.unwrap(), Sequence(0));
    let (_, first) = written(&store.put(&owner, &Ingest::new("a", "d", &[1])).await);
    let (_, second) = written(&store.put(&owner, &Ingest::new("b", "d", &[1])).await);
    let (_, third) = written(&store.put(&owner, &Ingest::new("a", "d", &[2])).await);

    let of = |generation: GenerationId, after: u64| async move {
        let rows = store.log.entries(Some(generation), Sequence(after), 9).await.unwrap();
        rows.iter().map(|row| row.sequence.0).collect::<Vec<_>>()
    };

    assert_eq!(of(a.live.id, 0).await, [first, third]);
    assert_eq!(of(a.live.id, first).await, [third]);
    assert_eq!(of(b.live.id, 0).await, [second]);
    assert_eq!(of(GenerationId([1; 16]), 0).await, [0_u64; 0]);
    assert_eq!(store.log.last_sequence_of(a.live.id).await.unwrap(), Sequence(third));
    assert_eq!(store.log.last_sequence_of(b.live.id).await.unwrap(), Sequence(second));
    assert_eq!(store.log.last_sequence_of(GenerationId([1; 16])).await.unwrap(), Sequence(0));
}

pub(crate) async fn indexable_documents_are_complete(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2, 3]).title("Title").metadata("k", "v");
    let bare = Ingest::new("c", "bare", &[4]).without_embeddings();
    store.put(&owner, &ingest).await;
    store.put(&owner, &bare).await;
    let collection = store.open(&owner, "c").await;
    let asked = [document_id("bare"), document_id("x"), document_id("d")];

    let place = (&collection.name, collection.live.id);
    let found = store.log.indexable(&owner.tenant, place, &asked, WithEmbeddings::Yes).await.unwrap();

    assert_eq!(found.len(), 3);
    assert_eq!(found[1], None);
    assert_eq!(found[0].as_ref().unwrap().chunks[0].embedding, None);
    let document = found[2].as_ref().unwrap();
    let put = ingest.put(&owner, &collection);
    assert_eq!(document.head, put.head);
    for (chunk, expected) in document.chunks.iter().zip(&put.chunks) {
        assert_eq!((chunk.id, &chunk.text), (expected.chunk.id, &expected.chunk.text));
        assert_eq!(chunk.heading_path, expected.chunk.heading_path);
        assert_eq!(chunk.embedding, Some(vector(expected.input_hash)));
    }
    let without = store.log.indexable(&owner.tenant, place, &asked, WithEmbeddings::No).await.unwrap();
    assert!(without[2].as_ref().unwrap().chunks.iter().all(|chunk| chunk.embedding.is_none()));
}

pub(crate) async fn live_counts_follow_every_change(store: Subject<'_>) {
    let owner = scope("acme");
    let generation = store.open(&owner, "c").await.live.id;
    let counts = |documents, chunks, vectors| LiveCounts { documents, chunks, vectors };
    let now = || async { store.log.live_counts(generation).await.unwrap() };
    assert_eq!(now().await, counts(0, 0, 0));

    store.put(&owner, &Ingest::new("c", "a", &[1, 2, 3])).await;
    assert_eq!(now().await, counts(1, 3, 3));
    store.put(&owner, &Ingest::new("c", "b", &[1, 2]).without_embeddings()).await;
    assert_eq!(now().await, counts(2, 5, 3));
    store.put(&owner, &Ingest::new("c", "a", &[1, 9])).await;
    assert_eq!(now().await, counts(2, 4, 2));
    store.put(&owner, &Ingest::new("c", "a", &[1, 9]).title("new").without_embeddings()).await;
    assert_eq!(now().await, counts(2, 4, 0));
    store.delete(&owner, "c", "b").await;
    assert_eq!(now().await, counts(1, 2, 0));
    assert_eq!(store.log.live_counts(GenerationId([1; 16])).await.unwrap(), counts(0, 0, 0));
}

pub(crate) async fn indexed_at_is_when_the_index_reached_the_document(store: Subject<'_>) {
    let owner = scope("acme");
    let generation = store.open(&owner, "c").await.live.id;
    let (first, second) = (Ingest::new("c", "a", &[1]), Ingest::new("c", "b", &[2]));
    let (_, one) = written(&store.put(&owner, &first).await);
    let (_, two) = written(&store.put(&owner, &second).await);
    let indexed_at = |ingest: Ingest| {
        let id = ingest.chunk_ids(&scope("acme").tenant)[0];
        async move { store.corpus.chunk(&scope("acme"), id).await.unwrap().unwrap().provenance.indexed_at }
    };
    assert_eq!(indexed_at(first.clone()).await, None);

    store.log.mark_indexed(generation, Sequence(one)).await.unwrap();
    let at_first = indexed_at(first.clone()).await;
    assert!(at_first.is_some());
    assert_eq!(indexed_at(second.clone()).await, None);

    store.log.mark_indexed(generation, Sequence(two + 5)).await.unwrap();
    store.log.mark_indexed(generation, Sequence(one)).await.unwrap();
    assert_eq!(indexed_at(first.clone()).await, at_first, "the earliest mark counts");
    assert!(indexed_at(second.clone()).await >= at_first);
    let (c, ids) = (collection_name("c"), first.chunk_ids(&owner.tenant));
    let hits = store.corpus.hydrate(&owner, (&c, View::Serving), &ids, WithEmbeddings::No).await.unwrap();
    assert_eq!(hits[0].provenance.indexed_at, at_first);
    store.log.mark_indexed(GenerationId([1; 16]), Sequence(1)).await.unwrap();
}

pub(crate) async fn generations_are_listed_with_their_owners(store: Subject<'_>) {
    let ours = store.open(&scope("acme"), "c").await;
    let theirs = store.open(&scope("other"), "c").await;

    let listed = store.log.generations().await.unwrap();

    let owners: Vec<(&str, GenerationId)> =
        listed.iter().map(|owned| (owned.tenant.as_str(), owned.generation.id)).collect();
    assert_eq!(owners, [("acme", ours.live.id), ("other", theirs.live.id)]);
    assert_eq!(listed[0].generation, ours.live);
    assert_ne!(ours.live.id, theirs.live.id);
}
