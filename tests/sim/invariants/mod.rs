//! What must hold at every moment, one promise a file. Each looks at what a node shows of its peers and at its disk, and
//! never asks the node to judge itself.

mod election_safety;
mod kept_by_a_quorum;
mod leader_completeness;
mod nobody_is_set_aside;
mod state_machine_safety;
mod terms_grow;

use std::collections::BTreeMap;

use flotilla_proto::v1;
use flotilla_server::{
    ids::{PeerId, RegionId},
    node::simulated::Instances,
    storage::{
        batch::Family,
        engine::{Direction, Read as _},
        keys::{self, log::LogPart},
    },
};

use prost::Message as _;

use crate::{cluster::Cluster, world::Trace};

/// A disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Number of its host.
    host: usize,
    /// Raised when the disk was set back, wiped or damaged: what was promised on it may be gone.
    disk_lives: u32,
}

/// A peer at this moment.
pub(crate) struct Seen {
    pub(crate) place: Place,
    pub(crate) region: RegionId,
    pub(crate) peer: PeerId,
    pub(crate) status: v1::PeerStatus,
}

impl Seen {
    pub(crate) fn leads(&self) -> bool {
        self.status.role == "leader"
    }
}

/// All running peers at this moment.
pub(crate) struct Moment<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) peers: Vec<Seen>,
}

impl<'a> Moment<'a> {
    pub(crate) fn look(cluster: &'a Cluster) -> Self {
        let mut peers = Vec::new();
        for (number, host) in cluster.hosts.iter().enumerate() {
            let Some(joined) = host.joined() else { continue };
            for peer in joined.peers.all() {
                peers.push(Seen {
                    place: Place { host: number, disk_lives: host.disk_lives },
                    region: peer.region,
                    peer: peer.id,
                    status: peer.status(),
                });
            }
        }
        Self { cluster, peers }
    }

    /// Some disk was damaged: less may be kept than was promised.
    pub(crate) fn anybody_was_damaged(&self) -> bool {
        self.cluster.hosts.iter().any(|host| host.is_excused)
    }

    /// A checksum of the entry that a peer's disk has at an index, if it has one.
    pub(crate) fn entry(&self, seen: &Seen, index: u64) -> Option<u32> {
        let log = self.cluster.hosts[seen.place.host].disk().log;
        let found = log.get(Family::Default, &keys::log::entry(seen.region, index));
        found.expect("memory does not fail").map(|entry| crc32c::crc32c(&entry))
    }

    /// The same of what a disk was asked to keep, whether anybody runs there or not.
    fn kept_entry(&self, place: Place, region: RegionId, index: u64) -> Option<u32> {
        let log = self.disk(place)?.log;
        let found = log.get_synced(Family::Default, &keys::log::entry(region, index));
        found.map(|entry| crc32c::crc32c(&entry))
    }

    /// Up to which index a disk was asked to keep what was applied.
    fn kept_applied(&self, place: Place, region: RegionId) -> u64 {
        let row = self
            .disk(place)
            .and_then(|disk| disk.data.get_synced(Family::Meta, &keys::meta::apply_state(region)));
        let state = row.map(|row| v1::ApplyState::decode(row).expect("what a node has written"));
        state.map_or(0, |state| state.applied_index)
    }

    /// A disk, while it is the same.
    fn disk(&self, place: Place) -> Option<Instances> {
        let host = &self.cluster.hosts[place.host];
        (host.disk_lives == place.disk_lives).then(|| host.disk())
    }

    /// The first index that a peer's disk has an entry at, if it has any: those before it may have been cut off.
    pub(crate) fn first_index(&self, seen: &Seen) -> Option<u64> {
        let log = self.cluster.hosts[seen.place.host].disk().log;
        let range = keys::log::all_entries(seen.region);
        let mut rows = log.scan(Family::Default, &range, Direction::Forward);
        let (key, _) = rows.next().expect("memory does not fail")?;
        match keys::log::decode(key)?.part {
            LogPart::Entry { index } => Some(index),
            _ => None,
        }
    }
}

/// One promise.
pub(crate) trait Invariant {
    /// As known-bad builds name what must catch them.
    fn name(&self) -> &'static str;

    /// # Errors
    /// How it is broken.
    fn check(&mut self, moment: &Moment<'_>, committed: &Committed) -> Result<(), String>;
}

/// Every promise.
pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(election_safety::ElectionSafety::default()),
        Box::new(kept_by_a_quorum::KeptByAQuorum::default()),
        Box::new(leader_completeness::LeaderCompleteness::default()),
        Box::new(nobody_is_set_aside::NobodyIsSetAside),
        Box::new(state_machine_safety::StateMachineSafety),
        Box::new(terms_grow::TermsGrow::default()),
    ]
}

/// What was applied by some peer, and so is committed for good: a checksum of the entry by region and index.
#[derive(Default)]
pub(crate) struct Committed {
    entries: BTreeMap<(RegionId, u64), (u32, PeerId)>,
    /// Up to where each peer, by its host, was looked at.
    looked: BTreeMap<(Place, PeerId), u64>,
    /// That two peers have applied different entries.
    conflict: Option<String>,
}

impl Committed {
    /// The entries of a region from an index on.
    pub(crate) fn from(
        &self,
        region: RegionId,
        index: u64,
    ) -> impl Iterator<Item = (u64, u32, PeerId)> {
        self.entries
            .range((region, index)..=(region, u64::MAX))
            .map(|((_, index), (entry, by))| (*index, *entry, *by))
    }

    fn learn(&mut self, moment: &Moment<'_>, trace: &Trace) {
        for seen in &moment.peers {
            let known = self.looked.entry((seen.place, seen.peer)).or_default();
            // Started again, it applies once more, and must apply the same.
            *known = (*known).min(seen.status.applied_index);
            for index in (*known).max(seen.status.purged_index) + 1..=seen.status.applied_index {
                // A leader may apply what others have on their disks before its own disk has it.
                let Some(entry) = moment.entry(seen, index) else { break };
                *known = index;
                trace.note(&entry.to_le_bytes());
                let by = seen.peer;
                let (first, whose) =
                    *self.entries.entry((seen.region, index)).or_insert((entry, by));
                if first != entry {
                    self.conflict.get_or_insert_with(|| {
                        let region = seen.region;
                        format!("region {region}: peers {whose} and {by} applied different entries at index {index}")
                    });
                }
            }
        }
    }
}

/// All promises, and what they have to know together.
pub(crate) struct Judges {
    invariants: Vec<Box<dyn Invariant>>,
    committed: Committed,
}

/// A broken promise.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) how: String,
}

impl Default for Judges {
    fn default() -> Self {
        Self { invariants: all(), committed: Committed::default() }
    }
}

impl Judges {
    /// # Errors
    /// The first promise that is broken now.
    pub(crate) fn judge(&mut self, cluster: &Cluster, trace: &Trace) -> Result<(), Violation> {
        let moment = Moment::look(cluster);
        self.committed.learn(&moment, trace);
        for invariant in &mut self.invariants {
            let name = invariant.name();
            let broken = |how| Violation { invariant: name, how };
            invariant.check(&moment, &self.committed).map_err(broken)?;
        }
        Ok(())
    }
}
