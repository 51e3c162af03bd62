//! The rows of documents that stand ready in generations that do not serve them, and of those that move.

use std::sync::LazyLock;

use crate::store::StoreError;

use super::script::{Insert, Parameters, Script};

/// What a wave of writes changes about generations that serve none of its documents, or serve them from now on.
#[derive(Debug, Default)]
pub(super) struct StandbyRows {
    /// Chunkings that are ready no more, with the first and last row of their chunks.
    pub dropped: Vec<(i64, i64, i64)>,
    /// Documents that are ready no more, each with the generation before it.
    pub unready: Vec<(i64, i64)>,
    /// Ranges of chunk rows that served and stand ready now, each with its generation.
    pub parked: Vec<(i64, i64, i64)>,
    /// Ranges of chunk rows that stood ready and serve now.
    pub raised: Vec<(i64, i64)>,
    pub ready: Vec<StandbyRow>,
    pub moved: Vec<MovedRow>,
}

/// A document that stands ready in a generation.
#[derive(Debug)]
pub(super) struct StandbyRow {
    pub generation: i64,
    pub document: i64,
    pub chunking: i64,
    pub first_chunk: i64,
    pub chunk_count: i64,
    /// The operation by which the generation came to hold it.
    pub sequence: i64,
}

/// A document that is served from another generation now.
#[derive(Debug)]
pub(super) struct MovedRow {
    pub document: i64,
    pub generation: i64,
    pub chunking: i64,
    pub first_chunk: i64,
    pub chunk_count: i64,
    pub placed_by: i64,
}

impl StandbyRows {
    /// What has to be out of the way before anything is added.
    pub(super) fn clear(&self, script: &mut Script<'_>) {
        script.list(DROP_CHUNKS, &self.dropped, |(_, first, last)| format!("[{first},{last}]"));
        script.list(DROP_CHUNKINGS, &self.dropped, |(chunking, ..)| chunking.to_string());
        script.list(UNREADY, &self.unready, |(generation, document)| format!("[{generation},{document}]"));
        // In this order: a chunk id serves once only, and both chunkings may hold the same ids.
        script.list(PARK, &self.parked, |(first, last, generation)| format!("[{first},{last},{generation}]"));
        script.list(RAISE, &self.raised, |(first, last)| format!("[{first},{last}]"));
    }

    /// What refers to rows that were added.
    pub(super) async fn settle(&self, script: &mut Script<'_>) -> Result<(), StoreError> {
        script.insert(&READY, &self.ready, StandbyRow::bind).await?;
        script.list(MOVE, &self.moved, MovedRow::to_json);
        Ok(())
    }
}

const DROP_CHUNKS: &str = "DELETE FROM chunks WHERE id IN \
    (SELECT c.id FROM json_each(?) j CROSS JOIN chunks c ON c.id BETWEEN j.value ->> 0 AND j.value ->> 1)";
const DROP_CHUNKINGS: &str = "DELETE FROM chunkings WHERE id IN (SELECT value FROM json_each(?))";
const UNREADY: &str = "DELETE FROM standbys WHERE (generation_id, document_id) IN \
    (SELECT value ->> 0, value ->> 1 FROM json_each(?))";
const PARK: &str = "UPDATE chunks SET live = 0, standby_of = range.generation FROM (SELECT c.id AS chunk, \
    j.value ->> 2 AS generation FROM json_each(?) j \
    CROSS JOIN chunks c ON c.id BETWEEN j.value ->> 0 AND j.value ->> 1) range WHERE chunks.id = range.chunk";
const RAISE: &str = "UPDATE chunks SET live = 1, standby_of = NULL WHERE id IN \
    (SELECT c.id FROM json_each(?) j CROSS JOIN chunks c ON c.id BETWEEN j.value ->> 0 AND j.value ->> 1)";
const MOVE: &str = "UPDATE documents SET generation_id = move.generation, chunking_id = move.chunking, \
    first_chunk = move.first_chunk, chunk_count = move.chunks, placed_by = move.placed_by FROM \
    (SELECT value ->> 0 AS id, value ->> 1 AS generation, value ->> 2 AS chunking, value ->> 3 AS first_chunk, \
    value ->> 4 AS chunks, value ->> 5 AS placed_by FROM json_each(?)) move WHERE documents.id = move.id";

/// The statements that change rows found by other than an insert.
#[cfg(test)]
pub(super) const STANDBY_UPDATES: [&str; 6] = [DROP_CHUNKS, DROP_CHUNKINGS, UNREADY, PARK, RAISE, MOVE];

static READY: LazyLock<Insert> = LazyLock::new(|| {
    let columns = ["generation_id", "document_id", "chunking_id", "first_chunk", "chunk_count", "sequence"];
    Insert::into("standbys", &columns, "")
});

impl StandbyRow {
    fn bind(&self, to: &mut Parameters) {
        to.add(self.generation).add(self.document).add(self.chunking);
        to.add(self.first_chunk).add(self.chunk_count).add(self.sequence);
    }
}

impl MovedRow {
    fn to_json(&self) -> String {
        let Self { document, generation, chunking, first_chunk, chunk_count, placed_by } = self;
        format!("[{document},{generation},{chunking},{first_chunk},{chunk_count},{placed_by}]")
    }
}
