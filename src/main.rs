//! The program: reads the command line and runs one command.

use std::process::ExitCode;

// Keeps what a burst of ingestion frees from staying with the process. Not yet compared with the system's here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    plumb::cli::main()
}
