//! The command line: quickstart, serve, ingest, search, answer, reindex, generations, tasks, sql, backup, restore, check,
//! models, prompts, config.

mod args;
mod backup;
mod door;
mod events;
mod generations;
mod ingest;
mod keys;
pub mod models;
mod output;
mod prompts;
mod quickstart;
mod render;
mod run;
mod serve;
mod sql;
mod table;
mod tasks;

pub use ingest::media_type_of;
pub use run::main;
