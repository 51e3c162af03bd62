//! Promises about documents, versions and chunks.

use crate::domain::{ByteSpan, ChunkId, ContentHash, GenerationId, GenerationState, Profile, Sequence};
use crate::store::{DocumentWrite, StoreError, View, WithEmbeddings, WriteOutcome};

use super::fixture::{DIMENSIONS, Ingest, Subject, collection_name, document_id, profile, scope, vector, written};

pub(crate) async fn a_collection_is_opened_once(store: Subject<'_>) {
    let owner = scope("acme");
    assert_eq!(store.corpus.collection(&owner, &collection_name("c")).await.unwrap(), None);

    let first = store.open(&owner, "c").await;
    let other_profile = Profile { embedder: None, ..profile() };
    let second = store.corpus.open_collection(&owner, &collection_name("c"), &other_profile).await.unwrap();

    assert_eq!(first.live.profile, profile());
    assert_eq!(first.live.state, GenerationState::Live);
    assert_eq!(first, second);
    assert_eq!(store.corpus.collection(&owner, &collection_name("c")).await.unwrap(), Some(first));
}

pub(crate) async fn collections_are_listed_by_name(store: Subject<'_>) {
    for name in ["b", "a", "c"] {
        store.open(&scope("acme"), name).await;
    }
    store.open(&scope("other"), "d").await;

    let listed = store.corpus.collections(&scope("acme")).await.unwrap();

    let names: Vec<&str> = listed.iter().map(|collection| collection.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(store.corpus.collections(&scope("nobody")).await.unwrap(), []);
}

pub(crate) async fn a_document_is_read_back_whole(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "docs/ä 1.md", &[1, 2, 3]).title("Über").metadata("year", "2024").acl(&["user:ann"]);
    let collection = store.open(&owner, "c").await;
    let put = ingest.put(&owner, &collection);

    let (version, sequence) = written(&store.put(&owner, &ingest).await);

    let (c, d) = (&ingest.collection, &ingest.document);
    let document = store.corpus.document(&owner, c, d).await.unwrap().unwrap();
    assert_eq!((document.version, document.sequence), (1, Sequence(sequence)));
    assert_eq!(version, 1);
    assert_eq!(document.head, put.head);
    assert_eq!(document.content_hash, put.content_hash);
    assert_eq!((document.chunk_count, document.generation), (3, collection.live.id));
    assert_eq!(store.corpus.content(&owner, c, d, None).await.unwrap(), Some(put.text.clone()));

    let chunks = store.corpus.chunks(&owner, c, d, None).await.unwrap().unwrap();
    let ids = ingest.chunk_ids(&owner.tenant);
    for (index, stored) in chunks.iter().enumerate() {
        let expected = &put.chunks[index];
        assert_eq!(stored.chunk, expected.chunk);
        assert_eq!(stored.previous, index.checked_sub(1).map(|before| ids[before]));
        assert_eq!(stored.next, ids.get(index + 1).copied());
        assert_eq!(stored.provenance.document_id, put.head.id);
        assert_eq!(stored.provenance.document_version, 1);
        assert_eq!(stored.provenance.content_hash, put.content_hash);
        assert_eq!(stored.provenance.source_uri, put.head.source_uri);
        assert_eq!(stored.provenance.span, expected.chunk.span);
        assert_eq!(stored.provenance.page, expected.chunk.page);
        assert_eq!(stored.provenance.heading_path, expected.chunk.heading_path);
        assert_eq!(stored.provenance.chunker, profile().chunker);
        assert_eq!(stored.provenance.embedder, profile().embedder);
        assert_eq!(stored.provenance.generation, collection.live.id);
        assert_eq!(stored.provenance.indexed_at, None);
        assert_eq!(store.corpus.chunk(&owner, ids[index]).await.unwrap().as_ref(), Some(stored));
    }

    let hydrated = store.corpus.hydrate(&owner, (c, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
    assert_eq!(hydrated.len(), 3);
    for (hit, expected) in hydrated.iter().zip(&put.chunks) {
        assert_eq!(hit.chunk, expected.chunk);
        assert_eq!(hit.head, put.head);
        assert_eq!(hit.embedding, expected.embedding);
        assert_eq!((hit.created_at, hit.updated_at), (document.created_at, document.updated_at));
    }
    let bare = store.corpus.hydrate(&owner, (c, View::Serving), &ids, WithEmbeddings::No).await.unwrap();
    assert!(bare.iter().all(|hit| hit.embedding.is_none()));

    let states = store.corpus.states(&owner, c, &[document_id("x"), d.clone(), d.clone()]).await.unwrap();
    assert_eq!(states[0], None);
    assert_eq!(states[1], states[2]);
    let state = states[1].as_ref().unwrap();
    assert_eq!((state.version, state.generation), (1, collection.live.id));
    assert_eq!((state.content_hash, state.head_hash), (put.content_hash, put.head_hash));
}

pub(crate) async fn the_same_again_is_unchanged(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    store.put(&owner, &ingest).await;
    let before = store.log.last_sequence().await.unwrap();

    let again = store.put(&owner, &ingest).await;

    assert!(matches!(again, WriteOutcome::Unchanged { version: 1, .. }), "{again:?}");
    assert_eq!(store.log.last_sequence().await.unwrap(), before);
}

pub(crate) async fn a_changed_head_keeps_the_version(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    let (_, first) = written(&store.put(&owner, &ingest).await);
    let changed = ingest.metadata("lang", "de");

    let (version, sequence) = written(&store.put(&owner, &changed).await);

    assert_eq!(version, 1);
    assert!(sequence > first);
    let (c, d) = (&changed.collection, &changed.document);
    let document = store.corpus.document(&owner, c, d).await.unwrap().unwrap();
    assert_eq!(document.head.metadata, changed.metadata);
    assert_eq!(document.sequence, Sequence(sequence));
    assert_eq!(store.corpus.versions(&owner, c, d).await.unwrap().len(), 1);
    let row = store.log.entries(None, Sequence(first), 9).await.unwrap().remove(0);
    assert_eq!((row.chunks_added, row.chunks_removed), (vec![], vec![]), "no vector changed");
}

pub(crate) async fn a_changed_title_embeds_again_under_the_same_version(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]).title("old");
    let (_, first) = written(&store.put(&owner, &ingest).await);
    let renamed = ingest.title("new");

    let (version, _) = written(&store.put(&owner, &renamed).await);

    assert_eq!(version, 1);
    let ids = renamed.chunk_ids(&owner.tenant);
    let row = store.log.entries(None, Sequence(first), 9).await.unwrap().remove(0);
    assert_eq!((row.chunks_added, row.chunks_removed), (ids.clone(), vec![]));
    let hits =
        store.corpus.hydrate(&owner, (&renamed.collection, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
    assert_eq!(hits[0].embedding, Some(vector(renamed.input_hash(&renamed.paragraphs[0]))));
}

pub(crate) async fn changed_content_makes_a_version_and_keeps_the_old_one(store: Subject<'_>) {
    let owner = scope("acme");
    let first = Ingest::new("c", "d", &[1, 2, 3]);
    let second = Ingest::new("c", "d", &[1, 5, 3, 6]);
    store.put(&owner, &first).await;

    let (version, _) = written(&store.put(&owner, &second).await);

    assert_eq!(version, 2);
    let (c, d) = (&first.collection, &first.document);
    let versions = store.corpus.versions(&owner, c, d).await.unwrap();
    let listed: Vec<(u64, u64)> = versions.iter().map(|version| (version.version, version.chunk_count)).collect();
    assert_eq!(listed, [(2, 4), (1, 3)]);
    assert_eq!(store.corpus.content(&owner, c, d, None).await.unwrap(), Some(second.text()));
    assert_eq!(store.corpus.content(&owner, c, d, Some(1)).await.unwrap(), Some(first.text()));
    assert_eq!(store.corpus.content(&owner, c, d, Some(3)).await.unwrap(), None);
    assert_eq!(store.corpus.content(&owner, c, d, Some(u64::MAX)).await.unwrap(), None);
    let old = store.corpus.chunks(&owner, c, d, Some(1)).await.unwrap().unwrap();
    assert_eq!(old.iter().map(|stored| stored.chunk.id).collect::<Vec<_>>(), first.chunk_ids(&owner.tenant));
    assert_eq!(old[1].provenance.document_version, 1);
    assert_eq!(old[1].provenance.content_hash, ContentHash::of(first.text().as_bytes()));
    let gone = first.chunk_ids(&owner.tenant)[1];
    assert_eq!(store.corpus.chunk(&owner, gone).await.unwrap(), None, "only live chunks are found by id");
    assert_eq!(store.corpus.hydrate(&owner, (c, View::Serving), &[gone], WithEmbeddings::No).await.unwrap(), []);
}

pub(crate) async fn the_log_names_only_chunks_whose_vector_changed(store: Subject<'_>) {
    let owner = scope("acme");
    let first = Ingest::new("c", "d", &[1, 2, 3, 2]);
    let second = Ingest::new("c", "d", &[7, 1, 3, 2]);
    let (_, sequence) = written(&store.put(&owner, &first).await);
    store.put(&owner, &second).await;

    let row = store.log.entries(None, Sequence(sequence), 9).await.unwrap().remove(0);

    let (before, after) = (first.chunk_ids(&owner.tenant), second.chunk_ids(&owner.tenant));
    assert_eq!(row.chunks_added, [after[0]]);
    assert_eq!(row.chunks_removed, [before[3]], "the second occurrence of a text is gone");
}

pub(crate) async fn a_deleted_document_is_unknown_to_every_read(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    let (_, sequence) = written(&store.put(&owner, &ingest).await);
    let ids = ingest.chunk_ids(&owner.tenant);

    let outcome = store.delete(&owner, "c", "d").await;

    let WriteOutcome::Deleted { sequence: deleted } = outcome else { panic!("{outcome:?}") };
    let (c, d) = (&ingest.collection, &ingest.document);
    assert_eq!(store.corpus.document(&owner, c, d).await.unwrap(), None);
    assert_eq!(store.corpus.documents(&owner, c, None, 9).await.unwrap().items, []);
    assert_eq!(store.corpus.states(&owner, c, std::slice::from_ref(d)).await.unwrap(), [None]);
    assert_eq!(store.corpus.versions(&owner, c, d).await.unwrap(), []);
    for version in [None, Some(1)] {
        assert_eq!(store.corpus.content(&owner, c, d, version).await.unwrap(), None);
        assert_eq!(store.corpus.chunks(&owner, c, d, version).await.unwrap(), None);
    }
    assert_eq!(store.corpus.chunk(&owner, ids[0]).await.unwrap(), None);
    assert_eq!(store.corpus.hydrate(&owner, (c, View::Serving), &ids, WithEmbeddings::No).await.unwrap(), []);
    assert_eq!(store.corpus.neighbours(&owner, ids[0], 1, 1).await.unwrap(), (vec![], vec![]));
    let generation = store.open(&owner, "c").await.live.id;
    let asked = std::slice::from_ref(d);
    let indexable = store.log.indexable(&owner.tenant, (c, generation), asked, WithEmbeddings::No).await.unwrap();
    assert_eq!(indexable, [None]);
    let row = store.log.entries(None, Sequence(sequence), 9).await.unwrap().remove(0);
    assert_eq!((row.sequence, row.chunks_removed), (deleted, ids));
    assert!(matches!(store.delete(&owner, "c", "d").await, WriteOutcome::NotFound));
}

pub(crate) async fn a_document_that_comes_back_does_not_bring_its_past(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    store.put(&owner, &ingest).await;
    store.put(&owner, &Ingest::new("c", "d", &[3])).await;
    store.delete(&owner, "c", "d").await;

    let (version, _) = written(&store.put(&owner, &ingest).await);

    assert_eq!(version, 3, "version numbers only grow");
    let (c, d) = (&ingest.collection, &ingest.document);
    let versions = store.corpus.versions(&owner, c, d).await.unwrap();
    assert_eq!(versions.iter().map(|version| version.version).collect::<Vec<_>>(), [3]);
    for old in [1, 2] {
        assert_eq!(store.corpus.content(&owner, c, d, Some(old)).await.unwrap(), None);
        assert_eq!(store.corpus.chunks(&owner, c, d, Some(old)).await.unwrap(), None);
    }
    let hits = store
        .corpus
        .hydrate(&owner, (c, View::Serving), &ingest.chunk_ids(&owner.tenant), WithEmbeddings::No)
        .await
        .unwrap();
    assert_eq!(hits.len(), 2);
}

pub(crate) async fn a_failing_write_harms_no_neighbour(store: Subject<'_>) {
    let owner = scope("acme");
    let collection = store.open(&owner, "c").await;
    let put = |name: &str, paragraphs: &[usize]| Ingest::new("c", name, paragraphs).put(&owner, &collection);
    let mut shifted = put("shifted", &[1]);
    shifted.chunks[0].chunk.span = ByteSpan::new(1, shifted.text.len());
    let mut foreign = put("foreign", &[1]);
    foreign.generation = GenerationId([7; 16]);
    let mut twice = put("twice", &[1, 2]);
    twice.chunks[1].chunk.id = twice.chunks[0].chunk.id;
    let mut stolen = put("stolen", &[1]);
    stolen.chunks[0].chunk.id = put("good-2", &[2]).chunks[0].chunk.id;
    let writes = [put("good-1", &[1]), shifted, put("good-2", &[2]), foreign, twice, stolen, put("good-3", &[3])];

    let writes = writes.into_iter().map(|put| DocumentWrite::Put(Box::new(put))).collect();
    let outcomes = store.corpus.write(&owner, writes).await.unwrap();

    assert_eq!(outcomes.len(), 7);
    for good in [0, 2, 6] {
        written(&outcomes[good]);
    }
    assert!(
        matches!(&outcomes[1], WriteOutcome::Failed(StoreError::SpanMismatch { document }) if document == "shifted")
    );
    assert!(matches!(&outcomes[3], WriteOutcome::Failed(StoreError::NotLive { document }) if document == "foreign"));
    assert!(matches!(&outcomes[4], WriteOutcome::Failed(_)), "{:?}", outcomes[4]);
    assert!(matches!(&outcomes[5], WriteOutcome::Failed(_)), "{:?}", outcomes[5]);
    let listed = store.corpus.documents(&owner, &collection.name, None, 9).await.unwrap().items;
    let names: Vec<&str> = listed.iter().map(|document| document.head.id.as_str()).collect();
    assert_eq!(names, ["good-1", "good-2", "good-3"]);
    let counts = store.log.live_counts(collection.live.id).await.unwrap();
    assert_eq!((counts.documents, counts.chunks, counts.vectors), (3, 3, 3));
    let sequences: Vec<u64> =
        store.log.entries(None, Sequence(0), 9).await.unwrap().iter().map(|row| row.sequence.0).collect();
    assert_eq!(sequences.len(), 3, "what failed left no row: {sequences:?}");
}

pub(crate) async fn writes_to_one_document_apply_in_order(store: Subject<'_>) {
    let owner = scope("acme");
    let collection = store.open(&owner, "c").await;
    let put =
        |paragraphs: &[usize]| DocumentWrite::Put(Box::new(Ingest::new("c", "d", paragraphs).put(&owner, &collection)));
    let delete = || DocumentWrite::Delete { collection: collection_name("c"), document: document_id("d") };

    let writes = vec![put(&[1]), put(&[1]), put(&[2]), delete(), delete(), put(&[2]), put(&[3])];
    let outcomes = store.corpus.write(&owner, writes).await.unwrap();

    assert_eq!(written(&outcomes[0]).0, 1);
    assert!(matches!(outcomes[1], WriteOutcome::Unchanged { version: 1, .. }));
    assert_eq!(written(&outcomes[2]).0, 2);
    assert!(matches!(outcomes[3], WriteOutcome::Deleted { .. }));
    assert!(matches!(outcomes[4], WriteOutcome::NotFound));
    assert_eq!(written(&outcomes[5]).0, 3);
    assert_eq!(written(&outcomes[6]).0, 4);
    let content = store.corpus.content(&owner, &collection.name, &document_id("d"), None).await.unwrap();
    assert_eq!(content, Some(Ingest::new("c", "d", &[3]).text()));
}

pub(crate) async fn concurrent_calls_are_all_durable(store: Subject<'_>) {
    let owner = scope("acme");
    store.open(&owner, "c").await;
    let put = |number: usize| {
        let owner = &owner;
        async move { store.put(owner, &Ingest::new("c", &format!("d{number}"), &[number])).await }
    };

    let outcomes = futures::future::join_all((0..40).map(put)).await;

    let mut sequences: Vec<u64> = outcomes.iter().map(|outcome| written(outcome).1).collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 40);
    let page = store.corpus.documents(&owner, &collection_name("c"), None, 100).await.unwrap();
    assert_eq!(page.items.len(), 40);
}

pub(crate) async fn unknown_documents_cannot_be_deleted_or_embedded(store: Subject<'_>) {
    let owner = scope("acme");
    assert!(matches!(store.delete(&owner, "c", "d").await, WriteOutcome::NotFound), "no such collection");
    store.open(&owner, "c").await;
    assert!(matches!(store.delete(&owner, "c", "d").await, WriteOutcome::NotFound));

    let (collection, document) = (collection_name("c"), document_id("d"));
    let embed = DocumentWrite::Embed { collection, document, embeddings: Vec::new() };

    assert!(matches!(store.write_one(&owner, embed).await, WriteOutcome::NotFound));
    assert_eq!(store.log.last_sequence().await.unwrap(), Sequence(0));
}

pub(crate) async fn embeddings_can_come_later(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]).without_embeddings();
    let (_, first) = written(&store.put(&owner, &ingest).await);
    store.put(&owner, &Ingest::new("c", "embedded", &[1])).await;
    let ids = ingest.chunk_ids(&owner.tenant);
    let row = store.log.entries(None, Sequence(0), 1).await.unwrap().remove(0);
    assert_eq!(row.chunks_added, [], "a chunk without embedding is no vector");

    let waiting = store.corpus.unembedded(&owner, &ingest.collection, 9).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].0.id, ingest.document);
    assert_eq!(waiting[0].1.iter().map(|chunk| chunk.id).collect::<Vec<_>>(), ids);
    let embed = |chunks: &[usize]| {
        let one = |index: &usize| {
            let input = ingest.input_hash(&ingest.paragraphs[*index]);
            (ids[*index], input, vector(input))
        };
        let (collection, document) = (ingest.collection.clone(), ingest.document.clone());
        DocumentWrite::Embed { collection, document, embeddings: chunks.iter().map(one).collect() }
    };
    let (version, sequence) = written(&store.write_one(&owner, embed(&[1])).await);
    let rest = store.corpus.unembedded(&owner, &ingest.collection, 9).await.unwrap();
    store.write_one(&owner, embed(&[0])).await;
    let again = store.write_one(&owner, embed(&[0, 1])).await;

    assert_eq!(version, 1);
    assert!(sequence > first);
    assert_eq!(rest[0].1.len(), 1);
    assert!(matches!(again, WriteOutcome::Unchanged { version: 1, .. }), "{again:?}");
    assert_eq!(store.corpus.unembedded(&owner, &ingest.collection, 9).await.unwrap(), []);
    let rows = store.log.entries(None, Sequence(sequence - 1), 9).await.unwrap();
    let added: Vec<&[ChunkId]> = rows.iter().map(|row| row.chunks_added.as_slice()).collect();
    assert_eq!(added, [&ids[1..2], &ids[0..1]]);
    let hits =
        store.corpus.hydrate(&owner, (&ingest.collection, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
    assert!(hits.iter().all(|hit| hit.embedding.is_some()));
}

pub(crate) async fn an_embedding_of_an_older_input_is_not_taken(store: Subject<'_>) {
    let owner = scope("acme");
    let old = Ingest::new("c", "d", &[1]).title("old").without_embeddings();
    store.put(&owner, &old).await;
    store.put(&owner, &old.clone().title("new")).await;

    let input = old.input_hash(&old.paragraphs[0]);
    let embeddings = vec![(old.chunk_ids(&owner.tenant)[0], input, vector(input))];
    let (collection, document) = (old.collection.clone(), old.document.clone());
    let late = store.write_one(&owner, DocumentWrite::Embed { collection, document, embeddings }).await;

    assert!(matches!(late, WriteOutcome::Unchanged { version: 1, .. }), "{late:?}");
    assert_eq!(store.corpus.unembedded(&owner, &old.collection, 9).await.unwrap().len(), 1);
}

pub(crate) async fn a_vector_of_the_callers_own_is_kept_apart(store: Subject<'_>) {
    let owner = scope("acme");
    let collection = store.open(&owner, "c").await;
    let (first, second) = (Ingest::new("c", "a", &[1]), Ingest::new("c", "b", &[1]));
    let mut other = second.put(&owner, &collection);
    let own = vector(ContentHash::of(b"something else"));
    other.chunks[0].embedding = Some(own.clone());
    store.put(&owner, &first).await;

    store.write_one(&owner, DocumentWrite::Put(Box::new(other))).await;

    let ids = [first.chunk_ids(&owner.tenant)[0], second.chunk_ids(&owner.tenant)[0]];
    let hits =
        store.corpus.hydrate(&owner, (&collection.name, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
    assert_eq!(hits[0].embedding, Some(vector(first.input_hash(&first.paragraphs[0]))));
    assert_eq!(hits[1].embedding, Some(own));
}

pub(crate) async fn a_vector_of_wrong_length_is_refused(store: Subject<'_>) {
    let owner = scope("acme");
    let collection = store.open(&owner, "c").await;
    let mut put = Ingest::new("c", "d", &[1]).put(&owner, &collection);
    put.chunks[0].embedding.as_mut().unwrap().pop();

    let outcome = store.write_one(&owner, DocumentWrite::Put(Box::new(put))).await;

    let WriteOutcome::Failed(StoreError::DimensionMismatch { found, expected, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((found, expected), (DIMENSIONS - 1, DIMENSIONS));
}

pub(crate) async fn known_embeddings_are_found_by_embedder_and_input(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    store.put(&owner, &ingest).await;
    let inputs: Vec<ContentHash> = ingest.paragraphs.iter().map(|text| ingest.input_hash(text)).collect();
    let asked = [inputs[0], ContentHash::of(b"never embedded"), inputs[1]];
    let embedder = profile().embedder.unwrap();

    let known = store.corpus.known_embeddings(&owner, embedder.fingerprint(), &asked).await.unwrap();

    assert_eq!(known.len(), 2);
    assert_eq!(known[&inputs[1]], vector(inputs[1]));
    let mut newer = embedder;
    newer.revision = "2".into();
    assert!(store.corpus.known_embeddings(&owner, newer.fingerprint(), &asked).await.unwrap().is_empty());
}

pub(crate) async fn the_same_text_in_other_chunks_keeps_its_version(store: Subject<'_>) {
    let owner = scope("acme");
    let collection = store.open(&owner, "c").await;
    // Long enough to be stored in many pieces, cut where the old chunks start.
    let old = Ingest::new("c", "d", &(0..40).collect::<Vec<_>>());
    let mut new = old.clone().metadata("chunks", "larger");
    new.paragraphs = old.paragraphs.chunks(7).map(|some| some.concat()).collect();
    let (_, first) = written(&store.put(&owner, &old).await);

    let (version, _) = written(&store.put(&owner, &new).await);

    assert_eq!(version, 1);
    let (c, d) = (&new.collection, &new.document);
    assert_eq!(store.corpus.versions(&owner, c, d).await.unwrap()[0].chunk_count, 6);
    assert_eq!(store.corpus.content(&owner, c, d, Some(1)).await.unwrap(), Some(old.text()));
    let chunks = store.corpus.chunks(&owner, c, d, None).await.unwrap().unwrap();
    let expected: Vec<_> = new.put(&owner, &collection).chunks.into_iter().map(|item| item.chunk).collect();
    assert_eq!(chunks.into_iter().map(|stored| stored.chunk).collect::<Vec<_>>(), expected);
    let row = store.log.entries(None, Sequence(first), 9).await.unwrap().remove(0);
    assert_eq!(row.chunks_added, new.chunk_ids(&owner.tenant));
    assert_eq!(row.chunks_removed, old.chunk_ids(&owner.tenant));
    let gone = store
        .corpus
        .hydrate(&owner, (c, View::Serving), &old.chunk_ids(&owner.tenant), WithEmbeddings::No)
        .await
        .unwrap();
    assert_eq!(gone, []);
}

pub(crate) async fn any_text_is_read_back_as_it_was(store: Subject<'_>) {
    let owner = scope("acme");
    let awkward = "quotes \" and ' \\ back\\\\slashes \0 nul \u{1} control \u{7f} \u{2028} line \u{feff} \u{10ffff} {}[]:, \t\r\n";
    let mut ingest = Ingest::new("c", "'; DROP TABLE documents; --", &[]).title(awkward).metadata("k\"e\0y", awkward);
    ingest.paragraphs = vec![awkward.into(), awkward.repeat(100), "plain".into()];

    let collection = store.open(&owner, "c").await;
    let put = ingest.put(&owner, &collection);
    written(&store.put(&owner, &ingest).await);

    let (c, d) = (&ingest.collection, &ingest.document);
    assert_eq!(store.corpus.content(&owner, c, d, None).await.unwrap(), Some(ingest.text()));
    let ids = ingest.chunk_ids(&owner.tenant);
    let hits = store.corpus.hydrate(&owner, (c, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
    for (hit, expected) in hits.iter().zip(&put.chunks) {
        assert_eq!((&hit.chunk, &hit.embedding), (&expected.chunk, &expected.embedding));
        assert_eq!(hit.head, put.head);
    }
    assert_eq!(hits.len(), 3);
}

pub(crate) async fn a_collection_without_embedder_waits_for_no_vectors(store: Subject<'_>) {
    let owner = scope("acme");
    let lexical = Profile { embedder: None, ..profile() };
    let collection = store.corpus.open_collection(&owner, &collection_name("c"), &lexical).await.unwrap();
    let bare = Ingest::new("c", "d", &[1, 2]).without_embeddings();

    written(&store.put(&owner, &bare).await);
    let refused = store.put(&owner, &Ingest::new("c", "e", &[1])).await;

    assert!(matches!(refused, WriteOutcome::Failed(StoreError::DimensionMismatch { expected: 0, .. })), "{refused:?}");
    assert_eq!(store.corpus.unembedded(&owner, &collection.name, 9).await.unwrap(), []);
    let ids = bare.chunk_ids(&owner.tenant);
    let hits =
        store.corpus.hydrate(&owner, (&collection.name, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
    assert_eq!((hits.len(), hits[0].provenance.embedder.clone(), hits[0].embedding.clone()), (2, None, None));
}

pub(crate) async fn a_document_without_text_is_stored(store: Subject<'_>) {
    let owner = scope("acme");
    let empty = Ingest::new("c", "d", &[]);

    let (version, _) = written(&store.put(&owner, &empty).await);
    let (grown, _) = written(&store.put(&owner, &Ingest::new("c", "d", &[1])).await);
    let (shrunk, _) = written(&store.put(&owner, &empty).await);

    assert_eq!((version, grown, shrunk), (1, 2, 3));
    let (c, d) = (&empty.collection, &empty.document);
    assert_eq!(store.corpus.content(&owner, c, d, None).await.unwrap(), Some(String::new()));
    assert_eq!(store.corpus.chunks(&owner, c, d, None).await.unwrap(), Some(vec![]));
    assert!(matches!(store.delete(&owner, "c", "d").await, WriteOutcome::Deleted { .. }));
}

pub(crate) async fn a_long_text_is_read_in_any_place(store: Subject<'_>) {
    let owner = scope("acme");
    let mut ingest = Ingest::new("c", "d", &[1, 2]);
    let gap = "ü€😀 nothing to see here. ".repeat(2_000);
    ingest.paragraphs = vec!["start. ".into(), gap, "short. ".into(), "x".repeat(70_000), "end".into()];

    store.put(&owner, &ingest).await;

    let (c, d) = (&ingest.collection, &ingest.document);
    assert_eq!(store.corpus.content(&owner, c, d, None).await.unwrap(), Some(ingest.text()));
    let ids = ingest.chunk_ids(&owner.tenant);
    let hits = store.corpus.hydrate(&owner, (c, View::Serving), &ids, WithEmbeddings::No).await.unwrap();
    let texts: Vec<&String> = hits.iter().map(|hit| &hit.chunk.text).collect();
    assert_eq!(texts, ingest.paragraphs.iter().collect::<Vec<_>>());
}

pub(crate) async fn overlapping_chunks_are_read_exactly(store: Subject<'_>) {
    let owner = scope("acme");
    let collection = store.open(&owner, "c").await;
    let ingest = Ingest::new("c", "d", &(0..40).collect::<Vec<_>>());
    let mut put = ingest.put(&owner, &collection);
    let text = put.text.clone();
    let ends: Vec<usize> = put.chunks.iter().map(|item| item.chunk.span.end).collect();
    for (index, item) in put.chunks.iter_mut().enumerate() {
        // Each chunk reaches over the next nine paragraphs.
        let end = ends[(index + 9).min(ends.len() - 1)];
        item.chunk.span = ByteSpan::new(item.chunk.span.start, end);
        item.chunk.text = item.chunk.span.slice(&text).unwrap().to_owned();
    }
    let expected: Vec<String> = put.chunks.iter().map(|item| item.chunk.text.clone()).collect();

    written(&store.write_one(&owner, DocumentWrite::Put(Box::new(put))).await);

    let chunks = store.corpus.chunks(&owner, &ingest.collection, &ingest.document, None).await.unwrap().unwrap();
    let read: Vec<String> = chunks.into_iter().map(|stored| stored.chunk.text).collect();
    assert_eq!(read, expected);
}

pub(crate) async fn hydration_keeps_the_order_asked_for(store: Subject<'_>) {
    let owner = scope("acme");
    let (a, b) = (Ingest::new("c", "a", &[1, 2]), Ingest::new("c", "b", &[3]));
    let elsewhere = Ingest::new("other", "a", &[4]);
    for ingest in [&a, &b, &elsewhere] {
        store.put(&owner, ingest).await;
    }
    let id = |ingest: &Ingest, index: usize| ingest.chunk_ids(&owner.tenant)[index];
    let asked = [id(&b, 0), ChunkId([9; 16]), id(&a, 1), id(&elsewhere, 0), id(&a, 0), id(&b, 0)];

    let hits =
        store.corpus.hydrate(&owner, (&collection_name("c"), View::Serving), &asked, WithEmbeddings::No).await.unwrap();

    let found: Vec<ChunkId> = hits.iter().map(|hit| hit.chunk.id).collect();
    assert_eq!(found, [id(&b, 0), id(&a, 1), id(&a, 0), id(&b, 0)]);
    assert_eq!(
        store.corpus.hydrate(&owner, (&collection_name("c"), View::Serving), &[], WithEmbeddings::No).await.unwrap(),
        []
    );
    let unknown = collection_name("unknown");
    assert_eq!(store.corpus.hydrate(&owner, (&unknown, View::Serving), &asked, WithEmbeddings::No).await.unwrap(), []);
}

pub(crate) async fn neighbours_are_those_of_the_same_version(store: Subject<'_>) {
    let owner = scope("acme");
    let before = Ingest::new("c", "before", &[7, 8]);
    let ingest = Ingest::new("c", "d", &[1, 2, 3, 4, 5]);
    store.put(&owner, &before).await;
    store.put(&owner, &Ingest::new("c", "d", &[9, 2, 9])).await;
    store.put(&owner, &ingest).await;
    store.put(&owner, &Ingest::new("c", "e", &[6])).await;
    let ids = ingest.chunk_ids(&owner.tenant);
    let around = |id: ChunkId, before: u32, after: u32| {
        let owner = &owner;
        async move {
            let (earlier, later) = store.corpus.neighbours(owner, id, before, after).await.unwrap();
            let ids = |chunks: Vec<crate::domain::Chunk>| chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>();
            (ids(earlier), ids(later))
        }
    };

    assert_eq!(around(ids[2], 1, 1).await, (vec![ids[1]], vec![ids[3]]));
    assert_eq!(around(ids[0], 2, 1).await, (vec![], vec![ids[1]]));
    assert_eq!(around(ids[4], 3, u32::MAX).await, (ids[1..4].to_vec(), vec![]));
    assert_eq!(around(ids[2], 0, 0).await, (vec![], vec![]));
}

pub(crate) async fn pages_survive_concurrent_writes(store: Subject<'_>) {
    let owner = scope("acme");
    let c = collection_name("c");
    for name in ["a", "b", "d", "e", "f"] {
        store.put(&owner, &Ingest::new("c", name, &[1])).await;
    }

    let mut seen = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = store.corpus.documents(&owner, &c, cursor.as_deref(), 2).await.unwrap();
        seen.extend(page.items.iter().map(|document| document.head.id.to_string()));
        if seen.len() == 2 {
            // The cursor's own document goes, one comes before it and one after it.
            store.delete(&owner, "c", "b").await;
            store.put(&owner, &Ingest::new("c", "aa", &[1])).await;
            store.put(&owner, &Ingest::new("c", "c", &[1])).await;
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }

    assert_eq!(seen, ["a", "b", "c", "d", "e", "f"]);
    let exact = store.corpus.documents(&owner, &c, None, 6).await.unwrap();
    assert_eq!((exact.items.len(), exact.next), (6, None));
}

pub(crate) async fn only_cursors_of_the_same_listing_are_taken(store: Subject<'_>) {
    let owner = scope("acme");
    for collection in ["c", "other"] {
        for name in ["a", "b"] {
            store.put(&owner, &Ingest::new(collection, name, &[1])).await;
        }
    }
    let cursor = store.corpus.documents(&owner, &collection_name("c"), None, 1).await.unwrap().next.unwrap();

    for cursor in [cursor.as_str(), "", "%", "AAAA", "'; DROP TABLE documents; --"] {
        let refused = store.corpus.documents(&owner, &collection_name("other"), Some(cursor), 1).await;
        assert!(matches!(refused, Err(StoreError::InvalidCursor { .. })), "{cursor}: {refused:?}");
    }
}
