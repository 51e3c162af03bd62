//! `reindex`: another generation of a collection, built beside the live one.

mod handler;
mod input;
mod profile;
#[cfg(test)]
mod walk_tests;

pub use handler::ReindexJob;
