//! No peer is in quarantine, and none is contradicted by its leader, while no disk was damaged: each says that something
//! was lost.

use super::{Committed, Invariant, Moment};

pub(super) struct NobodyIsSetAside;

impl Invariant for NobodyIsSetAside {
    fn name(&self) -> &'static str {
        "nobody-is-set-aside"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        // Whoever is damaged can make others look so.
        if moment.disks.is_anybody_excused() {
            return Ok(());
        }
        moment.disks.set_aside().map_or(Ok(()), Err)
    }
}
