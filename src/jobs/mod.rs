//! The kinds of durable work: one file or folder each.

mod embed;
mod fault;
mod handlers;
mod ingest;
mod input;
mod map;
mod model_call;
mod pipeline;
mod retention;
mod settings;
mod state;
mod template;
#[cfg(test)]
mod walk_tests;

pub use handlers::{JobParts, handlers};
pub use ingest::{NotAsWork, ingest_input};
pub use retention::Keep;
pub use settings::JobSettings;
