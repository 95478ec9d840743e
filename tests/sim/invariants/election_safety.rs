//! At most one leader in a term (Raft, section 5.2).

use std::collections::BTreeMap;

use flotilla_server::ids::{PeerId, RegionId};

use super::{Committed, Invariant, Moment};

/// Who led which region in which term.
#[derive(Default)]
pub(super) struct ElectionSafety(BTreeMap<(RegionId, u64), PeerId>);

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election-safety"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        for seen in moment.peers.iter().filter(|seen| seen.leads()) {
            let term = seen.status.term;
            let first = *self.0.entry((seen.region, term)).or_insert(seen.peer);
            if first != seen.peer {
                return Err(format!(
                    "region {}: peers {first} and {} both led in term {term}",
                    seen.region, seen.peer
                ));
            }
        }
        Ok(())
    }
}
