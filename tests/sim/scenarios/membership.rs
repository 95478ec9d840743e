//! Nodes come, go, move, and lose their disks, while clients go on.

use std::time::Duration;

use flotilla_server::world::Mark;
use rand::{RngExt as _, rngs::StdRng};

use super::{Scenario, Sizes, pick};
use crate::{actors, faults, marks};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "membership",
    sizes,
    actors: &[actors::REGISTERS, actors::LEDGER, actors::MEMBERS],
    faults: faults::of_disks,
    sometimes: &[
        marks::NODE_ADDED,
        marks::REMOVED_AND_BACK,
        marks::NODE_GIVEN_UP,
        marks::DISK_WIPED,
        marks::DISK_SET_BACK,
        marks::NODE_MOVED,
        marks::CHANGE_INTERRUPTED,
        marks::LINGERED,
        Mark::MADE_FOR_SNAPSHOT,
        Mark::DESTROYED,
        Mark::ACKNOWLEDGED_AND_GONE,
    ],
};

pub(super) fn sizes(random: &mut StdRng) -> Sizes {
    Sizes {
        nodes: 3,
        spares: pick(random, &[1, 1, 2]),
        clients: 1,
        log_entries: pick(random, &[10, 20, 10_000]),
        catch_up_bytes: pick(random, &[0, 0, 1 << 30]),
        factor_changes: random.random_bool(0.3),
        lasts: Duration::from_millis(random.random_range(6_000..14_000)),
        ..Sizes::draw(random)
    }
}
