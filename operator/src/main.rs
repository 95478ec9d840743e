//! The `flotilla-operator` binary; the library is the program.

use std::process::ExitCode;

fn main() -> ExitCode {
    flotilla_operator::cli::main()
}
