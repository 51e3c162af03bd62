//! The kinds of durable work: one file or folder each.

mod contexts;
mod embed;
mod erase;
mod erase_files;
mod fault;
mod generations;
mod handlers;
mod ingest;
mod input;
mod map;
mod model_call;
mod pipeline;
mod reindex;
mod retention;
mod settings;
mod state;
mod template;
#[cfg(test)]
mod walk_tests;

pub use contexts::{CONTEXT_PROMPTS, GatewayContexts};
pub use erase::{ERASE, Receipt, ReceiptPlace, erase_input};
pub use generations::{DeskError, Force, GenerationDesk, GenerationDeskParts, GenerationView, PlanPatch, Transition};
pub use handlers::{JobParts, handlers};
pub use ingest::{NotAsWork, ingest_input};
pub use retention::Keep;
pub use settings::JobSettings;
