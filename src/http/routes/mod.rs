//! The handlers, a file for each kind of resource.

pub(super) mod answer;
pub(super) mod control;
pub(super) mod documents;
pub(super) mod ingest;
pub(super) mod operations;
pub(super) mod search;
pub(super) mod traces;
pub(super) mod usage;
