//! The placement driver moves from node to node in the middle of what it orders.

use super::{Scenario, Sizes, membership};
use crate::{actors, faults, marks};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "driver",
    sizes: |random| Sizes { factor_changes: true, ..membership::sizes(random) },
    actors: &[actors::REGISTERS, actors::MEMBERS, actors::LEADERS],
    faults: faults::of_machines,
    sometimes: &[marks::NODE_ADDED, marks::DRIVER_MOVED, marks::CHANGE_INTERRUPTED],
};
