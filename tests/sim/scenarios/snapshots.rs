//! Logs are cut all the time, and whoever was away for a moment needs a snapshot.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

use super::{Scenario, Sizes, pick};
use crate::{actors, faults};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "snapshots",
    sizes,
    actors: &[actors::REGISTERS, actors::LEDGER],
    faults: faults::that_leave_behind,
    sometimes: &[
        "a power cut lost what was not synced",
        "data fell back, and was applied again from the log",
    ],
};

fn sizes(random: &mut StdRng) -> Sizes {
    Sizes {
        nodes: 3,
        log_entries: pick(random, &[4, 10, 20]),
        snapshot_chunk_bytes: 4 << 10,
        value_bytes: pick(random, &[1_000, 6_000]),
        lasts: Duration::from_millis(random.random_range(4_000..9_000)),
        ..Sizes::draw(random)
    }
}
