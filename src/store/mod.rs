//! The truth: what must never be lost.

mod cases;
#[cfg(test)]
mod conformance;
mod contract;
mod directory;
mod erasure;
mod error;
mod generations;
mod journal;
mod ledger;
mod ledger_queue;
mod settings;
mod sqlite;
mod tasks;

pub use cases::{CaseStore, EvalCase, ShadowSearch};
pub use contract::{
    BuildDocument, CorpusStore, DocumentState, DocumentWrite, HydratedChunk, IndexableChunk, IndexableDocument,
    LiveCounts, LogEntry, Operation, OperationLog, OwnedGeneration, Page, PutDocument, StoredChunk, View,
    WithEmbeddings, WriteOutcome,
};
pub use directory::DataDirectory;
pub use erasure::{CorpusRows, Erased, Erasure, KeepVersions, Records, StoredDocument};
pub use error::StoreError;
pub use generations::{DocumentSource, GenerationChange, GenerationStore, Remains};
pub use journal::{CallJournal, OpenCall};
pub use ledger::{Ledger, LedgerEntry, StoredBudget, TRACE_MAX_ROWS, UsageBy, UsageRow};
pub use ledger_queue::{LedgerQueue, NotDurable};
pub use settings::{IntegrityCheck, StoreSettings};
pub use sqlite::{
    BackupError, BackupReport, Cell, Console, ConsoleError, Cut, QueryLimits, SqliteStore, Table, TruthReport, back_up,
    check_truth, restore,
};
pub use tasks::{
    ClaimWish, EarlierWrote, Fork, Lease, NewTask, QueueHead, QueueView, Rerun, Submitted, TaskCost, TaskEnd,
    TaskFilter, TaskQueue, TaskStore,
};
