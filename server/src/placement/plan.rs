//! From the cluster as it is to the next steps.
//!
//! [`plan`] looks at every region that has a leader and no order under way, and asks its checkers
//! (`plan/repair.rs`, then `plan/leaders.rs`) in a fixed order for one step; the first that wants
//! something wins. So each region moves one change at a time, and a cluster that is as it should be
//! gets no steps at all. What is urgent takes the budget of a round first: finishing what was begun,
//! leaders off nodes that go, lost peers, then the rest. Nothing is remembered between rounds but
//! the view: a step that was lost is simply wanted again.
//!
//! Invariant: no step leaves a region without a live majority in both the old and the new voters,
//! removes its leader, or puts a second peer on a node. Adding precedes removing, but for peers
//! whose data is gone.

mod leaders;
mod nodes;
mod obstacles;
mod repair;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use flotilla_proto::v1::{self, step::Action};

use self::nodes::Nodes;
pub use self::{
    leaders::would_lose_lead,
    obstacles::{Short, obstacles, short, waits_for_voters},
};
use super::{
    config::PlacementConfig, members::Members, steps, view::ClusterView, view::HeardRegion,
};
use crate::ids::{PeerId, RegionId};

/// Who gets the budget of a round first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Something begun is waiting for its end.
    Finish,
    /// A leader sits on a node that is about to stop.
    LeaderAway,
    /// A peer is lost.
    Replace,
    /// There never were enough.
    Fill,
    /// A peer is on a node that is not in service.
    Move,
    /// There are too many.
    Surplus,
    /// All is there, and more than need be would be lost with one zone or host.
    Spread,
}

/// What a checker wants done to a region.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    urgency: Urgency,
    reason: String,
    act: Act,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    /// Add a learner; on which node is chosen when its turn comes.
    Add,
    /// As [`Act::Add`], for a voter that is to go then.
    AddInstead(PeerId),
    Change(v1::ChangePeers),
    /// Hand over to the voter that suits best when its turn comes.
    HandOver,
}

/// The next steps, the most urgent first, at most one per region and `steps_per_round_max` in all.
///
/// `ids` gives peer ids that were never used; when it has none left, regions that need one wait for
/// a later round. Steps are to be remembered with [`ClusterView::order`].
#[must_use]
pub fn plan(
    view: &ClusterView,
    config: &PlacementConfig,
    now_ms: u64,
    ids: &mut dyn FnMut() -> Option<PeerId>,
) -> Vec<v1::Step> {
    let mut nodes = Nodes::new(view, config, now_ms);
    let ordered: BTreeSet<RegionId> =
        view.open_orders(config, now_ms).map(|(region, _)| region.id()).collect();

    let mut wishes = Vec::new();
    let mut content = Vec::new();
    for region in view.regions().values() {
        if ordered.contains(&region.id()) || !view.is_fresh(region, config, now_ms) {
            continue;
        }
        let members = Members::of(view, region, nodes.all(), config, now_ms);
        let replicas = nodes.replicas(region.id());
        match wish(region, &members, replicas, &nodes, config, now_ms) {
            Some(wish) => wishes.push((wish, region, members)),
            None => content.push((region, members)),
        }
    }
    wishes.sort_by_key(|(wish, region, _)| (wish.urgency, region.id()));

    let mut planned = Vec::new();
    for (wish, region, members) in wishes {
        if planned.len() == config.steps_per_round_max {
            return planned;
        }
        planned.extend(grant(wish, region, &members, &mut nodes, ids));
    }
    for (region, to) in leaders::balance(&content, &mut nodes, config, now_ms) {
        if planned.len() == config.steps_per_round_max {
            break;
        }
        let reason = format!("balance leaders: node {} leads fewer", to.node);
        planned.push(step(region, reason, transfer(to.peer)));
    }
    planned
}

/// The checkers in their order; the first that wants something wins.
fn wish(
    region: &HeardRegion,
    members: &Members,
    replicas: usize,
    nodes: &Nodes,
    config: &PlacementConfig,
    now_ms: u64,
) -> Option<Wish> {
    if let Some(since_ms) = region.joint_since_ms {
        return repair::finish_joint(since_ms, config, now_ms);
    }
    // Nothing could be committed, and nothing is known of the peers that do not answer.
    if !members.has_quorum() {
        return None;
    }
    repair::finish_learner(members, replicas, nodes)
        .or_else(|| repair::drop_lost(members))
        .or_else(|| repair::replace_down(members, replicas, nodes))
        .or_else(|| repair::fill(members, replicas, nodes))
        .or_else(|| repair::vacate(members, replicas, nodes))
        .or_else(|| repair::drop_surplus(members, replicas, nodes))
        .or_else(|| leaders::away(members, nodes))
        .or_else(|| repair::spread(members, replicas, nodes))
}

/// The step that fulfils a wish, if it still can be after those before it.
fn grant(
    wish: Wish,
    region: &HeardRegion,
    members: &Members,
    nodes: &mut Nodes,
    ids: &mut dyn FnMut() -> Option<PeerId>,
) -> Option<v1::Step> {
    let Wish { reason, act, .. } = wish;
    match act {
        Act::Change(change) => Some(step(region, reason, Action::Change(change))),
        Act::HandOver => {
            let to = *leaders::successor(members, nodes)?;
            nodes.lead_moved(region.leader.map(|leader| leader.node), to.node);
            Some(step(region, reason, transfer(to.peer)))
        }
        Act::Add | Act::AddInstead(_) => {
            let node = match act {
                Act::AddInstead(old) => nodes.apart_from(members, old)?,
                _ => nodes.best_for(members)?,
            };
            let peer = ids()?;
            nodes.learner_added(node);
            let add = v1::AddLearnerPeer { peer_id: peer.0, node_id: node.0 };
            Some(step(region, reason, Action::AddLearner(add)))
        }
    }
}

fn step(region: &HeardRegion, reason: String, action: Action) -> v1::Step {
    v1::Step { region_id: region.id().0, epoch: Some(region.epoch()), reason, action: Some(action) }
}

fn transfer(to: PeerId) -> Action {
    Action::Transfer(v1::TransferTo { peer_id: to.0 })
}

/// A change that promotes and removes these.
fn change(promote: Option<PeerId>, remove: &[PeerId]) -> v1::ChangePeers {
    let change = v1::ChangePeers {
        promote: promote.into_iter().map(|peer| peer.0).collect(),
        remove: remove.iter().map(|peer| peer.0).collect(),
    };
    debug_assert!(!steps::is_finish(&change), "a change of nothing means another thing");
    change
}
