//! Logs are cut all the time, and whoever was away for a moment needs a snapshot.

use std::time::Duration;

use flotilla_server::world::Mark;
use rand::{RngExt as _, rngs::StdRng};

use super::{Scenario, Sizes, pick};
use crate::{actors, faults, marks};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "snapshots",
    sizes,
    actors: &[actors::REGISTERS, actors::LEDGER],
    faults: faults::that_leave_behind,
    sometimes: &[
        marks::LOG_LOST_UNSYNCED,
        marks::DATA_LOST_UNSYNCED,
        marks::DATA_FELL_BACK,
        marks::DISK_SET_BACK,
        marks::BLOCK_DAMAGED,
        marks::DIED_INSTALLING,
        Mark::INSTALLED_OVER,
        Mark::INSTALL_RESUMED,
        Mark::QUARANTINED,
    ],
};

fn sizes(random: &mut StdRng) -> Sizes {
    Sizes {
        nodes: 3,
        log_entries: pick(random, &[10, 10, 20]),
        snapshot_chunk_bytes: 4 << 10,
        catch_up_bytes: pick(random, &[0, 0, 4 << 10, 1 << 30]),
        value_bytes: pick(random, &[1_000, 6_000]),
        lasts: Duration::from_millis(random.random_range(4_000..9_000)),
        ..Sizes::draw(random)
    }
}
