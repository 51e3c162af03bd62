//! Turns writes into column values before they wait for the writer: all checks and all work that needs no database.

use half::f16;

use crate::domain::{
    ByteSpan, Chunk, ChunkId, ChunkerSpec, CollectionName, ContentHash, DocumentId, EmbeddedChunk, GenerationId,
    Sequence,
};
use crate::store::{BuildDocument, DocumentWrite, PutDocument, StoreError};

use super::codec::{to_json, vector_to_bytes};
use super::segments;

/// A checked write of one document.
#[derive(Debug)]
pub(super) struct Change {
    pub collection: CollectionName,
    pub document: DocumentId,
    pub kind: ChangeKind,
    /// Text and vectors, for the bound on a transaction.
    pub bytes: usize,
}

#[derive(Debug)]
pub(super) enum ChangeKind {
    Put(Box<PutColumns>),
    Delete,
    Build(Box<BuildColumns>),
    Serve(GenerationId),
    Embed(Vec<NewEmbedding>),
}

/// A document as its columns.
#[derive(Debug)]
pub(super) struct PutColumns {
    pub generation: GenerationId,
    pub title: Option<String>,
    pub source_uri: Option<String>,
    pub media_type: String,
    pub metadata: String,
    pub acl: Option<String>,
    pub head_hash: ContentHash,
    pub content_hash: ContentHash,
    pub text_hash: [u8; 16],
    pub outline: String,
    pub segments: Vec<Segment>,
    pub chunking: ChunkingColumns,
}

/// A document's chunks in another generation than the one that serves it.
#[derive(Debug)]
pub(super) struct BuildColumns {
    pub generation: GenerationId,
    pub seen: Sequence,
    pub chunking: ChunkingColumns,
}

/// All chunks of a version under one generation.
#[derive(Debug)]
pub(super) struct ChunkingColumns {
    pub shape_hash: [u8; 16],
    pub chunker: Option<String>,
    pub chunks: Vec<ChunkColumns>,
}

/// A piece of the text.
#[derive(Debug)]
pub(super) struct Segment {
    pub start: usize,
    pub text: String,
}

/// A chunk as its columns; `segment` counts from the version's first, where the version's pieces come along.
#[derive(Debug)]
pub(super) struct ChunkColumns {
    pub id: ChunkId,
    pub ordinal: u32,
    pub span: ByteSpan,
    pub segment: usize,
    pub segment_count: usize,
    pub heading_path: Option<String>,
    pub page: Option<u32>,
    pub token_count: u32,
    pub metadata: Option<String>,
    pub context: Option<String>,
    pub input_hash: ContentHash,
    pub vector: Option<Vec<u8>>,
}

/// An embedding for a chunk that was stored without.
#[derive(Debug)]
pub(super) struct NewEmbedding {
    pub chunk: ChunkId,
    pub input_hash: ContentHash,
    pub vector: Vec<u8>,
}

/// How much text a write brings, for deciding where to prepare it.
pub(super) fn text_bytes(writes: &[DocumentWrite]) -> usize {
    let bytes = |write: &DocumentWrite| match write {
        DocumentWrite::Put(put) => put.text.len(),
        DocumentWrite::Build(build) => build.chunks.iter().map(|item| item.chunk.text.len()).sum(),
        _ => 0,
    };
    writes.iter().map(bytes).sum()
}

/// Checks a write and makes columns of it; takes time in proportion to its text.
pub(super) fn prepare(write: DocumentWrite) -> Result<Change, StoreError> {
    match write {
        DocumentWrite::Put(put) => prepare_put(*put),
        DocumentWrite::Delete { collection, document } => {
            Ok(Change { collection, document, kind: ChangeKind::Delete, bytes: 0 })
        }
        DocumentWrite::Build(build) => prepare_build(*build),
        DocumentWrite::Serve { collection, document, generation } => {
            Ok(Change { collection, document, kind: ChangeKind::Serve(generation), bytes: 0 })
        }
        DocumentWrite::Embed { collection, document, embeddings } => {
            let columns = |(chunk, input_hash, vector): (ChunkId, ContentHash, Vec<f16>)| NewEmbedding {
                chunk,
                input_hash,
                vector: vector_to_bytes(&vector),
            };
            let embeddings: Vec<NewEmbedding> = embeddings.into_iter().map(columns).collect();
            let bytes = embeddings.iter().map(|new| new.vector.len()).sum();
            Ok(Change { collection, document, kind: ChangeKind::Embed(embeddings), bytes })
        }
    }
}

fn prepare_put(put: PutDocument) -> Result<Change, StoreError> {
    let PutDocument { head, content_hash, head_hash, text, outline, chunks, chunker, generation } = put;
    let fits = |item: &EmbeddedChunk| item.chunk.span.slice(&text) == Some(item.chunk.text.as_str());
    if !chunks.iter().all(fits) {
        return Err(StoreError::SpanMismatch { document: head.id.to_string() });
    }
    let pieces = segments::cut(&text, chunks.iter().map(|item| item.chunk.span));
    let chunking = chunking_columns(chunks, chunker.as_ref(), &pieces);
    let piece = |span: &ByteSpan| Segment { start: span.start, text: text[span.start..span.end].to_owned() };
    let bytes = text.len() + chunking.vector_lengths().sum::<usize>();
    let columns = PutColumns {
        generation,
        title: head.title,
        source_uri: head.source_uri,
        media_type: head.media_type,
        metadata: to_json(&head.metadata),
        acl: head.acl.as_deref().map(to_json),
        head_hash,
        content_hash,
        text_hash: first_half(blake3::hash(text.as_bytes())),
        outline: to_json(&outline),
        segments: pieces.iter().map(piece).collect(),
        chunking,
    };
    Ok(Change { collection: head.collection, document: head.id, kind: ChangeKind::Put(Box::new(columns)), bytes })
}

// The text is in the database: that the spans lie in it is seen there.
fn prepare_build(build: BuildDocument) -> Result<Change, StoreError> {
    let BuildDocument { collection, document, generation, seen, chunks, chunker } = build;
    if chunks.iter().any(|item| item.chunk.span.len() != item.chunk.text.len()) {
        return Err(StoreError::SpanMismatch { document: document.to_string() });
    }
    let chunking = chunking_columns(chunks, chunker.as_ref(), &[]);
    let bytes = chunking.vector_lengths().sum::<usize>();
    let kind = ChangeKind::Build(Box::new(BuildColumns { generation, seen, chunking }));
    Ok(Change { collection, document, kind, bytes })
}

fn chunking_columns(chunks: Vec<EmbeddedChunk>, chunker: Option<&ChunkerSpec>, pieces: &[ByteSpan]) -> ChunkingColumns {
    let shape_hash = hash_shape(chunks.iter().map(|item| &item.chunk));
    let chunks = chunks.into_iter().map(|item| chunk_columns(item, pieces)).collect();
    ChunkingColumns { shape_hash, chunker: chunker.map(to_json), chunks }
}

impl ChunkingColumns {
    /// In bytes, of those that are there.
    pub(super) fn vector_lengths(&self) -> impl Iterator<Item = usize> {
        self.chunks.iter().filter_map(|chunk| chunk.vector.as_ref().map(Vec::len))
    }
}

fn chunk_columns(item: EmbeddedChunk, pieces: &[ByteSpan]) -> ChunkColumns {
    let Chunk { id, ordinal, span, text: _, heading_path, token_count, page, metadata, context } = item.chunk;
    let (segment, segment_count) = segments::locate(pieces, span);
    ChunkColumns {
        id,
        ordinal,
        span,
        segment,
        segment_count,
        heading_path: (!heading_path.is_empty()).then(|| to_json(&heading_path)),
        page,
        token_count,
        metadata: metadata.as_ref().map(to_json),
        context,
        input_hash: item.input_hash,
        vector: item.embedding.as_deref().map(vector_to_bytes),
    }
}

// Everything in a chunk but its text, which its span stands for.
fn hash_shape<'a>(chunks: impl Iterator<Item = &'a Chunk>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for chunk in chunks {
        field(&chunk.id.0);
        for number in [chunk.ordinal as usize, chunk.span.start, chunk.span.end, chunk.token_count as usize] {
            field(&number.to_le_bytes());
        }
        field(&chunk.page.unwrap_or(0).to_le_bytes());
        field(to_json(&chunk.heading_path).as_bytes());
        field(chunk.metadata.as_ref().map(to_json).unwrap_or_default().as_bytes());
        // Only where there is one, so that hashes from before there were contexts still hold.
        if let Some(context) = &chunk.context {
            field(b"context");
            field(context.as_bytes());
        }
    }
    first_half(hasher.finalize())
}

fn first_half(hash: blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}
