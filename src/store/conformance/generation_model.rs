//! Random rollouts against a plain model: puts, deletions, builds, moves and changes of generations in any order.
//!
//! After each step everything the store tells of every document in every generation must follow from the model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::domain::{
    Collection, ContextSpec, GenerationId, GenerationPlan, GenerationState, Profile, Sequence, Standing, TenantScope,
};
use crate::store::{DocumentWrite, GenerationChange, Remains, StoreError, View, WithEmbeddings, WriteOutcome};

use super::fixture::{Ingest, Subject, collection_name, document_id, input_in, profile, scope, vector};

const DOCUMENTS: [&str; 3] = ["x", "y", "z"];

/// One step. Generations are named by their number, counted from the oldest and around.
#[derive(Debug, Clone)]
pub(crate) enum Move {
    Put(usize, Vec<usize>),
    Delete(usize),
    Build(usize, usize, Seen),
    Serve(usize, usize),
    Begin,
    Change(usize, GenerationChange),
    Remove(usize),
}

/// What a build was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Now,
    Before,
}

/// Histories of a few documents in which generations come and go.
pub(crate) fn moves() -> impl Strategy<Value = Vec<Move>> {
    let (document, generation) = (0..DOCUMENTS.len(), 0_usize..4);
    let change = prop_oneof![
        3 => Just(GenerationChange::Shadow),
        2 => Just(GenerationChange::Promote),
        1 => Just(GenerationChange::Retire),
    ];
    let step = prop_oneof![
        4 => (document.clone(), proptest::collection::vec(0_usize..4, 0..4)).prop_map(|(d, text)| Move::Put(d, text)),
        1 => document.clone().prop_map(Move::Delete),
        8 => (document.clone(), generation.clone(), prop_oneof![6 => Just(Seen::Now), 1 => Just(Seen::Before)]).prop_map(
            |(d, g, seen)| Move::Build(d, g, seen)
        ),
        6 => (document, generation.clone()).prop_map(|(d, g)| Move::Serve(d, g)),
        2 => Just(Move::Begin),
        4 => (generation.clone(), change).prop_map(|(g, change)| Move::Change(g, change)),
        1 => generation.prop_map(Move::Remove),
    ];
    proptest::collection::vec(step, 1..40)
}

struct Live {
    ingest: Ingest,
    sequence: Sequence,
    serving: GenerationId,
    /// Serving or ready, with whether its vectors were made by a put.
    held: BTreeMap<GenerationId, Origin>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Put,
    Build,
}

struct Stage {
    id: GenerationId,
    state: GenerationState,
    was_live: bool,
    is_removed: bool,
}

struct Model {
    owner: TenantScope,
    documents: BTreeMap<usize, Live>,
    stages: Vec<Stage>,
    live: GenerationId,
}

/// Runs the history and compares store and model after each step.
pub(crate) async fn rollout(store: Subject<'_>, moves: &[Move]) {
    let owner = scope("acme");
    let live = store.open(&owner, "c").await.live.id;
    let first = Stage { id: live, state: GenerationState::Live, was_live: true, is_removed: false };
    let mut model = Model { owner, documents: BTreeMap::new(), stages: vec![first], live };
    for step in moves {
        model.step(store, step).await;
        model.compare(store).await;
    }
}

impl Model {
    async fn step(&mut self, store: Subject<'_>, step: &Move) {
        let count = self.stages.len();
        match step {
            Move::Put(document, text) => self.put(store, *document, text).await,
            Move::Delete(document) => {
                let outcome = store.delete(&self.owner, "c", DOCUMENTS[*document]).await;
                let was_there = self.documents.remove(document).is_some();
                assert_eq!(was_there, matches!(outcome, WriteOutcome::Deleted { .. }), "{outcome:?}");
            }
            Move::Build(document, generation, seen) => {
                self.build(store, (*document, generation % count), *seen).await;
            }
            Move::Serve(document, generation) => self.serve(store, (*document, generation % count)).await,
            Move::Begin => self.begin(store).await,
            Move::Change(generation, change) => self.change(store, generation % count, *change).await,
            Move::Remove(generation) => self.remove(store, generation % count).await,
        }
    }

    async fn collection(&self, store: Subject<'_>) -> Collection {
        store.open(&self.owner, "c").await
    }

    async fn put(&mut self, store: Subject<'_>, document: usize, text: &[usize]) {
        let ingest = Ingest::new("c", DOCUMENTS[document], text);
        let outcome = store.put(&self.owner, &ingest).await;
        let is_same = self.documents.get(&document).is_some_and(|live| live.ingest.paragraphs == ingest.paragraphs);
        match outcome {
            WriteOutcome::Unchanged { sequence, .. } => {
                assert!(is_same);
                assert_eq!(sequence, self.documents[&document].sequence);
            }
            WriteOutcome::Written { sequence, .. } => {
                assert!(!is_same);
                let held = [(self.live, Origin::Put)].into();
                self.documents.insert(document, Live { ingest, sequence, serving: self.live, held });
            }
            other => panic!("{other:?}"),
        }
    }

    async fn build(&mut self, store: Subject<'_>, (document, stage): (usize, usize), from: Seen) {
        let collection = self.collection(store).await;
        let Stage { id, state, .. } = self.stages[stage];
        let ingest = match self.documents.get(&document) {
            Some(live) => live.ingest.clone(),
            None => Ingest::new("c", DOCUMENTS[document], &[1]),
        };
        let now = self.documents.get(&document).map_or(Sequence(0), |live| live.sequence);
        let seen = if from == Seen::Before { Sequence(now.0.wrapping_sub(1)) } else { now };
        let build = ingest.build(&self.owner, &collection, id, seen);
        let outcome = store.write_one(&self.owner, DocumentWrite::Build(Box::new(build))).await;
        match (self.documents.get_mut(&document), state) {
            (_, GenerationState::Retired) => assert!(
                matches!(outcome, WriteOutcome::Failed(StoreError::WrongState { state: "retired" })),
                "{outcome:?}"
            ),
            (None, _) => assert!(matches!(outcome, WriteOutcome::NotFound), "{outcome:?}"),
            (Some(_), _) if from == Seen::Before => assert!(matches!(outcome, WriteOutcome::Outdated), "{outcome:?}"),
            (Some(live), _) if live.serving == id => {
                assert!(matches!(outcome, WriteOutcome::Unchanged { .. }), "{outcome:?}");
            }
            (Some(live), _) => {
                assert!(matches!(outcome, WriteOutcome::Written { .. }), "{outcome:?}");
                live.held.insert(id, Origin::Build);
            }
        }
    }

    async fn serve(&mut self, store: Subject<'_>, (document, stage): (usize, usize)) {
        let generation = self.stages[stage].id;
        let (collection, name) = (collection_name("c"), document_id(DOCUMENTS[document]));
        let serve = DocumentWrite::Serve { collection, document: name, generation };
        let outcome = store.write_one(&self.owner, serve).await;
        let is_ready = self.documents.get(&document).is_some_and(|live| live.held.contains_key(&generation));
        if is_ready && self.stages[stage].state != GenerationState::Retired {
            assert!(matches!(outcome, WriteOutcome::Serves), "{outcome:?}");
            self.documents.get_mut(&document).unwrap().serving = generation;
        } else {
            assert!(matches!(outcome, WriteOutcome::NotFound), "{outcome:?}");
        }
    }

    async fn begin(&mut self, store: Subject<'_>) {
        // Each generation has a profile of its own; the chunker, and with it the chunk ids, stay.
        let prompt = format!("prompt {}", self.stages.len());
        let context = ContextSpec::Written { prompt, version: "1".into(), route: "any".into() };
        let profile = Profile { context, ..profile() };
        let plan = GenerationPlan::default();
        let begun = store.generations.begin_generation(&self.owner, &collection_name("c"), &profile, &plan).await;
        let under_way = |stage: &&Stage| {
            matches!(stage.state, GenerationState::Building | GenerationState::Shadow) && !stage.was_live
        };
        match self.stages.iter().find(under_way) {
            Some(other) => {
                assert!(matches!(begun, Err(StoreError::AlreadyBuilding { other: told }) if told == other.id));
            }
            None => {
                let id = begun.unwrap().generation.id;
                assert!(self.stages.iter().all(|stage| stage.id != id), "ids never repeat");
                let state = GenerationState::Building;
                self.stages.push(Stage { id, state, was_live: false, is_removed: false });
            }
        }
    }

    async fn change(&mut self, store: Subject<'_>, stage: usize, change: GenerationChange) {
        use GenerationState::{Building, Live, Retired, Shadow};
        let Stage { id, state, .. } = self.stages[stage];
        let changed = store.generations.change_generation(&self.owner, id, change).await;
        let serving = self.documents.values().filter(|live| live.serving == id).count() as u64;
        let expected = match (change, state) {
            (GenerationChange::Shadow, Building | Shadow) => Shadow,
            (GenerationChange::Promote, Shadow | Live) => Live,
            (GenerationChange::Retire, Building | Shadow) if serving > 0 => {
                assert!(matches!(changed, Err(StoreError::StillServing { documents }) if documents == serving));
                return;
            }
            (GenerationChange::Retire, Building | Shadow | Retired) => Retired,
            _ => {
                assert!(matches!(changed, Err(StoreError::WrongState { .. })), "{changed:?}");
                return;
            }
        };
        let status = changed.unwrap().unwrap();
        assert_eq!(status.generation.state, expected);
        if expected == Live && state != Live {
            assert_eq!(status.previous, Some(self.live));
            let before = self.stages.iter_mut().find(|stage| stage.id == self.live).unwrap();
            before.state = Shadow;
            self.live = id;
            self.stages[stage].was_live = true;
        }
        self.stages[stage].state = expected;
    }

    async fn remove(&mut self, store: Subject<'_>, stage: usize) {
        let id = self.stages[stage].id;
        let mut removed = store.generations.remove_generation(&self.owner, id, 2).await;
        if self.stages[stage].state != GenerationState::Retired {
            assert!(matches!(removed, Err(StoreError::WrongState { .. })), "{removed:?}");
            return;
        }
        for _ in 0..200 {
            if *removed.as_ref().unwrap() == Remains::default() {
                break;
            }
            removed = store.generations.remove_generation(&self.owner, id, 2).await;
        }
        assert_eq!(removed.unwrap(), Remains::default());
        self.stages[stage].is_removed = true;
        for live in self.documents.values_mut() {
            live.held.remove(&id);
        }
    }

    async fn compare(&self, store: Subject<'_>) {
        let collection = self.collection(store).await;
        assert_eq!(collection.live.id, self.live);
        let serving: BTreeSet<GenerationId> = self.documents.values().map(|live| live.serving).collect();
        let also: BTreeSet<GenerationId> = collection.also_serving.iter().map(|other| other.id).collect();
        assert_eq!(also, serving.into_iter().filter(|id| *id != self.live).collect());
        for (document, live) in &self.documents {
            self.compare_document(store, *document, live).await;
        }
        for stage in self.stages.iter().filter(|stage| stage.state != GenerationState::Retired) {
            self.compare_generation(store, stage).await;
        }
        for stage in self.stages.iter().filter(|stage| stage.is_removed) {
            let status = store.generations.generation_status(&self.owner, stage.id).await.unwrap().unwrap();
            assert!(status.removed_at.is_some());
            assert_eq!((status.counts.built, status.counts.chunks, status.counts.vectors), (0, 0, 0));
        }
    }

    async fn compare_document(&self, store: Subject<'_>, document: usize, live: &Live) {
        let (owner, name) = (&self.owner, collection_name("c"));
        let ids = live.ingest.chunk_ids(&owner.tenant);
        let hits = store.corpus.hydrate(owner, (&name, View::Serving), &ids, WithEmbeddings::Yes).await.unwrap();
        assert_eq!(hits.len(), ids.len(), "{}", DOCUMENTS[document]);
        for hit in &hits {
            assert_eq!(hit.provenance.generation, live.serving);
        }
        let id = document_id(DOCUMENTS[document]);
        let state = store.corpus.states(owner, &name, std::slice::from_ref(&id)).await.unwrap().remove(0).unwrap();
        assert_eq!((state.generation, state.sequence), (live.serving, live.sequence));
        let content = store.corpus.content(owner, &name, &id, None).await.unwrap();
        assert_eq!(content, Some(live.ingest.text()));
        let chunks = store.corpus.chunks(owner, &name, &id, None).await.unwrap().unwrap();
        assert!(chunks.iter().all(|stored| stored.provenance.generation == live.serving));
        assert_eq!(chunks.len(), ids.len());
        let versions = store.corpus.versions(owner, &name, &id).await.unwrap();
        assert_eq!(versions[0].chunk_count, ids.len() as u64);
    }

    async fn compare_generation(&self, store: Subject<'_>, stage: &Stage) {
        let (owner, name, id) = (&self.owner, collection_name("c"), stage.id);
        let names = DOCUMENTS.map(document_id);
        let indexable = store.log.indexable(&owner.tenant, (&name, id), &names, WithEmbeddings::Yes).await.unwrap();
        let mut vectors = BTreeSet::new();
        let (mut built, mut serving, mut chunks) = (0, 0, 0);
        for (document, found) in indexable.into_iter().enumerate() {
            let live = self.documents.get(&document);
            let origin = live.and_then(|live| live.held.get(&id));
            let (Some(live), Some(origin)) = (live, origin) else {
                assert_eq!(found, None);
                continue;
            };
            let found = found.expect("what a generation holds can be indexed");
            let ids = live.ingest.chunk_ids(&owner.tenant);
            let hits = store.corpus.hydrate(owner, (&name, View::Of(id)), &ids, WithEmbeddings::Yes).await.unwrap();
            assert_eq!((found.chunks.len(), hits.len()), (ids.len(), ids.len()));
            for ((chunk, hit), text) in found.chunks.iter().zip(&hits).zip(&live.ingest.paragraphs) {
                let input = if *origin == Origin::Put { live.ingest.input_hash(text) } else { input_in(id, text) };
                assert_eq!((&chunk.text, &hit.chunk.text), (text, text));
                assert_eq!((&chunk.embedding, &hit.embedding), (&Some(vector(input)), &Some(vector(input))));
                assert_eq!(hit.provenance.generation, id);
            }
            vectors.extend(&ids);
            built += 1;
            serving += u64::from(live.serving == id);
            chunks += ids.len() as u64;
        }
        let counts = store.generations.generation_status(owner, id).await.unwrap().unwrap().counts;
        assert_eq!(counts.documents, self.documents.len() as u64);
        assert_eq!((counts.built, counts.serving), (built, serving));
        assert_eq!((counts.chunks, counts.vectors), (chunks, chunks));
        self.compare_log(store, id, &vectors).await;
        self.compare_placements(store, id).await;
    }

    // An index that only ever sees the log holds what the generation holds.
    async fn compare_log(&self, store: Subject<'_>, id: GenerationId, vectors: &BTreeSet<crate::domain::ChunkId>) {
        let mut index = BTreeSet::new();
        for entry in store.log.entries(Some(id), Sequence(0), usize::MAX).await.unwrap() {
            entry.chunks_removed.iter().for_each(|chunk| _ = index.remove(chunk));
            index.extend(entry.chunks_added);
        }
        assert_eq!(&index, vectors);
    }

    async fn compare_placements(&self, store: Subject<'_>, id: GenerationId) {
        for standing in [Standing::Absent, Standing::Standby, Standing::Serving] {
            let page = store.generations.placements(&self.owner, id, standing, (None, 9)).await.unwrap();
            let found: Vec<String> = page.items.into_iter().map(|head| head.id.to_string()).collect();
            let stands = |live: &Live| match live.held.contains_key(&id) {
                false => Standing::Absent,
                true if live.serving == id => Standing::Serving,
                true => Standing::Standby,
            };
            let expected = self.documents.iter().filter(|(_, live)| stands(live) == standing);
            assert_eq!(found, expected.map(|(document, _)| DOCUMENTS[*document]).collect::<Vec<_>>());
        }
    }
}
