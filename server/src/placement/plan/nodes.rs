//! The nodes during one planning round: what is on them, and what this round already gave them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use flotilla_proto::{
    replication::voters_wanted,
    v1::{self, step::Action},
};

use crate::{
    ids::{NodeId, PeerId, RegionId},
    placement::{
        config::PlacementConfig,
        members::{Member, Members, Standing},
        view::{ClusterView, NodeView},
    },
};

/// Failure domains from the widest to the narrowest, as labels of nodes.
const DOMAINS: [&str; 2] = ["zone", "host"];

pub(super) struct Nodes {
    all: BTreeMap<NodeId, NodeView>,
    replication_factor: u32,
    up: usize,
    learners_per_node_max: usize,
    /// See [`ClusterView::ownerless`].
    ownerless: BTreeSet<(RegionId, NodeId)>,
    /// See [`ClusterView::refused_lately`].
    refused: BTreeSet<(RegionId, NodeId)>,
    /// Nodes that do not take the state of some region now: others come before them.
    refusing: BTreeSet<NodeId>,
}

/// Why a node gets no peer of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptOut {
    Unheard,
    Low,
    Critical,
    /// It has as many learners as it may have at a time.
    Learners,
    /// See [`ClusterView::ownerless`].
    Ownerless,
    Refused,
}

impl fmt::Display for KeptOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unheard => "is not heard",
            Self::Low => "has a disk that is low",
            Self::Critical => "has a disk that is nearly full",
            Self::Learners => "is being sent other regions first",
            Self::Ownerless => "has a log of the region that nobody owns",
            Self::Refused => "had no room for it, or refused it, of late",
        })
    }
}

impl Nodes {
    /// The nodes as the view has them, with the effect of open orders added.
    pub(super) fn new(view: &ClusterView, config: &PlacementConfig, now_ms: u64) -> Self {
        let all = view.nodes(config, now_ms);
        let up = all.values().filter(|node| node.state() == v1::NodeState::Up).count();
        let mut nodes = Self {
            all,
            replication_factor: view.table().replication_factor,
            up,
            learners_per_node_max: config.learners_per_node_max,
            ownerless: view.ownerless(),
            refused: view.refused_lately(config, now_ms),
            refusing: refusing(view),
        };
        for (region, step) in view.open_orders(config, now_ms) {
            match &step.action {
                Some(Action::AddLearner(add)) => nodes.learner_added(NodeId(add.node_id)),
                Some(Action::Transfer(to)) => {
                    let peers = &region.region.peers;
                    if let Some(peer) = peers.iter().find(|peer| peer.peer_id == to.peer_id) {
                        let from = region.leader.map(|leader| leader.node);
                        nodes.lead_moved(from, NodeId(peer.node_id));
                    }
                }
                Some(Action::Change(_)) | None => {}
            }
        }
        nodes
    }

    pub(super) fn all(&self) -> &BTreeMap<NodeId, NodeView> {
        &self.all
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&NodeView> {
        self.all.get(&node)
    }

    /// How many voters a region is to have: the replication factor, or one per node in service when
    /// there are fewer. Nodes that are silent count, since they are expected back.
    pub(super) fn replicas(&self, region: RegionId) -> usize {
        voters_wanted(region.0, self.replication_factor).min(self.up).max(1)
    }

    /// The node that is best for one more peer of a region: in service and heard of, without a peer
    /// of it, in the least shared failure domains, with the fewest peers.
    pub(super) fn best_for(&self, members: &Members) -> Option<NodeId> {
        self.all
            .values()
            .filter(|node| self.may_take(node, members))
            .min_by_key(|node| {
                let refuses = self.refusing.contains(&node.id());
                (self.crowding(node, members, &[]), refuses, node.peers, node.id())
            })
            .map(NodeView::id)
    }

    /// The voter that shares the most failure domains with the others, and with how many of them. Never the
    /// leader.
    pub(super) fn most_crowded<'a>(
        &self,
        members: &'a Members,
    ) -> Option<(&'a Member, [usize; DOMAINS.len()])> {
        members
            .voters()
            .filter(|member| !member.leader && member.standing == Standing::Stays)
            .filter_map(|member| {
                let node = self.get(member.node)?;
                Some((member, self.shared(node, members, member.peer)))
            })
            .max_by_key(|(member, shared)| (*shared, member.peer))
    }

    /// How many voters but `old` share each failure domain with `node`: what a peer there in its place
    /// would be lost together with.
    pub(super) fn shared(
        &self,
        node: &NodeView,
        members: &Members,
        old: PeerId,
    ) -> [usize; DOMAINS.len()] {
        DOMAINS.map(|domain| {
            let Some(here) = node.label(domain) else { return 0 };
            members
                .voters()
                .filter(|member| member.peer != old && member.node != node.id())
                .filter_map(|member| self.get(member.node)?.label(domain))
                .filter(|there| *there == here)
                .count()
        })
    }

    /// The node where a peer would share fewer failure domains with the other voters than `old` does, if
    /// there is one.
    pub(super) fn apart_from(&self, members: &Members, old: PeerId) -> Option<NodeId> {
        let leaves = members.voters().find(|member| member.peer == old)?;
        let from = self.get(leaves.node)?;
        let now = self.shared(from, members, old);
        let (then, _, _, node) = self
            .all
            .values()
            .filter(|node| self.may_take(node, members))
            // Whether a node without a label is apart from the others nobody knows.
            .filter(|node| {
                DOMAINS.iter().all(|name| from.label(name).is_none() || node.label(name).is_some())
            })
            .map(|node| {
                let refuses = self.refusing.contains(&node.id());
                (self.shared(node, members, old), refuses, node.peers, node.id())
            })
            .min()?;
        (then < now).then_some(node)
    }

    fn may_take(&self, node: &NodeView, members: &Members) -> bool {
        node.state() == v1::NodeState::Up
            && !members.iter().any(|member| member.node == node.id())
            && self.keeps_out(node, members).is_none()
    }

    /// What is against a node in service that has no peer of the region.
    fn keeps_out(&self, node: &NodeView, members: &Members) -> Option<KeptOut> {
        let here = (members.region(), node.id());
        if node.liveness != v1::Liveness::Alive {
            Some(KeptOut::Unheard)
        } else if node.disk_level == v1::DiskLevel::Critical {
            Some(KeptOut::Critical)
        } else if !node.may_receive() {
            Some(KeptOut::Low)
        } else if self.ownerless.contains(&here) {
            Some(KeptOut::Ownerless)
        } else if self.refused.contains(&here) {
            Some(KeptOut::Refused)
        } else if node.learners >= self.learners_per_node_max {
            Some(KeptOut::Learners)
        } else {
            None
        }
    }

    /// The nodes in service without a voter of the region that get none, and why.
    pub(super) fn kept_out<'a>(
        &'a self,
        members: &'a Members,
    ) -> impl Iterator<Item = (NodeId, KeptOut)> + 'a {
        self.all
            .values()
            .filter(|node| node.state() == v1::NodeState::Up)
            .filter(|node| !members.voters().any(|voter| voter.node == node.id()))
            .filter_map(|node| Some((node.id(), self.keeps_out(node, members)?)))
    }

    /// The most superfluous of a region's voters: in the most shared failure domains, on the
    /// fullest node. Never the leader, nor one that has what it lacks. Those that go beside it share nothing any more.
    pub(super) fn worst_of<'a>(
        &self,
        voters: impl Iterator<Item = &'a Member>,
        members: &Members,
        beside: &[&Member],
    ) -> Option<&'a Member> {
        let going: Vec<NodeId> = beside.iter().map(|member| member.node).collect();
        voters.filter(|member| !member.leader && !member.contradicted).max_by_key(|member| {
            let node = self.get(member.node);
            let crowding = node.map(|node| self.crowding(node, members, &going));
            (!member.live, crowding, node.map(|node| node.peers), member.peer)
        })
    }

    /// Per failure domain, how many other peers that stay share it with `node`; not those on nodes that they are `going`
    /// from.
    fn crowding(
        &self,
        node: &NodeView,
        members: &Members,
        going: &[NodeId],
    ) -> [usize; DOMAINS.len()] {
        DOMAINS.map(|domain| {
            let Some(here) = node.label(domain) else { return 0 };
            members
                .iter()
                .filter(|member| member.standing == Standing::Stays && member.node != node.id())
                .filter(|member| !going.contains(&member.node))
                .filter_map(|member| self.get(member.node)?.label(domain))
                .filter(|there| *there == here)
                .count()
        })
    }

    pub(super) fn learner_added(&mut self, node: NodeId) {
        if let Some(node) = self.all.get_mut(&node) {
            node.peers += 1;
            node.learners += 1;
        }
    }

    pub(super) fn lead_moved(&mut self, from: Option<NodeId>, to: NodeId) {
        if let Some(from) = from.and_then(|node| self.all.get_mut(&node)) {
            from.leaders = from.leaders.saturating_sub(1);
        }
        if let Some(to) = self.all.get_mut(&to) {
            to.leaders += 1;
        }
    }
}

fn refusing(view: &ClusterView) -> BTreeSet<NodeId> {
    let regions = view.regions().values();
    let refused = regions.flat_map(|region| {
        let is_refused = |peer: &&v1::Peer| {
            let told = region.progress.get(&PeerId(peer.peer_id));
            told.is_some_and(|told| !told.refused.is_empty())
        };
        region.region.peers.iter().filter(is_refused)
    });
    refused.map(|peer| NodeId(peer.node_id)).collect()
}
