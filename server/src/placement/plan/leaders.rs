//! Where regions are led from: away from nodes that are about to stop or refuse writes, then evenly.
//!
//! A node whose disk is low refuses clients' writes to what it leads, without end, while another voter may have
//! room. It loses its leaders to such, and where all are low they stay. Levels of disks move on their own, so
//! a node gets none before it has had room for `leader_cool_down`: disks that go to and fro about the level take
//! no leaders with them.

use flotilla_proto::v1;

use super::{Act, Urgency, Wish, nodes::Nodes};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    placement::{
        config::{PlacementConfig, millis},
        members::{Member, Members, Standing},
        view::{ClusterView, HeardRegion, LeaderPeer, NodeView},
    },
};

/// The lead leaves a node that may not have it, if another voter can take it.
pub(super) fn away(members: &Members, nodes: &Nodes) -> Option<Wish> {
    let leader = members.leader()?;
    let why = why_away(members, nodes)?;
    Some(Wish {
        urgency: Urgency::LeaderAway,
        reason: format!("lead away from node {}: {why}", leader.node),
        act: Act::HandOver,
    })
}

/// Why the leader's node does not keep the lead, if another voter can take it.
fn why_away(members: &Members, nodes: &Nodes) -> Option<&'static str> {
    let why = match nodes.get(members.leader()?.node)? {
        NodeView { evicted: true, .. } => "its leaders are evicted",
        NodeView { disk_level: v1::DiskLevel::Critical, .. } => "its disk is nearly full",
        node if node.state() != v1::NodeState::Up => "it is not in service",
        node if !node.has_room() => "its disk is low",
        _ => return None,
    };
    successor(members, nodes).map(|_| why)
}

/// Why a region that `node` led would be led from elsewhere again with the next round; `None` when it would not, or
/// when nothing is known of it.
#[must_use]
pub fn would_lose_lead(
    view: &ClusterView,
    region: RegionId,
    node: NodeId,
    config: &PlacementConfig,
    now_ms: u64,
) -> Option<&'static str> {
    let region = view.regions().get(&region)?;
    if !view.is_fresh(region, config, now_ms) {
        return None;
    }
    let here = |peer: &&v1::Peer| peer.node_id == node.0 && peer.role() == v1::PeerRole::Voter;
    let peer = PeerId(region.region.peers.iter().find(here)?.peer_id);
    let mut then = region.clone();
    let old = then.leader.replace(LeaderPeer { peer, node })?;
    // Whoever leads now has all of it, and answers.
    let told = v1::PeerProgress {
        peer_id: old.peer.0,
        matched_index: region.last_index,
        ..v1::PeerProgress::default()
    };
    then.progress.insert(old.peer, told);
    let nodes = Nodes::new(view, config, now_ms);
    let members = Members::of(view, &then, nodes.all(), config, now_ms);
    why_away(&members, &nodes)
}

/// The voter that should lead instead: caught up, on a node that may lead, which leads the fewest. For a
/// leader that cannot stay a node that is low is better than none.
pub(super) fn successor<'a>(members: &'a Members, nodes: &Nodes) -> Option<&'a Member> {
    let cannot_stay = |node: &NodeView| {
        node.evicted
            || node.disk_level == v1::DiskLevel::Critical
            || node.state() != v1::NodeState::Up
    };
    let must_go = members.leader().is_some_and(|leader| {
        leader.standing != Standing::Stays || nodes.get(leader.node).is_some_and(cannot_stay)
    });
    members
        .voters()
        .filter(|member| !member.leader && member.standing == Standing::Stays && member.caught_up)
        .filter_map(|member| Some((nodes.get(member.node)?, member)))
        .filter(|(node, _)| node.may_lead() || (must_go && node.may_lead_at_worst()))
        .min_by_key(|(node, _)| (!node.may_lead(), !node.has_room(), node.leaders, node.id()))
        .map(|(_, member)| member)
}

/// Moves leaders, of regions that want nothing else, from nodes that lead more than they should to
/// nodes that lead less.
///
/// Each move takes a leader from a node with at least two more than where it goes, so the sum of
/// squares falls with every move: it comes to rest and cannot go in circles.
pub(super) fn balance<'a>(
    content: &'a [(&'a HeardRegion, Members)],
    nodes: &mut Nodes,
    config: &PlacementConfig,
    now_ms: u64,
) -> Vec<(&'a HeardRegion, Member)> {
    // Ordering: the system region last, since moving its lead moves the driver.
    let (system, others): (Vec<_>, Vec<_>) = content
        .iter()
        .filter(|(region, _)| {
            region.joint_since_ms.is_none()
                && now_ms.saturating_sub(region.leader_since_ms) >= millis(config.leader_cool_down)
        })
        .partition(|(region, _)| region.id() == RegionId::SYSTEM);

    let mut moves = Vec::new();
    for (region, members) in others.into_iter().chain(system) {
        if moves.len() == config.steps_per_round_max {
            break;
        }
        let Some(leader) = members.leader() else { continue };
        let leads = |node: NodeId| nodes.get(node).map_or(0, |node| node.leaders);
        let Some(to) = successor(members, nodes).copied() else { continue };
        let difference = leads(leader.node).saturating_sub(leads(to.node));
        if members.has_quorum() && difference > config.leader_difference_max.max(1) {
            nodes.lead_moved(Some(leader.node), to.node);
            moves.push((*region, to));
        }
    }
    moves
}
