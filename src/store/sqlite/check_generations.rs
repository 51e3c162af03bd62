//! Compares what is stored twice about generations: who serves a document, where it stands ready, and the counts.

use sqlx::SqliteConnection;

use crate::store::StoreError;

use super::check::TruthReport;
use super::codec::Columns;

/// Adds a finding for each thing that contradicts another.
pub(super) async fn check(reader: &mut SqliteConnection, report: &mut TruthReport) -> Result<(), StoreError> {
    for (sql, what) in [
        (LIVE, "its live generation is not the only one that is live"),
        (SERVING, "it is not served from chunks of its generation and its newest version"),
        (READY, "what stands ready is not of a version that serves, or serves itself"),
        (FLAGS, "chunks say otherwise whether they serve or stand ready"),
    ] {
        for row in &sqlx::query(sql).fetch_all(&mut *reader).await? {
            let mut columns = Columns::of(row);
            let (collection, document): (String, Option<String>) = (columns.take()?, columns.take()?);
            let document = document.map(|name| format!(" document {name}")).unwrap_or_default();
            report.found(format!("collection {collection}{document}: {what}"));
        }
    }
    check_counts(reader, report).await
}

/// What a generation says it holds, and what it holds.
async fn check_counts(reader: &mut SqliteConnection, report: &mut TruthReport) -> Result<(), StoreError> {
    for row in &sqlx::query(COUNTS).fetch_all(&mut *reader).await? {
        let mut columns = Columns::of(row);
        let collection: String = columns.take()?;
        for what in ["documents", "documents that it serves", "chunks", "vectors"] {
            let (told, counted): (i64, i64) = (columns.take()?, columns.take()?);
            if told != counted {
                let said = format!("a generation says that it has {told} {what}, and has {counted}");
                report.found(format!("collection {collection}: {said}"));
            }
        }
    }
    Ok(())
}

const LIVE: &str = "SELECT k.name, NULL FROM collections k WHERE k.live_generation_id IS NOT \
    (SELECT MAX(g.id) FROM generations g WHERE g.collection_id = k.id AND g.state = 'live') \
    OR (SELECT COUNT(*) FROM generations g WHERE g.collection_id = k.id AND g.state = 'live') <> 1";
const SERVING: &str = "SELECT k.name, d.name FROM documents d JOIN collections k ON k.id = d.collection_id \
    WHERE d.chunking_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM chunkings q WHERE q.id = d.chunking_id \
    AND q.version_id = d.version_id AND q.generation_id = d.generation_id AND q.first_chunk = d.first_chunk \
    AND q.chunk_count = d.chunk_count)";
const READY: &str = "SELECT k.name, d.name FROM standbys s JOIN documents d ON d.id = s.document_id \
    JOIN collections k ON k.id = d.collection_id JOIN generations g ON g.id = s.generation_id \
    LEFT JOIN chunkings q ON q.id = s.chunking_id WHERE g.state <> 'retired' AND (d.chunking_id IS NULL \
    OR d.generation_id = s.generation_id OR g.collection_id <> k.id OR q.version_id IS NOT d.version_id \
    OR q.generation_id IS NOT s.generation_id OR q.first_chunk <> s.first_chunk OR q.chunk_count <> s.chunk_count)";
// What a retired generation had ready is forgotten before its chunks go.
const FLAGS: &str = "SELECT k.name, d.name FROM chunks c JOIN documents d ON d.id = c.document_id \
    JOIN collections k ON k.id = d.collection_id \
    LEFT JOIN standbys s ON s.document_id = c.document_id AND s.chunking_id = c.chunking_id \
    LEFT JOIN generations g ON g.id = c.standby_of \
    WHERE c.live <> (d.chunking_id IS NOT NULL AND d.chunking_id = c.chunking_id) \
    OR (c.standby_of IS NOT s.generation_id AND g.state IS NOT 'retired') GROUP BY d.id";
const COUNTS: &str = "SELECT k.name, \
    g.live_documents, h.serving + h.ready, g.serving_documents, h.serving, \
    g.live_chunks, h.chunks, g.live_vectors, h.vectors \
    FROM (SELECT g.id, \
        (SELECT COUNT(*) FROM documents d WHERE d.generation_id = g.id AND d.chunking_id IS NOT NULL) AS serving, \
        (SELECT COUNT(*) FROM standbys s WHERE s.generation_id = g.id) AS ready, \
        (SELECT COUNT(*) FROM chunkings q CROSS JOIN chunks c ON c.chunking_id = q.id \
            AND (c.live = 1 OR c.standby_of = g.id) WHERE q.generation_id = g.id) AS chunks, \
        (SELECT COUNT(*) FROM chunkings q CROSS JOIN chunks c ON c.chunking_id = q.id \
            AND (c.live = 1 OR c.standby_of = g.id) WHERE q.generation_id = g.id \
            AND c.embedding_id IS NOT NULL) AS vectors FROM generations g) h \
    JOIN generations g ON g.id = h.id JOIN collections k ON k.id = g.collection_id WHERE g.state <> 'retired'";
