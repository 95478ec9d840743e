//! `flotilla-operator` with failpoints, for tests: the variable `FAILPOINTS` says which do what.
//!
//! `return` at one of them ends the process there, as `SIGKILL` would; `50%return` does so half of
//! the time, so that what is started again gets past it at last.

use std::process::ExitCode;

fn main() -> ExitCode {
    let scenario = fail::FailScenario::setup();
    let outcome = flotilla_operator::cli::main();
    scenario.teardown();
    outcome
}
