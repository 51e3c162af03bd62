//! `plumb models`: fetch, list and verify the models that run in this process.

mod derive;
mod fetch;
mod place;
mod progress;
mod status;
mod wheel;

pub use fetch::{FetchReport, fetch};
pub use progress::Progress;
pub use status::{list, verify};
