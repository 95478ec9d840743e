//! Nodes come, go, move, and lose their disks, while clients go on.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

use super::{Scenario, Sizes, pick};
use crate::{actors, faults};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "membership",
    sizes,
    actors: &[actors::REGISTERS, actors::LEDGER, actors::MEMBERS],
    faults: faults::of_disks,
    sometimes: &[
        "a node was added",
        "a node was removed, and started again empty",
        "a node was given up by force",
        "a disk was wiped",
        "a disk was set back",
        "a node moved to another address",
    ],
};

pub(super) fn sizes(random: &mut StdRng) -> Sizes {
    Sizes {
        nodes: 3,
        spares: pick(random, &[1, 1, 2]),
        clients: 1,
        lasts: Duration::from_millis(random.random_range(6_000..14_000)),
        ..Sizes::draw(random)
    }
}
