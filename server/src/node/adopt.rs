//! The identity that the cluster hands an empty disk.

use std::sync::Arc;

use flotilla_proto::v1;
use tonic::Status;

use super::{Node, identity};
use crate::{
    feature_level::{self, TooOld},
    ids::ClusterId,
    region::lifecycle,
};

/// Takes an identity over, for good.
///
/// Durability: on the disk before it is answered; doing it again does nothing.
pub(super) async fn adopt(node: &Arc<Node>, request: v1::AdoptRequest) -> Result<(), Status> {
    let _joining = node.joining.lock().await;
    let storage = |error: crate::storage::engine::Error| Status::internal(error.to_string());
    if ClusterId::from_bytes(&request.cluster_id).is_none() || request.node_id == 0 {
        return Err(Status::invalid_argument("not an identity"));
    }
    if request.disk_id.is_empty() {
        return Err(Status::failed_precondition(
            "the node that leads region 1 has an older version, which does not say which disk it means; upgrade it, or \
             move that leader to an upgraded node",
        ));
    }
    if request.disk_id != node.births.disk_id() {
        return Err(Status::failed_precondition("another disk answers here than was asked before"));
    }
    let too_old = |error: TooOld| Status::failed_precondition(error.to_string());
    let level = request.table.as_ref().map_or(0, |table| table.feature_level);
    let stored = identity::read_stored(node.log.as_ref()).map_err(storage)?;
    if let Some(stored) = stored {
        let same = stored.cluster_id == request.cluster_id && stored.node_id == request.node_id;
        return if same && !stored.removed {
            if let Some(table) = request.table {
                node.directory.update(table).map_err(too_old)?;
            }
            Ok(())
        } else {
            Err(Status::failed_precondition("this disk belongs to another node"))
        };
    }
    if node.births.promised().is_some() {
        return Err(Status::failed_precondition(
            "it has promised itself to the birth of another cluster",
        ));
    }
    // It is nobody's and goes on looking for a cluster that it can be of.
    feature_level::check(feature_level::OURS, level).map_err(too_old)?;
    lifecycle::wipe(node.log.as_ref(), node.data.as_ref()).map_err(storage)?;
    // Ordering: the table first, so that a node with an identity knows whom to ask. They are in one instance: the
    // second carries the first to the disk.
    if let Some(table) = request.table {
        let begun = node.directory.begin(table);
        begun.map_err(|error| Status::internal(error.to_string()))?;
    }
    let stored = v1::NodeIdentity {
        cluster_id: request.cluster_id,
        node_id: request.node_id,
        ..v1::NodeIdentity::default()
    };
    crate::crash_point!("adopt-before-write");
    identity::write(node.log.as_ref(), &stored).map_err(storage)?;
    crate::crash_point!("adopt-after-write");
    let identity = identity::read(node.log.as_ref())
        .map_err(storage)?
        .ok_or_else(|| Status::internal("the identity is gone"))?;
    node.activate(identity, false).await.map_err(|error| Status::internal(format!("{error:#}")))
}
