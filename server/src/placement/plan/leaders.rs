//! Where regions are led from: away from nodes that are about to stop, then evenly.

use flotilla_proto::v1;

use super::{Act, Urgency, Wish, nodes::Nodes};
use crate::{
    ids::{NodeId, RegionId},
    placement::{
        config::{PlacementConfig, millis},
        peers::{Member, Members, Standing},
        view::{NodeView, RegionView},
    },
};

/// The lead leaves a node that may not have it, if another voter can take it.
pub(super) fn away(members: &Members, nodes: &Nodes) -> Option<Wish> {
    let leader = members.leader()?;
    let node = nodes.get(leader.node)?;
    let why = match node {
        NodeView { evicted: true, .. } => "its leaders are evicted",
        NodeView { disk_critical: true, .. } => "its disk is nearly full",
        node if node.state() != v1::NodeState::Up => "it is not in service",
        _ => return None,
    };
    successor(members, nodes)?;
    Some(Wish {
        urgency: Urgency::LeaderAway,
        reason: format!("lead away from node {}: {why}", leader.node),
        act: Act::HandOver,
    })
}

/// The voter that should lead instead: caught up, on a node that may lead, which leads the fewest.
pub(super) fn successor<'a>(members: &'a Members, nodes: &Nodes) -> Option<&'a Member> {
    candidates(members, nodes).min_by_key(|(leads, member)| (*leads, member.node)).map(|(_, m)| m)
}

fn candidates<'a>(
    members: &'a Members,
    nodes: &Nodes,
) -> impl Iterator<Item = (usize, &'a Member)> {
    members
        .voters()
        .filter(|member| !member.leader && member.standing == Standing::Stays && member.caught_up)
        .filter_map(|member| {
            let node = nodes.get(member.node)?;
            node.may_lead().then_some((node.leaders, member))
        })
}

/// Moves leaders, of regions that want nothing else, from nodes that lead more than they should to
/// nodes that lead less.
///
/// Each move takes a leader from a node with at least two more than where it goes, so the sum of
/// squares falls with every move: it comes to rest and cannot go in circles.
pub(super) fn balance<'a>(
    content: &'a [(&'a RegionView, Members)],
    nodes: &mut Nodes,
    config: &PlacementConfig,
    now_ms: u64,
) -> Vec<(&'a RegionView, Member)> {
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
