//! The whole store in one process, where one number decides time, network, disks and the order of everything.
//!
//! `make sim` runs many seeds, each in a process of its own, since what a process draws by itself (where its maps begin)
//! must not reach another seed. A seed that fails is repeated by the command that is printed, and stays in
//! `regressions.txt` once it is mended.

mod cluster;
mod faults;
mod invariants;
#[cfg(feature = "known-bad")]
mod known_bad;
mod marks;
mod run;
mod seeds;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// Runs seeds of the simulator.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds of each scenario.
    #[arg(long, env = "SEEDS", default_value_t = 40)]
    seeds: u64,
    /// The first of them.
    #[arg(long, env = "FROM", default_value_t = 1)]
    from: u64,
    /// One seed, with its log.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Processes at once; as many as there are cores without it.
    #[arg(long, env = "JOBS")]
    jobs: Option<usize>,
    /// Switches on one fault after the other that was mended, and fails unless each is caught within the seeds.
    #[cfg(feature = "known-bad")]
    #[arg(long, env = "KNOWN_BAD", value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    known_bad: Option<String>,
    /// A child: one seed, and one line of what came out.
    #[arg(long, hide = true)]
    child: Option<u64>,
    /// With the child's log.
    #[arg(long, hide = true)]
    logged: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.child {
        return seeds::child(seed, args.logged);
    }
    if let Some(seed) = args.seed {
        return seeds::replay(seed);
    }
    #[cfg(feature = "known-bad")]
    if let Some(name) = args.known_bad {
        return known_bad::hunt(&name, args.from..args.from + args.seeds, args.jobs);
    }
    seeds::many(args.from..args.from + args.seeds, args.jobs)
}
