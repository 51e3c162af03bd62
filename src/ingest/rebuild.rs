//! Documents of the truth in another profile: cut anew, embedded where no vector is known, ready to be written.
//!
//! The same parts as ingestion, but for the parser: what a document says was settled when it came in.

use std::collections::HashSet;
use std::sync::Arc;

use crate::domain::{ContentHash, DocumentId, EmbeddedChunk, Generation, TenantId, TenantScope};
use crate::store::{BuildDocument, DocumentSource};

use super::context::ContextDraft;
use super::draft::{Draft, chunk_input};
use super::embed::{Effort, Embedded, Inputs, known};
use super::recipe::{Recipe, VectorSource};
use super::{IngestError, Ingestor, ItemError};

/// A document that is ready to be written, or why it cannot be built.
pub(super) type Rebuilt = Result<BuildDocument, (DocumentId, ItemError)>;

/// A document cut for another generation.
struct Recut {
    source: Arc<DocumentSource>,
    draft: Draft,
}

/// One that was cut, or why it cannot be.
type CutOne = Result<Recut, (DocumentId, ItemError)>;

impl Ingestor {
    /// Makes these documents ready for a generation; one result each, in order. Inputs that have a vector of the
    /// generation's embedder are not embedded again.
    pub(super) async fn rebuild(
        &self,
        scope: &TenantScope,
        generation: &Generation,
        sources: Vec<DocumentSource>,
        effort: Effort<'_>,
    ) -> Result<Vec<Rebuilt>, IngestError> {
        let recipe = Recipe::of(generation.clone(), self.embeddings.embedders());
        let mut cut = Vec::with_capacity(sources.len());
        for source in sources {
            let id = source.head.id.clone();
            cut.push(self.recut(&scope.tenant, Arc::new(source), &recipe).await.map_err(|error| (id, error)));
        }
        let mut documents: Vec<ContextDraft<'_>> = cut
            .iter_mut()
            .flatten()
            .map(|Recut { source, draft }| ContextDraft { head: &source.head, content: &source.text, draft })
            .collect();
        self.write_contexts(scope, recipe.context(), &mut documents).await?;
        let embedded = self.embed_recut(scope, &recipe, (&cut, effort)).await?;
        Ok(cut.into_iter().map(|one| one.and_then(|one| finish(one, &recipe, &embedded))).collect())
    }

    async fn recut(&self, tenant: &TenantId, source: Arc<DocumentSource>, recipe: &Recipe) -> Result<Recut, ItemError> {
        let (work, tenant, context) = (Arc::clone(&source), tenant.clone(), recipe.context().clone());
        let draft = if source.caller_chunks.is_some() {
            self.on_pool(move || {
                let chunks = work.caller_chunks.clone().unwrap_or_default();
                Draft::of_stored(&work.head, chunks, &context)
            })
            .await?
        } else {
            let chunker = recipe.chunker(source.head.collection.as_str(), &self.counters)?;
            let cut = move || Draft::of_text(&tenant, (&work.head, &work.text, &work.outline), &chunker, &context);
            self.on_pool(cut).await?
        };
        let limit = self.settings.limits.max_chunks_per_document;
        if draft.chunks.len() > limit {
            return Err(ItemError::TooManyChunks { found: draft.chunks.len(), limit });
        }
        Ok(Recut { source, draft })
    }

    async fn embed_recut(
        &self,
        scope: &TenantScope,
        recipe: &Recipe,
        (cut, effort): (&[CutOne], Effort<'_>),
    ) -> Result<Embedded, IngestError> {
        let Some(embedder) = recipe.embedder() else { return Ok(Embedded::default()) };
        let cut: Vec<&Recut> = cut.iter().flatten().collect();
        let hashes: HashSet<ContentHash> = cut.iter().flat_map(|one| one.draft.input_hashes.iter().copied()).collect();
        let (mut embedded, mut missing) = known(self.store.as_ref(), scope, embedder, hashes).await?;
        let Some(embedding) = self.embeddings.of(embedder) else { return Ok(embedded) };
        let mut inputs = Inputs::with_capacity(missing.len());
        for Recut { source, draft } in cut {
            for (chunk, hash) in draft.chunks.iter().zip(&draft.input_hashes) {
                if missing.remove(hash) {
                    inputs.insert(*hash, chunk_input(recipe.context(), &source.head, chunk));
                }
            }
        }
        embedding.embed(inputs, &mut embedded, effort).await;
        Ok(embedded)
    }
}

/// Puts the vectors to their chunks. A generation whose model is not at hand is not built without it: nobody waits for
/// these documents, and half of them would be judged.
fn finish(cut: Recut, recipe: &Recipe, embedded: &Embedded) -> Rebuilt {
    let Recut { source, draft } = cut;
    let id = &source.head.id;
    let mut chunks = Vec::with_capacity(draft.chunks.len());
    for (chunk, input_hash) in draft.chunks.into_iter().zip(draft.input_hashes) {
        let embedding = embedded.vectors.get(&input_hash).cloned();
        if embedding.is_none() && matches!(recipe.vectors, VectorSource::Embedder | VectorSource::Absent) {
            let refusal = embedded.failed.get(&input_hash).cloned();
            let error = refusal.map_or(ItemError::EmbedderUnavailable, ItemError::from);
            return Err((id.clone(), error));
        }
        chunks.push(EmbeddedChunk { chunk, input_hash, embedding });
    }
    Ok(BuildDocument {
        collection: source.head.collection.clone(),
        document: id.clone(),
        generation: recipe.generation.id,
        seen: source.seen,
        chunks,
        chunker: draft.chunker,
    })
}
