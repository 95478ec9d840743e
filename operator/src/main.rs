//! The `flotilla-operator` binary.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flotilla_operator::crd;

/// The operator of Flotilla for Kubernetes.
///
/// This version prints the definition of the resource KvCluster. It does not act on one: there is no
/// `run` yet.
#[derive(Debug, Parser)]
#[command(name = "flotilla-operator", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the CustomResourceDefinition of KvCluster, as YAML for `kubectl apply -f -`.
    Crd,
    /// Print the version.
    Version,
}

#[expect(clippy::disallowed_macros, reason = "what was asked for on the command line")]
fn main() -> ExitCode {
    match Args::parse().command {
        Command::Crd => print!("{}", crd::yaml()),
        Command::Version => println!("flotilla-operator {}", env!("CARGO_PKG_VERSION")),
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn running_is_not_offered_before_it_is_there() {
        assert!(Args::try_parse_from(["flotilla-operator", "run"]).is_err());
        assert!(Args::command().render_long_help().to_string().contains("does not act on one"));
    }
}
