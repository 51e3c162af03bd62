//! Random histories against a plain map.
//!
//! The map holds what was last put; everything the store says must follow from it. Replaying the log's added and
//! removed chunks must give exactly the live vectors, since this is all that an index ever sees.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use crate::domain::{ChunkId, ContentHash, GenerationId, Sequence, TenantScope};
use crate::store::{DocumentWrite, View, WithEmbeddings, WriteOutcome};

use super::fixture::{Embedded, Ingest, Subject, scope, vector, written};

const TENANTS: [&str; 2] = ["acme", "other"];
const COLLECTIONS: [&str; 2] = ["c", "d"];
const DOCUMENTS: [&str; 3] = ["x", "y", "z"];

/// One call.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Writes of one tenant, in one call.
    Write(usize, Vec<Edit>),
    /// Embeds everything that waits for it in a collection.
    EmbedPending(usize, usize),
}

/// A change of document `.1` in collection `.0`.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Put(usize, usize, Version),
    Delete(usize, usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Version {
    paragraphs: Vec<usize>,
    title: Option<&'static str>,
    restricted: bool,
    embedded: bool,
}

/// Short histories in which the same few documents change again and again.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let version = (
        proptest::collection::vec(0_usize..6, 0..6),
        prop_oneof![Just(None), Just(Some("one")), Just(Some("two"))],
        any::<bool>(),
        prop_oneof![3 => Just(true), 1 => Just(false)],
    );
    let version = version.prop_map(|(paragraphs, title, restricted, embedded)| Version {
        paragraphs,
        title,
        restricted,
        embedded,
    });
    let (collection, document) = (0..COLLECTIONS.len(), 0..DOCUMENTS.len());
    let edit = prop_oneof![
        4 => (collection.clone(), document.clone(), version).prop_map(|(c, d, version)| Edit::Put(c, d, version)),
        1 => (collection.clone(), document).prop_map(|(c, d)| Edit::Delete(c, d)),
    ];
    let step = prop_oneof![
        6 => (0..TENANTS.len(), proptest::collection::vec(edit, 1..6)).prop_map(|(t, edits)| Step::Write(t, edits)),
        1 => (0..TENANTS.len(), collection).prop_map(|(t, c)| Step::EmbedPending(t, c)),
    ];
    proptest::collection::vec(step, 1..16)
}

/// A live document of the model.
#[derive(Debug, Clone)]
struct Live {
    ingest: Ingest,
    version: u64,
    /// What each live chunk's vector was made from.
    vectors: BTreeMap<ChunkId, ContentHash>,
}

#[derive(Debug, Default)]
struct Model {
    live: BTreeMap<(usize, usize, usize), Live>,
    versions: HashMap<(usize, usize, usize), u64>,
    ever: BTreeSet<(usize, usize, ChunkId)>,
}

/// Runs the history and compares store and model after it.
pub(crate) async fn replay(store: Subject<'_>, steps: &[Step]) {
    let mut model = Model::default();
    let mut sequence = store.log.last_sequence().await.unwrap();
    for step in steps {
        match step {
            Step::Write(tenant, edits) => model.write(store, *tenant, edits).await,
            Step::EmbedPending(tenant, collection) => model.embed(store, *tenant, *collection).await,
        }
        let now = store.log.last_sequence().await.unwrap();
        assert!(now >= sequence, "sequences never fall");
        sequence = now;
    }
    for tenant in 0..TENANTS.len() {
        for collection in 0..COLLECTIONS.len() {
            model.compare(store, tenant, collection).await;
        }
    }
}

fn ingest(collection: usize, document: usize, version: &Version) -> Ingest {
    let mut ingest = Ingest::new(COLLECTIONS[collection], DOCUMENTS[document], &version.paragraphs);
    ingest.title = version.title.map(str::to_owned);
    if version.restricted {
        ingest = ingest.acl(&["user:ann"]);
    }
    ingest.embedded = if version.embedded { Embedded::Yes } else { Embedded::No };
    ingest
}

impl Model {
    async fn write(&mut self, store: Subject<'_>, tenant: usize, edits: &[Edit]) {
        let owner = scope(TENANTS[tenant]);
        let mut writes = Vec::new();
        for edit in edits {
            writes.push(match edit {
                Edit::Put(c, d, version) => {
                    let collection = store.open(&owner, COLLECTIONS[*c]).await;
                    DocumentWrite::Put(Box::new(ingest(*c, *d, version).put(&owner, &collection)))
                }
                Edit::Delete(c, d) => {
                    let Ingest { collection, document, .. } = Ingest::new(COLLECTIONS[*c], DOCUMENTS[*d], &[]);
                    DocumentWrite::Delete { collection, document }
                }
            });
        }
        let outcomes = store.corpus.write(&owner, writes).await.unwrap();
        assert_eq!(outcomes.len(), edits.len());
        for (edit, outcome) in edits.iter().zip(&outcomes) {
            match edit {
                Edit::Put(c, d, version) => self.put((tenant, *c, *d), ingest(*c, *d, version), outcome),
                Edit::Delete(c, d) => {
                    let was_there = self.live.remove(&(tenant, *c, *d)).is_some();
                    assert_eq!(was_there, matches!(outcome, WriteOutcome::Deleted { .. }), "{outcome:?}");
                    assert_eq!(!was_there, matches!(outcome, WriteOutcome::NotFound), "{outcome:?}");
                }
            }
        }
    }

    fn put(&mut self, key: (usize, usize, usize), ingest: Ingest, outcome: &WriteOutcome) {
        let tenant = scope(TENANTS[key.0]).tenant;
        let ids = ingest.chunk_ids(&tenant);
        let newest = self.versions.entry(key).or_default();
        if let Some(live) = self.live.get(&key) {
            let same_text = live.ingest.paragraphs == ingest.paragraphs;
            if same_text && live.ingest.title == ingest.title && live.ingest.acl == ingest.acl {
                assert!(matches!(outcome, WriteOutcome::Unchanged { version, .. } if version == newest), "{outcome:?}");
                return;
            }
            *newest += u64::from(!same_text);
        } else {
            *newest += 1;
        }
        assert_eq!(written(outcome).0, *newest);
        let inputs = ids.iter().zip(&ingest.paragraphs).map(|(id, text)| (*id, ingest.input_hash(text)));
        let vectors = inputs.filter(|_| ingest.embedded == Embedded::Yes).collect();
        self.ever.extend(ids.iter().map(|id| (key.0, key.1, *id)));
        self.live.insert(key, Live { ingest, version: *newest, vectors });
    }

    async fn embed(&mut self, store: Subject<'_>, tenant: usize, collection: usize) {
        let owner = scope(TENANTS[tenant]);
        let name = store.open(&owner, COLLECTIONS[collection]).await.name;
        for (head, chunks) in store.corpus.unembedded(&owner, &name, 99).await.unwrap() {
            let document = DOCUMENTS.iter().position(|name| *name == head.id.as_str()).unwrap();
            let live = self.live.get_mut(&(tenant, collection, document)).expect("only live documents wait");
            let mut embeddings = Vec::new();
            for chunk in &chunks {
                let input = live.ingest.input_hash(&chunk.text);
                embeddings.push((chunk.id, input, vector(input)));
                assert_eq!(live.vectors.insert(chunk.id, input), None, "it waits, so it has no vector");
            }
            let write = DocumentWrite::Embed { collection: name.clone(), document: head.id, embeddings };
            assert_eq!(written(&store.write_one(&owner, write).await).0, live.version);
        }
        assert_eq!(store.corpus.unembedded(&owner, &name, 99).await.unwrap(), []);
    }

    async fn compare(&self, store: Subject<'_>, tenant: usize, collection: usize) {
        let owner = scope(TENANTS[tenant]);
        let opened = store.open(&owner, COLLECTIONS[collection]).await;
        let expected: Vec<&Live> =
            self.live.range((tenant, collection, 0)..(tenant, collection + 1, 0)).map(|(_, live)| live).collect();
        let listed = store.corpus.documents(&owner, &opened.name, None, 99).await.unwrap().items;
        let names = |live: &&Live| (live.ingest.document.clone(), live.version, live.ingest.paragraphs.len() as u64);
        let found: Vec<_> =
            listed.iter().map(|document| (document.head.id.clone(), document.version, document.chunk_count)).collect();
        assert_eq!(found, expected.iter().map(names).collect::<Vec<_>>());
        for live in &expected {
            compare_document(store, &owner, live).await;
        }
        self.compare_hydration(store, (tenant, collection), &expected).await;
        let vectors: BTreeSet<ChunkId> = expected.iter().flat_map(|live| live.vectors.keys().copied()).collect();
        assert_eq!(follow(store, opened.live.id).await, vectors, "the log leads to the live vectors");
        let counts = store.log.live_counts(opened.live.id).await.unwrap();
        assert_eq!(counts.documents, expected.len() as u64);
        assert_eq!(counts.chunks, expected.iter().map(|live| live.ingest.paragraphs.len() as u64).sum::<u64>());
        assert_eq!(counts.vectors, vectors.len() as u64);
    }

    async fn compare_hydration(&self, store: Subject<'_>, (tenant, collection): (usize, usize), live: &[&Live]) {
        let owner = scope(TENANTS[tenant]);
        // Every chunk that any tenant ever had anywhere is asked for.
        let ever: Vec<ChunkId> = self.ever.iter().map(|(_, _, id)| *id).collect();
        let name = Ingest::new(COLLECTIONS[collection], "x", &[]).collection;

        let hits = store.corpus.hydrate(&owner, (&name, View::Serving), &ever, WithEmbeddings::Yes).await.unwrap();

        let found: BTreeMap<ChunkId, _> = hits.into_iter().map(|hit| (hit.chunk.id, hit)).collect();
        let mut expected = 0;
        for live in live {
            for (id, text) in live.ingest.chunk_ids(&owner.tenant).iter().zip(&live.ingest.paragraphs) {
                let hit = found.get(id).expect("a live chunk is hydrated");
                assert_eq!(&hit.chunk.text, text);
                assert_eq!(hit.head.title, live.ingest.title);
                assert_eq!(hit.embedding, live.vectors.get(id).map(|input| vector(*input)));
                assert_eq!(hit.provenance.document_version, live.version);
                expected += 1;
            }
        }
        assert_eq!(found.len(), expected, "nothing else is hydrated");
    }
}

async fn compare_document(store: Subject<'_>, owner: &TenantScope, live: &Live) {
    let (collection, document) = (&live.ingest.collection, &live.ingest.document);
    let content = store.corpus.content(owner, collection, document, None).await.unwrap();
    assert_eq!(content, Some(live.ingest.text()));
    let chunks = store.corpus.chunks(owner, collection, document, None).await.unwrap().unwrap();
    let ids: Vec<ChunkId> = chunks.iter().map(|stored| stored.chunk.id).collect();
    assert_eq!(ids, live.ingest.chunk_ids(&owner.tenant));
    let numbers: Vec<u64> = store
        .corpus
        .versions(owner, collection, document)
        .await
        .unwrap()
        .iter()
        .map(|version| version.version)
        .collect();
    assert_eq!(numbers[0], live.version);
    assert!(numbers.is_sorted_by(|a, b| *a == b + 1));
}

/// What an index holds that does nothing but apply the log, a few rows at a time.
async fn follow(store: Subject<'_>, generation: GenerationId) -> BTreeSet<ChunkId> {
    let mut vectors = BTreeSet::new();
    let mut after = Sequence(0);
    loop {
        let rows = store.log.entries(Some(generation), after, 3).await.unwrap();
        let Some(last) = rows.last() else { return vectors };
        after = last.sequence;
        for row in rows {
            assert!(
                row.chunks_added.iter().all(|id| !row.chunks_removed.contains(id)),
                "added and removed are disjoint"
            );
            for id in &row.chunks_removed {
                assert!(vectors.remove(id), "only what is there is removed");
            }
            vectors.extend(row.chunks_added);
        }
    }
}
