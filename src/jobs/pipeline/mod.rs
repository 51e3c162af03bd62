//! `pipeline`: searches, answers and extractions one after the other, each reading what the ones before it gave.

mod check;
mod handler;
mod reference;
mod step;

pub(super) use handler::PipelineJob;
