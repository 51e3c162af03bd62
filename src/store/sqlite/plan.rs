//! Decides what a write changes, given how things stand. Reads and writes nothing.

use std::collections::HashMap;

use crate::domain::{ByteSpan, ChunkId, ContentHash, Sequence, Timestamp};
use crate::store::{Operation, StoreError, WriteOutcome};

use super::plan_moves::{Held, holdings};
use super::prepare::{Change, ChangeKind, ChunkColumns, ChunkingColumns, NewEmbedding, PutColumns};
use super::rows::{
    ChunkRow, ChunkingRow, CountsRow, DocumentRow, EmbeddingRow, LogRow, Reembedded, Rows, SegmentRow, VersionRow,
};
use super::segments;
use super::standing::{EmbedderRow, Known, Live, Place, PreviousChunk, StoredVector, Target};

/// The last row ids given out. The writer alone adds rows, so it can count by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ids {
    pub document: i64,
    pub version: i64,
    pub segment: i64,
    pub chunking: i64,
    pub chunk: i64,
    pub embedding: i64,
    pub sequence: i64,
    /// Rows of `traces`.
    pub request: i64,
}

/// A write with everything that is known about its document.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub change: &'a Change,
    pub place: Place,
    /// The generation that a build or a move names.
    pub target: Option<Target>,
    pub known: Option<Known>,
    /// The chunks that serve, in order.
    pub previous: Vec<PreviousChunk>,
    /// Where the live version's text was cut; filled in only where chunks are made anew over it.
    pub pieces: Vec<ByteSpan>,
}

/// Whether a document's stored text can serve on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// New content.
    Nothing,
    /// The same text, cut into other chunks or by another generation.
    Text,
    /// The same text and chunks; embeddings may differ.
    Chunks,
    /// The same in everything a client can see.
    All,
}

/// How much of what is stored a put leaves as it is.
pub(super) fn reuse(put: &PutColumns, generation: i64, live: Option<&Live>) -> Reuse {
    let Some(live) = live else { return Reuse::Nothing };
    // Wherever it is served from: a document moves when its time comes, not because it was sent again.
    if live.content_hash == put.content_hash && live.head_hash == put.head_hash {
        Reuse::All
    } else if live.content_hash != put.content_hash || live.text_hash != put.text_hash {
        Reuse::Nothing
    } else if live.generation == generation && live.shape_hash == put.chunking.shape_hash {
        Reuse::Chunks
    } else {
        Reuse::Text
    }
}

/// Turns cases into rows, one after the other.
pub(super) struct Planner<'a> {
    pub rows: Rows<'a>,
    pub(super) ids: &'a mut Ids,
    now: Timestamp,
    /// Vectors by tenant, embedder and input. Equal inputs with unequal vectors may occur: callers can bring their own.
    vectors: HashMap<(i64, i64, ContentHash), Vec<(i64, VectorBytes<'a>)>>,
    counts: HashMap<i64, CountsRow>,
}

#[derive(Debug)]
enum VectorBytes<'a> {
    Stored(Vec<u8>),
    New(&'a [u8]),
}

impl<'a> Planner<'a> {
    pub(super) fn new(ids: &'a mut Ids, now: Timestamp) -> Self {
        Self { rows: Rows::default(), ids, now, vectors: HashMap::new(), counts: HashMap::new() }
    }

    /// Takes note of vectors that need not be stored again.
    pub(super) fn knows(&mut self, tenant: i64, embedder: i64, stored: Vec<StoredVector>) {
        for StoredVector { id, input_hash, bytes } in stored {
            self.vectors.entry((tenant, embedder, input_hash)).or_default().push((id, VectorBytes::Stored(bytes)));
        }
    }

    /// Everything the cases change.
    pub(super) fn finish(mut self) -> Rows<'a> {
        self.rows.counts = self.counts.into_values().collect();
        self.rows
    }

    pub(super) fn plan(&mut self, case: &Case<'a>) -> WriteOutcome {
        let outcome = match &case.change.kind {
            ChangeKind::Put(put) => self.put(case, put),
            ChangeKind::Delete => Ok(self.delete(case)),
            ChangeKind::Build(build) => self.build(case, build),
            ChangeKind::Serve(_) => Ok(self.serve(case)),
            ChangeKind::Embed(new) => self.embed(case, new),
        };
        outcome.unwrap_or_else(WriteOutcome::Failed)
    }

    fn put(&mut self, case: &Case<'a>, put: &'a PutColumns) -> Result<WriteOutcome, StoreError> {
        let place = case.place;
        check_dimensions(case.change, place.embedder, put.chunking.vector_lengths())?;
        let known = case.known.as_ref();
        let live = known.and_then(|known| known.live.as_ref());
        let reuse = reuse(put, place.generation, live);
        if let (Reuse::All, Some(known), Some(live)) = (reuse, known, live) {
            return Ok(unchanged(known, live));
        }
        let embeddings = self.embeddings(place.tenant, place.embedder, &put.chunking);
        let id = known.map_or_else(|| next(&mut self.ids.document), |known| known.id);
        let (version, version_id, first_segment) = match (reuse, known, live) {
            (Reuse::Text | Reuse::Chunks, Some(known), Some(live)) => {
                (known.version, live.version_id, live.first_segment)
            }
            _ => self.add_version(id, case, put),
        };
        let (chunking, first_chunk) = match (reuse, live) {
            (Reuse::Chunks, Some(live)) => {
                self.reembed(&case.previous, put, &embeddings, place.embedder);
                (live.chunking, live.first_chunk)
            }
            _ => {
                self.retire(case);
                let generation = (place.generation, place.embedder);
                let owner =
                    OwnerRows { document: id, version: version_id, first_segment, generation, standby_of: None };
                self.add_chunks(case, &put.chunking, &owner, &embeddings)
            }
        };
        let sequence = self.log_put(case, (id, version), put, &embeddings);
        self.drop_standbys(case);
        self.rows.documents.push(DocumentRow {
            id,
            tenant: place.tenant,
            collection: place.collection,
            name: case.change.document.as_str(),
            put,
            version,
            first_version: known.map_or(1, |known| known.first_version),
            version_id,
            generation: place.generation,
            chunking,
            first_chunk,
            chunk_count: put.chunking.chunks.len() as i64,
            created_at: known.filter(|known| known.live.is_some()).map_or(self.now, |known| known.created_at),
            updated_at: self.now,
            sequence,
        });
        Ok(WriteOutcome::Written { version: version as u64, sequence: Sequence(sequence as u64) })
    }

    // The row of each chunk's vector, adding those that are not stored yet.
    pub(super) fn embeddings(
        &mut self,
        tenant: i64,
        embedder: Option<EmbedderRow>,
        chunking: &'a ChunkingColumns,
    ) -> Vec<Option<i64>> {
        let row = |chunk: &'a ChunkColumns| {
            let (embedder, vector) = (embedder?, chunk.vector.as_deref()?);
            Some(self.vector_row((tenant, embedder.id, chunk.input_hash), vector))
        };
        chunking.chunks.iter().map(row).collect()
    }

    fn vector_row(&mut self, key: (i64, i64, ContentHash), vector: &'a [u8]) -> i64 {
        let rows = self.vectors.entry(key).or_default();
        let same = |(_, bytes): &&(i64, VectorBytes<'a>)| match bytes {
            VectorBytes::Stored(bytes) => bytes.as_slice() == vector,
            VectorBytes::New(bytes) => *bytes == vector,
        };
        if let Some((id, _)) = rows.iter().find(same) {
            return *id;
        }
        let id = next(&mut self.ids.embedding);
        rows.push((id, VectorBytes::New(vector)));
        let (tenant, embedder, input_hash) = key;
        self.rows.embeddings.push(EmbeddingRow { id, tenant, embedder, input_hash, vector });
        id
    }

    fn add_version(&mut self, document: i64, case: &Case<'a>, put: &'a PutColumns) -> (i64, i64, i64) {
        let number = case.known.as_ref().map_or(0, |known| known.version) + 1;
        let id = next(&mut self.ids.version);
        let first_segment = self.ids.segment + 1;
        for segment in &put.segments {
            self.rows.segments.push(SegmentRow { id: next(&mut self.ids.segment), version: id, segment });
        }
        let tenant = case.place.tenant;
        self.rows.versions.push(VersionRow { id, tenant, document, number, put, first_segment, created_at: self.now });
        (number, id, first_segment)
    }

    /// The rows of the chunking and of its first chunk.
    pub(super) fn add_chunks(
        &mut self,
        case: &Case<'a>,
        columns: &'a ChunkingColumns,
        owner: &OwnerRows,
        embeddings: &[Option<i64>],
    ) -> (i64, i64) {
        let chunking = next(&mut self.ids.chunking);
        let first_chunk = self.ids.chunk + 1;
        let (version, (generation, embedder)) = (owner.version, owner.generation);
        self.rows.chunkings.push(ChunkingRow { id: chunking, version, generation, first_chunk, columns });
        for (columns, embedding) in columns.chunks.iter().zip(embeddings) {
            let (segment, count) = if case.pieces.is_empty() {
                (columns.segment, columns.segment_count)
            } else {
                segments::locate(&case.pieces, columns.span)
            };
            self.rows.chunks.push(ChunkRow {
                id: next(&mut self.ids.chunk),
                tenant: case.place.tenant,
                document: owner.document,
                chunking,
                standby_of: owner.standby_of,
                columns,
                segment: owner.first_segment + segment as i64,
                segment_count: count as i64,
                embedding: *embedding,
                pending_input: pending(*embedding, columns.input_hash, embedder),
            });
        }
        (chunking, first_chunk)
    }

    fn retire(&mut self, case: &Case<'a>) {
        if let (Some(first), Some(last)) = (case.previous.first(), case.previous.last()) {
            self.rows.retired.push((first.row, last.row));
        }
    }

    // Chunks of equal shape stand in equal order.
    fn reembed(
        &mut self,
        previous: &[PreviousChunk],
        put: &PutColumns,
        embeddings: &[Option<i64>],
        embedder: Option<EmbedderRow>,
    ) {
        for ((old, columns), embedding) in previous.iter().zip(&put.chunking.chunks).zip(embeddings) {
            let pending_input = pending(*embedding, columns.input_hash, embedder);
            if old.embedding != *embedding || old.pending_input != pending_input {
                let row = Reembedded { chunk: old.row, embedding: *embedding, pending_input };
                self.rows.reembedded.push(row);
            }
        }
    }

    // Last the row of the generation that serves from now on: its sequence is the document's.
    fn log_put(&mut self, case: &Case<'a>, document: (i64, i64), put: &PutColumns, embeddings: &[Option<i64>]) -> i64 {
        let generation = case.place.generation;
        let (mut before, mut served) = (None, 0);
        for held in holdings(case) {
            if held.generation == generation {
                (before, served) = (Some(held.chunks), held.serving);
            } else {
                // The index of a generation that the document leaves must let go of it.
                self.log_removal(case, document, held);
            }
        }
        let change = HeldChange { generation, before, after: (&put.chunking, embeddings), serving: 1 - served };
        self.log_held(case, document, change)
    }

    /// Logs that a generation holds these chunks of a document now, whatever it held before.
    pub(super) fn log_held(&mut self, case: &Case<'a>, document: (i64, i64), held: HeldChange<'_>) -> i64 {
        let HeldChange { generation, before, after: (chunking, embeddings), serving } = held;
        let old = before.unwrap_or_default();
        let had: HashMap<ChunkId, i64> = embedded(old).collect();
        let has = || chunking.chunks.iter().zip(embeddings).filter_map(|(chunk, row)| Some((chunk.id, (*row)?)));
        let kept: HashMap<ChunkId, i64> = has().collect();
        let added = has().filter(|(id, row)| had.get(id) != Some(row)).map(|(id, _)| id).collect();
        let removed = embedded(old).map(|(id, _)| id).filter(|id| !kept.contains_key(id)).collect();
        let change = CountsRow {
            generation,
            documents: i64::from(before.is_none()),
            serving,
            chunks: chunking.chunks.len() as i64 - old.len() as i64,
            vectors: kept.len() as i64 - had.len() as i64,
            ..CountsRow::default()
        };
        self.log(case, document, LogChange { operation: Operation::Put, added, removed, change })
    }

    fn log_removal(&mut self, case: &Case<'a>, document: (i64, i64), held: Held<'_>) -> i64 {
        let removed: Vec<ChunkId> = embedded(held.chunks).map(|(id, _)| id).collect();
        let change = CountsRow {
            generation: held.generation,
            documents: -1,
            serving: -held.serving,
            chunks: -(held.chunks.len() as i64),
            vectors: -(removed.len() as i64),
            ..CountsRow::default()
        };
        let added = Vec::new();
        self.log(case, document, LogChange { operation: Operation::Delete, added, removed, change })
    }

    fn log(&mut self, case: &Case<'a>, (document, version): (i64, i64), entry: LogChange) -> i64 {
        let LogChange { operation, added, removed, change } = entry;
        let sequence = next(&mut self.ids.sequence);
        let Place { tenant, collection, .. } = case.place;
        let (generation, at) = (change.generation, self.now);
        self.rows.log.push(LogRow {
            sequence,
            tenant,
            collection,
            generation,
            document,
            version,
            operation,
            added,
            removed,
            at,
        });
        self.count(CountsRow { sequence, ..change });
        sequence
    }

    pub(super) fn count(&mut self, change: CountsRow) {
        let generation = change.generation;
        let counts = self.counts.entry(generation).or_insert(CountsRow { generation, ..CountsRow::default() });
        counts.sequence = counts.sequence.max(change.sequence);
        counts.documents += change.documents;
        counts.serving += change.serving;
        counts.chunks += change.chunks;
        counts.vectors += change.vectors;
    }

    fn delete(&mut self, case: &Case<'a>) -> WriteOutcome {
        let Some((known, live)) = alive(case) else { return WriteOutcome::NotFound };
        self.retire(case);
        let (serving, others): (Vec<Held<'_>>, Vec<Held<'_>>) =
            holdings(case).into_iter().partition(|held| held.generation == live.generation);
        let mut sequence = 0;
        for held in others.into_iter().chain(serving) {
            sequence = self.log_removal(case, (known.id, known.version), held);
        }
        self.drop_standbys(case);
        self.rows.deleted.push((known.id, sequence));
        WriteOutcome::Deleted { sequence: Sequence(sequence as u64) }
    }

    fn embed(&mut self, case: &Case<'a>, new: &'a [NewEmbedding]) -> Result<WriteOutcome, StoreError> {
        let Some((known, live)) = alive(case) else { return Ok(WriteOutcome::NotFound) };
        // It has moved since: these vectors may be another model's.
        if live.generation != case.place.generation {
            return Ok(unchanged(known, live));
        }
        check_dimensions(case.change, live.embedder, new.iter().map(|new| new.vector.len()))?;
        let mut waiting: HashMap<(ChunkId, ContentHash), i64> =
            case.previous.iter().filter_map(|chunk| Some(((chunk.id, chunk.pending_input?), chunk.row))).collect();
        let mut added = Vec::new();
        for NewEmbedding { chunk, input_hash, vector } in new {
            // A vector of an older title or text comes too late: that chunk waits for another input now.
            let (Some(row), Some(embedder)) = (waiting.remove(&(*chunk, *input_hash)), live.embedder) else {
                continue;
            };
            let embedding = self.vector_row((case.place.tenant, embedder.id, *input_hash), vector);
            self.rows.reembedded.push(Reembedded { chunk: row, embedding: Some(embedding), pending_input: None });
            added.push(*chunk);
        }
        if added.is_empty() {
            return Ok(unchanged(known, live));
        }
        let change = CountsRow { generation: live.generation, vectors: added.len() as i64, ..CountsRow::default() };
        let removed = Vec::new();
        let change = LogChange { operation: Operation::Put, added, removed, change };
        let sequence = self.log(case, (known.id, known.version), change);
        self.rows.touched.push((known.id, sequence));
        Ok(WriteOutcome::Written { version: known.version as u64, sequence: Sequence(sequence as u64) })
    }
}

/// What a log row says, and what it does to the counts of its generation.
struct LogChange {
    operation: Operation,
    added: Vec<ChunkId>,
    removed: Vec<ChunkId>,
    change: CountsRow,
}

/// What a generation holds of a document from now on.
pub(super) struct HeldChange<'c> {
    pub generation: i64,
    /// `None`: it held nothing of it.
    pub before: Option<&'c [PreviousChunk]>,
    /// Its chunks, each with the row of its embedding.
    pub after: (&'c ChunkingColumns, &'c [Option<i64>]),
    /// By how much the number of documents that it serves changes.
    pub serving: i64,
}

/// Rows that a new chunk points to.
pub(super) struct OwnerRows {
    pub document: i64,
    pub version: i64,
    pub first_segment: i64,
    pub generation: (i64, Option<EmbedderRow>),
    /// `None`: the chunks serve.
    pub standby_of: Option<i64>,
}

pub(super) fn unchanged(known: &Known, live: &Live) -> WriteOutcome {
    WriteOutcome::Unchanged { version: known.version as u64, sequence: Sequence(live.sequence as u64) }
}

pub(super) fn alive<'c>(case: &'c Case<'_>) -> Option<(&'c Known, &'c Live)> {
    let known = case.known.as_ref()?;
    Some((known, known.live.as_ref()?))
}

fn embedded(chunks: &[PreviousChunk]) -> impl Iterator<Item = (ChunkId, i64)> {
    chunks.iter().filter_map(|chunk| Some((chunk.id, chunk.embedding?)))
}

fn pending(embedding: Option<i64>, input: ContentHash, embedder: Option<EmbedderRow>) -> Option<ContentHash> {
    (embedding.is_none() && embedder.is_some()).then_some(input)
}

pub(super) fn check_dimensions(
    change: &Change,
    embedder: Option<EmbedderRow>,
    lengths: impl Iterator<Item = usize>,
) -> Result<(), StoreError> {
    let expected = embedder.map_or(0, |embedder| embedder.dimensions);
    for length in lengths {
        if length != expected * size_of::<half::f16>() || expected == 0 {
            let found = length / size_of::<half::f16>();
            return Err(StoreError::DimensionMismatch { document: change.document.to_string(), found, expected });
        }
    }
    Ok(())
}

fn next(last: &mut i64) -> i64 {
    *last += 1;
    *last
}
