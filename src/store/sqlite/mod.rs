//! The truth in SQLite: one file, one writer, readers beside it.

mod backup;
mod budgets;
mod catalog;
mod check;
mod chunks;
mod codec;
mod console;
mod cursor;
mod documents;
mod failure;
mod group;
mod known;
mod ledger;
mod ledger_reads;
mod ledger_rows;
mod log;
mod lost_calls;
mod open;
mod plan;
mod prepare;
mod queue_reads;
mod readers;
mod records;
mod rows;
mod script;
mod segments;
mod standing;
mod store;
mod task_claims;
mod task_reads;
mod task_requests;
mod task_rows;
mod task_store;
mod task_submits;
mod task_writes;
#[cfg(test)]
mod tests;
mod writer;

pub use backup::{BackupError, BackupReport, back_up, restore};
pub use check::{TruthReport, check_truth};
pub use console::{Cell, Console, ConsoleError, Cut, QueryLimits, Table};
pub use store::SqliteStore;
