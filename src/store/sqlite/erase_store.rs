//! Forgetting, as callers ask for it: reads tell what there is, the one writer removes it part by part.

use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use sqlx::SqliteConnection;

use crate::domain::{ChunkId, CollectionName, DocumentId, Needles, TaskKind, TenantScope};
use crate::store::{CorpusRows, Erased, Erasure, KeepVersions, Records, StoreError, StoredDocument};

use super::codec::{Columns, to_json};
use super::erase::{REMOVE_AT_ONCE, Removal};
use super::erase_records::{Found, Wanted, find};
use super::forget_versions::old_versions;
use super::store::SqliteStore;
use super::writer::{Answer, Request};

/// Rows that one removal names.
const NAMED_AT_ONCE: usize = 100;

/// A document's row, deleted or not.
struct DocumentRow {
    id: i64,
    tenant: i64,
    collection: i64,
    serves: bool,
    versions: Vec<i64>,
}

impl SqliteStore {
    // What is removed has to go, however busy the writer is.
    async fn remove(&self, removal: Removal) -> Result<u64, StoreError> {
        match self.send_patiently(Request::Remove(removal)).await? {
            Answer::Removed(rows) => Ok(rows),
            _ => Ok(0),
        }
    }

    /// Removes part after part until nothing is left.
    async fn remove_all(&self, rows: &[i64], removal: fn(Vec<i64>) -> Removal) -> Result<(), StoreError> {
        for rows in rows.chunks(NAMED_AT_ONCE) {
            while self.remove(removal(rows.to_vec())).await? > 0 {}
        }
        Ok(())
    }

    /// For removals that may be made again without an end: an update changes the same rows each time.
    async fn remove_once(&self, rows: &[i64], removal: fn(Vec<i64>) -> Removal) -> Result<(), StoreError> {
        for rows in rows.chunks(NAMED_AT_ONCE) {
            self.remove(removal(rows.to_vec())).await?;
        }
        Ok(())
    }

    async fn remove_unused_embeddings(&self, tenant: i64) -> Result<u64, StoreError> {
        const LAST: &str = "SELECT COALESCE(MAX(id), 0) FROM embeddings";
        let last: i64 = sqlx::query_scalar(LAST).fetch_one(self.lend().await?.connection()).await?;
        let (mut after, mut removed) = (0, 0);
        while after < last {
            removed += self.remove(Removal::Embeddings { tenant, after }).await?;
            after += REMOVE_AT_ONCE;
        }
        Ok(removed)
    }

    async fn find_records(&self, wanted: &Wanted<'_>) -> Result<Found, StoreError> {
        find(self.lend().await?.connection(), wanted).await
    }
}

#[async_trait]
impl Erasure for SqliteStore {
    async fn remains(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<StoredDocument>, StoreError> {
        let mut reader = self.lend().await?;
        let Some(row) = document_row(reader.connection(), scope, (collection, document)).await? else {
            return Ok(None);
        };
        let mut needles = Needles::default();
        add_names(reader.connection(), row.id, &mut needles).await?;
        for version in &row.versions {
            needles = add_version(reader.connection(), *version, needles).await?;
        }
        Ok(Some(StoredDocument { versions: row.versions.len() as u64, needles }))
    }

    async fn records(
        &self,
        scope: &TenantScope,
        document: &DocumentId,
        needles: Arc<Needles>,
        spared: &TaskKind,
    ) -> Result<Records, StoreError> {
        let wanted = Wanted { tenant: &scope.tenant, document, needles, spared };
        Ok(told(self.find_records(&wanted).await?))
    }

    async fn erase_records(
        &self,
        scope: &TenantScope,
        document: &DocumentId,
        needles: Arc<Needles>,
        spared: &TaskKind,
    ) -> Result<Records, StoreError> {
        let wanted = Wanted { tenant: &scope.tenant, document, needles, spared };
        let found = self.find_records(&wanted).await?;
        // Before the tasks: by them the calls are found.
        self.remove_once(&found.calls, Removal::Bodies).await?;
        self.remove_once(&found.traces, Removal::Traces).await?;
        self.remove_all(&found.cases, Removal::Cases).await?;
        self.remove_all(&found.runs, Removal::Runs).await?;
        Ok(told(found))
    }

    async fn erase_document(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Erased, StoreError> {
        let found = document_row(self.lend().await?.connection(), scope, (collection, document)).await?;
        let nothing = CorpusRows::default();
        let Some(row) = found else { return Ok(Erased::Gone { removed: nothing, left: nothing }) };
        if row.serves {
            return Ok(Erased::Serves);
        }
        let vectors = vectors_of(self.lend().await?.connection(), &row.versions).await?;
        let chunks = count_chunks(self.lend().await?.connection(), &row.versions).await?;
        let log = log_rows(self.lend().await?.connection(), row.id).await?;
        self.remove_once(&log, Removal::LogIds).await?;
        self.remove_all(&row.versions, Removal::Versions).await?;
        let embeddings = self.remove_unused_embeddings(row.tenant).await?;
        self.remove(Removal::Head(row.id)).await?;
        let name = document.to_string();
        let began = now_us();
        let mut contexts = 0;
        loop {
            match self.remove(Removal::Contexts { tenant: row.tenant }).await? {
                0 => break,
                removed => contexts += removed,
            }
        }
        let judgements = self.remove(Removal::Judgements { collection: row.collection, document: name }).await?;
        let left = count_left(self.lend().await?.connection(), (&row, document), (&vectors, began)).await?;
        let versions = row.versions.len() as u64;
        Ok(Erased::Gone { removed: CorpusRows { versions, chunks, embeddings, contexts, judgements }, left })
    }

    async fn free_id(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<bool, StoreError> {
        match document_row(self.lend().await?.connection(), scope, (collection, document)).await? {
            Some(row) => Ok(self.remove(Removal::Document(row.id)).await? > 0),
            None => Ok(true),
        }
    }

    async fn forget_versions(&self, keep: KeepVersions) -> Result<u64, StoreError> {
        const TENANTS: &str = "SELECT id FROM tenants";
        let (mut after, mut forgotten) = (0, 0);
        loop {
            let (old, last) = old_versions(self.lend().await?.connection(), keep, after).await?;
            self.remove_all(&old, Removal::Versions).await?;
            forgotten += old.len() as u64;
            match last {
                Some(last) => after = last,
                None => break,
            }
        }
        if forgotten > 0 {
            let tenants: Vec<i64> = sqlx::query_scalar(TENANTS).fetch_all(self.lend().await?.connection()).await?;
            for tenant in tenants {
                self.remove_unused_embeddings(tenant).await?;
            }
        }
        Ok(forgotten)
    }

    async fn empty_log(&self) -> Result<bool, StoreError> {
        Ok(self.remove(Removal::Log).await? == 0)
    }

    async fn rewrite(&self) -> Result<(), StoreError> {
        self.remove(Removal::Slack).await.map(drop)
    }

    async fn holds(&self, bytes: &[u8]) -> Result<bool, StoreError> {
        let mut reader = self.lend().await?;
        for sql in HOLDERS {
            if sqlx::query_scalar(sql).bind(bytes).fetch_one(reader.connection()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn told(found: Found) -> Records {
    let Found { runs, open_tasks, calls, traces, cases } = found;
    let [tasks, bodies, traces, cases] = [&runs, &calls, &traces, &cases].map(|rows| rows.len() as u64);
    Records { tasks, open_tasks, bodies, traces, cases }
}

async fn document_row(
    connection: &mut SqliteConnection,
    scope: &TenantScope,
    (collection, document): (&CollectionName, &DocumentId),
) -> Result<Option<DocumentRow>, StoreError> {
    const DOCUMENT: &str = "SELECT d.id, d.tenant_id, k.id, d.chunking_id IS NOT NULL FROM tenants t \
        CROSS JOIN collections k ON k.tenant_id = t.id \
        CROSS JOIN documents d ON d.collection_id = k.id WHERE t.name = $1 AND k.name = $2 AND d.name = $3";
    const VERSIONS: &str = "SELECT id FROM versions WHERE document_id = $1 ORDER BY number";
    let query = sqlx::query(DOCUMENT).bind(scope.tenant.as_str()).bind(collection.as_str()).bind(document.as_str());
    let Some(row) = query.fetch_optional(&mut *connection).await? else { return Ok(None) };
    let mut columns = Columns::of(&row);
    let (id, tenant, collection, serves) = (columns.take()?, columns.take()?, columns.take()?, columns.take()?);
    let versions = sqlx::query_scalar(VERSIONS).bind(id).fetch_all(&mut *connection).await?;
    Ok(Some(DocumentRow { id, tenant, collection, serves, versions }))
}

async fn add_names(connection: &mut SqliteConnection, document: i64, needles: &mut Needles) -> Result<(), StoreError> {
    const SQL: &str = "SELECT title, source_uri FROM documents WHERE id = $1";
    let row = sqlx::query(SQL).bind(document).fetch_one(&mut *connection).await?;
    let mut columns = Columns::of(&row);
    for _ in 0..2 {
        if let Some(name) = columns.take::<Option<&str>>()? {
            needles.add_name(name);
        }
    }
    Ok(())
}

async fn add_version(
    connection: &mut SqliteConnection,
    version: i64,
    mut needles: Needles,
) -> Result<Needles, StoreError> {
    const TEXT: &str = "SELECT COALESCE(group_concat(s.text, '' ORDER BY s.id), '') FROM versions v \
        CROSS JOIN segments s ON s.id BETWEEN v.first_segment AND v.first_segment + v.segment_count - 1 WHERE v.id = $1";
    const CHUNKS: &str = "SELECT c.chunk_id FROM chunkings g \
        CROSS JOIN chunks c ON c.id BETWEEN g.first_chunk AND g.first_chunk + g.chunk_count - 1 WHERE g.version_id = $1";
    let text: String = sqlx::query_scalar(TEXT).bind(version).fetch_one(&mut *connection).await?;
    let mut rows = sqlx::query(CHUNKS).bind(version).fetch(&mut *connection);
    while let Some(row) = rows.try_next().await? {
        needles.add_chunk(ChunkId(Columns::of(&row).hash()?));
    }
    let taken_in = move || {
        needles.add_text(&text);
        needles
    };
    // Fails only if the runtime is shutting down.
    tokio::task::spawn_blocking(taken_in).await.map_err(|_| StoreError::Closed)
}

async fn count_chunks(connection: &mut SqliteConnection, versions: &[i64]) -> Result<u64, StoreError> {
    const SQL: &str = "SELECT COALESCE(SUM(g.chunk_count), 0) FROM json_each($1) j \
        CROSS JOIN chunkings g ON g.version_id = j.value";
    let count: i64 = sqlx::query_scalar(SQL).bind(to_json(versions)).fetch_one(&mut *connection).await?;
    Ok(count.unsigned_abs())
}

/// The vectors that chunks of these versions have.
async fn vectors_of(connection: &mut SqliteConnection, versions: &[i64]) -> Result<Vec<i64>, StoreError> {
    const SQL: &str = "SELECT DISTINCT c.embedding_id FROM json_each($1) j \
        CROSS JOIN chunkings g ON g.version_id = j.value CROSS JOIN chunks c \
        ON c.id BETWEEN g.first_chunk AND g.first_chunk + g.chunk_count - 1 WHERE c.embedding_id IS NOT NULL";
    Ok(sqlx::query_scalar(SQL).bind(to_json(versions)).fetch_all(&mut *connection).await?)
}

fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// Walks the chunks: none of a version that is gone must be left behind.
async fn count_left(
    connection: &mut SqliteConnection,
    (row, document): (&DocumentRow, &DocumentId),
    (vectors, began_us): (&[i64], i64),
) -> Result<CorpusRows, StoreError> {
    const SQL: &str = "SELECT (SELECT COUNT(*) FROM versions WHERE document_id = $1), \
        (SELECT COUNT(*) FROM chunks WHERE document_id = $1), (SELECT COUNT(*) FROM json_each($5) j \
        CROSS JOIN embeddings e ON e.id = j.value \
        WHERE NOT EXISTS (SELECT 1 FROM chunks c WHERE c.embedding_id = e.id)), \
        (SELECT COUNT(*) FROM contexts WHERE tenant_id = $2 AND written_at < $6), (SELECT COUNT(*) FROM eval_cases \
        WHERE collection_id = $3 AND EXISTS (SELECT 1 FROM json_each(relevant) WHERE key = $4))";
    let query = sqlx::query(SQL).bind(row.id).bind(row.tenant).bind(row.collection);
    let query = query.bind(document.as_str()).bind(to_json(vectors)).bind(began_us);
    let found = query.fetch_one(&mut *connection).await?;
    let mut columns = Columns::of(&found);
    Ok(CorpusRows {
        versions: columns.unsigned()?,
        chunks: columns.unsigned()?,
        embeddings: columns.unsigned()?,
        contexts: columns.unsigned()?,
        judgements: columns.unsigned()?,
    })
}

/// Reads the whole log: no index leads from a document to its rows, and erasing is rare.
async fn log_rows(connection: &mut SqliteConnection, document: i64) -> Result<Vec<i64>, StoreError> {
    const SQL: &str = "SELECT seq FROM oplog WHERE document_id = $1 AND length(added) + length(removed) > 0";
    Ok(sqlx::query_scalar(SQL).bind(document).fetch_all(&mut *connection).await?)
}

macro_rules! holder {
    ($table:literal, $column:literal) => {
        concat!("SELECT EXISTS (SELECT 1 FROM ", $table, " WHERE instr(CAST(", $column, " AS BLOB), $1) > 0)")
    };
}

/// Every place in which callers' texts stand. They are walked: bytes are asked for only after they were found.
const HOLDERS: [&str; 20] = [
    holder!("segments", "text"),
    holder!("documents", "name"),
    holder!("documents", "title"),
    holder!("documents", "source_uri"),
    holder!("documents", "metadata"),
    holder!("versions", "outline"),
    holder!("chunks", "heading_path"),
    holder!("chunks", "metadata"),
    holder!("chunks", "context"),
    holder!("contexts", "text"),
    holder!("eval_cases", "query"),
    holder!("eval_cases", "relevant"),
    holder!("llm_calls", "request_body"),
    holder!("llm_calls", "response_body"),
    holder!("spans", "attributes"),
    holder!("task_inputs", "input"),
    holder!("task_outputs", "output"),
    holder!("task_steps", "input"),
    holder!("task_steps", "output"),
    holder!("task_failures", "error"),
];
