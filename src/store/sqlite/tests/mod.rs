//! SQLite keeps the contract, and what only SQLite promises.

mod backup;
mod child;
mod conformance;
mod console;
mod durability;
mod erasing;
mod fixture;
mod generations;
mod ledger;
mod opening;
mod plans;
mod tasks;
mod writing;
