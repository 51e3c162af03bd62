//! The one integration binary: promises that take several rooms to keep.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod architecture;
mod bed;
mod command_line;
mod crash_points;
mod crash_points_check;
mod crash_points_life;
mod cut_disk;
mod echo_server;
mod erasure;
mod hostile_input;
mod index_follows_truth;
mod flipped_bytes;
mod gateway_bill;
mod gateway_serves;
mod ingest_keeps_promises;
mod io_record;
mod io_record_disk;
mod model_server;
mod process;
mod promises;
mod provenance_holds;
mod rerankers_take_turns;
mod rollout_serves_once;
mod search_keeps_promises;
mod survives_kill;
mod survives_power_cut;
mod tasks_go_on;
mod tasks_survive_kill;
mod traces_tell_the_story;
