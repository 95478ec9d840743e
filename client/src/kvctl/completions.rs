//! `kvctl completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, exit::Failure, output::Output};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, mut out: Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "kvctl", &mut script);
        out.raw(&script)
    }
}
