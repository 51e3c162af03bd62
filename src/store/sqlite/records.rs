//! What several queries select, and what is made of it.
//!
//! A chunk's text is read from the pieces under its span; the rest of its document is never touched. Chunk and document
//! come as JSON, because what a row costs on its way from its connection's thread is a price for each column.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::Deserialize;
use sqlx::SqliteConnection;

use crate::domain::{
    ByteSpan, Chunk, ChunkId, ChunkerSpec, CollectionName, ContentHash, Document, DocumentHead, DocumentId, Generation,
    Provenance, Sequence, Timestamp,
};
use crate::store::StoreError;

use super::catalog::take_generation;
use super::codec::{Columns, damaged, from_json, hash_from_hex, to_json};

/// A [`ChunkRecord`] of `chunks c` and the first of its pieces, `segments s`.
macro_rules! chunk_json {
    () => {
        "json_array(hex(c.chunk_id), c.ordinal, c.span_start, c.span_end, c.heading_path, c.page, c.token_count, \
         c.metadata, c.context, s.start, s.text, CASE WHEN c.segment_count > 1 THEN (SELECT group_concat(r.text, '' ORDER BY r.id) \
         FROM segments r WHERE r.id BETWEEN c.segment_id + 1 AND c.segment_id + c.segment_count - 1) END)"
    };
}

/// A [`DocumentRecord`] of `documents d` and its `collections k`, in the generation that serves it.
macro_rules! document_json {
    () => {
        $crate::store::sqlite::records::held_document_json!(
            "d.generation_id",
            "d.chunking_id",
            "d.chunk_count",
            "COALESCE(d.placed_by, d.sequence)"
        )
    };
}

/// The same in any generation that holds it: what tells the generation, the chunking, its number of chunks, and the
/// operation that brought it there.
macro_rules! held_document_json {
    ($generation:literal, $chunking:literal, $chunks:literal, $placed_by:literal) => {
        concat!(
            "json_array(d.name, k.name, d.title, d.source_uri, d.media_type, d.metadata, d.acl, d.version, \
             hex(d.content_hash), ",
            $generation,
            ", d.created_at, d.updated_at, ",
            $chunks,
            ", d.sequence, (SELECT q.chunker FROM chunkings q WHERE q.id = ",
            $chunking,
            "), (SELECT w.at FROM watermarks w WHERE w.generation_id = ",
            $generation,
            " AND w.sequence >= ",
            $placed_by,
            " ORDER BY w.sequence LIMIT 1))"
        )
    };
}

pub(super) use {chunk_json, document_json, held_document_json};

/// What [`chunk_json`] gives, in its order.
#[derive(Debug, Deserialize)]
pub(super) struct ChunkRecord<'a>(
    /// Id.
    &'a str,
    /// Ordinal.
    u32,
    /// Start of the span.
    usize,
    /// End of the span.
    usize,
    /// Heading path, as JSON.
    Option<String>,
    /// Page.
    Option<u32>,
    /// Tokens.
    u32,
    /// Metadata, as JSON.
    Option<String>,
    /// Context.
    Option<String>,
    /// Start of the first piece.
    usize,
    /// The first piece.
    String,
    /// The pieces after it, if the span reaches over them.
    Option<String>,
);

impl ChunkRecord<'_> {
    pub(super) fn into_chunk(self) -> Result<Chunk, StoreError> {
        let Self(id, ordinal, start, end, headings, page, token_count, metadata, context, piece_start, piece, rest) =
            self;
        let text = slice(piece, rest, start.wrapping_sub(piece_start), end.saturating_sub(start))
            .ok_or_else(|| damaged("segments.text", "a chunk's span leaves its pieces"))?;
        let heading_path = headings.map(|json| from_json("chunks.heading_path", &json)).transpose()?;
        Ok(Chunk {
            id: ChunkId(hash_from_hex("chunks.chunk_id", id)?),
            ordinal,
            span: ByteSpan { start, end },
            text,
            heading_path: heading_path.unwrap_or_default(),
            token_count,
            page,
            metadata: metadata.map(|json| from_json("chunks.metadata", &json)).transpose()?,
            context,
        })
    }
}

/// Reads [`chunk_json`].
pub(super) fn take_chunk(columns: &mut Columns<'_>) -> Result<Chunk, StoreError> {
    from_json::<ChunkRecord<'_>>("a chunk", columns.take()?)?.into_chunk()
}

// Most chunks are exactly their piece, which is then not copied.
fn slice(mut piece: String, rest: Option<String>, offset: usize, length: usize) -> Option<String> {
    if let Some(rest) = rest {
        piece.push_str(&rest);
    }
    if offset == 0 && length == piece.len() {
        return Some(piece);
    }
    piece.get(offset..offset.checked_add(length)?).map(str::to_owned)
}

/// What [`document_json`] gives, in its order.
#[derive(Debug, Deserialize)]
struct DocumentColumns<'a>(
    /// Id.
    String,
    /// Collection.
    String,
    /// Title.
    Option<String>,
    /// Source.
    Option<String>,
    /// Media type.
    String,
    /// Metadata, as JSON.
    String,
    /// ACL, as JSON.
    Option<String>,
    /// Version.
    u64,
    /// Content hash.
    &'a str,
    /// Row of the generation.
    i64,
    /// Created.
    i64,
    /// Updated.
    i64,
    /// Chunks.
    u64,
    /// Sequence.
    u64,
    /// Chunker of its own, as JSON.
    Option<String>,
    /// Indexed.
    Option<i64>,
);

/// A document as its row tells it; the generation is a row id still.
#[derive(Debug)]
pub(super) struct DocumentRecord {
    pub head: DocumentHead,
    pub version: u64,
    pub content_hash: ContentHash,
    pub generation: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub chunk_count: u64,
    pub sequence: Sequence,
    /// `None`: the generation's.
    pub chunker: Option<ChunkerSpec>,
    pub indexed_at: Option<Timestamp>,
}

/// Reads [`document_json`].
pub(super) fn take_document(columns: &mut Columns<'_>) -> Result<DocumentRecord, StoreError> {
    read_document(columns.take()?)
}

/// Reads [`document_json`] from its text.
pub(super) fn read_document(json: &str) -> Result<DocumentRecord, StoreError> {
    let DocumentColumns(
        name,
        collection,
        title,
        source_uri,
        media_type,
        metadata,
        acl,
        version,
        content_hash,
        generation,
        created_at,
        updated_at,
        chunk_count,
        sequence,
        chunker,
        indexed_at,
    ) = from_json("a document", json)?;
    let id = DocumentId::new(&name).map_err(|error| damaged("documents.name", &error.to_string()))?;
    let collection =
        CollectionName::new(&collection).map_err(|error| damaged("collections.name", &error.to_string()))?;
    let metadata = match metadata.as_str() {
        "{}" => serde_json::Map::new(),
        json => from_json("documents.metadata", json)?,
    };
    let acl = acl.map(|json| from_json("documents.acl", &json)).transpose()?;
    Ok(DocumentRecord {
        head: DocumentHead { id, collection, title, source_uri, media_type, metadata, acl },
        version,
        content_hash: ContentHash(hash_from_hex("documents.content_hash", content_hash)?),
        generation,
        created_at: Timestamp(created_at),
        updated_at: Timestamp(updated_at),
        chunk_count,
        sequence: Sequence(sequence),
        chunker: chunker.map(|json| from_json("chunkings.chunker", &json)).transpose()?,
        indexed_at: indexed_at.map(Timestamp),
    })
}

impl DocumentRecord {
    pub(super) fn into_document(self, generation: &Generation) -> Document {
        Document {
            head: self.head,
            version: self.version,
            content_hash: self.content_hash,
            created_at: self.created_at,
            updated_at: self.updated_at,
            chunk_count: self.chunk_count,
            generation: generation.id,
            sequence: self.sequence,
            indexed_at: self.indexed_at,
        }
    }

    /// Where a live chunk of this document comes from.
    pub(super) fn provenance(&self, chunk: &Chunk, generation: &Generation) -> Provenance {
        Provenance {
            document_id: self.head.id.clone(),
            document_version: self.version,
            content_hash: self.content_hash,
            source_uri: self.head.source_uri.clone(),
            span: chunk.span,
            page: chunk.page,
            heading_path: chunk.heading_path.clone(),
            ordinal: chunk.ordinal,
            chunker: self.chunker.as_ref().unwrap_or(&generation.profile.chunker).clone(),
            embedder: generation.profile.embedder.clone(),
            generation: generation.id,
            indexed_at: self.indexed_at,
        }
    }
}

/// Generations by row id. Their profiles never change; their states do, and must not be read from here.
#[derive(Debug, Default)]
pub(super) struct Generations(RwLock<HashMap<i64, Arc<Generation>>>);

impl Generations {
    /// All of `rows`, reading those that are not known yet.
    pub(super) async fn get(
        &self,
        connection: &mut SqliteConnection,
        rows: impl Iterator<Item = i64>,
    ) -> Result<HashMap<i64, Arc<Generation>>, StoreError> {
        const SQL: &str = "SELECT g.id, g.public_id, g.profile, g.state, g.created_at FROM json_each($1) j \
            CROSS JOIN generations g ON g.id = j.value";
        let wanted: HashSet<i64> = rows.collect();
        let known = |map: &HashMap<i64, Arc<Generation>>| -> HashMap<i64, Arc<Generation>> {
            wanted.iter().filter_map(|row| Some((*row, Arc::clone(map.get(row)?)))).collect()
        };
        let found = known(&self.0.read());
        if found.len() == wanted.len() {
            return Ok(found);
        }
        let missing: Vec<&i64> = wanted.iter().filter(|row| !found.contains_key(row)).collect();
        let rows = sqlx::query(SQL).bind(to_json(&missing)).fetch_all(&mut *connection).await?;
        let mut read = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut columns = Columns::of(row);
            read.push((columns.take()?, Arc::new(take_generation(&mut columns)?)));
        }
        let mut map = self.0.write();
        map.extend(read);
        Ok(known(&map))
    }
}

/// The generation of a row that a foreign key holds in place.
pub(super) fn generation_of(generations: &HashMap<i64, Arc<Generation>>, row: i64) -> Result<&Generation, StoreError> {
    generations.get(&row).map(Arc::as_ref).ok_or_else(|| damaged("generation_id", "there is no such generation"))
}
