//! How a region is, told to people: one answer for listings, metrics and checks.

use std::collections::BTreeMap;

use flotilla_proto::{
    replication,
    v1::{self, RegionHealth},
};

use super::{ClusterView, HeardRegion, NodeView};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    placement::{
        config::{PlacementConfig, millis},
        members::{Member, Members, Standing},
    },
    raft::quorum::{Disk, is_quorum, low_disks},
};

impl ClusterView {
    /// Voters that the replication factor asks for, whether or not there are nodes for them: a region
    /// with fewer does not survive what its owner believes it does.
    #[must_use]
    pub fn voters_wanted(&self, region: RegionId) -> usize {
        replication::voters_wanted(region.0, self.table().replication_factor)
    }

    /// The worst that is wrong with a region.
    #[must_use]
    pub fn health(
        &self,
        region: &HeardRegion,
        nodes: &BTreeMap<NodeId, NodeView>,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> RegionHealth {
        let members = Members::of(self, region, nodes, config, now_ms);
        if !self.is_fresh(region, config, now_ms) {
            // Nobody tells who answers; but voters on nodes that are not heard of do not.
            let heard = |member: &Member| nodes.get(&member.node).is_some_and(NodeView::is_alive);
            return if is_quorum(members.voters().map(heard)) {
                RegionHealth::NoLeader
            } else {
                RegionHealth::NoQuorum
            };
        }
        let wanted = self.voters_wanted(region.id());
        health(&members, region.joint_since_ms.is_some(), wanted)
    }

    /// A region for `ListRegions`: where its leader is, which peers are silent or lag, how it is.
    /// `nodes` is [`ClusterView::nodes`] of the same time.
    #[must_use]
    pub fn region_info(
        &self,
        region: &HeardRegion,
        nodes: &BTreeMap<NodeId, NodeView>,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> v1::RegionInfo {
        let silent_max = millis(config.peer_silent_after);
        let fresh = self.is_fresh(region, config, now_ms);
        let leader = region.leader.filter(|_| fresh);
        let followers = || {
            let lead = leader.map(|leader| leader.peer.0);
            region.region.peers.iter().filter(move |peer| Some(peer.peer_id) != lead)
        };
        let away =
            |peer: &&v1::Peer| !nodes.get(&NodeId(peer.node_id)).is_some_and(NodeView::is_alive);
        let silent = |peer: &&v1::Peer| {
            self.silent_ms(region, PeerId(peer.peer_id), now_ms)
                .is_none_or(|silent| silent > silent_max)
        };
        // How long a leader that is not heard has not heard of the others says nothing of them.
        let down = |peer: &&v1::Peer| away(peer) || (fresh && silent(peer));
        let lags = |peer: &&v1::Peer| {
            let matched = region.progress.get(&PeerId(peer.peer_id)).map_or(0, |p| p.matched_index);
            fresh
                && (matched == 0
                    || matched.saturating_add(config.lag_entries_max) < region.last_index)
        };
        v1::RegionInfo {
            region: Some(region.region.clone()),
            leader: leader.map(|leader| v1::Leader {
                peer_id: leader.peer.0,
                node_id: leader.node.0,
                client_address: self
                    .record(leader.node)
                    .map(|record| record.client_address.clone())
                    .unwrap_or_default(),
            }),
            term: region.term,
            down_peers: followers().filter(down).map(|peer| peer.peer_id).collect(),
            pending_peers: followers().filter(lags).map(|peer| peer.peer_id).collect(),
            approximate_bytes: region.approximate_bytes,
            health: self.health(region, nodes, config, now_ms).into(),
            voters_wanted: u32::try_from(self.voters_wanted(region.id())).unwrap_or(u32::MAX),
            lost_peers: self.lost_peers(region),
            refused_peers: self.refused_peers(region, now_ms),
            low_node_ids: low_nodes(region, nodes),
            contradicted_peers: self.contradicted_peers(region),
        }
    }

    fn refused_peers(&self, region: &HeardRegion, now_ms: u64) -> Vec<v1::RefusedPeer> {
        let refused = |peer: &v1::Peer| {
            let (_, reason) = self.refusal(region, PeerId(peer.peer_id), now_ms)?;
            let (peer_id, node_id) = (peer.peer_id, peer.node_id);
            Some(v1::RefusedPeer { peer_id, node_id, reason: reason.to_owned() })
        };
        region.region.peers.iter().filter_map(refused).collect()
    }
}

/// The nodes for whose disks the region takes nothing that grows, as its leader decides it.
fn low_nodes(region: &HeardRegion, nodes: &BTreeMap<NodeId, NodeView>) -> Vec<u64> {
    let voters = region.region.peers.iter().filter(|peer| peer.role() == v1::PeerRole::Voter);
    let voters = voters.map(|peer| NodeId(peer.node_id)).collect();
    let disk = |node: NodeId| {
        let node = nodes.get(&node);
        Disk {
            level: node.map_or(v1::DiskLevel::Unspecified, |node| node.disk_level).into(),
            answers: node.is_some_and(NodeView::is_alive),
        }
    };
    low_disks(region.leader.map(|leader| leader.node), &[voters], disk)
        .into_iter()
        .map(|node| node.0)
        .collect()
}

/// Of a region that a leader reports.
fn health(members: &Members, joint: bool, wanted: usize) -> RegionHealth {
    let good = |standing| matches!(standing, Standing::Stays | Standing::Leaving);
    let live = members.voters().filter(|member| member.live && good(member.standing)).count();
    if !members.has_quorum() {
        RegionHealth::NoQuorum
    } else if live < wanted {
        RegionHealth::UnderReplicated
    } else if joint || members.learners().next().is_some() {
        RegionHealth::Changing
    } else {
        RegionHealth::Healthy
    }
}
