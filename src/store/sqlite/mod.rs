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
mod open;
mod plan;
mod prepare;
mod readers;
mod records;
mod rows;
mod script;
mod segments;
mod standing;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use backup::{BackupError, BackupReport, back_up, restore};
pub use check::{TruthReport, check_truth};
pub use console::{Cell, Console, ConsoleError, Cut, QueryLimits, Table};
pub use store::SqliteStore;
