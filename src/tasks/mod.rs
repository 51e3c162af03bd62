//! The durable runner: work that is retried, resumed and never done twice. Knows no kind of work.

mod attempt;
mod backoff;
mod bell;
mod choose;
mod contract;
mod desk;
mod held;
mod housekeeping;
mod journal;
mod lease;
mod runner;
mod schedule;
mod settings;
mod work;

#[cfg(test)]
mod tests;

pub use bell::Bell;
pub use contract::{JobHandler, Prepared, TaskError, TaskFault};
pub use desk::{Again, DeskError, TaskDesk, TaskDeskParts, TaskOrder};
pub use runner::{Clock, Runner, RunnerParts};
pub use settings::{ScheduleSettings, TaskSettings};
pub use work::{Item, Work};
