//! Decides what changes where a document is built in another generation, or served from there. Reads and writes nothing.

use crate::domain::Sequence;
use crate::store::{StoreError, WriteOutcome};

use super::plan::{Case, HeldChange, OwnerRows, Planner, alive, check_dimensions, unchanged};
use super::prepare::BuildColumns;
use super::rows::CountsRow;
use super::standby_rows::{MovedRow, StandbyRow};
use super::standing::{PreviousChunk, Standby};

/// What a generation holds of a document before a write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'c> {
    pub generation: i64,
    /// 1 for the generation that serves it, 0 for the others.
    pub serving: i64,
    pub chunks: &'c [PreviousChunk],
}

/// Of every generation that holds the document; the one that serves it first.
pub(super) fn holdings<'c>(case: &'c Case<'_>) -> Vec<Held<'c>> {
    let Some((_, live)) = alive(case) else { return Vec::new() };
    let serving = Held { generation: live.generation, serving: 1, chunks: &case.previous };
    let ready = |standby: &'c Standby| Held { generation: standby.generation, serving: 0, chunks: &standby.chunks };
    std::iter::once(serving).chain(live.standbys.iter().map(ready)).collect()
}

impl<'a> Planner<'a> {
    /// Lets go of what stands ready of a document: it was made from what the document was before.
    pub(super) fn drop_standbys(&mut self, case: &Case<'a>) {
        let Some((known, live)) = alive(case) else { return };
        for standby in &live.standbys {
            self.drop_chunks(standby);
            self.rows.standby.unready.push((standby.generation, known.id));
        }
    }

    fn drop_chunks(&mut self, standby: &Standby) {
        let last = standby.first_chunk + standby.chunk_count - 1;
        self.rows.standby.dropped.push((standby.chunking, standby.first_chunk, last));
    }

    pub(super) fn build(&mut self, case: &Case<'a>, build: &'a BuildColumns) -> Result<WriteOutcome, StoreError> {
        let (Some((known, live)), Some(target)) = (alive(case), case.target) else { return Ok(WriteOutcome::NotFound) };
        if Sequence(live.sequence as u64) != build.seen {
            return Ok(WriteOutcome::Outdated);
        }
        if live.generation == target.generation {
            return Ok(unchanged(known, live));
        }
        check_dimensions(case.change, target.embedder, build.chunking.vector_lengths())?;
        let text_end = case.pieces.last().map_or(0, |piece| piece.end);
        if build.chunking.chunks.iter().any(|chunk| chunk.span.end > text_end) {
            return Err(StoreError::SpanMismatch { document: case.change.document.to_string() });
        }
        let before = live.standbys.iter().find(|standby| standby.generation == target.generation);
        if let Some(standby) = before {
            self.drop_chunks(standby);
            self.rows.standby.unready.push((standby.generation, known.id));
        }
        let embeddings = self.embeddings(case.place.tenant, target.embedder, &build.chunking);
        let owner = OwnerRows {
            document: known.id,
            version: live.version_id,
            first_segment: live.first_segment,
            generation: (target.generation, target.embedder),
            standby_of: Some(target.generation),
        };
        let (chunking, first_chunk) = self.add_chunks(case, &build.chunking, &owner, &embeddings);
        let change = HeldChange {
            generation: target.generation,
            before: before.map(|standby| standby.chunks.as_slice()),
            after: (&build.chunking, &embeddings),
            serving: 0,
        };
        let sequence = self.log_held(case, (known.id, known.version), change);
        self.rows.standby.ready.push(StandbyRow {
            generation: target.generation,
            document: known.id,
            chunking,
            first_chunk,
            chunk_count: build.chunking.chunks.len() as i64,
            sequence,
        });
        Ok(WriteOutcome::Written { version: known.version as u64, sequence: Sequence(sequence as u64) })
    }

    /// Swaps the roles of two chunkings. Both indexes hold the document before and after, so neither is told.
    pub(super) fn serve(&mut self, case: &Case<'a>) -> WriteOutcome {
        let (Some((known, live)), Some(target)) = (alive(case), case.target) else { return WriteOutcome::NotFound };
        if live.generation == target.generation {
            return WriteOutcome::Serves;
        }
        let standby = live.standbys.iter().find(|standby| standby.generation == target.generation);
        let Some(standby) = standby else { return WriteOutcome::NotFound };
        let rows = &mut self.rows.standby;
        rows.parked.push((live.first_chunk, live.first_chunk + live.chunk_count - 1, live.generation));
        rows.raised.push((standby.first_chunk, standby.first_chunk + standby.chunk_count - 1));
        rows.unready.push((target.generation, known.id));
        rows.ready.push(StandbyRow {
            generation: live.generation,
            document: known.id,
            chunking: live.chunking,
            first_chunk: live.first_chunk,
            chunk_count: live.chunk_count,
            sequence: live.placed_by,
        });
        rows.moved.push(MovedRow {
            document: known.id,
            generation: target.generation,
            chunking: standby.chunking,
            first_chunk: standby.first_chunk,
            chunk_count: standby.chunk_count,
            placed_by: standby.sequence,
        });
        self.count(CountsRow { generation: live.generation, serving: -1, ..CountsRow::default() });
        self.count(CountsRow { generation: target.generation, serving: 1, ..CountsRow::default() });
        WriteOutcome::Serves
    }
}
