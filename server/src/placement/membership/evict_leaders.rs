//! The call that moves leaders and changes nothing else.

use std::time::Duration;

use flotilla_proto::v1;

use super::{record, refused};
use crate::{error::Error, ids::NodeId, placement::config::millis};

/// Longest time for which leaders are kept away from a node by one call.
const EVICTION_MAX: Duration = Duration::from_secs(3600);

/// From which node leaders are to be kept away, and for how long; zero ends it. To be handed to
/// [`ClusterView::evict_leaders`](crate::placement::view::ClusterView::evict_leaders).
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
