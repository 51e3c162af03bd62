//! A chunk: a byte span of one version, the unit that is embedded, ranked and cited.

use half::f16;
use serde::{Deserialize, Serialize};

use super::{ByteSpan, ChunkId, ChunkerSpec, ContentHash, DocumentId, EmbedderSpec, GenerationId, Metadata, Timestamp};

/// A stored span. The slice of the version's text at `span` is `text`, always.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    pub id: ChunkId,
    /// Position among the version's chunks, from 0.
    pub ordinal: u32,
    pub span: ByteSpan,
    pub text: String,
    /// Titles of the headings above the chunk, outermost first.
    pub heading_path: Vec<String>,
    /// Length in tokens of the embedder, without special tokens.
    pub token_count: u32,
    /// From 1; `None` where the format has no pages.
    pub page: Option<u32>,
    /// The caller's own, for caller-made chunks; goes before the document's under the same key.
    pub metadata: Option<Metadata>,
    /// What a model has written about its place in the document, where the profile asks for that. No part of the
    /// content: never cited.
    pub context: Option<String>,
}

/// A chunk with its embedding, ready to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddedChunk {
    pub chunk: Chunk,
    /// Hash of the exact text that was (or would be) embedded: prefix, title, headings and chunk text.
    pub input_hash: ContentHash,
    /// Unit length; `None` while no embedder is at hand.
    pub embedding: Option<Vec<f16>>,
}

/// Where a passage comes from; resolves to stored text as long as the version lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub document_id: DocumentId,
    pub document_version: u64,
    pub content_hash: ContentHash,
    pub source_uri: Option<String>,
    pub span: ByteSpan,
    pub page: Option<u32>,
    pub heading_path: Vec<String>,
    pub ordinal: u32,
    pub chunker: ChunkerSpec,
    pub embedder: Option<EmbedderSpec>,
    pub generation: GenerationId,
    pub indexed_at: Option<Timestamp>,
}
