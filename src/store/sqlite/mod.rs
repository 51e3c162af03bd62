//! The truth in SQLite: one file, one writer, readers beside it.

mod catalog;
mod chunks;
mod codec;
mod cursor;
mod documents;
mod failure;
mod group;
mod known;
mod log;
mod open;
mod plan;
mod prepare;
mod readers;
mod records;
mod rows;
mod segments;
mod standing;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use store::SqliteStore;
