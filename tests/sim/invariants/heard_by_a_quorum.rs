//! No leader is heard by a quorum once another one of a later term leads: what is read of it linearizably, and by its lease,
//! rests on that (Raft, section 8; openraft's `last_quorum_acked`).
//!
//! What counts is when the request was sent that a quorum has answered. Whoever has voted for the later leader answers
//! nothing of before any more, and of any quorum somebody has.

use std::{collections::BTreeMap, time::Duration};

use flotilla_server::ids::RegionId;

use super::{Committed, Invariant, Moment};

/// When a leader of a term was first seen.
#[derive(Default)]
pub(super) struct HeardByAQuorum(BTreeMap<RegionId, BTreeMap<u64, Duration>>);

impl Invariant for HeardByAQuorum {
    fn name(&self) -> &'static str {
        "heard-by-a-quorum"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        let leaders = || moment.peers.iter().filter(|seen| seen.leads());
        for seen in leaders() {
            let terms = self.0.entry(seen.region).or_default();
            terms.entry(seen.status.term).or_insert(moment.at);
        }
        // A disk that was set back may have forgotten for whom it has voted.
        if moment.disks.is_anybody_excused() {
            return Ok(());
        }
        for seen in leaders() {
            let later = self.0[&seen.region].range(seen.status.term + 1..);
            let Some((term, since)) = later.min_by_key(|(_, since)| **since) else { continue };
            if let Some(heard) = seen.heard.filter(|heard| heard > since) {
                return Err(format!(
                    "region {}: peer {} leads in term {} and counts a request of {heard:?} as heard by a quorum; there is \
                     a leader of term {term} since {since:?}",
                    seen.region, seen.peer, seen.status.term
                ));
            }
        }
        Ok(())
    }
}
