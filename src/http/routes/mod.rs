//! The handlers, a file for each kind of resource.

pub(super) mod answer;
pub(super) mod cases;
pub(super) mod control;
pub(super) mod documents;
pub(super) mod generations;
pub(super) mod ingest;
pub(super) mod operations;
pub(super) mod removal;
pub(super) mod search;
pub(super) mod task_control;
pub(super) mod task_events;
pub(super) mod task_records;
pub(super) mod tasks;
pub(super) mod traces;
pub(super) mod usage;
