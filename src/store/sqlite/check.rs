//! Reads all of the truth and compares what is stored twice: pages and indexes, texts and their hashes, chunks and the
//! ids that are made from them, counts and what they count.
//!
//! Changes nothing. Another process may hold the directory: one committed state is read.

use std::collections::HashMap;
use std::path::Path;

use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::domain::{ChunkId, ChunkOwner, ChunkerSpec, CollectionName, DocumentId, Fingerprint, Profile, TenantId};
use crate::store::StoreError;

use super::backup::reader;
use super::check_generations;
use super::codec::{Columns, from_json, from_text};
use super::open::must_be_current;

/// Most findings that are told; a damaged disk has more than anybody reads.
const MAX_FINDINGS: usize = 100;
/// Documents that are read at once.
const DOCUMENTS_AT_ONCE: i64 = 64;

/// What a check has read and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TruthReport {
    pub documents: u64,
    pub versions: u64,
    pub chunks: u64,
    pub embeddings: u64,
    /// A sentence for each thing that is not as it was written, the first hundred; empty if all is well.
    pub findings: Vec<String>,
}

impl TruthReport {
    pub(super) fn found(&mut self, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(what);
        }
    }
}

/// Checks the database in the file `path`. Memory is that of a few documents.
pub async fn check_truth(path: &Path) -> Result<TruthReport, StoreError> {
    let mut reader = reader(path).await?;
    must_be_current(&mut reader).await?;
    let mut report = TruthReport::default();
    check_structure(&mut reader, &mut report).await?;
    // One state from the first row to the last, whatever is written meanwhile.
    let mut snapshot = reader.begin().await?;
    let specs = chunker_fingerprints(&mut snapshot).await?;
    let mut after = 0;
    loop {
        let documents = next_documents(&mut snapshot, after).await?;
        let Some(last) = documents.last() else { break };
        after = last.id;
        for document in &documents {
            check_document(&mut snapshot, document, &specs, &mut report).await?;
        }
    }
    check_embeddings(&mut snapshot, &mut report).await?;
    check_generations::check(&mut snapshot, &mut report).await?;
    check_task_counts(&mut snapshot, &mut report).await?;
    drop(snapshot);
    reader.close().await?;
    Ok(report)
}

async fn check_structure(reader: &mut SqliteConnection, report: &mut TruthReport) -> Result<(), StoreError> {
    let verdicts: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(100)").fetch_all(&mut *reader).await?;
    for verdict in verdicts.into_iter().filter(|verdict| verdict != "ok") {
        report.found(format!("database: {verdict}"));
    }
    for row in sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut *reader).await? {
        let (table, parent): (String, String) = (row.try_get(0)?, row.try_get(2)?);
        report.found(format!("database: a row of {table} names a row of {parent} that is not there"));
    }
    Ok(())
}

/// A document with the names that enter its chunks' ids.
struct StoredDocument {
    id: i64,
    tenant: TenantId,
    collection: CollectionName,
    name: DocumentId,
}

async fn next_documents(reader: &mut SqliteConnection, after: i64) -> Result<Vec<StoredDocument>, StoreError> {
    const SQL: &str = "SELECT d.id, t.name, c.name, d.name FROM documents AS d JOIN tenants AS t ON t.id = d.tenant_id \
        JOIN collections AS c ON c.id = d.collection_id WHERE d.id > $1 ORDER BY d.id LIMIT $2";
    let rows = sqlx::query(SQL).bind(after).bind(DOCUMENTS_AT_ONCE).fetch_all(&mut *reader).await?;
    let mut documents = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        documents.push(StoredDocument {
            id: columns.take()?,
            tenant: from_text("tenants.name", columns.take()?)?,
            collection: from_text("collections.name", columns.take()?)?,
            name: from_text("documents.name", columns.take()?)?,
        });
    }
    Ok(documents)
}

/// Of the chunker of each generation.
async fn chunker_fingerprints(reader: &mut SqliteConnection) -> Result<HashMap<i64, Fingerprint>, StoreError> {
    let rows = sqlx::query("SELECT id, profile FROM generations").fetch_all(&mut *reader).await?;
    let mut fingerprints = HashMap::with_capacity(rows.len());
    for row in &rows {
        let mut columns = Columns::of(row);
        let id = columns.take()?;
        let profile: Profile = from_json("generations.profile", columns.take()?)?;
        fingerprints.insert(id, profile.chunker.fingerprint());
    }
    Ok(fingerprints)
}

async fn check_document(
    reader: &mut SqliteConnection,
    document: &StoredDocument,
    specs: &HashMap<i64, Fingerprint>,
    report: &mut TruthReport,
) -> Result<(), StoreError> {
    report.documents += 1;
    const VERSIONS: &str = "SELECT id, number, text_hash, first_segment, segment_count FROM versions \
        WHERE document_id = $1 ORDER BY number";
    let versions = sqlx::query(VERSIONS).bind(document.id).fetch_all(&mut *reader).await?;
    for row in &versions {
        let mut columns = Columns::of(row);
        let (id, number): (i64, i64) = (columns.take()?, columns.take()?);
        let text_hash: [u8; 16] = columns.hash()?;
        let (first, count): (i64, i64) = (columns.take()?, columns.take()?);
        report.versions += 1;
        let name = format!("document {} of {} version {number}", document.name, document.collection);
        let text = version_text(reader, first, count).await?;
        if blake3::hash(text.as_bytes()).as_bytes()[..16] != text_hash {
            report.found(format!("{name}: the text is not the one that was stored"));
            continue;
        }
        check_chunkings(reader, (document, id, &name), (&text, specs), report).await?;
    }
    Ok(())
}

async fn version_text(reader: &mut SqliteConnection, first: i64, count: i64) -> Result<String, StoreError> {
    const SQL: &str = "SELECT text FROM segments WHERE id >= $1 AND id < $1 + $2 ORDER BY id";
    let pieces: Vec<String> = sqlx::query_scalar(SQL).bind(first).bind(count).fetch_all(&mut *reader).await?;
    Ok(pieces.concat())
}

async fn check_chunkings(
    reader: &mut SqliteConnection,
    (document, version, name): (&StoredDocument, i64, &str),
    (text, specs): (&str, &HashMap<i64, Fingerprint>),
    report: &mut TruthReport,
) -> Result<(), StoreError> {
    const CHUNKINGS: &str =
        "SELECT generation_id, first_chunk, chunk_count, chunker FROM chunkings WHERE version_id = $1";
    const CHUNKS: &str =
        "SELECT chunk_id, span_start, span_end FROM chunks WHERE id >= $1 AND id < $1 + $2 ORDER BY id";
    for row in &sqlx::query(CHUNKINGS).bind(version).fetch_all(&mut *reader).await? {
        let mut columns = Columns::of(row);
        let (generation, first, count): (i64, i64, i64) = (columns.take()?, columns.take()?, columns.take()?);
        let own: Option<&str> = columns.take()?;
        let fingerprint = match own {
            Some(json) => Some(from_json::<ChunkerSpec>("chunkings.chunker", json)?.fingerprint()),
            None => specs.get(&generation).copied(),
        };
        let Some(fingerprint) = fingerprint else {
            report.found(format!("{name}: its generation is not there"));
            continue;
        };
        let rows = sqlx::query(CHUNKS).bind(first).bind(count).fetch_all(&mut *reader).await?;
        if rows.len() as i64 != count {
            report.found(format!("{name}: {count} chunks were stored, {} are there", rows.len()));
        }
        let owner = ChunkOwner { tenant: &document.tenant, collection: &document.collection, document: &document.name };
        let mut seen: HashMap<&str, u32> = HashMap::new();
        for row in &rows {
            let mut columns = Columns::of(row);
            let stored = ChunkId(columns.hash()?);
            let (start, end): (i64, i64) = (columns.take()?, columns.take()?);
            report.chunks += 1;
            let Some(slice) =
                usize::try_from(start).ok().zip(usize::try_from(end).ok()).and_then(|(a, b)| text.get(a..b))
            else {
                report.found(format!("{name}: bytes {start} to {end} of chunk {stored} are not in the text"));
                continue;
            };
            let occurrence = seen.entry(slice).or_default();
            if ChunkId::derive(&owner, fingerprint, slice, *occurrence) != stored {
                report.found(format!("{name}: chunk {stored} is not made from bytes {start} to {end}"));
            }
            *occurrence += 1;
        }
    }
    Ok(())
}

async fn check_embeddings(reader: &mut SqliteConnection, report: &mut TruthReport) -> Result<(), StoreError> {
    const COUNT: &str = "SELECT COUNT(*) FROM embeddings";
    const WRONG: &str = "SELECT e.id, length(e.vector), m.dimensions FROM embeddings AS e \
        JOIN embedders AS m ON m.id = e.embedder_id WHERE length(e.vector) <> 2 * m.dimensions LIMIT 100";
    let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *reader).await?;
    report.embeddings = count.unsigned_abs();
    for row in &sqlx::query(WRONG).fetch_all(&mut *reader).await? {
        let mut columns = Columns::of(row);
        let (id, bytes, dimensions): (i64, i64, i64) = (columns.take()?, columns.take()?, columns.take()?);
        report.found(format!("embedding {id} has {bytes} bytes, its model makes {dimensions} dimensions"));
    }
    Ok(())
}

/// How many tasks of a tenant and kind are in a state, as the limits of claims read it, and how many there are.
async fn check_task_counts(reader: &mut SqliteConnection, report: &mut TruthReport) -> Result<(), StoreError> {
    const SQL: &str = "SELECT c.tenant, c.kind, c.status, c.number, \
        (SELECT COUNT(*) FROM tasks AS t WHERE t.tenant = c.tenant AND t.kind = c.kind AND t.status = c.status) \
        FROM task_counts AS c WHERE c.number <> \
        (SELECT COUNT(*) FROM tasks AS t WHERE t.tenant = c.tenant AND t.kind = c.kind AND t.status = c.status)";
    for row in &sqlx::query(SQL).fetch_all(&mut *reader).await? {
        let mut columns = Columns::of(row);
        let (tenant, kind, status): (String, String, String) = (columns.take()?, columns.take()?, columns.take()?);
        let (told, counted): (i64, i64) = (columns.take()?, columns.take()?);
        report.found(format!("tasks of kind {kind} of {tenant}: {told} are counted as {status}, and {counted} are"));
    }
    Ok(())
}
