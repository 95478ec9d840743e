//! What was applied anywhere is on the disks of a majority, where a power cut does not reach it (Raft, section 5.3: an entry
//! is committed once a majority has it).
//!
//! Asked once for each entry, when it is first seen applied, and only while all peers that are up know the same three
//! voters: which majority counts in the middle of a change is for leader completeness.

use std::collections::BTreeMap;

use flotilla_server::ids::{PeerId, RegionId};

use super::{Committed, Invariant, Moment, Seen};

/// Voters of which two are a majority.
const VOTERS: usize = 3;

/// Up to which index each region was looked at.
#[derive(Default)]
pub(super) struct KeptByAQuorum(BTreeMap<RegionId, u64>);

impl Invariant for KeptByAQuorum {
    fn name(&self) -> &'static str {
        "kept-by-a-quorum"
    }

    fn check(&mut self, moment: &Moment<'_>, committed: &Committed) -> Result<(), String> {
        let mut regions: BTreeMap<RegionId, Vec<&Seen>> = BTreeMap::new();
        for seen in &moment.peers {
            regions.entry(seen.region).or_default().push(seen);
        }
        for (region, peers) in regions {
            let looked = self.0.entry(region).or_default();
            let new: Vec<(u64, u32, PeerId)> = committed.from(region, *looked + 1).collect();
            let Some((last, ..)) = new.last() else { continue };
            *looked = *last;
            // A peer that is down may be one of those who have it.
            if peers.len() != VOTERS || !know_the_same(&peers) || moment.anybody_was_damaged() {
                continue;
            }
            for (index, entry, by) in new {
                let has = |peer: &&&Seen| {
                    index <= peer.status.snapshot_index.max(peer.status.purged_index)
                        || moment.kept_entry(peer, index) == Some(entry)
                        || moment.first_index(peer).is_some_and(|first| index < first)
                };
                let keep = peers.iter().filter(has).count();
                if keep <= VOTERS / 2 {
                    return Err(format!(
                        "region {region}: peer {by} has applied index {index}, which {keep} of {VOTERS} disks keep"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn know_the_same(peers: &[&Seen]) -> bool {
    let known = |seen: &&Seen| seen.status.region.as_ref().map(|region| region.peers.clone());
    let first = known(&peers[0]);
    first.as_ref().is_some_and(|peers| peers.len() == VOTERS)
        && peers.iter().all(|peer| known(peer) == first)
}
