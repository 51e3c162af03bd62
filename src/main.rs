//! The program: reads the command line and runs one command.

use std::process::ExitCode;

// Measured against the system's allocator by `cargo bench --bench search`; see ARCHITECTURE.md, Decisions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    plumb::cli::main()
}
