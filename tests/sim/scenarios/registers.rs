//! Clients fight over a few keys while disks, links and machines fail.

use super::{Scenario, Sizes};
use flotilla_server::world::Mark;

use crate::{actors, faults, marks};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "registers",
    sizes: Sizes::draw,
    actors: &[actors::REGISTERS, actors::LEDGER, actors::EXPIRY],
    faults: faults::of_machines,
    sometimes: &[
        marks::LOG_LOST_UNSYNCED,
        marks::DATA_LOST_UNSYNCED,
        marks::KEY_EXPIRED,
        marks::BIRTH_GOES_WRONG,
        marks::DISK_FAILED,
        marks::DATA_FELL_BACK,
        marks::DIED_AT_A_LINE,
        Mark::SUCCESSOR_SILENT,
        Mark::TAKEN_FOR_A_COPY,
    ],
};
