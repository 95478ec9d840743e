//! More is asked than queues hold, of disks that are slow or full.

use flotilla_server::world::Mark;
use rand::rngs::StdRng;

use super::{Scenario, Sizes, pick};
use crate::{actors, faults, marks};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "overload",
    sizes,
    actors: &[actors::REGISTERS, actors::LEDGER],
    faults: faults::that_slow_down,
    sometimes: &[marks::WRITE_REFUSED, Mark::REFUSED_FOR_ROOM],
};

fn sizes(random: &mut StdRng) -> Sizes {
    Sizes {
        nodes: 3,
        queue: pick(random, &[1, 2, 4]),
        clients: pick(random, &[4, 8]),
        ..Sizes::draw(random)
    }
}
