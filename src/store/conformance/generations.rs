//! Promises about generations, and about what they are judged by.

use crate::domain::{
    Chunk, ChunkId, ChunkOwner, ChunkerSpec, Collection, ContentHash, ContextSpec, GenerationId, GenerationPlan,
    GenerationState, Mode, Profile, Promotion, Rollout, Sequence, Standing, TaskId, TenantScope, Timestamp, TraceId,
};
use crate::store::{
    BuildDocument, DocumentWrite, EvalCase, GenerationChange, Operation, Remains, ShadowSearch, StoreError, View,
    WithEmbeddings, WriteOutcome,
};

use super::fixture::{
    Ingest, Subject, collection_name, document_id, input_in, paragraph, profile, reader, scope, vector, written,
};

/// The profile of the other generation: the same chunks, other vectors.
fn other() -> Profile {
    Profile { context: ContextSpec::None, ..profile() }
}

impl Subject<'_> {
    async fn begin(&self, owner: &TenantScope, profile: &Profile) -> GenerationId {
        let plan = GenerationPlan::default();
        let begun = self.generations.begin_generation(owner, &collection_name("c"), profile, &plan).await;
        begun.unwrap().generation.id
    }

    async fn change(&self, owner: &TenantScope, id: GenerationId, change: GenerationChange) -> GenerationState {
        self.generations.change_generation(owner, id, change).await.unwrap().unwrap().generation.state
    }

    async fn build(&self, owner: &TenantScope, ingest: &Ingest, generation: GenerationId) -> WriteOutcome {
        let collection = self.open(owner, ingest.collection.as_str()).await;
        let seen = self.seen(owner, ingest).await;
        let build = ingest.build(owner, &collection, generation, seen);
        self.write_one(owner, DocumentWrite::Build(Box::new(build))).await
    }

    async fn seen(&self, owner: &TenantScope, ingest: &Ingest) -> Sequence {
        let asked = std::slice::from_ref(&ingest.document);
        let states = self.corpus.states(owner, &ingest.collection, asked).await.unwrap();
        states[0].as_ref().map_or(Sequence(0), |state| state.sequence)
    }

    async fn serve(&self, owner: &TenantScope, ingest: &Ingest, generation: GenerationId) -> WriteOutcome {
        let (collection, document) = (ingest.collection.clone(), ingest.document.clone());
        self.write_one(owner, DocumentWrite::Serve { collection, document, generation }).await
    }

    /// A document of the live generation that stands ready in another one.
    async fn ready(&self, owner: &TenantScope, ingest: &Ingest) -> (Collection, GenerationId) {
        written(&self.put(owner, ingest).await);
        let next = self.begin(owner, &other()).await;
        written(&self.build(owner, ingest, next).await);
        (self.open(owner, ingest.collection.as_str()).await, next)
    }

    async fn hydrate(&self, owner: &TenantScope, ids: &[ChunkId], view: View) -> Vec<crate::store::HydratedChunk> {
        self.corpus.hydrate(owner, (&collection_name("c"), view), ids, WithEmbeddings::Yes).await.unwrap()
    }
}

pub(crate) async fn a_generation_is_built_beside_the_live_one_without_disturbing_it(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2, 3]);
    let (_, put) = written(&store.put(&owner, &ingest).await);
    let before = store.open(&owner, "c").await;
    let next = store.begin(&owner, &other()).await;
    let seen = store.corpus.document(&owner, &ingest.collection, &ingest.document).await.unwrap();
    let live_counts = store.log.live_counts(before.live.id).await.unwrap();

    let (version, built) = written(&store.build(&owner, &ingest, next).await);

    assert_eq!(version, 1);
    assert_eq!(store.corpus.document(&owner, &ingest.collection, &ingest.document).await.unwrap(), seen);
    assert_eq!(store.open(&owner, "c").await, before);
    assert_eq!(store.log.live_counts(before.live.id).await.unwrap(), live_counts);
    assert_eq!(store.log.live_counts(next).await.unwrap(), live_counts);
    let rows = store.log.entries(None, Sequence(put), 9).await.unwrap();
    assert_eq!(
        (rows.len(), rows[0].sequence.0, rows[0].generation, rows[0].operation),
        (1, built, next, Operation::Put)
    );
    assert_eq!(rows[0].chunks_added, ingest.chunk_ids(&owner.tenant));
    let status = store.generations.generation_status(&owner, next).await.unwrap().unwrap();
    assert_eq!((status.counts.documents, status.counts.built, status.counts.serving), (1, 1, 0));
}

pub(crate) async fn equal_chunk_ids_in_two_generations_are_two_chunks(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    let (collection, next) = store.ready(&owner, &ingest).await;
    let ids = ingest.chunk_ids(&owner.tenant);

    for (view, generation) in [
        (View::Serving, collection.live.id),
        (View::Of(collection.live.id), collection.live.id),
        (View::Of(next), next),
    ] {
        let hits = store.hydrate(&owner, &ids, view).await;

        assert_eq!(hits.len(), 2);
        for (hit, text) in hits.iter().zip(&ingest.paragraphs) {
            let input = if generation == next { input_in(next, text) } else { ingest.input_hash(text) };
            assert_eq!(hit.provenance.generation, generation);
            assert_eq!(hit.embedding, Some(vector(input)));
        }
    }
    assert_eq!(store.hydrate(&owner, &ids, View::Of(GenerationId([7; 16]))).await, []);
}

pub(crate) async fn a_moved_document_is_served_from_there_at_once_and_no_index_is_told(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    let (collection, next) = store.ready(&owner, &ingest).await;
    let ids = ingest.chunk_ids(&owner.tenant);
    let last = store.log.last_sequence().await.unwrap();

    let moved = store.serve(&owner, &ingest, next).await;

    assert!(matches!(moved, WriteOutcome::Serves), "{moved:?}");
    assert!(store.hydrate(&owner, &ids, View::Serving).await.iter().all(|hit| hit.provenance.generation == next));
    assert_eq!(store.corpus.chunk(&owner, ids[0]).await.unwrap().unwrap().provenance.generation, next);
    assert_eq!(store.corpus.neighbours(&owner, ids[0], 1, 1).await.unwrap().1.len(), 1);
    assert_eq!(
        store.hydrate(&owner, &ids, View::Of(collection.live.id)).await.len(),
        2,
        "it stands ready where it was"
    );
    assert_eq!(store.log.last_sequence().await.unwrap(), last);
    let now = store.open(&owner, "c").await;
    assert_eq!(now.live.id, collection.live.id);
    assert_eq!(now.also_serving.iter().map(|also| also.id).collect::<Vec<_>>(), [next]);

    assert!(
        matches!(store.serve(&owner, &ingest, next).await, WriteOutcome::Serves),
        "it is served from there already"
    );
    assert!(matches!(store.serve(&owner, &ingest, collection.live.id).await, WriteOutcome::Serves));
    assert_eq!(store.open(&owner, "c").await, collection);
    assert!(store.hydrate(&owner, &ids, View::Serving).await.iter().all(|hit| hit.provenance.generation != next));
}

pub(crate) async fn the_same_again_is_unchanged_wherever_it_is_served_from(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1]);
    let (_, next) = store.ready(&owner, &ingest).await;
    store.serve(&owner, &ingest, next).await;

    let again = store.put(&owner, &ingest).await;

    assert!(matches!(again, WriteOutcome::Unchanged { version: 1, .. }), "{again:?}");
    let ids = ingest.chunk_ids(&owner.tenant);
    assert_eq!(store.hydrate(&owner, &ids, View::Serving).await[0].provenance.generation, next);
}

pub(crate) async fn a_write_is_served_from_the_live_generation_and_ready_in_no_other(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]);
    let (collection, next) = store.ready(&owner, &ingest).await;
    store.serve(&owner, &ingest, next).await;
    let changed = Ingest::new("c", "d", &[2, 3]);
    let last = store.log.last_sequence().await.unwrap();

    let (version, sequence) = written(&store.put(&owner, &changed).await);

    assert_eq!(version, 2);
    let rows = store.log.entries(None, last, 9).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.generation, row.operation, row.chunks_removed.len())).collect();
    assert_eq!(told, [(next, Operation::Delete, 2), (collection.live.id, Operation::Put, 1)]);
    assert_eq!(rows[1].sequence.0, sequence);
    // The live generation's index had the old chunks: one of them stays as it is.
    assert_eq!(rows[1].chunks_added, changed.chunk_ids(&owner.tenant)[1..]);
    assert_eq!(store.open(&owner, "c").await, collection);
    assert_eq!(store.hydrate(&owner, &changed.chunk_ids(&owner.tenant), View::Of(next)).await, []);
    assert!(matches!(store.serve(&owner, &changed, next).await, WriteOutcome::NotFound));

    written(&store.build(&owner, &changed, next).await);
    assert!(matches!(store.delete(&owner, "c", "d").await, WriteOutcome::Deleted { .. }));
    for generation in [collection.live.id, next] {
        assert_eq!(store.log.live_counts(generation).await.unwrap(), Default::default());
        let asked = std::slice::from_ref(&ingest.document);
        let held =
            store.log.indexable(&owner.tenant, (&ingest.collection, generation), asked, WithEmbeddings::No).await;
        assert_eq!(held.unwrap(), [None]);
    }
}

pub(crate) async fn a_build_of_what_a_document_was_before_is_refused(store: Subject<'_>) {
    let owner = scope("acme");
    let old = Ingest::new("c", "d", &[1]);
    let (_, first) = written(&store.put(&owner, &old).await);
    let collection = store.open(&owner, "c").await;
    let next = store.begin(&owner, &other()).await;
    let build = |seen| DocumentWrite::Build(Box::new(old.build(&owner, &collection, next, Sequence(seen))));
    // A new head alone makes it outdated too: titles are embedded.
    let (_, second) = written(&store.put(&owner, &old.clone().title("new")).await);
    let last = store.log.last_sequence().await.unwrap();

    let outdated = store.write_one(&owner, build(first)).await;
    let gone = store.write_one(&owner, build(first).elsewhere("x")).await;

    assert!(matches!(outdated, WriteOutcome::Outdated), "{outdated:?}");
    assert!(matches!(gone, WriteOutcome::NotFound), "{gone:?}");
    assert_eq!(store.log.last_sequence().await.unwrap(), last);
    written(&store.write_one(&owner, build(second)).await);
    let served = store.serve(&owner, &old, next).await;
    assert!(matches!(served, WriteOutcome::Serves), "{served:?}");
    let late = store.write_one(&owner, build(second)).await;
    assert!(matches!(late, WriteOutcome::Unchanged { .. }), "what serves is there already: {late:?}");
}

impl DocumentWrite {
    /// The same build of another document.
    fn elsewhere(self, name: &str) -> Self {
        match self {
            Self::Build(build) => Self::Build(Box::new(BuildDocument { document: document_id(name), ..*build })),
            other => other,
        }
    }
}

pub(crate) async fn a_generation_cuts_the_text_as_it_likes(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &(0..40).collect::<Vec<_>>());
    written(&store.put(&owner, &ingest).await);
    let collection = store.open(&owner, "c").await;
    let chunker = ChunkerSpec { name: "sevens".into(), version: 1, params: Default::default() };
    let next = store.begin(&owner, &Profile { chunker: chunker.clone(), ..profile() }).await;
    let mut joined = ingest.clone();
    joined.paragraphs = ingest.paragraphs.chunks(7).map(|some| some.concat()).collect();
    let mut build = joined.build(&owner, &collection, next, store.seen(&owner, &ingest).await);
    let place = ChunkOwner { tenant: &owner.tenant, collection: &ingest.collection, document: &ingest.document };
    for item in &mut build.chunks {
        item.chunk.id = ChunkId::derive(&place, chunker.fingerprint(), &item.chunk.text, 0);
        item.chunk.context = Some(format!("about {}", item.chunk.ordinal));
    }
    let expected: Vec<Chunk> = build.chunks.iter().map(|item| item.chunk.clone()).collect();
    let mut beyond = build.clone();
    beyond.chunks[0].chunk.text = "x".repeat(ingest.text().len() + 1);
    beyond.chunks[0].chunk.span.start = 0;
    beyond.chunks[0].chunk.span.end = ingest.text().len() + 1;

    let refused = store.write_one(&owner, DocumentWrite::Build(Box::new(beyond))).await;
    written(&store.write_one(&owner, DocumentWrite::Build(Box::new(build))).await);
    store.serve(&owner, &ingest, next).await;

    assert!(matches!(refused, WriteOutcome::Failed(StoreError::SpanMismatch { .. })), "{refused:?}");
    let (c, d) = (&ingest.collection, &ingest.document);
    let chunks = store.corpus.chunks(&owner, c, d, None).await.unwrap().unwrap();
    assert_eq!(chunks.iter().map(|stored| stored.chunk.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(chunks[0].provenance.chunker, chunker);
    assert_eq!(store.corpus.document(&owner, c, d).await.unwrap().unwrap().chunk_count, 6);
    assert_eq!(store.corpus.versions(&owner, c, d).await.unwrap()[0].chunk_count, 6);
    let indexable = store.log.indexable(&owner.tenant, (c, next), std::slice::from_ref(d), WithEmbeddings::No).await;
    let contexts: Vec<_> = indexable.unwrap()[0].as_ref().unwrap().chunks.iter().map(|c| c.context.clone()).collect();
    assert_eq!(contexts[5], Some("about 5".to_owned()));
    store.serve(&owner, &ingest, collection.live.id).await;
    assert_eq!(store.corpus.versions(&owner, c, d).await.unwrap()[0].chunk_count, 40);
}

pub(crate) async fn a_new_context_is_a_change(store: Subject<'_>) {
    let owner = scope("acme");
    let collection = store.open(&owner, "c").await;
    let ingest = Ingest::new("c", "d", &[1]);
    let put = |context: &str, revision: &str| {
        let mut put = ingest.clone().metadata("revision", revision).put(&owner, &collection);
        put.chunks[0].chunk.context = Some(context.to_owned());
        DocumentWrite::Put(Box::new(put))
    };
    written(&store.write_one(&owner, put("first", "1")).await);

    written(&store.write_one(&owner, put("second", "2")).await);

    let chunks = store.corpus.chunks(&owner, &ingest.collection, &ingest.document, None).await.unwrap().unwrap();
    assert_eq!(chunks[0].chunk.context.as_deref(), Some("second"));
    assert_eq!(chunks[0].provenance.document_version, 1);
}

pub(crate) async fn a_generation_goes_through_its_states(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1]);
    let (collection, next) = store.ready(&owner, &ingest).await;
    let first = collection.live.id;
    use GenerationChange::{Promote, Retire, Shadow};
    let wrong = async |id, change| {
        let refused = store.generations.change_generation(&owner, id, change).await;
        assert!(matches!(refused, Err(StoreError::WrongState { .. })), "{refused:?}");
    };

    wrong(next, Promote).await;
    wrong(first, Shadow).await;
    wrong(first, Retire).await;
    assert_eq!(store.change(&owner, next, Shadow).await, GenerationState::Shadow);
    assert_eq!(store.change(&owner, next, Shadow).await, GenerationState::Shadow, "nothing is left to do");
    store.serve(&owner, &ingest, next).await;
    let refused = store.generations.change_generation(&owner, next, Retire).await;
    assert!(matches!(refused, Err(StoreError::StillServing { documents: 1 })), "{refused:?}");
    assert_eq!(store.change(&owner, next, Promote).await, GenerationState::Live);
    let after = store.open(&owner, "c").await;
    assert_eq!((after.live.id, after.live.state, after.also_serving), (next, GenerationState::Live, vec![]));
    let status = store.generations.generation_status(&owner, next).await.unwrap().unwrap();
    assert_eq!(status.previous, Some(first));

    // And back again: the one that was replaced takes writes at once, and its documents follow.
    assert_eq!(store.change(&owner, first, Promote).await, GenerationState::Live);
    assert_eq!(store.open(&owner, "c").await.also_serving[0].id, next);
    store.serve(&owner, &ingest, first).await;
    assert_eq!(store.change(&owner, next, Retire).await, GenerationState::Retired);
    wrong(next, Promote).await;
    wrong(next, Shadow).await;
    let status = store.generations.generation_status(&owner, first).await.unwrap().unwrap();
    assert_eq!(status.previous, None, "there is no way back to it");
    let built = store.build(&owner, &ingest, next).await;
    assert!(matches!(built, WriteOutcome::Failed(StoreError::WrongState { .. })), "{built:?}");
    assert!(matches!(store.serve(&owner, &ingest, next).await, WriteOutcome::NotFound));
    assert_eq!(store.open(&owner, "c").await.live.id, first);
}

pub(crate) async fn one_generation_is_under_way_at_a_time(store: Subject<'_>) {
    let owner = scope("acme");
    let name = collection_name("c");
    let plan = GenerationPlan { shadow_share: 0.5, promotion: Promotion::Automatic, ..GenerationPlan::default() };
    let third = Profile { embedder: None, ..profile() };
    let begin = async |profile: &Profile, plan: &GenerationPlan| {
        store.generations.begin_generation(&owner, &name, profile, plan).await
    };
    assert!(matches!(begin(&other(), &plan).await, Err(StoreError::NoCollection { .. })));
    let first = store.open(&owner, "c").await;

    let begun = begin(&other(), &GenerationPlan::default()).await.unwrap();
    let again = begin(&other(), &plan).await.unwrap();

    assert_eq!(begun.generation.state, GenerationState::Building);
    assert_eq!(begun.generation.profile, other());
    assert_eq!((again.generation.id, again.plan), (begun.generation.id, plan.clone()));
    assert!(matches!(begin(&profile(), &plan).await, Err(StoreError::AlreadyLive)));
    let refused = begin(&third, &plan).await;
    assert!(matches!(refused, Err(StoreError::AlreadyBuilding { other }) if other == begun.generation.id));
    store.change(&owner, begun.generation.id, GenerationChange::Shadow).await;
    let shadow = store.open(&owner, "c").await.shadow.unwrap();
    assert_eq!((shadow.0.id, shadow.1), (begun.generation.id, 0.5));
    store.change(&owner, begun.generation.id, GenerationChange::Promote).await;
    assert_eq!(store.open(&owner, "c").await.shadow, None);
    // The one that was live waits to be gone back to, and stands in nobody's way.
    let next = begin(&third, &plan).await.unwrap();
    let back = begin(&profile(), &GenerationPlan::default()).await.unwrap();
    assert_eq!((back.generation.id, back.generation.state), (first.live.id, GenerationState::Shadow));
    let all = store.generations.generation_statuses(&owner, Some(&name)).await.unwrap();
    let ids: Vec<GenerationId> = all.iter().map(|status| status.generation.id).collect();
    assert_eq!(ids, [first.live.id, begun.generation.id, next.generation.id], "oldest first");
}

pub(crate) async fn a_promotion_forgets_what_would_undo_it(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1]);
    let (collection, next) = store.ready(&owner, &ingest).await;
    store.change(&owner, next, GenerationChange::Shadow).await;
    let rollout = Rollout { share: 1.0, filter: Some(serde_json::json!({"field": "lang", "eq": "en"})) };
    let plan = GenerationPlan { rollout, shadow_share: 0.3, ..GenerationPlan::default() };
    let sample = GenerationPlan { sample: 0.5, ..plan.clone() };
    store.generations.plan_generation(&owner, next, &sample).await.unwrap().unwrap();

    let refused = store.generations.change_generation(&owner, next, GenerationChange::Promote).await;
    assert!(matches!(refused, Err(StoreError::WrongState { .. })), "one of a sample is never promoted: {refused:?}");
    store.generations.plan_generation(&owner, next, &plan).await.unwrap().unwrap();
    store.change(&owner, next, GenerationChange::Promote).await;
    let soaking = GenerationPlan { retire_at: Some(Timestamp(7)), ..GenerationPlan::default() };
    store.generations.plan_generation(&owner, collection.live.id, &soaking).await.unwrap().unwrap();
    store.change(&owner, collection.live.id, GenerationChange::Promote).await;

    let plan_of = async |id| store.generations.generation_status(&owner, id).await.unwrap().unwrap().plan;
    assert_eq!(plan_of(collection.live.id).await.retire_at, None);
    assert_eq!(plan_of(next).await.rollout, Rollout::default());
    assert_eq!(plan_of(next).await.shadow_share, 0.0);
}

pub(crate) async fn placements_tell_where_documents_stand(store: Subject<'_>) {
    let owner = scope("acme");
    for name in ["a", "b", "d", "e", "f"] {
        store.put(&owner, &Ingest::new("c", name, &[1])).await;
    }
    store.put(&owner, &Ingest::new("elsewhere", "g", &[1])).await;
    let next = store.begin(&owner, &other()).await;
    for name in ["b", "e", "f"] {
        written(&store.build(&owner, &Ingest::new("c", name, &[1]), next).await);
    }
    store.serve(&owner, &Ingest::new("c", "e", &[1]), next).await;
    store.delete(&owner, "c", "f").await;
    let stand = async |generation, standing| {
        let (mut names, mut cursor) = (Vec::new(), None);
        loop {
            let page = (cursor.as_deref(), 1);
            let page = store.generations.placements(&owner, generation, standing, page).await.unwrap();
            names.extend(page.items.into_iter().map(|head| head.id.to_string()));
            cursor = page.next;
            if cursor.is_none() {
                return names.join(" ");
            }
        }
    };
    let live = store.open(&owner, "c").await.live.id;

    assert_eq!(stand(next, Standing::Absent).await, "a d");
    assert_eq!(stand(next, Standing::Standby).await, "b");
    assert_eq!(stand(next, Standing::Serving).await, "e");
    assert_eq!(stand(live, Standing::Absent).await, "");
    assert_eq!(stand(live, Standing::Standby).await, "e");
    assert_eq!(stand(live, Standing::Serving).await, "a b d");
    let cursor = store.generations.placements(&owner, next, Standing::Absent, (None, 1)).await.unwrap().next.unwrap();
    let refused = store.generations.placements(&owner, next, Standing::Serving, (Some(&cursor), 1)).await;
    assert!(matches!(refused, Err(StoreError::InvalidCursor { .. })), "{refused:?}");
}

pub(crate) async fn sources_tell_what_a_document_is_made_of(store: Subject<'_>) {
    let owner = scope("acme");
    let ingest = Ingest::new("c", "d", &[1, 2]).title("Title").metadata("k", "v");
    let (_, sequence) = written(&store.put(&owner, &ingest).await);
    let collection = store.open(&owner, "c").await;
    let own = ChunkerSpec { name: "mine".into(), version: 3, params: Default::default() };
    let mut put = Ingest::new("c", "own", &[3]).put(&owner, &collection);
    put.chunker = Some(own.clone());
    store.write_one(&owner, DocumentWrite::Put(Box::new(put.clone()))).await;
    store.put(&owner, &Ingest::new("c", "gone", &[1])).await;
    store.delete(&owner, "c", "gone").await;
    let asked = ["own", "gone", "d"].map(document_id);

    let sources = store.generations.sources(&owner, &collection_name("c"), &asked).await.unwrap();

    let expected = ingest.put(&owner, &collection);
    let source = sources[2].as_ref().unwrap();
    assert_eq!((&source.head, &source.text, &source.outline), (&expected.head, &expected.text, &expected.outline));
    assert_eq!((source.seen.0, &source.chunker, &source.caller_chunks), (sequence, &None, &None));
    assert_eq!(sources[1], None);
    let source = sources[0].as_ref().unwrap();
    assert_eq!(source.chunker, Some(own));
    assert_eq!(source.caller_chunks, Some(put.chunks.into_iter().map(|item| item.chunk).collect()));
}

pub(crate) async fn a_removed_generation_leaves_nothing_and_the_others_whole(store: Subject<'_>) {
    let owner = scope("acme");
    let documents: Vec<Ingest> = (0..4).map(|n| Ingest::new("c", &format!("d{n}"), &[n, n + 1, n + 2])).collect();
    for ingest in &documents {
        store.put(&owner, ingest).await;
    }
    let next = store.begin(&owner, &other()).await;
    for ingest in &documents {
        written(&store.build(&owner, ingest, next).await);
    }
    store.serve(&owner, &documents[0], next).await;
    // A past version, whose last chunks were of the generation that goes.
    let newer = Ingest::new("c", "d0", &[9]);
    store.put(&owner, &newer).await;
    let refused = store.generations.remove_generation(&owner, next, 5).await;
    assert!(matches!(refused, Err(StoreError::WrongState { state: "building" })), "{refused:?}");
    store.change(&owner, next, GenerationChange::Retire).await;
    let input = input_in(next, &documents[1].paragraphs[0]);
    let embedder = profile().embedder.unwrap().fingerprint();
    assert_eq!(store.corpus.known_embeddings(&owner, embedder, &[input]).await.unwrap().len(), 1);
    let live = store.open(&owner, "c").await.live.id;
    let before = store.log.live_counts(live).await.unwrap();

    let mut steps = vec![store.generations.remove_generation(&owner, next, 5).await.unwrap()];
    while steps.last() != Some(&Remains::default()) {
        assert!(steps.len() < 50, "{steps:?}");
        steps.push(store.generations.remove_generation(&owner, next, 5).await.unwrap());
    }

    assert!(steps.len() > 2, "a bounded part at a time: {steps:?}");
    assert!(steps.windows(2).all(|pair| pair[0].chunks >= pair[1].chunks && pair[0].chunks - pair[1].chunks <= 5));
    let status = store.generations.generation_status(&owner, next).await.unwrap().unwrap();
    assert!(status.removed_at.is_some());
    assert_eq!((status.counts.built, status.counts.chunks, status.counts.vectors), (0, 0, 0));
    assert!(store.corpus.known_embeddings(&owner, embedder, &[input]).await.unwrap().is_empty());
    assert_eq!(store.log.live_counts(live).await.unwrap(), before);
    for ingest in documents[1..].iter().chain([&newer]) {
        let ids = ingest.chunk_ids(&owner.tenant);
        let hits = store.hydrate(&owner, &ids, View::Serving).await;
        assert!(hits.len() == ids.len() && hits.iter().all(|hit| hit.embedding.is_some()));
    }
    let (c, d) = (&newer.collection, &newer.document);
    assert_eq!(store.corpus.content(&owner, c, d, Some(1)).await.unwrap(), Some(documents[0].text()), "texts stay");
    assert_eq!(store.corpus.chunks(&owner, c, d, Some(1)).await.unwrap(), Some(vec![]));
    assert_eq!(store.corpus.versions(&owner, c, d).await.unwrap()[1].chunk_count, 0);
    let again = store.begin(&owner, &other()).await;
    assert_ne!(again, next, "ids never repeat");
}

pub(crate) async fn tenants_do_not_meet_in_generations(store: Subject<'_>) {
    let (acme, evil) = (scope("acme"), scope("evil"));
    let ingest = Ingest::new("c", "d", &[1]);
    let (_, next) = store.ready(&acme, &ingest).await;
    store.change(&acme, next, GenerationChange::Shadow).await;
    store.put(&evil, &ingest).await;
    let plan = GenerationPlan { shadow_share: 1.0, ..GenerationPlan::default() };
    let before = store.generations.generation_status(&acme, next).await.unwrap();
    let foreign = &store.generations;

    assert_eq!(foreign.generation_status(&evil, next).await.unwrap(), None);
    assert_eq!(foreign.generation_statuses(&evil, None).await.unwrap().len(), 1, "its own");
    assert_eq!(foreign.plan_generation(&evil, next, &plan).await.unwrap(), None);
    assert_eq!(foreign.change_generation(&evil, next, GenerationChange::Promote).await.unwrap(), None);
    foreign.assign_generation(&evil, next, TaskId([1; 16])).await.unwrap();
    assert_eq!(foreign.remove_generation(&evil, next, 9).await.unwrap(), Remains::default());
    assert_eq!(foreign.placements(&evil, next, Standing::Standby, (None, 9)).await.unwrap().items, []);
    assert!(matches!(store.serve(&evil, &ingest, next).await, WriteOutcome::NotFound));
    assert!(matches!(store.build(&evil, &ingest, next).await, WriteOutcome::NotFound));
    let ids = ingest.chunk_ids(&acme.tenant);
    assert_eq!(store.hydrate(&evil, &ids, View::Of(next)).await, []);
    let input = ContentHash::of(b"chunk");
    foreign.keep_contexts(&acme, vec![(input, "ours".to_owned())]).await.unwrap();
    assert!(foreign.contexts(&evil, &[input]).await.unwrap().is_empty());

    assert_eq!(store.generations.generation_status(&acme, next).await.unwrap(), before);
    let secret = ingest.clone().acl(&["user:ann"]);
    store.put(&acme, &secret).await;
    let asked = std::slice::from_ref(&ingest.document);
    let hidden = foreign.sources(&reader("acme", &[]), &ingest.collection, asked).await.unwrap();
    assert_eq!(hidden, [None]);
}

pub(crate) async fn a_text_that_a_model_wrote_is_kept_as_it_was_first(store: Subject<'_>) {
    let owner = scope("acme");
    store.open(&owner, "c").await;
    let inputs = [1, 2, 3].map(|n| ContentHash::of(paragraph(n).as_bytes()));
    let texts = vec![(inputs[0], "one \u{0} \"two\"".to_owned()), (inputs[1], String::new())];
    store.generations.keep_contexts(&owner, texts.clone()).await.unwrap();

    store.generations.keep_contexts(&owner, vec![(inputs[0], "another".to_owned())]).await.unwrap();

    assert_eq!(store.generations.contexts(&owner, &inputs).await.unwrap(), texts.into_iter().collect());
}

pub(crate) async fn cases_are_kept_by_name(store: Subject<'_>) {
    let (owner, name) = (scope("acme"), collection_name("c"));
    let case = |name: &str, query: &str| EvalCase {
        name: name.to_owned(),
        query: query.to_owned(),
        relevant: [(document_id("d"), 2), (document_id("e"), 1)].into(),
    };
    let refused = store.cases.put_cases(&owner, &name, &[case("a", "x")]).await;
    assert!(matches!(refused, Err(StoreError::NoCollection { .. })), "{refused:?}");
    store.open(&owner, "c").await;
    store.open(&owner, "other").await;

    assert_eq!(store.cases.put_cases(&owner, &name, &[case("b", "one"), case("a", "two")]).await.unwrap(), 2);
    assert_eq!(store.cases.put_cases(&owner, &name, &[case("b", "three"), case("d", "four")]).await.unwrap(), 3);
    assert_eq!(store.cases.put_cases(&owner, &collection_name("other"), &[case("a", "five")]).await.unwrap(), 1);

    let first = store.cases.cases(&owner, &name, (None, 2)).await.unwrap();
    let rest = store.cases.cases(&owner, &name, (first.next.as_deref(), 2)).await.unwrap();
    assert_eq!(first.items, [case("a", "two"), case("b", "three")]);
    assert_eq!((rest.items, rest.next), (vec![case("d", "four")], None));
    assert_eq!(store.cases.cases(&scope("evil"), &name, (None, 9)).await.unwrap().items, []);
    assert!(!store.cases.delete_case(&scope("evil"), &name, "a").await.unwrap());
    assert!(store.cases.delete_case(&owner, &name, "a").await.unwrap());
    assert!(!store.cases.delete_case(&owner, &name, "a").await.unwrap());
    assert_eq!(store.cases.cases(&owner, &name, (None, 9)).await.unwrap().items.len(), 2);
}

pub(crate) async fn the_newest_shadow_searches_of_a_generation_stay(store: Subject<'_>) {
    let owner = scope("acme");
    store.open(&owner, "c").await;
    let next = store.begin(&owner, &other()).await;
    let search = |number: u64| ShadowSearch {
        generation: next,
        trace_id: TraceId(u128::from(number + 1).to_be_bytes()),
        mode: [Mode::Hybrid, Mode::Lexical, Mode::Vector][number as usize % 3],
        top_k: 10,
        overlap: 0.25,
        live_us: number,
        shadow_us: 2 * number,
        at: Timestamp(number as i64),
    };
    let all: Vec<ShadowSearch> = (0..5_010).map(search).collect();
    store.cases.record_shadow(&owner, all.clone()).await.unwrap();
    store.cases.record_shadow(&scope("evil"), all[..1].to_vec()).await.unwrap();

    let newest = store.cases.shadow_searches(&owner, next, 3).await.unwrap();
    let kept = store.cases.shadow_searches(&owner, next, usize::MAX).await.unwrap();

    assert_eq!(newest, [search(5_009), search(5_008), search(5_007)]);
    assert_eq!((kept.len(), kept.last().cloned()), (5_000, Some(search(10))));
    assert_eq!(store.cases.shadow_searches(&scope("evil"), next, 9).await.unwrap(), []);
}
