//! What a run of log rows means for the indexes: pure functions from rows and the present state to changes.
//!
//! Rows say what was done, the truth says how it is now. Where the two differ, a later row has made the difference
//! and will be applied in its turn; applying the present state early is harmless.

use std::collections::{HashMap, HashSet};

use crate::domain::{ChunkId, DocumentId, Sequence};
use crate::index::{LexicalChange, LexicalChunk, LexicalDocument, VectorChange};
use crate::store::{IndexableDocument, LogEntry, WithEmbeddings};

/// A run of rows of one generation, reduced to what has to be looked up and done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    /// Each document once, in the order of its first row.
    pub documents: Vec<DocumentId>,
    /// The last word on each chunk's vector: true if it must be there.
    vectors: HashMap<ChunkId, bool>,
    /// Documents whose vectors have to be read.
    with_vectors: HashSet<DocumentId>,
}

impl Digest {
    /// Rows in the order of their sequence. Vectors are there through `vectors_at` already: going over those rows
    /// again would take back what later ones did.
    pub(super) fn of(rows: &[LogEntry], vectors_at: Sequence) -> Self {
        let mut digest = Self::default();
        let mut seen = HashSet::new();
        for row in rows {
            if seen.insert(&row.document) {
                digest.documents.push(row.document.clone());
            }
            if row.sequence <= vectors_at {
                continue;
            }
            if !row.chunks_added.is_empty() {
                digest.with_vectors.insert(row.document.clone());
            }
            digest.vectors.extend(row.chunks_removed.iter().map(|id| (*id, false)));
            digest.vectors.extend(row.chunks_added.iter().map(|id| (*id, true)));
        }
        digest
    }

    /// The documents in portions that are read alike.
    pub(super) fn reads(&self) -> [(WithEmbeddings, Vec<DocumentId>); 2] {
        let (with, without) = self.documents.iter().cloned().partition(|id| self.with_vectors.contains(id));
        [(WithEmbeddings::Yes, with), (WithEmbeddings::No, without)]
    }

    /// Vectors that must leave, by id.
    pub(super) fn removals(&self) -> Vec<VectorChange> {
        let mut gone: Vec<ChunkId> = self.vectors.iter().filter(|(_, stays)| !**stays).map(|(id, _)| *id).collect();
        gone.sort_unstable();
        gone.into_iter().map(VectorChange::Remove).collect()
    }

    /// The changes for one document as it is now; `None` is a document that is gone.
    pub(super) fn changes(
        &self,
        id: DocumentId,
        present: Option<IndexableDocument>,
    ) -> (LexicalChange, Vec<VectorChange>) {
        let Some(mut document) = present else { return (LexicalChange::Remove(id), Vec::new()) };
        let mut vectors = Vec::new();
        for chunk in &mut document.chunks {
            if self.vectors.get(&chunk.id) == Some(&true)
                && let Some(vector) = chunk.embedding.take()
            {
                vectors.push(VectorChange::Put { id: chunk.id, vector });
            }
        }
        (LexicalChange::Put(Box::new(lexical_document(document))), vectors)
    }
}

fn lexical_document(document: IndexableDocument) -> LexicalDocument {
    let IndexableDocument { head, created_at, updated_at, chunks } = document;
    let chunks = chunks.into_iter().map(|chunk| {
        let mut metadata = head.metadata.clone();
        metadata.extend(chunk.metadata.into_iter().flatten());
        let mut heading_path = chunk.heading_path;
        // Looked up as a heading is: beside the text and never part of it. What is shown comes from the truth.
        heading_path.extend(chunk.context);
        LexicalChunk { id: chunk.id, text: chunk.text, heading_path, metadata }
    });
    LexicalDocument {
        chunks: chunks.collect(),
        id: head.id,
        title: head.title,
        source_uri: head.source_uri,
        media_type: head.media_type,
        acl: head.acl.map(|acl| acl.into_iter().map(String::from).collect()),
        created_at,
        updated_at,
    }
}

/// Cuts rows into portions of about `chunks` added chunks, at least one row each.
pub(super) fn portions(rows: &[LogEntry], chunks: usize) -> Vec<&[LogEntry]> {
    let mut portions = Vec::new();
    let (mut start, mut weight) = (0, 0);
    for (index, row) in rows.iter().enumerate() {
        // A row without new chunks still brings its document to be read again.
        weight += row.chunks_added.len() + 1;
        if weight >= chunks {
            portions.push(&rows[start..=index]);
            (start, weight) = (index + 1, 0);
        }
    }
    if start < rows.len() {
        portions.push(&rows[start..]);
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CollectionName, DocumentHead, GenerationId, Metadata, TenantId, Timestamp};
    use crate::store::{IndexableChunk, Operation};
    use half::f16;
    use serde_json::json;

    fn chunk_id(n: u8) -> ChunkId {
        ChunkId([n; 16])
    }

    fn row(sequence: u64, document: &str, added: &[u8], removed: &[u8]) -> LogEntry {
        LogEntry {
            sequence: Sequence(sequence),
            tenant: TenantId::new("acme").unwrap(),
            collection: CollectionName::new("default").unwrap(),
            generation: GenerationId([0; 16]),
            document: DocumentId::new(document).unwrap(),
            operation: Operation::Put,
            chunks_added: added.iter().copied().map(chunk_id).collect(),
            chunks_removed: removed.iter().copied().map(chunk_id).collect(),
        }
    }

    fn metadata(json: serde_json::Value) -> Metadata {
        serde_json::from_value(json).unwrap()
    }

    fn document(chunks: &[(u8, Option<f32>)]) -> IndexableDocument {
        IndexableDocument {
            head: DocumentHead {
                id: DocumentId::new("a").unwrap(),
                collection: CollectionName::new("default").unwrap(),
                title: None,
                source_uri: None,
                media_type: "text/plain".to_owned(),
                metadata: metadata(json!({"lang": "en", "year": 2020})),
                acl: None,
            },
            created_at: Timestamp(1),
            updated_at: Timestamp(2),
            chunks: chunks
                .iter()
                .map(|&(n, value)| IndexableChunk {
                    id: chunk_id(n),
                    text: format!("text {n}"),
                    heading_path: Vec::new(),
                    metadata: Some(metadata(json!({"year": 2021}))),
                    context: None,
                    embedding: value.map(|value| vec![f16::from_f32(value)]),
                })
                .collect(),
        }
    }

    #[test]
    fn the_last_word_on_a_chunk_counts() {
        let rows = [row(1, "a", &[1, 2], &[]), row(2, "a", &[], &[1, 2]), row(3, "a", &[1], &[])];

        let digest = Digest::of(&rows, Sequence(0));
        let present = document(&[(1, Some(1.0)), (3, Some(1.0))]);
        let (_, vectors) = digest.changes(present.head.id.clone(), Some(present));

        assert_eq!(digest.removals(), [VectorChange::Remove(chunk_id(2))]);
        // Chunk 3 is there already, or a later row will bring it.
        assert_eq!(vectors, [VectorChange::Put { id: chunk_id(1), vector: vec![f16::ONE] }]);
    }

    #[test]
    fn vectors_are_read_only_where_some_are_new() {
        let digest = Digest::of(&[row(1, "a", &[1], &[]), row(2, "b", &[], &[7]), row(3, "a", &[], &[])], Sequence(0));

        let names = |documents: &[DocumentId]| documents.iter().map(ToString::to_string).collect::<Vec<_>>();
        let [(_, with), (_, without)] = digest.reads();

        assert_eq!((names(&with), names(&without)), (vec!["a".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn vectors_that_are_there_already_are_left_alone() {
        let digest = Digest::of(&[row(1, "a", &[1], &[2]), row(2, "a", &[2], &[1])], Sequence(1));

        assert_eq!(digest.removals(), [VectorChange::Remove(chunk_id(1))]);
        let present = document(&[(2, Some(1.0))]);
        let (_, vectors) = digest.changes(present.head.id.clone(), Some(present));
        assert_eq!(vectors, [VectorChange::Put { id: chunk_id(2), vector: vec![f16::ONE] }]);
    }

    #[test]
    fn a_chunk_without_a_vector_is_indexed_for_words_only() {
        let digest = Digest::of(&[row(1, "a", &[1], &[])], Sequence(0));

        let (lexical, vectors) = digest.changes(DocumentId::new("a").unwrap(), Some(document(&[(1, None)])));

        let LexicalChange::Put(put) = lexical else { panic!("the document is there") };
        assert_eq!(put.chunks.len(), 1);
        assert!(vectors.is_empty());
    }

    #[test]
    fn a_chunks_own_metadata_goes_before_its_documents() {
        let digest = Digest::of(&[row(1, "a", &[1], &[])], Sequence(0));

        let (lexical, _) = digest.changes(DocumentId::new("a").unwrap(), Some(document(&[(1, None)])));

        let LexicalChange::Put(put) = lexical else { panic!("the document is there") };
        assert_eq!(put.chunks[0].metadata, metadata(json!({"lang": "en", "year": 2021})));
    }

    #[test]
    fn what_a_model_wrote_about_a_chunk_is_looked_up_beside_its_text() {
        let digest = Digest::of(&[row(1, "a", &[1], &[])], Sequence(0));
        let mut present = document(&[(1, None)]);
        present.chunks[0].context = Some("about ships".to_owned());

        let (lexical, _) = digest.changes(DocumentId::new("a").unwrap(), Some(present));

        let LexicalChange::Put(put) = lexical else { panic!("the document is there") };
        assert_eq!(
            (put.chunks[0].heading_path.as_slice(), put.chunks[0].text.as_str()),
            (["about ships".to_owned()].as_slice(), "text 1")
        );
    }

    #[test]
    fn portions_are_whole_bounded_and_never_empty() {
        let rows = [row(1, "a", &[1, 2, 3], &[]), row(2, "b", &[4; 50], &[]), row(3, "c", &[], &[])];

        let lengths: Vec<usize> = portions(&rows, 4).iter().map(|portion| portion.len()).collect();

        assert_eq!(lengths, [1, 1, 1]);
        assert!(portions(&[], 4).is_empty());
    }
}
