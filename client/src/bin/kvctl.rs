//! The `kvctl` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    flotilla_client::kvctl::main()
}
