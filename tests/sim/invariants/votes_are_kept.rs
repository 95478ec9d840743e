//! What a disk keeps of a peer's vote never goes back, is for one candidate in a term, and is there once the peer counts on
//! it (Raft, sections 5.2 and 5.4: whoever has forgotten its vote votes twice).
//!
//! Asked of what no power cut takes, of the disks of all peers that have ever run, whether their nodes run or not.

use std::collections::BTreeMap;

use flotilla_server::ids::RegionId;

use super::{Committed, Invariant, Moment, Place, Vote};

/// The newest vote that each disk kept.
#[derive(Default)]
pub(super) struct VotesAreKept(BTreeMap<(Place, RegionId), Option<Vote>>);

impl Invariant for VotesAreKept {
    fn name(&self) -> &'static str {
        "votes-are-kept"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        for seen in &moment.peers {
            self.0.entry((seen.place, seen.region)).or_default();
            let Some(told) = seen.vote else { continue };
            let kept = moment.disks.kept_vote(seen.place, seen.region);
            let is_kept = kept.is_some_and(|kept| told.peer == kept.peer && told.may_become(kept));
            if told.term > 0 && !is_kept {
                return Err(format!(
                    "region {}: {told} counts as kept, and its disk keeps {}",
                    seen.region,
                    kept.map_or_else(|| "none".to_owned(), |kept| kept.to_string())
                ));
            }
        }
        for ((place, region), newest) in &mut self.0 {
            if moment.dead == Some(place.host) {
                continue;
            }
            // Another disk is in its place, or its peer was destroyed.
            let Some(kept) = moment.disks.kept_vote(*place, *region) else { continue };
            let of_it = newest.filter(|newest| newest.peer == kept.peer);
            if let Some(newest) = of_it.filter(|newest| !newest.may_become(kept)) {
                return Err(format!(
                    "region {region}: the disk of host {} kept {newest}, and keeps {kept}",
                    place.host
                ));
            }
            *newest = Some(kept);
        }
        Ok(())
    }
}
