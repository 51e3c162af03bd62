//! SQLite keeps the contract, and what only SQLite promises.

mod child;
mod conformance;
mod durability;
mod fixture;
mod generations;
mod opening;
mod plans;
mod writing;
