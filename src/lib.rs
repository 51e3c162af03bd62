//! plumb: documents go in, ranked passages and cited answers come out.
//!
//! Read `ARCHITECTURE.md` first: it says what each room holds and which rooms it may import.

pub mod domain;
pub mod telemetry;
pub mod text;
pub mod parse;
pub mod store;
pub mod tasks;
pub mod cache;
pub mod index;
pub mod inference;
pub mod gateway;
pub mod ingest;
pub mod search;
pub mod answer;
pub mod eval;
pub mod jobs;
pub mod http;
pub mod config;
pub mod app;
pub mod cli;
