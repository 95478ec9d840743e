//! Draining a node and letting it go.

use flotilla_proto::v1;

use super::{Decision, TableChange, check_enough, check_version, record, refused, up_nodes};
use crate::{
    error::Error,
    ids::NodeId,
    placement::{config::PlacementConfig, members::QuorumLoss, plan, view::ClusterView},
};

/// Starts to drain a node; nothing when it drains or is gone. [`removal`] is the answer to give.
///
/// With `force` the node's data is given up: its peers leave before they are replaced, and fewer
/// nodes than the replication factor may remain. So that is only for a node that is not heard, and
/// only if every region keeps a live quorum without it.
///
/// # Errors
/// `VersionMoved`. `NotFound`. `FailedPrecondition`: too few nodes would remain, it is the last in
/// service, or force is not possible. `NotReady`: force, and a region has not been
/// heard of yet or is changing.
pub fn remove_node(
    view: &ClusterView,
    request: &v1::RemoveNodeRequest,
    config: &PlacementConfig,
    now_ms: u64,
) -> Result<Decision, Error> {
    let table = view.table();
    check_version(table, request.expected_version)?;
    let node = NodeId(request.node_id);
    let record = record(table, node)?;

    let nothing_new = match record.state() {
        v1::NodeState::Removed => true,
        v1::NodeState::Draining => record.forced || !request.force,
        _ => false,
    };
    if nothing_new {
        return Ok(Decision::Nothing);
    }
    let serves = record.state() == v1::NodeState::Up;
    let remaining = up_nodes(table) - usize::from(serves);
    if remaining == 0 {
        return Err(refused(format!("no node would stay in service without node {node}")));
    }
    if request.force {
        check_force(view, node, record.state(), config, now_ms)?;
    } else if serves {
        check_enough(table.replication_factor, remaining)?;
    }

    let mut draining = record.clone();
    draining.set_state(v1::NodeState::Draining);
    draining.forced = request.force;
    Ok(Decision::of(table, &[draining]))
}

fn check_force(
    view: &ClusterView,
    node: NodeId,
    state: v1::NodeState,
    config: &PlacementConfig,
    now_ms: u64,
) -> Result<(), Error> {
    let liveness = view.liveness(node, config, now_ms);
    if matches!(liveness, v1::Liveness::Alive | v1::Liveness::Suspect) {
        return Err(refused(format!(
            "node {node} was heard within the last {}, or has not been waited for that long: force is for \
             dead nodes, without it the node is drained",
            humantime::format_duration(config.node_disconnected_after)
        )));
    }
    if state == v1::NodeState::Joining {
        // It never held a peer.
        return Ok(());
    }
    match view.survives_without(node, config, now_ms) {
        Ok(()) => Ok(()),
        Err(loss @ (QuorumLoss::Unknown | QuorumLoss::Changing { .. })) => {
            Err(Error::NotReady { message: loss.to_string() })
        }
        Err(loss @ (QuorumLoss::Leaderless { .. } | QuorumLoss::TooFew { .. })) => {
            Err(refused(format!("node {node} cannot be given up: {loss}")))
        }
    }
}

/// How far the removal of a node is.
///
/// # Errors
/// `NotFound`.
pub fn removal(view: &ClusterView, node: NodeId) -> Result<v1::RemoveNodeResponse, Error> {
    let state = record(view.table(), node)?.state;
    let (peers, leaders) = view.left_on(node);
    Ok(v1::RemoveNodeResponse {
        state,
        peers_left: u32::try_from(peers).unwrap_or(u32::MAX),
        leaders_left: u32::try_from(leaders).unwrap_or(u32::MAX),
        version: view.table().version,
    })
}

/// Takes a removal back while the node drains: it is in service again.
///
/// # Errors
/// `VersionMoved`. `NotFound`. `FailedPrecondition`: it is gone already, or was given up by force
/// (its data may be gone, and its address taken by another).
pub fn cancel_remove_node(
    table: &v1::NodeTable,
    request: &v1::CancelRemoveNodeRequest,
) -> Result<Decision, Error> {
    check_version(table, request.expected_version)?;
    let node = NodeId(request.node_id);
    let record = record(table, node)?;
    match record.state() {
        v1::NodeState::Draining if record.forced => Err(refused(format!(
            "node {node} was given up by force: it can only join anew, with an empty disk"
        ))),
        v1::NodeState::Draining => {
            let mut back = record.clone();
            // One that was out of service before stays so.
            let demoted = record.demoted;
            back.set_state(if demoted { v1::NodeState::NodeLearner } else { v1::NodeState::Up });
            Ok(Decision::of(table, &[back]))
        }
        v1::NodeState::Removed => Err(refused(format!("node {node} was removed, for ever"))),
        v1::NodeState::Unspecified
        | v1::NodeState::Joining
        | v1::NodeState::NodeLearner
        | v1::NodeState::Up => Ok(Decision::Nothing),
    }
}

/// The draining nodes that hold no peer of any region become `REMOVED`; `None` when there are none.
///
/// # Guarantees
/// Only while every region has all the voters that it is to have, and they answer ([`plan::short`]): the node's copies
/// were given up for those, and until it is gone for ever its removal can be taken back. One that was given up by
/// force has none to give, and goes without.
///
/// Only while every region is known and told by a leader that a majority answers
/// ([`ClusterView::confirmed`]): a driver that has not heard of a region yet, or only from a leader
/// that was replaced, lets no node go. A learner that an earlier driver ordered may still arrive; it
/// has no vote, and is removed as any peer of a removed node.
#[must_use]
pub fn finish_removals(
    view: &ClusterView,
    config: &PlacementConfig,
    now_ms: u64,
) -> Option<TableChange> {
    let table = view.table();
    let mut drained: Vec<v1::NodeRecord> = table
        .nodes
        .iter()
        .filter(|node| node.state() == v1::NodeState::Draining)
        .filter(|node| view.left_on(NodeId(node.node_id)) == (0, 0))
        .filter(|node| !view.is_ordered_on(NodeId(node.node_id), config, now_ms))
        .map(|node| {
            let mut removed = node.clone();
            removed.set_state(v1::NodeState::Removed);
            // Bound: its row stays for ever.
            removed.labels.clear();
            removed.disk_id.clear();
            removed
        })
        .collect();
    if drained.is_empty() || view.confirmed(config, now_ms).is_err() {
        return None;
    }
    let waits = |node: &v1::NodeRecord| plan::waits_for_voters(view, NodeId(node.node_id));
    if drained.iter().any(waits) && plan::short(view, config, now_ms).is_some() {
        drained.retain(|node| !waits(node));
    }
    (!drained.is_empty()).then(|| TableChange::new(table, &drained))
}
