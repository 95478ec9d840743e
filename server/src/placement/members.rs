//! What a region's peers are worth, and which changes of its voters are safe.

use std::collections::BTreeMap;

use flotilla_proto::v1;

use super::{
    config::{PlacementConfig, millis},
    view::{ClusterView, HeardRegion, NodeView},
};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    raft::quorum::is_quorum,
};

/// Why a node cannot be given up for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuorumLoss {
    /// Some region has not been heard of yet.
    #[error("not every region has been heard of yet")]
    Unknown,
    /// Of a joint change only one of two quorums would be known.
    #[error("the membership of region {region} is being changed")]
    Changing { region: RegionId },
    #[error("region {region} has no leader that is heard")]
    Leaderless { region: RegionId },
    #[error("region {region} would not keep a live quorum")]
    TooFew { region: RegionId },
}

/// What is to become of a peer, by where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Counts towards the replication factor.
    Stays,
    /// Its node is not in service (draining, demoted): to be moved, adding first.
    Leaving,
    /// Silent for so long that it is rebuilt elsewhere, adding first: it may still come back.
    Down,
    /// Its data is given up (removed node, forced removal, quarantine, lost what it had acknowledged): it may leave before it is
    /// replaced.
    Gone,
}

/// A peer of a region with what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub peer: PeerId,
    pub node: NodeId,
    pub voter: bool,
    pub leader: bool,
    pub standing: Standing,
    /// Counts for a quorum: its node is alive and it answers its leader.
    pub live: bool,
    /// Lags little enough to be promoted or to lead. Never true before it has the region's data.
    pub caught_up: bool,
    pub matched_index: u64,
    /// A learner whose node has not taken the region's state for so long that it is not waited for where
    /// another can be had.
    pub refused: bool,
    /// Its leader lacks what it has: it goes with its node alone, whatever else a region is to have.
    pub contradicted: bool,
}

/// The peers of one region, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    region: RegionId,
    all: Vec<Member>,
}

impl Members {
    /// Judges the peers of `region`.
    #[must_use]
    pub fn of(
        view: &ClusterView,
        region: &HeardRegion,
        nodes: &BTreeMap<NodeId, NodeView>,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> Self {
        let mut members: Vec<Member> = region
            .region
            .peers
            .iter()
            .map(|peer| member_of(view, region, peer, nodes, config, now_ms))
            .collect();
        members.sort_unstable_by_key(|member| member.peer);
        Self { region: region.id(), all: members }
    }

    #[must_use]
    pub fn region(&self) -> RegionId {
        self.region
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> + Clone {
        self.all.iter()
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> + Clone {
        self.iter().filter(|member| member.voter)
    }

    pub fn learners(&self) -> impl Iterator<Item = &Member> + Clone {
        self.iter().filter(|member| !member.voter)
    }

    #[must_use]
    pub fn leader(&self) -> Option<&Member> {
        self.iter().find(|member| member.leader)
    }

    /// Whether enough voters are live for anything to be committed.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        is_quorum(self.voters().map(|member| member.live))
    }

    /// Whether the change needs no vote of a peer that is not live, before and after it.
    ///
    /// Invariant: a joint change commits in the old and the new set, so both need a live majority.
    #[must_use]
    pub fn keeps_quorum(&self, promote: &[PeerId], remove: &[PeerId]) -> bool {
        self.keeps_quorum_where(promote, remove, |member| member.live)
    }

    /// As [`Members::keeps_quorum`], when what is promoted may end the next moment: its vote is not counted on.
    #[must_use]
    pub fn keeps_quorum_without(&self, promote: &[PeerId], remove: &[PeerId]) -> bool {
        self.keeps_quorum_where(promote, remove, |member| {
            member.live && !promote.contains(&member.peer)
        })
    }

    fn keeps_quorum_where(
        &self,
        promote: &[PeerId],
        remove: &[PeerId],
        counts: impl Fn(&Member) -> bool,
    ) -> bool {
        let after = self
            .iter()
            .filter(|member| member.voter || promote.contains(&member.peer))
            .filter(|member| !remove.contains(&member.peer));
        self.has_quorum() && is_quorum(after.map(counts))
    }
}

fn member_of(
    view: &ClusterView,
    region: &HeardRegion,
    peer: &v1::Peer,
    nodes: &BTreeMap<NodeId, NodeView>,
    config: &PlacementConfig,
    now_ms: u64,
) -> Member {
    let (id, node_id) = (PeerId(peer.peer_id), NodeId(peer.node_id));
    let node = nodes.get(&node_id);
    let leader = region.leader.is_some_and(|leader| leader.peer == id);
    let silent_ms = if leader { Some(0) } else { view.silent_ms(region, id, now_ms) };
    let lost = view.is_lost(region, node_id, id);
    let contradicted = !leader && view.is_contradicted(node_id, region.id(), id);

    let in_service = match node {
        Some(node) if !lost && !node.record.forced => match node.state() {
            v1::NodeState::Up => Some(true),
            v1::NodeState::Joining | v1::NodeState::NodeLearner | v1::NodeState::Draining => {
                Some(false)
            }
            v1::NodeState::Removed | v1::NodeState::Unspecified => None,
        },
        _ => None,
    };
    let down = node.is_some_and(|node| node.liveness == v1::Liveness::Down)
        // One that refuses its leader is silent to it, and there. What it alone has would go with it: that a majority
        // has lost it is for people to look at.
        || (!contradicted && silent_ms.is_some_and(|silent| silent >= millis(config.node_down_after)));
    let standing = match in_service {
        // A leader that reports is not gone, whatever is said of its node: it hands over first.
        None | Some(false) if leader => Standing::Leaving,
        None => Standing::Gone,
        Some(_) if down && !leader => Standing::Down,
        Some(false) => Standing::Leaving,
        Some(true) => Standing::Stays,
    };

    // What was given up by force and answers all the same still has its vote.
    let answers = silent_ms.is_some_and(|silent| silent <= millis(config.peer_silent_after));
    let trusted = !lost
        && !contradicted
        && node.is_some_and(|node| node.is_alive() && node.state() != v1::NodeState::Removed);
    let live = answers && trusted;
    let matched_index = if leader {
        region.last_index
    } else {
        region.progress.get(&id).map_or(0, |progress| progress.matched_index)
    };
    // A matched index of 0 is a peer that waits for its first snapshot, however short the log.
    let near = matched_index.saturating_add(config.lag_entries_max) >= region.last_index;
    let voter = peer.role() == v1::PeerRole::Voter;
    let refusal = view.refusal(region, id, now_ms).filter(|_| !voter);
    Member {
        peer: id,
        node: node_id,
        voter,
        leader,
        standing,
        live,
        caught_up: live && matched_index > 0 && near,
        matched_index,
        contradicted,
        refused: refusal.is_some_and(|(lasts_ms, _)| lasts_ms >= millis(config.refusal_patience)),
    }
}

impl ClusterView {
    /// That every region is known, and told by a leader which a majority of its voters answers: the
    /// descriptors are then the newest ones.
    ///
    /// # Errors
    /// The first region for which it is not so; `None` when a range is not known at all.
    pub fn confirmed(&self, config: &PlacementConfig, now_ms: u64) -> Result<(), Option<RegionId>> {
        if !self.is_complete() {
            return Err(None);
        }
        let nodes = self.standing_nodes(config, now_ms);
        for region in self.regions().values() {
            let members = Members::of(self, region, &nodes, config, now_ms);
            if !self.is_fresh(region, config, now_ms) || !members.has_quorum() {
                return Err(Some(region.id()));
            }
        }
        Ok(())
    }

    /// That every region with a voter on `node` keeps a live quorum without it.
    ///
    /// # Errors
    /// The first region for which it is not so, or is not known to be.
    pub fn survives_without(
        &self,
        node: NodeId,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> Result<(), QuorumLoss> {
        if !self.is_complete() {
            return Err(QuorumLoss::Unknown);
        }
        let nodes = self.standing_nodes(config, now_ms);
        for region in self.regions().values() {
            let members = Members::of(self, region, &nodes, config, now_ms);
            let Some(lost) = members.voters().find(|member| member.node == node) else { continue };
            if region.joint_since_ms.is_some() {
                return Err(QuorumLoss::Changing { region: region.id() });
            }
            if !self.is_fresh(region, config, now_ms) {
                return Err(QuorumLoss::Leaderless { region: region.id() });
            }
            if lost.leader || !members.keeps_quorum(&[], &[lost.peer]) {
                return Err(QuorumLoss::TooFew { region: region.id() });
            }
        }
        Ok(())
    }
}
