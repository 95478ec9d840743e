//! The whole store in one process, where one number decides time, network, disks and the order of everything.
//!
//! `make sim` runs many seeds, each in a process of its own, since what a process draws by itself (where its maps begin)
//! must not reach another seed. A scenario (`scenarios/`) says who acts (`actors/`), what can go wrong (`faults/`) and how
//! large everything is; promises (`invariants/`) are looked at all the time. A seed that fails is repeated by the command
//! that is printed, and stays in `regressions.txt` once it is mended.

mod actors;
mod cluster;
mod disks;
mod faults;
mod health;
mod invariants;
#[cfg(feature = "known-bad")]
mod known_bad;
mod links;
mod marks;
mod run;
mod scenarios;
mod seeds;
mod stage;
mod world;

use std::process::ExitCode;

use clap::Parser;

use self::scenarios::Scenario;

/// As the server has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs seeds of the simulator.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds of each scenario.
    #[arg(long, env = "SEEDS", default_value_t = 40)]
    seeds: u64,
    /// The first of them.
    #[arg(long, env = "FROM", default_value_t = 1)]
    from: u64,
    /// One scenario alone; all without it.
    #[arg(long, env = "SCENARIO", value_parser = scenario)]
    scenario: Option<&'static Scenario>,
    /// One seed of a scenario, with its log.
    #[arg(long, env = "SEED", requires = "scenario")]
    seed: Option<u64>,
    /// Processes at once; as many as there are cores without it.
    #[arg(long, env = "JOBS")]
    jobs: Option<usize>,
    /// Switches on one fault after the other that was mended, and fails unless each is caught within the seeds.
    #[cfg(feature = "known-bad")]
    #[arg(long, env = "KNOWN_BAD", value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    known_bad: Option<String>,
    /// A child: one seed, and one line of what came out.
    #[arg(long, hide = true, requires = "scenario")]
    child: Option<u64>,
    /// With the child's log.
    #[arg(long, hide = true)]
    logged: bool,
}

fn scenario(name: &str) -> Result<&'static Scenario, String> {
    let known = || scenarios::ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>();
    scenarios::named(name).ok_or_else(|| format!("no scenario; there are {}", known().join(", ")))
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let (Some(scenario), Some(seed)) = (args.scenario, args.child) {
        return seeds::child(scenario, seed, args.logged);
    }
    if let (Some(scenario), Some(seed)) = (args.scenario, args.seed) {
        return seeds::replay(scenario, seed);
    }
    let scenarios = args.scenario.map_or_else(|| scenarios::ALL.to_vec(), |one| vec![one]);
    let seeds = args.from..args.from + args.seeds;
    let jobs = args.jobs.unwrap_or_else(seeds::cores);
    #[cfg(feature = "known-bad")]
    if let Some(name) = args.known_bad {
        return known_bad::hunt(&name, &scenarios, seeds, jobs);
    }
    seeds::many(&scenarios, seeds, jobs)
}
