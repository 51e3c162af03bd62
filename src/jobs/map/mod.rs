//! `map`: one prompt over the parts of documents, each part a checkpoint, and what comes out reduced to one text.

mod handler;
mod input;
mod plan;
mod prompts;
mod reduce;
mod resolve;

pub(super) use handler::MapJob;
