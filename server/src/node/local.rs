//! What this node knows of the cluster by itself, for people who look at an outage.
//!
//! When no placement driver answers, the question what is wrong matters most. A node then answers what is
//! true without anybody else: its copy of the node table, and of each region with a peer here whether a
//! leader is heard. How other nodes are it does not know, and says so.

use std::{collections::BTreeSet, sync::Arc};

use flotilla_proto::{
    range::KeyRange,
    region::range_of,
    replication::voters_wanted,
    v1::{self, RegionHealth},
};

use super::{Joined, Node, heartbeat};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    placement::view::{NodeView, page, page_regions},
    region::{Peer, followers::Follower},
};

/// The node table as it was last heard; of the nodes only this one is known to live.
pub(super) fn nodes(
    node: &Node,
    joined: &Joined,
    request: v1::ListNodesRequest,
) -> v1::ListNodesResponse {
    let table = node.directory.table();
    let peers = joined.peers.all();
    let disk = *node.disk_status.lock();
    let view = |record: &v1::NodeRecord| {
        let is_here = NodeId(record.node_id) == joined.node;
        let mut view = NodeView::unheard(record.clone());
        if is_here {
            view.liveness = v1::Liveness::Alive;
            view.peers = peers.len();
            view.leaders =
                peers.iter().filter(|peer| peer.is_leader() && peer.is_in_touch()).count();
            view.disk_level = heartbeat::disk_level(disk.as_ref());
            view.disk_available_bytes = disk.map_or(0, |disk| disk.available_bytes);
            view.disk_used_bytes = disk.map_or(0, |disk| disk.total_bytes - disk.available_bytes);
            view.data_bytes = node.data_bytes();
        }
        view.to_node()
    };
    v1::ListNodesResponse {
        cluster_id: joined.cluster.to_string(),
        version: table.version,
        nodes: table
            .nodes
            .iter()
            .filter(|record| request.all || record.state() != v1::NodeState::Removed)
            .map(view)
            .collect(),
        replication_factor: table.replication_factor,
        told_by_node: joined.node.0,
    }
}

/// The regions of a range that have a peer here, in the order of their keys.
pub(super) fn regions(
    node: &Node,
    joined: &Joined,
    request: &v1::RegionsRequest,
) -> v1::RegionsResponse {
    let range = KeyRange::new(request.start_key.clone(), request.end_key.clone());
    let mut peers: Vec<(Arc<Peer>, Arc<v1::Region>)> = joined
        .peers
        .all()
        .into_iter()
        .filter(|peer| peer.view().is_initialized())
        .map(|peer| {
            let descriptor = peer.view().with(|now| Arc::clone(&now.descriptor));
            (peer, descriptor)
        })
        .filter(|(_, region)| range_of(region).overlaps(&range))
        .collect();
    peers.sort_by(|(_, left), (_, right)| left.start_key.cmp(&right.start_key));
    let factor = node.directory.table().replication_factor;
    let config = joined.driver.config();
    let info = |(peer, region): (Arc<Peer>, Arc<v1::Region>)| {
        let wanted = voters_wanted(peer.region.0, factor);
        let is_heard = peer.is_in_touch();
        let silent = |of: &Follower| of.told_silent() > config.peer_silent_after;
        let followers = if peer.is_leader() { peer.followers() } else { Vec::new() };
        let known = if peer.is_leader() {
            let live = followers.iter().filter(|of| of.is_voter && !silent(of)).count();
            let learns = followers.iter().any(|of| !of.is_voter);
            let is_joint = peer.view().with(|now| now.joint);
            Known::Leads { is_heard, live: live + 1, is_changing: learns || is_joint }
        } else {
            Known::Follows { is_heard }
        };
        let leader = peer.leader().filter(|_| is_heard).map(|(peer, leader)| v1::Leader {
            peer_id: peer.0,
            node_id: leader.0,
            client_address: node.directory.client_address(leader),
        });
        let low = if peer.is_leader() { peer.low_disks() } else { BTreeSet::new() };
        v1::RegionInfo {
            leader,
            term: peer.term(),
            down_peers: followers.iter().filter(|of| silent(of)).map(|of| of.peer.0).collect(),
            lost_peers: followers.iter().filter(|of| of.is_lost()).map(|of| of.peer.0).collect(),
            refused_peers: followers.iter().filter_map(|of| refused(&region, of)).collect(),
            approximate_bytes: peer.approximate_bytes(),
            health: health(known, wanted).into(),
            voters_wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
            low_node_ids: low.into_iter().map(|node| node.0).collect(),
            contradicted_peers: peer.contradiction().map(|_| peer.id.0).into_iter().collect(),
            region: Some((*region).clone()),
            ..v1::RegionInfo::default()
        }
    };
    let (regions, more) = page(peers.into_iter().map(info), page_regions(request.limit));
    v1::RegionsResponse { accepted: true, regions, more }
}

fn refused(region: &v1::Region, follower: &Follower) -> Option<v1::RefusedPeer> {
    let refusal = follower.refusal.as_ref()?;
    let peer = region.peers.iter().find(|peer| peer.peer_id == follower.peer.0)?;
    let (peer_id, node_id) = (peer.peer_id, peer.node_id);
    Some(v1::RefusedPeer { peer_id, node_id, reason: refusal.reason.clone() })
}

/// The peers of the regions behind `after`, in the order of their ids, as many as fit into one answer; and
/// whether there are others.
pub(super) fn peers(joined: &Joined, after: u64) -> (Vec<v1::PeerStatus>, bool) {
    let running = joined.peers.all().into_iter().map(|peer| (peer.region, Local::Runs(peer)));
    let quarantined = joined.peers.quarantined().into_iter();
    let quarantined = quarantined.map(|(region, id, why)| (region, Local::Quarantined(id, why)));
    let mut peers: Vec<_> =
        running.chain(quarantined).filter(|(region, _)| region.0 > after).collect();
    peers.sort_by_key(|(region, _)| *region);
    let status = |(region, peer): (RegionId, Local)| match peer {
        Local::Runs(peer) => peer.status(),
        Local::Quarantined(id, reason) => v1::PeerStatus {
            region: Some(v1::Region { region_id: region.0, ..v1::Region::default() }),
            peer_id: id.0,
            role: "quarantined".to_owned(),
            reason,
            ..v1::PeerStatus::default()
        },
    };
    page(peers.into_iter().map(status), usize::MAX)
}

/// A peer on this node.
enum Local {
    Runs(Arc<Peer>),
    Quarantined(PeerId, String),
}

/// What a peer of this node knows of its region.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// `live`: voters that answer, itself too. `is_heard`: by a quorum.
    Leads { is_heard: bool, live: usize, is_changing: bool },
    /// `is_heard`: the leader is.
    Follows { is_heard: bool },
}

/// What is certain from here; unspecified when only the leader could tell.
fn health(known: Known, wanted: usize) -> RegionHealth {
    match known {
        Known::Leads { is_heard: false, .. } => RegionHealth::NoQuorum,
        Known::Leads { live, .. } if live < wanted => RegionHealth::UnderReplicated,
        Known::Leads { is_changing: true, .. } => RegionHealth::Changing,
        Known::Leads { .. } => RegionHealth::Healthy,
        Known::Follows { is_heard: true } => RegionHealth::Unspecified,
        Known::Follows { is_heard: false } => RegionHealth::NoLeader,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_says_of_a_region_what_it_can_know() {
        let leads = |is_heard, live, is_changing| Known::Leads { is_heard, live, is_changing };
        for (why, known, want) in [
            ("all answer", leads(true, 3, false), RegionHealth::Healthy),
            ("a learner is filled", leads(true, 3, true), RegionHealth::Changing),
            ("one is silent", leads(true, 2, false), RegionHealth::UnderReplicated),
            ("it leads nobody", leads(false, 1, false), RegionHealth::NoQuorum),
            ("it follows", Known::Follows { is_heard: true }, RegionHealth::Unspecified),
            ("nobody leads", Known::Follows { is_heard: false }, RegionHealth::NoLeader),
        ] {
            assert_eq!(health(known, 3), want, "{why}");
        }
    }
}
