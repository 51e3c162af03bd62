//! From the ids that a caller names to versions and parts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use crate::domain::{Chunk, ChunkId, CollectionName, ContentHash, DocumentId, TenantScope};
use crate::jobs::input::Faults;
use crate::store::{CorpusStore, View, WithEmbeddings};
use crate::tasks::TaskError;

use super::input::{MapRequest, Over, Part, PinnedDocument};
use super::plan::parts;

/// Documents that are read at once. 4: as many as the store has readers to spare.
const READ_AT_ONCE: usize = 4;

/// Reads what a scope sees of a collection.
pub struct Resolver<'a> {
    pub store: &'a Arc<dyn CorpusStore>,
    pub scope: &'a TenantScope,
    pub collection: &'a CollectionName,
    pub over: Over,
    pub window_tokens: u32,
}

/// A document with those of its chunks that are asked for, in order.
struct Found {
    document: PinnedDocument,
    chunks: Vec<Chunk>,
    content: String,
}

impl Resolver<'_> {
    /// The documents, each in its present version, and their parts in order. Unknown ones are faults.
    pub async fn resolve(
        &self,
        request: &MapRequest,
        faults: &mut Faults,
    ) -> Result<(Vec<PinnedDocument>, Vec<Part>), TaskError> {
        let mut found = self.whole_documents(&request.documents, faults).await?;
        found.extend(self.named_chunks(&request.chunks, faults).await?);
        let (over, window_tokens) = (self.over, self.window_tokens);
        // Hashing a long book takes longer than a runtime thread should be held.
        let planned = tokio::task::spawn_blocking(move || {
            let planned = found.iter().enumerate();
            let parts: Vec<Part> =
                planned.flat_map(|(index, one)| parts(index, &one.chunks, &one.content, over, window_tokens)).collect();
            (found.into_iter().map(|one| one.document).collect(), parts)
        });
        planned.await.map_err(|_| TaskError::failed(crate::domain::ErrorKind::Internal, "the plan failed"))
    }

    async fn whole_documents(&self, ids: &[DocumentId], faults: &mut Faults) -> Result<Vec<Found>, TaskError> {
        let read = futures::stream::iter(ids.to_vec()).map(|id| self.whole_document(id)).buffered(READ_AT_ONCE);
        let read: Vec<Option<Found>> = read.try_collect().await?;
        let mut found = Vec::with_capacity(read.len());
        for (index, one) in read.into_iter().enumerate() {
            match one {
                Some(one) => found.push(one),
                None => faults.add(format!("/documents/{index}"), self.unknown("document", ids[index].as_str())),
            }
        }
        Ok(found)
    }

    async fn whole_document(&self, id: DocumentId) -> Result<Option<Found>, TaskError> {
        let Some(document) = self.store.document(self.scope, self.collection, &id).await? else { return Ok(None) };
        let version = Some(document.version);
        let chunks = self.store.chunks(self.scope, self.collection, &id, version).await?;
        let content = self.store.content(self.scope, self.collection, &id, version).await?;
        let pinned = PinnedDocument {
            id,
            version: document.version,
            content_hash: document.content_hash,
            title: document.head.title,
        };
        let chunks = chunks.map(|chunks| chunks.into_iter().map(|stored| stored.chunk).collect());
        Ok(chunks.zip(content).map(|(chunks, content)| Found { document: pinned, chunks, content }))
    }

    /// The chunks by document, documents in the order in which they are first named.
    async fn named_chunks(&self, ids: &[ChunkId], faults: &mut Faults) -> Result<Vec<Found>, TaskError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let hydrated =
            self.store.hydrate(self.scope, (self.collection, View::Serving), ids, WithEmbeddings::No).await?;
        let known: HashSet<ChunkId> = hydrated.iter().map(|one| one.chunk.id).collect();
        for (index, id) in ids.iter().enumerate() {
            if !known.contains(id) {
                faults.add(format!("/chunks/{index}"), self.unknown("chunk", &id.to_string()));
            }
        }
        let mut by_document: Vec<(PinnedDocument, Vec<Chunk>)> = Vec::new();
        let mut places: HashMap<DocumentId, usize> = HashMap::new();
        for one in hydrated {
            let place = *places.entry(one.head.id.clone()).or_insert(by_document.len());
            if place == by_document.len() {
                let (id, title) = (one.head.id, one.head.title);
                let (version, content_hash) = (one.provenance.document_version, one.provenance.content_hash);
                by_document.push((PinnedDocument { id, version, content_hash, title }, Vec::new()));
            }
            by_document[place].1.push(one.chunk);
        }
        let mut found = Vec::with_capacity(by_document.len());
        for (document, mut chunks) in by_document {
            chunks.sort_by_key(|chunk| chunk.ordinal);
            let version = Some(document.version);
            match self.store.content(self.scope, self.collection, &document.id, version).await? {
                Some(content) => found.push(Found { document, chunks, content }),
                // It went between two reads.
                None => faults.add("/chunks", self.unknown("document", document.id.as_str())),
            }
        }
        Ok(found)
    }

    fn unknown(&self, what: &str, id: &str) -> String {
        format!("collection \"{}\" has no {what} {id:?}", self.collection)
    }
}

/// Over what the task will read, and the models it will be read by.
pub fn context(documents: &[PinnedDocument], models: &[String]) -> ContentHash {
    let lines = documents.iter().map(|one| format!("{} {} {}\n", one.id, one.version, one.content_hash));
    ContentHash::of(lines.chain(models.iter().map(|model| format!("{model}\n"))).collect::<String>().as_bytes())
}
