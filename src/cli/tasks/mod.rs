//! `plumb tasks`: asking for durable work, watching it, stopping it, doing it again.

mod args;
mod board;
mod ids;
mod run;
mod show;
mod watch;

pub use args::{SubmitArguments, TasksArguments, TasksCommand};
pub use run::run;
