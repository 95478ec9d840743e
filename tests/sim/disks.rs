//! What the judges see of a cluster.

use std::time::Duration;

use flotilla_proto::v1;
use flotilla_server::{
    ids::{PeerId, RegionId},
    node::simulated::Instances,
    raft::log::decode_vote,
    region::{Peer, promises},
    storage::{
        batch::Family,
        engine::{Direction, Engine as _, Read as _},
        keys::{self, log::LogPart},
    },
};
use prost::Message as _;

use crate::{
    cluster::Cluster,
    invariants::{Disks, Moment, Place, Seen, Vote},
};

impl Cluster {
    /// What can be seen now.
    pub(crate) fn moment(&self, at: Duration, dead: Option<usize>) -> Moment<'_> {
        let mut peers = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(joined) = host.joined().filter(|_| dead != Some(number)) else { continue };
            for peer in joined.peers.all() {
                peers.push(Seen {
                    place: Place { host: number, disk_lives: host.disk_lives },
                    region: peer.region,
                    peer: peer.id,
                    status: peer.status(),
                    is_joint: peer.view().with(|now| now.joint),
                    heard: host.heard(&peer),
                    buried: joined.peers.tombstone(peer.region),
                    vote: counted_vote(&peer),
                });
            }
        }
        Moment { at, peers, disks: self, dead }
    }

    /// A disk, while it is the same.
    fn disk(&self, place: Place) -> Option<Instances> {
        let host = &self.hosts[place.host];
        (host.disk_lives == place.disk_lives).then(|| host.disk())
    }

    /// The first or the last index that a disk has an entry at.
    fn outermost(&self, place: Place, region: RegionId, from: Direction) -> Option<u64> {
        let log = self.disk(place)?.log;
        let mut rows = log.scan(Family::Default, &keys::log::all_entries(region), from);
        let (key, _) = rows.next().expect("memory does not fail")?;
        match keys::log::decode(key)?.part {
            LogPart::Entry { index } => Some(index),
            _ => None,
        }
    }
}

/// The vote that a peer counts as kept by its disk.
fn counted_vote(peer: &Peer) -> Option<Vote> {
    let leader = peer.look(|told| told.vote.leader_id)?;
    Some(Vote { peer: peer.id, term: leader.term.0, voted_for: leader.voted_for })
}

impl Disks for Cluster {
    fn entry(&self, place: Place, region: RegionId, index: u64) -> Option<u32> {
        let log = self.disk(place)?.log;
        let found = log.get(Family::Default, &keys::log::entry(region, index));
        found.expect("memory does not fail").map(|entry| crc32c::crc32c(&entry))
    }

    fn kept_entry(&self, place: Place, region: RegionId, index: u64) -> Option<u32> {
        let log = self.disk(place)?.log;
        let found = log.get_synced(Family::Default, &keys::log::entry(region, index));
        found.map(|entry| crc32c::crc32c(&entry))
    }

    fn kept_applied(&self, place: Place, region: RegionId) -> u64 {
        let row = self
            .disk(place)
            .and_then(|disk| disk.data.get_synced(Family::Meta, &keys::meta::apply_state(region)));
        let state = row.map(|row| v1::ApplyState::decode(row).expect("what a node has written"));
        state.map_or(0, |state| state.applied_index)
    }

    fn first_index(&self, place: Place, region: RegionId) -> Option<u64> {
        self.outermost(place, region, Direction::Forward)
    }

    fn last_index(&self, place: Place, region: RegionId) -> Option<u64> {
        self.outermost(place, region, Direction::Reverse)
    }

    fn log_changes(&self, place: Place) -> Option<u64> {
        Some(self.disk(place)?.log.sequence())
    }

    fn kept_vote(&self, place: Place, region: RegionId) -> Option<Vote> {
        let log = self.disk(place)?.log;
        let own = log.get_synced(Family::Default, &keys::log::own_peer(region))?;
        let (peer, _) =
            promises::decode(&own, region, "own peer").expect("what a node has written");
        let row = log.get_synced(Family::Default, &keys::log::vote(region));
        let vote = row.map(|row| decode_vote(&row).expect("what a node has written").leader_id);
        let (term, voted_for) = vote.map_or((0, peer), |vote| (vote.term.0, vote.voted_for));
        Some(Vote { peer, term, voted_for })
    }

    fn kept_buried(&self, place: Place, region: RegionId) -> Option<PeerId> {
        let row = self.disk(place)?.log.get_synced(Family::Default, &keys::log::tombstone(region));
        row.map(|row| {
            promises::decode(&row, region, "tombstone").expect("what a node has written").0
        })
    }

    fn is_anybody_excused(&self) -> bool {
        self.hosts.iter().any(|host| host.is_excused)
    }

    fn set_aside(&self) -> Option<String> {
        self.hosts.iter().find_map(|host| {
            let peers = &host.joined()?.peers;
            let mut aside = peers.quarantined().into_iter().chain(peers.contradicted());
            let (region, peer, reason) = aside.next()?;
            Some(format!("region {region}: peer {peer} on {}: {reason}", host.name()))
        })
    }
}
