//! Why nodes that drain are not empty yet.
//!
//! A drain that cannot go on does not fail: it waits for a node with room, or for a leader. So that nobody
//! waits for what does not come without knowing, the first region that is kept is told, with what keeps it. And an
//! empty node is let go only when every region has all its voters: until then it is told which one has not.

use std::collections::BTreeMap;

use flotilla_proto::v1;

use super::{
    nodes::Nodes,
    repair::{is_coming, staying},
};
use crate::{
    ids::{NodeId, RegionId},
    placement::{
        config::PlacementConfig,
        members::{Member, Members, Standing},
        view::{ClusterView, HeardRegion},
    },
};

/// Bounds: draining nodes that are told of, and nodes that are named in what is told of one.
const DRAINING_MAX: usize = 16;
const NAMED_MAX: usize = 4;

/// What keeps peers on each node that drains; nothing of one whose peers are on their way.
#[must_use]
pub fn obstacles(
    view: &ClusterView,
    config: &PlacementConfig,
    now_ms: u64,
) -> BTreeMap<NodeId, String> {
    let drains = |record: &&v1::NodeRecord| record.state() == v1::NodeState::Draining;
    let mut draining: Vec<NodeId> = view
        .table()
        .nodes
        .iter()
        .filter(drains)
        .map(|record| NodeId(record.node_id))
        .take(DRAINING_MAX)
        .collect();
    let mut found = BTreeMap::new();
    if draining.is_empty() {
        return found;
    }
    let nodes = Nodes::new(view, config, now_ms);
    for region in view.regions().values() {
        let here = |node: &NodeId| region.region.peers.iter().any(|peer| peer.node_id == node.0);
        if !draining.iter().any(here) {
            continue;
        }
        let Some(why) = obstacle(view, region, &nodes, config, now_ms) else { continue };
        for node in draining.extract_if(.., |node| here(node)) {
            found.insert(node, format!("region {}: {why}", region.id()));
        }
        if draining.is_empty() {
            break;
        }
    }
    draining.retain(|node| is_empty(view, *node) && waits_for_voters(view, *node));
    if draining.is_empty() {
        return found;
    }
    if let Some(short) = short_in(view, &nodes, config, now_ms) {
        found.extend(draining.into_iter().map(|node| (node, short.to_string())));
    }
    found
}

fn is_empty(view: &ClusterView, node: NodeId) -> bool {
    view.left_on(node) == (0, 0)
}

/// Whether a node that drains goes only once every region has its voters. One that was given up by force has nothing
/// to give, whatever is missed.
#[must_use]
pub fn waits_for_voters(view: &ClusterView, node: NodeId) -> bool {
    view.record(node).is_none_or(|record| !record.forced)
}

/// A region that has fewer live voters than it is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "region {region}: {live} of its {wanted} voters answer, and no node is let go before all do"
)]
pub struct Short {
    pub region: RegionId,
    pub live: usize,
    pub wanted: usize,
}

/// The first region without all the voters, alive, that it is to have.
#[must_use]
pub fn short(view: &ClusterView, config: &PlacementConfig, now_ms: u64) -> Option<Short> {
    short_in(view, &Nodes::new(view, config, now_ms), config, now_ms)
}

fn short_in(
    view: &ClusterView,
    nodes: &Nodes,
    config: &PlacementConfig,
    now_ms: u64,
) -> Option<Short> {
    view.regions().values().find_map(|region| {
        let members = Members::of(view, region, nodes.all(), config, now_ms);
        // One on another node that drains is still a copy.
        let counts = |voter: &&Member| {
            voter.live && matches!(voter.standing, Standing::Stays | Standing::Leaving)
        };
        let live = members.voters().filter(counts).count();
        let wanted = nodes.replicas(region.id());
        (live < wanted).then_some(Short { region: region.id(), live, wanted })
    })
}

/// What keeps a region from having its peer moved; `None` when nothing does.
fn obstacle(
    view: &ClusterView,
    region: &HeardRegion,
    nodes: &Nodes,
    config: &PlacementConfig,
    now_ms: u64,
) -> Option<String> {
    if !view.is_fresh(region, config, now_ms) {
        return Some("no leader of it is heard".to_owned());
    }
    let members = Members::of(view, region, nodes.all(), config, now_ms);
    if !members.has_quorum() {
        return Some("no quorum of it answers".to_owned());
    }
    let learners = || members.learners().filter(|learner| learner.standing == Standing::Stays);
    let refused = learners().find_map(|learner| {
        let (_, reason) = view.refusal(region, learner.peer, now_ms)?;
        Some(format!("node {} does not take it: {reason}", learner.node))
    });
    if refused.is_some() {
        return refused;
    }
    let coming = learners().filter(|learner| is_coming(learner, nodes)).count();
    if staying(&members) + coming >= nodes.replicas(region.id())
        || nodes.best_for(&members).is_some()
    {
        return None;
    }
    let mut kept_out: Vec<String> = nodes
        .kept_out(&members)
        .take(NAMED_MAX + 1)
        .map(|(node, why)| format!("node {node} {why}"))
        .collect();
    if kept_out.len() > NAMED_MAX {
        kept_out.truncate(NAMED_MAX);
        kept_out.push("and others".to_owned());
    }
    Some(match kept_out.is_empty() {
        true => "there is no other node in service for it".to_owned(),
        false => format!("no node can take it: {}", kept_out.join(", ")),
    })
}
