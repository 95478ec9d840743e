//! Whether the simulator can see: faults that were found once and mended are switched on again, one after the other, and
//! each must be caught.

use std::{
    ops::Range,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use flotilla_server::world::known_bad::Fault;

use crate::seeds::{cores, run_child, say};

/// Hunts one fault, or all.
pub(crate) fn hunt(name: &str, seeds: Range<u64>, jobs: Option<usize>) -> ExitCode {
    let mut missed = 0;
    for fault in Fault::ALL.iter().filter(|fault| name.is_empty() || fault.name() == name) {
        match first(*fault, seeds.clone(), jobs.unwrap_or_else(cores)) {
            Some((seed, invariant)) => {
                say(format!("{}: caught by seed {seed}: {invariant}", fault.name()));
            }
            None => {
                missed += 1;
                say(format!(
                    "{}: NOT CAUGHT within {} seeds",
                    fault.name(),
                    seeds.end - seeds.start
                ));
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first seed, of those that have run until then, that catches a fault.
fn first(fault: Fault, seeds: Range<u64>, jobs: usize) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let caught: Mutex<Vec<(u64, String)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !found.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let invariant = match run_child(seed, Some(fault.name())) {
                        Ok(told) => told.violation.map(|(invariant, _)| invariant),
                        Err(words) => Some(format!("the process: {words}")),
                    };
                    if let Some(invariant) = invariant {
                        found.store(true, Relaxed);
                        caught.lock().expect("nobody panics with it").push((seed, invariant));
                    }
                }
            });
        }
    });
    caught.into_inner().expect("nobody panics with it").into_iter().min()
}
