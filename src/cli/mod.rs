//! The command line: quickstart, serve, ingest, search, answer, models, config.

mod args;
mod door;
mod ingest;
mod keys;
pub mod models;
mod output;
mod quickstart;
mod render;
mod run;
mod serve;

pub use ingest::media_type_of;
pub use run::main;
