//! The calls that move leaders and change nothing else.

use std::time::Duration;

use flotilla_proto::v1::{self, step::Action};

use super::{record, refused};
use crate::{
    error::Error,
    ids::{NodeId, RegionId},
    placement::{
        config::{PlacementConfig, millis},
        peers::Members,
        view::ClusterView,
    },
};

/// Longest time for which leaders are kept away from a node by one call.
const EVICTION_MAX: Duration = Duration::from_secs(3600);

/// From which node leaders are to be kept away, and for how long; zero ends it. To be handed to
/// [`ClusterView::evict_leaders`].
///
/// # Errors
/// `InvalidArgument`: longer than an hour. `NotFound`. `FailedPrecondition`: removed.
pub fn evict_leaders(
    table: &v1::NodeTable,
    request: &v1::EvictLeadersRequest,
) -> Result<(NodeId, Duration), Error> {
    if request.duration_ms > millis(EVICTION_MAX) {
        return Err(Error::InvalidArgument {
            field: "duration_ms".to_owned(),
            message: "leaders are kept away for an hour at most".to_owned(),
            limit: millis(EVICTION_MAX),
        });
    }
    let node = NodeId(request.node_id);
    if record(table, node)?.state() == v1::NodeState::Removed {
        return Err(refused(format!("node {node} was removed, for ever")));
    }
    Ok((node, Duration::from_millis(request.duration_ms)))
}

/// The step that makes the peer on a node lead a region; `None` when it does.
///
/// # Errors
/// `NotFound`: no such region, or no voter of it on the node. `NoLeader`: nobody could hand over.
/// `FailedPrecondition`: the peer lags or does not answer, or a joint change is under way.
pub fn transfer_leader(
    view: &ClusterView,
    request: &v1::TransferLeaderRequest,
    config: &PlacementConfig,
    now_ms: u64,
) -> Result<Option<v1::Step>, Error> {
    let (id, node) = (RegionId(request.region_id), NodeId(request.to_node_id));
    record(view.table(), node)?;
    let region = view
        .regions()
        .get(&id)
        .ok_or_else(|| Error::NotFound { message: format!("no region {id} is known") })?;
    if !region.is_fresh(config, now_ms) {
        return Err(Error::NoLeader { region: id });
    }
    let members = Members::of(view, region, &view.nodes(config, now_ms), config, now_ms);
    let to = members.voters().find(|member| member.node == node).ok_or_else(|| {
        Error::NotFound { message: format!("region {id} has no voter on node {node}") }
    })?;
    if to.leader {
        return Ok(None);
    }
    if region.joint_since_ms.is_some() {
        return Err(refused(format!("the membership of region {id} is being changed")));
    }
    if !to.caught_up {
        return Err(refused(format!("peer {} of region {id} lags or does not answer", to.peer)));
    }
    Ok(Some(v1::Step {
        region_id: id.0,
        epoch: Some(region.epoch()),
        reason: "asked for".to_owned(),
        action: Some(Action::Transfer(v1::TransferTo { peer_id: to.peer.0 })),
    }))
}
