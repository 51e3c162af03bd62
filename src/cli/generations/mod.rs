//! `plumb generations`: builds of a collection's profile beside each other, until one is left; `plumb reindex`: one more.

mod args;
mod reindex;
mod run;
mod show;

pub use args::{GenerationsArguments, ReindexArguments};
pub use reindex::run as reindex;
pub use run::run;
