//! Clients fight over a few keys while disks, links and machines fail.

use super::{Scenario, Sizes};
use crate::{actors, faults};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "registers",
    sizes: Sizes::draw,
    actors: &[actors::REGISTERS, actors::LEDGER, actors::EXPIRY],
    faults: faults::of_machines,
    sometimes: &[
        "a power cut lost what was not synced of a log",
        "a power cut lost what was not synced of what was applied",
        "a key had expired",
        "things went wrong before the cluster was born",
        "a disk failed under its node",
        "data fell back, and was applied again from the log",
    ],
};
