//! The promises of the wire, kept against rooms that count what is asked of them.

mod access;
mod answering;
mod bad_input;
mod cases;
mod contract;
mod control_room;
mod generations;
mod ingesting;
mod ledger;
mod no_tasks;
mod reading;
mod rooms;
mod searching;
mod serving;
mod spending;
mod task_bench;
mod task_streams;
mod tasks;
mod traces;
mod tracing;
mod world;
