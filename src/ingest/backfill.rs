//! Embeddings for what was stored while no embedder was at hand.

use crate::domain::{Chunk, CollectionName, ContentHash, DocumentHead, TenantScope};
use crate::store::{DocumentWrite, WriteOutcome};

use super::draft::chunk_input;
use super::embed::{Effort, Inputs, known};
use super::recipe::{Recipe, VectorSource};
use super::{IngestError, Ingestor};

/// Documents embedded in one transaction. 16: a backfill gives way to everything else.
const DOCUMENTS_AT_ONCE: usize = 16;

impl Ingestor {
    /// Embeds live chunks that have no vector though the collection's embedder is at hand; returns how many got
    /// theirs. Ends when none is left, or when a round makes no progress (the model refuses what is left).
    pub async fn backfill(&self, scope: &TenantScope, collection: &CollectionName) -> Result<u64, IngestError> {
        let Some(found) = self.store.collection(scope, collection).await? else { return Ok(0) };
        let recipe = Recipe::of(found.live, self.embeddings.embedders());
        if recipe.vectors != VectorSource::Embedder {
            return Ok(0);
        }
        let mut filled = 0;
        loop {
            let documents = self.store.unembedded(scope, collection, DOCUMENTS_AT_ONCE).await?;
            let round = self.backfill_round(scope, &recipe, documents).await?;
            if round == 0 {
                return Ok(filled);
            }
            filled += round;
        }
    }

    async fn backfill_round(
        &self,
        scope: &TenantScope,
        recipe: &Recipe,
        documents: Vec<(DocumentHead, Vec<Chunk>)>,
    ) -> Result<u64, IngestError> {
        let Some(embedder) = recipe.embedder() else { return Ok(0) };
        let Some(embedding) = self.embeddings.of(embedder) else { return Ok(0) };
        let input = |head: &DocumentHead, chunk: &Chunk| {
            let text = chunk_input(recipe.context(), head, chunk);
            (ContentHash::of(text.as_bytes()), text)
        };
        let inputs: Inputs =
            documents.iter().flat_map(|(head, chunks)| chunks.iter().map(move |chunk| input(head, chunk))).collect();
        let hashes = inputs.keys().copied().collect();
        let (mut embedded, missing) = known(self.store.as_ref(), scope, embedder, hashes).await?;
        let inputs = inputs.into_iter().filter(|(hash, _)| missing.contains(hash)).collect();
        embedding.embed(inputs, &mut embedded, Effort::Full).await;

        let mut filled = 0;
        let mut writes = Vec::with_capacity(documents.len());
        for (head, chunks) in &documents {
            let vector = |chunk: &Chunk| {
                let (hash, _) = input(head, chunk);
                Some((chunk.id, hash, embedded.vectors.get(&hash)?.clone()))
            };
            let embeddings: Vec<_> = chunks.iter().filter_map(vector).collect();
            if !embeddings.is_empty() {
                filled += embeddings.len() as u64;
                let (collection, document) = (head.collection.clone(), head.id.clone());
                writes.push(DocumentWrite::Embed { collection, document, embeddings });
            }
        }
        if writes.is_empty() {
            return Ok(0);
        }
        let outcomes = self.store.write(scope, writes).await?;
        let newest = outcomes.iter().filter_map(|outcome| match outcome {
            WriteOutcome::Written { sequence, .. } => Some(*sequence),
            _ => None,
        });
        match newest.max() {
            Some(newest) => self.announce(newest),
            // Nothing was taken, so asking again would give the same documents again.
            None => return Ok(0),
        }
        Ok(filled)
    }
}
