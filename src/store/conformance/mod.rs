//! What every implementation of the truth must do, as tests.
//!
//! `conformance!` makes a test of each promise for one implementation.

mod corpus;
mod erasure;
mod fixture;
mod generation_model;
mod generations;
mod isolation;
mod ledger;
mod log;
mod model;
mod promises;
mod task_calls;
mod task_fixture;
mod task_model;
mod tasks;
mod tasks_of_runners;

pub(crate) use fixture::{Ingest, Subject, collection_name, paragraph, profile, scope};
pub(crate) use generation_model::{moves, rollout};
pub(crate) use ledger::{account, amount, call, request, reservation};
pub(crate) use model::{replay, steps};
pub(crate) use promises::conformance;
pub(crate) use task_fixture::{failure, lease, new_task, problem, record, runner};
pub(crate) use task_model::{deeds, live};

pub(crate) mod promise {
    //! Every promise under its name.
    pub(crate) use super::corpus::*;
    pub(crate) use super::erasure::*;
    pub(crate) use super::generations::*;
    pub(crate) use super::isolation::*;
    pub(crate) use super::ledger::*;
    pub(crate) use super::log::*;
    pub(crate) use super::task_calls::*;
    pub(crate) use super::tasks::*;
    pub(crate) use super::tasks_of_runners::*;
}
