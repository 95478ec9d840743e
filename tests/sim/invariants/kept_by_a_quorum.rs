//! What was applied anywhere is on the disks of a majority, where a power cut does not reach it (Raft, section 5.3: an entry
//! is committed once a majority has it).
//!
//! Asked of each entry once, of the disks of all three voters, whether their nodes run or not, as those peers know them that
//! have applied the newest change. While the voters change, entries wait: which majority counts then is for leader
//! completeness, and in the end they are on a majority of the new ones. A disk has an entry in what is synced of its log, or
//! in what is synced of what was applied.

use std::collections::BTreeMap;

use flotilla_proto::v1::{self, PeerRole};
use flotilla_server::ids::{PeerId, RegionId};

use super::{Applied, Committed, Invariant, Moment, Place, Seen};

/// Voters of which two are a majority.
const VOTERS: usize = 3;

/// What is known of each region.
#[derive(Default)]
pub(super) struct KeptByAQuorum(BTreeMap<RegionId, Known>);

#[derive(Default)]
struct Known {
    /// Up to which index it was looked at.
    looked: u64,
    /// The newest that was seen of its members.
    conf_ver: u64,
    /// Where each of its peers was seen last.
    places: BTreeMap<PeerId, Place>,
}

impl Invariant for KeptByAQuorum {
    fn name(&self) -> &'static str {
        "kept-by-a-quorum"
    }

    fn check(&mut self, moment: &Moment<'_>, committed: &Committed) -> Result<(), String> {
        for seen in &moment.peers {
            let known = self.0.entry(seen.region).or_default();
            known.places.insert(seen.peer, seen.place);
            known.conf_ver = known.conf_ver.max(conf_ver(seen));
        }
        for (region, known) in &mut self.0 {
            let Some(voters) = known.voters(*region, moment) else { continue };
            for (index, Applied { entry, by, .. }) in committed.from(*region, known.looked + 1) {
                let has = |place: &&Place| {
                    moment.disks.kept_entry(**place, *region, index) == Some(entry)
                        || moment.disks.kept_applied(**place, *region) >= index
                };
                let keep = voters.iter().filter(has).count();
                if keep <= VOTERS / 2 {
                    return Err(format!(
                        "region {region}: peer {by} has applied index {index}, which {keep} of {VOTERS} disks keep"
                    ));
                }
                known.looked = index;
            }
        }
        Ok(())
    }
}

impl Known {
    /// Where the voters are, if somebody runs who has applied the newest change that was ever seen, and it is at its end.
    fn voters(&self, region: RegionId, moment: &Moment<'_>) -> Option<Vec<Place>> {
        let knows = |seen: &&Seen| seen.region == region && conf_ver(seen) == self.conf_ver;
        let newest = moment.peers.iter().find(knows).filter(|seen| !seen.is_joint)?;
        let voters = voters(newest);
        let places = voters.iter().map(|peer| self.places.get(peer).copied());
        if voters.len() == VOTERS { places.collect() } else { None }
    }
}

fn conf_ver(seen: &Seen) -> u64 {
    let epoch = seen.status.region.as_ref().and_then(|region| region.epoch);
    epoch.map_or(0, |epoch| epoch.conf_ver)
}

fn voters(seen: &Seen) -> Vec<PeerId> {
    let peers = seen.status.region.iter().flat_map(|region| &region.peers);
    let voter = |peer: &&v1::Peer| peer.role() == PeerRole::Voter;
    peers.filter(voter).map(|peer| PeerId(peer.peer_id)).collect()
}
