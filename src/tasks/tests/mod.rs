//! The promises of the runner, kept against the real store.

mod asking;
mod calls;
mod crashes;
mod example;
mod failing;
mod faulty;
mod sharing;
mod stopping;
mod tracing;
mod world;
