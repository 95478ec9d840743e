//! What is simulated: who acts, what goes wrong, and how large everything is. One scenario a file.

mod driver;
mod membership;
mod overload;
mod registers;
mod snapshots;

use std::{fmt, time::Duration};

use rand::{RngExt as _, rngs::StdRng};

use flotilla_server::world::Mark;

use crate::{actors::Actor, faults::Fault};

/// A kind of simulation. A seed draws the rest.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What a seed decides, except for what goes wrong when.
    pub(crate) sizes: fn(&mut StdRng) -> Sizes,
    /// Who acts, each on a host of its own.
    pub(crate) actors: &'static [Actor],
    /// What can go wrong. Each seed switches some of it on.
    pub(crate) faults: fn() -> Vec<Box<dyn Fault>>,
    /// Marks that many seeds together must hit.
    pub(crate) sometimes: &'static [Mark],
}

/// Every scenario.
pub(crate) const ALL: &[&Scenario] = &[
    &registers::SCENARIO,
    &membership::SCENARIO,
    &snapshots::SCENARIO,
    &driver::SCENARIO,
    &overload::SCENARIO,
];

/// The scenario of that name.
pub(crate) fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().copied().find(|scenario| scenario.name == name)
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// How large everything is.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// Nodes that the cluster is born of.
    pub(crate) nodes: usize,
    /// Where regions are cut from birth. With any, the nodes wait to be made a cluster; else they make it by themselves.
    pub(crate) split_keys: &'static [&'static str],
    /// Nodes that wait to be added.
    pub(crate) spares: usize,
    /// The grain of time: what one host sends, another hears in the next tick at the earliest. A step of the simulation costs
    /// the same whatever happens in it.
    pub(crate) tick: Duration,
    /// Entries that a log keeps, and at which it is cut.
    pub(crate) log_entries: u64,
    /// Requests and proposals under way.
    pub(crate) queue: usize,
    pub(crate) snapshot_chunk_bytes: u64,
    /// What a leader keeps of its log for whoever lacks it. Whoever lacks more needs a snapshot.
    pub(crate) catch_up_bytes: u64,
    /// Of the values of those who write much.
    pub(crate) value_bytes: usize,
    /// Clients of each node.
    pub(crate) clients: usize,
    /// How long those who fight over registers rest after each answer.
    pub(crate) pace: Duration,
    /// The longest rest of whoever changes the cluster's members, between two changes.
    pub(crate) members_pace: Duration,
    /// The replication factor is lowered and raised. Regions come to have one voter then, and no disk may be lost.
    pub(crate) factor_changes: bool,
    /// Things go wrong from the first moment, before there is a cluster.
    pub(crate) birth_goes_wrong: bool,
    /// Clients are still while it heals: nothing is made good by what comes after it.
    pub(crate) heals_quietly: bool,
    /// For how long things go wrong.
    pub(crate) lasts: Duration,
}

/// Between the keys of those who act, and among them: of a generation of registers all are in one region.
const SPLIT_KEYS: &[&str] = &["ledger/", "registers/0002", "registers/0004"];

impl Sizes {
    /// Draws them: often tiny, so that purges, snapshots and full queues happen within seconds.
    pub(crate) fn draw(random: &mut StdRng) -> Self {
        Self {
            nodes: pick(random, &[3, 3, 3, 5]),
            split_keys: pick(random, &[&[], &[], SPLIT_KEYS]),
            spares: 0,
            tick: Duration::from_millis(pick(random, &[1, 2, 4])),
            log_entries: pick(random, &[20, 20, 100, 10_000]),
            queue: pick(random, &[2, 16, 1_024]),
            snapshot_chunk_bytes: pick(random, &[4 << 10, 1 << 20]),
            catch_up_bytes: pick(random, &[0, 4 << 10, 1 << 30]),
            value_bytes: pick(random, &[10, 200, 3_000]),
            clients: pick(random, &[1, 1, 3]),
            pace: Duration::from_millis(pick(random, &[0, 20, 50])),
            members_pace: Duration::from_millis(pick(random, &[150, 1_200, 1_200])),
            factor_changes: false,
            birth_goes_wrong: random.random_bool(0.2),
            heals_quietly: random.random_bool(0.5),
            lasts: Duration::from_millis(random.random_range(3_000..9_000)),
        }
    }

    /// How many regions a cluster is born with: the system's, and those between the split keys.
    pub(crate) fn regions(&self) -> usize {
        1 + 1 + self.split_keys.len()
    }
}

/// One of them.
pub(crate) fn pick<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    from[random.random_range(0..from.len())]
}
