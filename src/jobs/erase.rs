//! `erase`: a document with everything that was written down of its text, and a receipt that says where was searched.
//!
//! The rows of the corpus go last: what other places are searched by is read from them, and is kept in memory only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::{
    CollectionName, ContentHash, DocumentId, ErrorKind, JsonText, Needles, Permission, Sequence, TaskKind, TenantScope,
};
use crate::gateway::Gateway;
use crate::ingest::{IndexPurger, Ingestor, PurgeError};
use crate::search::DEFAULT_COLLECTION;
use crate::store::{CorpusRows, Erased, Erasure, Records};
use crate::tasks::{JobHandler, Prepared, TaskError, Work};

use super::erase_files::{FoundBytes, search};
use super::fault::{not_json, of_ingest, permit};
use super::input::{Faults, read};

/// What this kind of work is called.
pub const ERASE: &str = "erase";
/// Longest wait for the indexes to follow the deletion, at one attempt. 60 s: far behind only after damage.
const INDEX_WAIT: Duration = Duration::from_secs(60);
/// Passes over what was written down: requests that were under way may write while the first one goes on.
const RECORD_PASSES: u32 = 3;
/// Times that the log is tried to be emptied; with the pause half a minute, longer than readers read.
const LOG_TRIES: u32 = 300;
const LOG_PAUSE: Duration = Duration::from_millis(100);
/// Open tasks that a failure names.
const NAMED_TASKS: usize = 5;

/// See the module.
pub(super) struct EraseJob {
    pub erasure: Arc<dyn Erasure>,
    pub ingestor: Arc<Ingestor>,
    pub indexes: IndexPurger,
    pub gateway: Gateway,
    /// Where all files lie.
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EraseInput {
    #[serde(skip_serializing_if = "Option::is_none")]
    document_id: Option<DocumentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<CollectionName>,
}

/// A checked input.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Target {
    document_id: DocumentId,
    collection: CollectionName,
}

/// What was removed, and what is left. Holds no text of the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub document_id: DocumentId,
    pub collection: CollectionName,
    /// RFC 3339, UTC.
    pub erased_at: String,
    /// The operation that took the document from sight; `None` if it was out of sight before.
    pub sequence: Option<Sequence>,
    pub places: Vec<ReceiptPlace>,
    /// By what was searched.
    pub searched: String,
    /// What may hold it still, outside of this program.
    pub backups: String,
}

/// One place of a [`Receipt`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptPlace {
    pub place: String,
    pub removed: u64,
    /// Counted after everything was removed.
    pub left: u64,
}

/// The input of a task that erases a document.
pub fn erase_input(collection: &CollectionName, document: &DocumentId) -> serde_json::Value {
    serde_json::json!({"document_id": document, "collection": collection})
}

#[async_trait]
impl JobHandler for EraseJob {
    fn kind(&self) -> TaskKind {
        kind()
    }

    fn permission(&self) -> Permission {
        Permission::Write
    }

    async fn prepare(&self, scope: &TenantScope, input: JsonText, _: Option<String>) -> Result<Prepared, TaskError> {
        permit(scope, Permission::Write, ERASE)?;
        let EraseInput { document_id, collection } = read(&input)?;
        let mut faults = Faults::default();
        if document_id.is_none() {
            faults.add("/document_id", "is required");
        }
        faults.check()?;
        let default = || CollectionName::new(DEFAULT_COLLECTION).expect("a plain word is a valid name");
        let collection = collection.unwrap_or_else(default);
        let document_id = document_id.expect("a missing one is a fault");
        // What is written under the id later is other work.
        let newest = self.ingestor.newest(scope, &collection, &document_id).await.map_err(of_ingest)?;
        let context = ContentHash::of(format!("{ERASE} {:?}", newest.map(|newest| newest.0)).as_bytes());
        let input = JsonText::of(&Target { document_id, collection }).map_err(not_json)?;
        Ok(Prepared { input, context, prompt: None, model: None, total: Some(3) })
    }

    async fn run(&self, work: &Work) -> Result<JsonText, TaskError> {
        let target: Target = work.input()?;
        let scope = &work.task().scope;
        let sequence: Option<Sequence> = work
            .step("delete", &target, async |target: Target, _| {
                let deleted = self.ingestor.delete(scope, &target.collection, &target.document_id).await;
                deleted.map_err(of_ingest)
            })
            .await?;
        let versions: u64 = work
            .step("find", &target, async |target: Target, _| {
                let remains = self.erasure.remains(scope, &target.collection, &target.document_id).await?;
                Ok(remains.map_or(0, |remains| remains.versions))
            })
            .await?;
        let erasing = Erasing { job: self, scope, versions };
        let receipt = work
            .step("erase", &target, async |target: Target, _| {
                let places = erasing.everywhere(&target).await?;
                Ok(receipt(target, sequence, places))
            })
            .await?;
        JsonText::of(&receipt).map_err(not_json)
    }
}

fn kind() -> TaskKind {
    TaskKind::new(ERASE).expect("a plain word is a valid name")
}

fn receipt(target: Target, sequence: Option<Sequence>, (places, searched): (Vec<ReceiptPlace>, String)) -> Receipt {
    let erased_at = jiff::Timestamp::now().to_string();
    let backups = format!(
        "the program keeps no list of backups: copies that `plumb backup` made before {erased_at} hold what they held"
    );
    let Target { document_id, collection } = target;
    Receipt { document_id, collection, erased_at, sequence, places, searched, backups }
}

/// One attempt at a document.
struct Erasing<'a> {
    job: &'a EraseJob,
    scope: &'a TenantScope,
    /// Versions that there were when the task began.
    versions: u64,
}

impl Erasing<'_> {
    /// Every place in turn. Whatever was done by an attempt before is found done.
    async fn everywhere(&self, target: &Target) -> Result<(Vec<ReceiptPlace>, String), TaskError> {
        let Target { document_id, collection } = target;
        // What is built of its text elsewhere ends first; what begins later does not see it.
        self.job.ingestor.let_builds_end().await;
        let remains = self.job.erasure.remains(self.scope, collection, document_id).await?;
        let is_cut_off = remains.as_ref().is_some_and(|remains| remains.versions == 0);
        let needles = Arc::new(remains.map(|remains| remains.needles).unwrap_or_default());
        let records = self.records(document_id, &needles).await?;
        let until = Instant::now() + INDEX_WAIT;
        let indexes = self.job.indexes.purge(&self.scope.tenant, collection, until).await.map_err(of_purge)?;
        let (kept, kept_left) = self.job.gateway.erase_kept(self.scope).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a cache could not be erased");
            TaskError::failed(error.kind(), "the cache could not be erased")
        })?;
        let (rows, rows_left) = match self.job.erasure.erase_document(self.scope, collection, document_id).await? {
            Erased::Gone { removed, left } => (removed, left),
            Erased::Serves => return Err(written_again()),
        };
        let mut places = of_rows(rows, rows_left);
        places.push(place("cache", kept, kept_left));
        places.extend(self.records_left(document_id, &needles, &records).await?);
        self.empty_log().await?;
        let (bytes_left, searched) = self.bytes_left((needles, is_cut_off)).await?;
        // An index that was purged holds nothing that was removed before, or its purge has failed.
        places.push(place("indexes", indexes, 0));
        places.push(place("files", 0, bytes_left));
        let left: Vec<String> =
            places.iter().filter(|one| one.left > 0).map(|one| format!("{} in {}", one.left, one.place)).collect();
        if left.is_empty() {
            // Last: until then the row is the sign that something was begun.
            return match self.job.erasure.free_id(self.scope, collection, document_id).await? {
                true => Ok((places, searched)),
                false => Err(written_again()),
            };
        }
        Err(TaskError::failed(ErrorKind::Conflict, format!("something of the document is left: {}", left.join(", "))))
    }

    async fn records(&self, document: &DocumentId, needles: &Arc<Needles>) -> Result<Records, TaskError> {
        let mut removed = Records::default();
        for _ in 0..RECORD_PASSES {
            if !self.job.gateway.settle_ledger().await {
                return Err(TaskError::failed(ErrorKind::Unavailable, "the ledger could not be brought up to date"));
            }
            let erased = self.job.erasure.erase_records(self.scope, document, Arc::clone(needles), &kind()).await?;
            if !erased.open_tasks.is_empty() {
                return Err(in_the_way(&erased));
            }
            let is_clean = erased.tasks + erased.bodies + erased.traces + erased.cases == 0;
            removed.tasks += erased.tasks;
            removed.bodies += erased.bodies;
            removed.traces += erased.traces;
            removed.cases += erased.cases;
            if is_clean {
                break;
            }
        }
        Ok(removed)
    }

    async fn records_left(
        &self,
        document: &DocumentId,
        needles: &Arc<Needles>,
        removed: &Records,
    ) -> Result<[ReceiptPlace; 4], TaskError> {
        // What was written down since the first passes goes, too.
        let late = self.records(document, needles).await?;
        let left = self.job.erasure.records(self.scope, document, Arc::clone(needles), &kind()).await?;
        let open = left.open_tasks.len() as u64;
        Ok([
            place("tasks", removed.tasks + late.tasks, left.tasks + open),
            place("call_texts", removed.bodies + late.bodies, left.bodies),
            place("traces", removed.traces + late.traces, left.traces),
            place("eval_cases", removed.cases + late.cases, left.cases),
        ])
    }

    async fn empty_log(&self) -> Result<(), TaskError> {
        for _ in 0..LOG_TRIES {
            if self.job.erasure.empty_log().await? {
                return Ok(());
            }
            tokio::time::sleep(LOG_PAUSE).await;
        }
        Err(TaskError::failed(ErrorKind::Unavailable, "somebody reads an old state of the database all the time"))
    }

    /// Blocks of the text in files that no row holds any more, and by what was searched.
    async fn bytes_left(&self, (needles, is_cut_off): (Arc<Needles>, bool)) -> Result<(u64, String), TaskError> {
        if is_cut_off || (needles.is_empty() && self.versions > 0) {
            // The rows went in an attempt that was cut off: nothing is known to search by, so nothing may be left.
            self.rewrite().await?;
            let searched = "an attempt was cut off after the rows were gone: the database was written anew instead of \
                being searched for bytes of the text";
            return Ok((0, searched.to_owned()));
        }
        if needles.is_empty() {
            return Ok((0, "no text of the document was stored; its id was searched for in tasks".to_owned()));
        }
        let mut found = self.found_bytes(&needles).await?;
        if found.keys().any(|path| is_of_database(path)) {
            // Rows that moved between pages have left copies behind.
            self.rewrite().await?;
            found = self.found_bytes(&needles).await?;
        }
        for path in found.keys() {
            tracing::warn!(file = %path.display(), "bytes of an erased document are left in a file");
        }
        let blocks = found.values().map(|blocks| blocks.len() as u64).sum();
        let searched = "records: runs of six words and chunk ids of all versions; files: blocks of 32 bytes of their text, \
            but those that other documents hold";
        Ok((blocks, searched.to_owned()))
    }

    async fn rewrite(&self) -> Result<(), TaskError> {
        self.job.erasure.rewrite().await?;
        self.empty_log().await
    }

    async fn found_bytes(&self, needles: &Arc<Needles>) -> Result<FoundBytes, TaskError> {
        let (dir, needles) = (self.job.data_dir.clone(), Arc::clone(needles));
        let searched = tokio::task::spawn_blocking(move || search(&dir, &needles)).await;
        let mut found = match searched {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::error!(%error, "a file cannot be searched");
                return Err(TaskError::failed(ErrorKind::Unavailable, "a file cannot be searched"));
            }
            Err(_) => return Err(TaskError::failed(ErrorKind::Internal, "the search of the files panicked")),
        };
        for blocks in found.values_mut() {
            let mut alone = std::collections::HashSet::new();
            for block in std::mem::take(blocks) {
                if !self.job.erasure.holds(&block).await? {
                    alone.insert(block);
                }
            }
            *blocks = alone;
        }
        found.retain(|_, blocks| !blocks.is_empty());
        Ok(found)
    }
}

fn of_rows(removed: CorpusRows, left: CorpusRows) -> Vec<ReceiptPlace> {
    vec![
        place("versions", removed.versions, left.versions),
        place("chunks", removed.chunks, left.chunks),
        place("embeddings", removed.embeddings, left.embeddings),
        place("contexts", removed.contexts, left.contexts),
        place("judgements", removed.judgements, left.judgements),
    ]
}

fn place(place: &str, removed: u64, left: u64) -> ReceiptPlace {
    ReceiptPlace { place: place.to_owned(), removed, left }
}

/// The database file, its log, and what belongs to them.
fn is_of_database(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("plumb.db"))
}

fn in_the_way(records: &Records) -> TaskError {
    let named: Vec<String> = records.open_tasks.iter().take(NAMED_TASKS).map(ToString::to_string).collect();
    let detail = format!(
        "{} tasks over the document have not ended: {}; let them end or cancel them",
        records.open_tasks.len(),
        named.join(", ")
    );
    TaskError::failed(ErrorKind::Unavailable, detail)
}

fn written_again() -> TaskError {
    TaskError::failed(ErrorKind::Conflict, "the document was written again while it was erased; ask again")
}

fn of_purge(error: PurgeError) -> TaskError {
    match error {
        PurgeError::Store(error) => error.into(),
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "an index could not be purged");
            TaskError::failed(ErrorKind::Unavailable, "an index could not be written anew yet")
        }
    }
}
