//! The contract of forgetting: a document with everything that was written down of its text, and versions that are old.
//!
//! Every implementation keeps these promises, and `store::conformance` tests them:
//!
//! - What was removed is overwritten, in the database and in its log, once [`Erasure::empty_log`] has said so.
//! - Every call may be made again after a crash in the middle of it, and then finishes what was begun.
//! - Nothing of another tenant is read or removed; of this tenant, what serves is never removed.
//! - A transaction is bounded: others write in between, however much there is to remove.

use async_trait::async_trait;

use crate::domain::{CollectionName, DocumentId, Needles, TaskId, TaskKind, TenantScope, Timestamp};

use super::StoreError;

/// A document's rows, also those of a document that was deleted.
#[derive(Debug)]
pub struct StoredDocument {
    /// Versions that are stored, those out of reach among them.
    pub versions: u64,
    /// What their texts are recognized by.
    pub needles: Needles,
}

/// Records in which something of a text is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Runs of tasks that have ended.
    pub tasks: u64,
    /// Tasks that have not ended; they are left as they are.
    pub open_tasks: Vec<TaskId>,
    /// Calls to language models whose texts are kept.
    pub bodies: u64,
    pub traces: u64,
    /// Eval cases whose query tells of it.
    pub cases: u64,
}

/// Rows of a document by what they hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CorpusRows {
    pub versions: u64,
    pub chunks: u64,
    /// Vectors of the tenant that no chunk has any more, whoever made them so.
    pub embeddings: u64,
    /// Texts that models wrote about chunks of the tenant: which document one is about cannot be told.
    pub contexts: u64,
    /// Eval cases of the collection that name the document among what is relevant.
    pub judgements: u64,
}

/// What became of a wish to erase a document's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erased {
    Gone {
        removed: CorpusRows,
        /// Counted afterwards.
        left: CorpusRows,
    },
    /// It serves: it was written after it was deleted. Nothing was removed.
    Serves,
}

/// Which versions stay. One that serves always does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepVersions {
    /// The newest so many of a document; `None`: all.
    pub newest: Option<u32>,
    /// Those that were replaced at this time or later; `None`: all.
    pub replaced_since: Option<Timestamp>,
    /// Of what was deleted, that which was deleted at this time or later; `None`: all.
    pub deleted_since: Option<Timestamp>,
}

/// Removal for good.
#[async_trait]
pub trait Erasure: Send + Sync {
    /// What is stored of a document; `None` if nothing is.
    async fn remains(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Option<StoredDocument>, StoreError>;

    /// The tenant's records that tell something of a text, and tasks whose input names the document. Tasks of the kind
    /// `spared` hold no text and are passed by.
    async fn records(
        &self,
        scope: &TenantScope,
        document: &DocumentId,
        needles: std::sync::Arc<Needles>,
        spared: &TaskKind,
    ) -> Result<Records, StoreError>;

    /// Removes them: ended tasks with all their runs, texts of calls (what they cost stays), traces. Returns how many
    /// went, and the tasks that are in the way.
    async fn erase_records(
        &self,
        scope: &TenantScope,
        document: &DocumentId,
        needles: std::sync::Arc<Needles>,
        spared: &TaskKind,
    ) -> Result<Records, StoreError>;

    /// Removes every version of a deleted document, the vectors that nothing else uses, and its chunks' ids from the
    /// operation log. Its name stays until [`Self::free_id`], as the sign of what was begun. Every index must have
    /// followed its deletion. What is told as left is what this document had.
    async fn erase_document(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<Erased, StoreError>;

    /// Takes the name of a document without versions away: its id is free. False: it serves again.
    async fn free_id(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        document: &DocumentId,
    ) -> Result<bool, StoreError>;

    /// Removes versions that need not be kept. Numbers of versions go on as if they were there. Returns how many went.
    async fn forget_versions(&self, keep: KeepVersions) -> Result<u64, StoreError>;

    /// Moves the log into the database and leaves it empty; false if a reader is still at an older state.
    async fn empty_log(&self) -> Result<bool, StoreError>;

    /// Writes the whole database anew, so that nothing is left between its rows. Nobody else writes meanwhile, and the
    /// disk must hold it twice.
    async fn rewrite(&self) -> Result<(), StoreError>;

    /// True if a row of any tenant holds these bytes.
    async fn holds(&self, bytes: &[u8]) -> Result<bool, StoreError>;
}
