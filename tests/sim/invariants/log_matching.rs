//! Two logs of a region that have the same entry at an index have the same at every earlier index that both still have
//! (Raft, section 5.3).
//!
//! An entry has its term in it, so it is of one leader, which had one entry before it. So that is what is asked of each entry
//! that a disk comes to have: the one before it is the same as on whichever disk had both first. It holds of disks that were
//! set back, too, since no two leaders share a term, and of nodes that are down.

use std::collections::BTreeMap;

use flotilla_server::ids::RegionId;

use super::{Committed, Disks, Invariant, Moment, Place};

/// Entries below those that are new which are looked at once more.
const HANDFUL: usize = 4;

#[derive(Default)]
pub(super) struct LogMatching {
    /// What was before an entry, by its index and content, and whose disk showed it first.
    before: BTreeMap<(RegionId, u64, u32), (u32, usize)>,
    /// The logs of all peers that have ever run.
    logs: BTreeMap<(Place, RegionId), Log>,
}

/// What was seen of one log.
#[derive(Default)]
struct Log {
    /// Of which state of its disk that is.
    changes: Option<u64>,
    entries: BTreeMap<u64, u32>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log-matching"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        for seen in &moment.peers {
            self.logs.entry((seen.place, seen.region)).or_default();
        }
        for ((place, region), log) in &mut self.logs {
            let changes = moment.disks.log_changes(*place);
            if changes.is_none() || log.changes == changes {
                continue;
            }
            log.changes = changes;
            for (index, before, entry) in log.look(moment.disks, *place, *region) {
                let first = self.before.entry((*region, index, entry));
                let (known, host) = *first.or_insert((before, place.host));
                if known != before {
                    let (one, other) = (place.host, index - 1);
                    return Err(format!(
                        "region {region}: hosts {host} and {one} have the same entry at index {index}, and different ones at \
                         {other}"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Log {
    /// From the end on down to what is known of it: each index, what is before it, and what is there.
    fn look(&mut self, disks: &dyn Disks, place: Place, region: RegionId) -> Vec<(u64, u32, u32)> {
        let mut found = Vec::new();
        let Some(mut index) = disks.last_index(place, region) else { return found };
        // What was truncated.
        while self.entries.last_key_value().is_some_and(|(last, _)| *last > index) {
            self.entries.pop_last();
        }
        let mut next = None;
        let mut known = 0;
        while known < HANDFUL
            && let Some(entry) = disks.entry(place, region, index)
        {
            found.extend(next.map(|next| (index + 1, entry, next)));
            known = if self.entries.insert(index, entry) == Some(entry) { known + 1 } else { 0 };
            next = Some(entry);
            let Some(earlier) = index.checked_sub(1) else { break };
            index = earlier;
        }
        found
    }
}
