//! `flotilla-server` with failpoints, for tests: the variable `FAILPOINTS` says which do what.

use std::process::ExitCode;

/// As in the product, so that the tests run what is shipped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let scenario = fail::FailScenario::setup();
    let outcome = flotilla_server::cli::main();
    scenario.teardown();
    outcome
}
