//! Preparing a batch: everything up to the write. Changes nothing, so it may run ahead of the batches before it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tracing::{Instrument, debug_span};

use crate::domain::{
    CollectionName, ContentHash, Degraded, DocumentId, EmbeddedChunk, Fingerprint, ParsedText, Profile, TenantScope,
};
use crate::index::ComputeError;
use crate::parse::{MediaType, ParseError, detect};
use crate::store::{DocumentState, PutDocument, StoreError};

use super::context::ContextDraft;
use super::draft::{Draft, Reading, chunk_input};
use super::embed::{Effort, Embedded, Inputs, known};
use super::ingestor::{Ingestor, Prepared, Slot, SlotState};
use super::patience::Patience;
use super::recipe::Recipe;
use super::{DEFAULT_MEDIA_TYPE, IncomingBody, IncomingDocument, IncomingItem, IngestError, ItemError};

type Recipes = BTreeMap<CollectionName, Result<Arc<Recipe>, TooMany>>;

/// Why a collection cannot be made: so many are allowed.
#[derive(Debug, Clone, Copy)]
struct TooMany(usize);

/// A document that passed the first checks.
struct Arrival {
    document: IncomingDocument,
    recipe: Arc<Recipe>,
    /// What is stored under the id; `None` also where an earlier item of the batch will change it.
    stored: Option<DocumentState>,
}

/// An item between its stages.
enum Stage<T> {
    Done(Slot),
    Open { id: DocumentId, item: T },
}

/// A document with chunks that may still need vectors.
struct Drafted {
    reading: Arc<Reading>,
    draft: Draft,
    recipe: Arc<Recipe>,
    degraded: Vec<Degraded>,
}

impl Ingestor {
    /// One slot for each item, in order.
    pub(super) async fn prepare(&self, scope: &TenantScope, items: Vec<IncomingItem>) -> Result<Prepared, IngestError> {
        let room = self.memory.room_for(&items).await;
        let checked: Vec<Stage<IncomingDocument>> = items.into_iter().map(|item| self.check(item)).collect();
        let recipes = self.recipes(scope, &checked).await?;
        let arrivals = self.arrivals(scope, checked, &recipes).await?;
        let count = arrivals.len();
        let drafting = arrivals.into_iter().map(|arrival| self.draft(scope, arrival));
        let mut drafted: Vec<Stage<Drafted>> = futures::stream::iter(drafting)
            .buffered(self.settings.documents_in_flight.max(1))
            .collect()
            .instrument(debug_span!("ingest.parse", documents = count))
            .await;
        self.add_contexts(scope, &mut drafted).instrument(debug_span!("ingest.context")).await?;
        let embedded = self.embed_drafts(scope, &drafted).instrument(debug_span!("ingest.embed")).await?;
        Ok(Prepared { slots: drafted.into_iter().map(|stage| ready(stage, &embedded)).collect(), room })
    }

    fn check(&self, item: IncomingItem) -> Stage<IncomingDocument> {
        match item {
            Err(rejected) => {
                let error = ItemError::Rejected { kind: rejected.kind, detail: rejected.detail };
                Stage::Done(Slot { id: rejected.id, state: SlotState::Failed(error) })
            }
            Ok(document) => {
                let id = document.document_id();
                match document.check(&self.settings.limits) {
                    Ok(()) => Stage::Open { id, item: document },
                    Err(error) => failed(&id, error),
                }
            }
        }
    }

    /// Opens every collection that the batch names; those that are not there yet are made.
    async fn recipes(&self, scope: &TenantScope, items: &[Stage<IncomingDocument>]) -> Result<Recipes, IngestError> {
        let mut recipes = Recipes::new();
        for item in items {
            let Stage::Open { item: document, .. } = item else { continue };
            if recipes.contains_key(&document.collection) {
                continue;
            }
            let profile = self.profile_of(&document.collection);
            let opening = self.store.open_collection(scope, &document.collection, &profile);
            let recipe = match opening.instrument(debug_span!("store.open_collection")).await {
                Ok(collection) => Ok(Arc::new(Recipe::of(collection.live, self.embeddings.embedders()))),
                Err(StoreError::TooManyCollections { limit }) => Err(TooMany(limit)),
                Err(error) => return Err(error.into()),
            };
            recipes.insert(document.collection.clone(), recipe);
        }
        Ok(recipes)
    }

    fn profile_of(&self, collection: &CollectionName) -> Profile {
        let mut profile = self.profile.clone();
        if let Some(caller) = self.settings.caller_vectors.get(collection.as_str()) {
            profile.embedder = Some(caller.spec());
        }
        profile
    }

    async fn arrivals(
        &self,
        scope: &TenantScope,
        items: Vec<Stage<IncomingDocument>>,
        recipes: &Recipes,
    ) -> Result<Vec<Stage<Arrival>>, IngestError> {
        let mut states = self.states(scope, &items, recipes).await?;
        let arrive = |stage: Stage<IncomingDocument>| match stage {
            Stage::Done(slot) => Stage::Done(slot),
            Stage::Open { id, item: document } => {
                let recipe = match &recipes[&document.collection] {
                    Ok(recipe) => Arc::clone(recipe),
                    Err(TooMany(limit)) => {
                        let collection = document.collection.to_string();
                        return failed(&id, ItemError::TooManyCollections { collection, limit: *limit });
                    }
                };
                // Taken out: a second item of the same id follows the first one, whatever is stored now.
                let stored = states.get_mut(&document.collection).and_then(|states| states.remove(&id));
                Stage::Open { id, item: Arrival { document, recipe, stored } }
            }
        };
        Ok(items.into_iter().map(arrive).collect())
    }

    async fn states(
        &self,
        scope: &TenantScope,
        items: &[Stage<IncomingDocument>],
        recipes: &Recipes,
    ) -> Result<HashMap<CollectionName, HashMap<DocumentId, DocumentState>>, IngestError> {
        let mut states = HashMap::new();
        for (collection, _) in recipes.iter().filter(|(_, recipe)| recipe.is_ok()) {
            let ids: HashSet<&DocumentId> = items
                .iter()
                .filter_map(|item| match item {
                    Stage::Open { id, item } if item.collection == *collection => Some(id),
                    _ => None,
                })
                .collect();
            let ids: Vec<DocumentId> = ids.into_iter().cloned().collect();
            let span = debug_span!("store.states", documents = ids.len());
            let found = self.store.states(scope, collection, &ids).instrument(span).await?;
            let known = ids.into_iter().zip(found).filter_map(|(id, state)| Some((id, state?))).collect();
            states.insert(collection.clone(), known);
        }
        Ok(states)
    }

    /// Reads and chunks one document, unless it is stored like this already.
    async fn draft(&self, scope: &TenantScope, arrival: Stage<Arrival>) -> Stage<Drafted> {
        let (id, arrival) = match arrival {
            Stage::Done(slot) => return Stage::Done(slot),
            Stage::Open { id, item } => (id, item),
        };
        let Arrival { document, recipe, stored } = arrival;
        let reading = match self.read(document, id.clone()).await {
            Ok(reading) => reading,
            Err(error) => return failed(&id, error),
        };
        let same = |stored: &DocumentState| {
            stored.content_hash == reading.content_hash
                && stored.head_hash == reading.head_hash
                && stored.generation == recipe.generation.id
        };
        if let Some(stored) = stored.filter(same) {
            let state = SlotState::Unchanged { stored };
            return Stage::Done(Slot { id: Some(id.to_string()), state });
        }
        match self.chunk(scope, Arc::new(reading), &recipe).await {
            Ok((reading, draft)) => Stage::Open { id, item: Drafted { reading, draft, recipe, degraded: Vec::new() } },
            Err(error) => failed(&id, error),
        }
    }

    async fn read(&self, mut document: IncomingDocument, id: DocumentId) -> Result<Reading, ItemError> {
        let declared = document.media_type.take();
        let empty = IncomingBody::Text(String::new());
        let (media_type, bytes) = match std::mem::replace(&mut document.body, empty) {
            IncomingBody::Text(text) => {
                // Text has been decoded already, whatever charset is declared.
                let declared = MediaType::new(declared.as_deref().unwrap_or(DEFAULT_MEDIA_TYPE));
                (MediaType::new(declared.essence()), Bytes::from(text))
            }
            IncomingBody::Bytes(bytes) => (detect(declared.as_deref(), &bytes), bytes),
            chunks @ IncomingBody::Chunks(_) => {
                document.body = chunks;
                document.media_type = declared.or_else(|| Some(DEFAULT_MEDIA_TYPE.to_owned()));
                let reading = Reading::of_chunks(document, id)?;
                return if reading.text.is_empty() { Err(ItemError::NoText) } else { Ok(reading) };
            }
        };
        document.media_type = Some(media_type.essence().to_owned());
        let parsed = self.parse(&media_type, bytes).await?;
        if parsed.text.trim().is_empty() {
            return Err(ItemError::NoText);
        }
        Ok(Reading::of_text(document, id, parsed, self.settings.limits.max_title_bytes))
    }

    /// Parses one document, waiting while the parsers' queue is full.
    async fn parse(&self, media_type: &MediaType, bytes: Bytes) -> Result<ParsedText, ItemError> {
        let mut patience = Patience::new(self.settings.queue_wait_ms);
        loop {
            match self.parser.parse(media_type, bytes.clone()).await {
                Err(ParseError::Busy { .. }) => {
                    let busy = |waited_ms| ItemError::Busy { queue: "parsers' queue", waited_ms };
                    patience.pause().await.map_err(busy)?;
                }
                parsed => return parsed.map_err(ItemError::Parse),
            }
        }
    }

    async fn chunk(
        &self,
        scope: &TenantScope,
        reading: Arc<Reading>,
        recipe: &Recipe,
    ) -> Result<(Arc<Reading>, Draft), ItemError> {
        let tenant = scope.tenant.clone();
        let work = Arc::clone(&reading);
        let draft = if reading.caller_chunks.is_some() {
            let (counter, source) = (Arc::clone(&self.counters[0]), recipe.vectors);
            let context = recipe.context().clone();
            self.on_pool(move || {
                let placed = work.caller_chunks.as_deref().unwrap_or_default();
                work.caller_draft(&tenant, placed, (source, &context), counter.as_ref())
            })
            .await??
        } else {
            let chunker = recipe.chunker(reading.head.collection.as_str(), &self.counters)?;
            let context = recipe.context().clone();
            self.on_pool(move || work.draft(&tenant, &chunker, &context)).await?
        };
        let limit = self.settings.limits.max_chunks_per_document;
        if draft.chunks.len() > limit {
            return Err(ItemError::TooManyChunks { found: draft.chunks.len(), limit });
        }
        Ok((reading, draft))
    }

    /// Runs `work` on the compute pool, waiting while the pool's queue is full.
    pub(super) async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Clone + Send + 'static,
    ) -> Result<T, ItemError> {
        let mut patience = Patience::new(self.settings.queue_wait_ms);
        loop {
            match self.compute.run(work.clone()).await {
                Ok(value) => return Ok(value),
                Err(ComputeError::Panicked) => return Err(ItemError::Panicked),
                Err(ComputeError::Full { .. }) => {
                    let busy = |waited_ms| ItemError::Busy { queue: "compute queue", waited_ms };
                    patience.pause().await.map_err(busy)?;
                }
            }
        }
    }

    /// Has a text written to stand before each chunk, where the collection wants that. A document goes in without where
    /// no model answers, and says so: it is found by its words and headings as before.
    async fn add_contexts(&self, scope: &TenantScope, drafts: &mut [Stage<Drafted>]) -> Result<(), IngestError> {
        for stage in drafts {
            let Stage::Open { item: Drafted { reading, draft, recipe, degraded }, .. } = stage else { continue };
            // What was made from the caller's own text is the caller's to describe.
            if draft.vectors.is_some() {
                continue;
            }
            let one = ContextDraft { head: &reading.head, content: &reading.text, draft };
            match self.write_contexts(scope, recipe.context(), &mut [one]).await {
                Ok(()) => {}
                Err(IngestError::Context(error)) => {
                    tracing::warn!(%error, "a document is stored without texts to stand before its chunks");
                    degraded.push(Degraded { stage: "context", reason: "writer_unavailable" });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Vectors for every draft whose collection has an embedder: stored ones by whichever, new ones by those at hand.
    async fn embed_drafts(
        &self,
        scope: &TenantScope,
        drafts: &[Stage<Drafted>],
    ) -> Result<BTreeMap<Fingerprint, Embedded>, IngestError> {
        let mut wanting: BTreeMap<Fingerprint, Vec<&Drafted>> = BTreeMap::new();
        for stage in drafts {
            if let Stage::Open { item, .. } = stage
                && let Some(embedder) = item.recipe.embedder()
            {
                wanting.entry(embedder).or_default().push(item);
            }
        }
        let mut all = BTreeMap::new();
        for (embedder, wanting) in wanting {
            let hashes = wanting.iter().flat_map(|one| one.draft.input_hashes.iter().copied()).collect();
            let (mut embedded, missing) = known(self.store.as_ref(), scope, embedder, hashes).await?;
            if let Some(embedding) = self.embeddings.of(embedder) {
                embedding.embed(inputs(&wanting, missing), &mut embedded, Effort::Full).await;
            }
            all.insert(embedder, embedded);
        }
        Ok(all)
    }
}

/// The texts behind those hashes, each once.
fn inputs(wanting: &[&Drafted], mut missing: HashSet<ContentHash>) -> Inputs {
    let mut inputs = Inputs::with_capacity(missing.len());
    for Drafted { reading, draft, recipe, .. } in wanting {
        for (chunk, hash) in draft.chunks.iter().zip(&draft.input_hashes) {
            // Removed, so that an input that occurs again is embedded once.
            if missing.remove(hash) {
                inputs.insert(*hash, chunk_input(recipe.context(), &reading.head, chunk));
            }
        }
    }
    inputs
}

fn failed<T>(id: &DocumentId, error: ItemError) -> Stage<T> {
    Stage::Done(Slot { id: Some(id.to_string()), state: SlotState::Failed(error) })
}

fn ready(stage: Stage<Drafted>, embedded: &BTreeMap<Fingerprint, Embedded>) -> Slot {
    let (id, Drafted { reading, draft, recipe, mut degraded }) = match stage {
        Stage::Done(slot) => return slot,
        Stage::Open { id, item } => (id, item),
    };
    let id = Some(id.to_string());
    let embedded = recipe.embedder().and_then(|embedder| embedded.get(&embedder));
    let refusal = |embedded: &Embedded| draft.input_hashes.iter().find_map(|hash| embedded.failed.get(hash).cloned());
    if let Some(refusal) = embedded.and_then(refusal) {
        return Slot { id, state: SlotState::Failed(refusal.into()) };
    }
    let mut brought = draft.vectors.map(Vec::into_iter);
    let mut vector = |hash| match &mut brought {
        Some(brought) => brought.next(),
        None => embedded.and_then(|embedded| embedded.vectors.get(hash).cloned()),
    };
    let chunks: Vec<EmbeddedChunk> = draft
        .chunks
        .into_iter()
        .zip(&draft.input_hashes)
        .map(|(chunk, hash)| EmbeddedChunk { chunk, input_hash: *hash, embedding: vector(hash) })
        .collect();
    let awaits = embedded.is_some() && chunks.iter().any(|chunk| chunk.embedding.is_none());
    degraded.extend(awaits.then_some(Degraded { stage: "embed", reason: "embedder_unavailable" }));
    let Reading { head, head_hash, content_hash, text, outline, .. } =
        Arc::try_unwrap(reading).unwrap_or_else(|shared| (*shared).clone());
    let (chunker, generation) = (draft.chunker, recipe.generation.id);
    let document = PutDocument { head, content_hash, head_hash, text, outline, chunks, chunker, generation };
    let state = SlotState::Ready { document: Box::new(document), degraded };
    Slot { id, state }
}
