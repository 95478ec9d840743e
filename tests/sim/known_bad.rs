//! Whether the simulator can see: faults that were found once and mended are switched on again, one after the other, and
//! each must be caught.

use std::{ops::Range, process::ExitCode, sync::Mutex};

use flotilla_server::world::known_bad::Fault;

use crate::{
    scenarios::Scenario,
    seeds::{Seed, Told, beside_each_other, line_of_seed, run_child, say},
};

/// Faults that no seed is known to catch: until regions split an epoch's version never moves, and nothing can show the first;
/// the other wants a late snapshot for a peer that was removed meanwhile, which one seed of some hundreds has. Any other has a
/// line in `known_bad.txt`.
const UNSEEN: &[Fault] = &[Fault::EpochUnchecked, Fault::TombstoneIgnored];

/// Hunts one fault, or all: without a number of seeds by those alone that are known to catch them.
pub(crate) fn hunt(
    name: &str,
    scenarios: &[&'static Scenario],
    seeds: Range<u64>,
    jobs: usize,
) -> ExitCode {
    if !name.is_empty() && Fault::ALL.iter().all(|fault| fault.name() != name) {
        let known: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        say(format!("there is no fault {name}; there are {}", known.join(", ")));
        return ExitCode::FAILURE;
    }
    let mut missed = 0;
    let wanted = |fault: &&Fault| {
        if name.is_empty() { !UNSEEN.contains(fault) } else { fault.name() == name }
    };
    for fault in Fault::ALL.iter().filter(wanted) {
        let each = seeds
            .clone()
            .flat_map(|seed| scenarios.iter().map(move |scenario| Seed { scenario, seed }));
        let all: Vec<Seed> = known_to_catch(fault.name()).into_iter().chain(each).collect();
        if all.is_empty() {
            say(format!("{}: no seed is known to catch it", fault.name()));
            missed += usize::from(!UNSEEN.contains(fault));
            continue;
        }
        match first(*fault, &all, jobs) {
            Some((seed, invariant, how)) => {
                let Seed { scenario, seed } = seed;
                say(format!("{} {scenario:?} {seed} {invariant}: {how:.200}", fault.name()));
            }
            None => {
                missed += 1;
                say(format!("{}: NOT CAUGHT by {} seeds", fault.name(), all.len()));
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The promises that a fault breaks. Caught by anything else it is not understood.
fn catchers(fault: Fault) -> &'static [&'static str] {
    const VOTES: &[&str] = &["votes-are-kept", "terms-grow", "election-safety"];
    match fault {
        // Whoever is made anew comes before the one that was forgotten is buried.
        Fault::PeerInData => &[
            "buried-stays-gone",
            "votes-are-kept",
            "terms-grow",
            "election-safety",
            "kept-by-a-quorum",
            "leader-completeness",
            "linearizability",
            "acknowledged-writes",
        ],
        Fault::VotesInData => VOTES,
        Fault::AcknowledgedUnsynced => &[
            "votes-are-kept",
            "kept-by-a-quorum",
            "leader-completeness",
            "state-machine-safety",
            "linearizability",
            "acknowledged-writes",
            "counter",
            "replicas-equal",
        ],
        Fault::RevertedLogCounts => &[
            "kept-by-a-quorum",
            "leader-completeness",
            "linearizability",
            "acknowledged-writes",
            "replicas-equal",
            "healing",
        ],
        Fault::DeadPeerPutBack => &["buried-stays-gone"],
        // Made anew by its old id, it has voted for nobody.
        Fault::TombstoneIgnored => &["buried-stays-gone", "votes-are-kept"],
        Fault::ComparedBeforeTheBatch => &["linearizability", "counter", "replicas-equal"],
        Fault::StaleAnswer => &["heard-by-a-quorum", "linearizability"],
        Fault::EpochUnchecked | Fault::ReadBeforeItsIndex | Fault::StaleRound => {
            &["linearizability", "read-your-writes"]
        }
        Fault::OldQuorum => &["kept-by-a-quorum", "leader-completeness", "linearizability"],
    }
}

/// The seeds of `known_bad.txt` for a fault.
fn known_to_catch(fault: &str) -> Vec<Seed> {
    let lines = include_str!("known_bad.txt").lines();
    let of_it = lines.filter_map(|line| line.split_once(' ').filter(|(name, _)| *name == fault));
    of_it.map(|(_, rest)| line_of_seed(rest)).collect()
}

/// The first seed, of those that have run until then, that catches a fault, and by what. A seed that fails without it
/// shows nothing, and neither does a process that gave no answer.
fn first(fault: Fault, seeds: &[Seed], jobs: usize) -> Option<(Seed, String, String)> {
    let caught: Mutex<Option<(Seed, String, String)>> = Mutex::default();
    beside_each_other(jobs, seeds, |seed| {
        let broken = match run_child(seed, Some(fault.name())) {
            Ok(told) => told.violation,
            Err(words) => {
                say(format!("{}: {seed}: the process: {words}", fault.name()));
                None
            }
        };
        let Some((invariant, how)) = broken else { return true };
        if !catchers(fault).contains(&&*invariant) {
            say(format!("{}: {seed}: not by what should: {invariant}: {how:.200}", fault.name()));
            return true;
        }
        if !matches!(run_child(seed, None), Ok(Told { violation: None, .. })) {
            say(format!("{seed} fails without {}, too", fault.name()));
            return true;
        }
        caught.lock().expect("nobody panics with it").get_or_insert((seed, invariant, how));
        false
    });
    caught.into_inner().expect("nobody panics with it")
}
