//! A leader has every entry that was committed in its term or an earlier one (Raft, section 5.4). Whoever hears late that it
//! was elected leads in its own term, while others have committed in a later one.
//!
//! Asked of its disk when it is first seen to lead in a term: of every index that somebody has applied, it has the same
//! entry, unless its log is cut up to there.

use std::collections::BTreeSet;

use flotilla_server::ids::{PeerId, RegionId};

use super::{Applied, Committed, Invariant, Moment};

/// Leaderships that were looked at.
#[derive(Default)]
pub(super) struct LeaderCompleteness(BTreeSet<(RegionId, u64, PeerId)>);

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader-completeness"
    }

    fn check(&mut self, moment: &Moment<'_>, committed: &Committed) -> Result<(), String> {
        for seen in moment.peers.iter().filter(|seen| seen.leads()) {
            if !self.0.insert((seen.region, seen.status.term, seen.peer)) {
                continue;
            }
            // The disk is ahead of what is told of it.
            let first = moment.disks.first_index(seen.place, seen.region).unwrap_or(0);
            let first = first.max(seen.status.purged_index + 1);
            for (index, Applied { entry, by, term }) in committed.from(seen.region, first) {
                if term > seen.status.term {
                    continue;
                }
                let has = moment.disks.entry(seen.place, seen.region, index);
                if has != Some(entry) {
                    return Err(format!(
                        "region {}: peer {} leads in term {}, and has {} at index {index}, which peer {by} \
                         had applied",
                        seen.region,
                        seen.peer,
                        seen.status.term,
                        if has.is_some() { "another entry" } else { "nothing" },
                    ));
                }
            }
        }
        Ok(())
    }
}
