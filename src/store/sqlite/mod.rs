//! The truth in SQLite: one file, one writer, readers beside it.

mod budgets;
mod catalog;
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

pub use console::{Cell, Console, ConsoleError, Cut, QueryLimits, Table};
pub use store::SqliteStore;
