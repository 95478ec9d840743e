//! Taking an unjoined node into the cluster, in steps that may each be the last before a crash.
//!
//! Dial the address for its `Status`; [`add_learner`] says what is next: take an id from the
//! counter and [`join`] (the node is `JOINING`: its id is taken), hand over the identity (`Adopt`),
//! [`confirm`] (it is a learner). Repeating the call goes on from whatever was reached. A `JOINING`
//! node may be handed its identity again, on the same disk: of another nobody knows whether the first one
//! has it already, and comes back.

use flotilla_proto::v1;

use super::{
    Decision, TableChange, check_address, check_record, check_table, check_version, record, refused,
};
use crate::{
    error::Error,
    feature_level,
    ids::{ClusterId, NodeId},
    placement::view::find,
};

/// What is next to make a node a learner.
#[derive(Clone, Debug, PartialEq)]
pub enum AddLearner {
    /// It is a member: answer with its id.
    Known { node: NodeId },
    /// Its disk has the identity and the table does not say so yet: [`confirm`].
    Confirm { node: NodeId },
    /// Its id is taken: hand over the identity, then [`confirm`].
    Adopt { node: NodeId },
    /// Take an id, [`join`] with this record, then as `Adopt`.
    Join { record: v1::NodeRecord },
    /// Its address is that of a node whose disk is gone, since this disk is empty: give that node up
    /// (`remove_node` with force), if it can be, then ask again.
    Replace { lost: NodeId },
}

/// Decides on `status`, which the address of `request` answered with, for a cluster whose driver is
/// of version `our_version`.
///
/// # Errors
/// `VersionMoved`. `InvalidArgument`: an address that cannot be dialled, or a row over its budget. `FailedPrecondition`: the
/// node belongs to another cluster or is about to, was removed, is of a version that cannot be mixed with
/// ours, or has the peer address of a member.
pub fn add_learner(
    table: &v1::NodeTable,
    request: &v1::AddLearnerRequest,
    status: &v1::StatusResponse,
    our_version: &str,
) -> Result<AddLearner, Error> {
    check_version(table, request.expected_version)?;
    check_address("address", &request.address)?;
    let address = &request.address;
    if status.removed {
        return Err(refused(format!(
            "the node at {address} was removed from a cluster; it can join with an empty disk"
        )));
    }
    let level = feature_level::check(status.feature_level, table.feature_level);
    if status.joined {
        let known = joined(table, address, status)?;
        level.map_err(|error| refused(format!("the node at {address}: {error}")))?;
        return Ok(known);
    }
    if !status.birth_id.is_empty() {
        return Err(refused(format!(
            "the node at {address} takes part in the birth of another cluster"
        )));
    }

    let mut labels = status.labels.clone();
    labels.extend(request.labels.clone());
    let record = v1::NodeRecord {
        client_address: status.client_address.clone(),
        peer_address: status.peer_address.clone(),
        http_address: status.http_address.clone(),
        state: v1::NodeState::Joining as i32,
        labels,
        version: status.version.clone(),
        feature_level: status.feature_level,
        disk_id: status.disk_id.clone(),
        ..v1::NodeRecord::default()
    };
    check_record(&record)?;
    level.map_err(|error| refused(format!("the node at {address}: {error}")))?;
    if !may_mix(our_version, &status.version) {
        return Err(refused(format!(
            "the node at {address} is of version {:?}, which cannot be mixed with {our_version:?}",
            status.version
        )));
    }
    // A disk that is gone for good, by force, leaves its address to the next.
    let holder = table.nodes.iter().find(|node| {
        node.state() != v1::NodeState::Removed
            && !node.forced
            && (node.client_address == status.client_address
                || node.peer_address == status.peer_address)
    });
    match holder {
        Some(holder)
            if holder.state() == v1::NodeState::Joining && holder.disk_id == status.disk_id =>
        {
            Ok(AddLearner::Adopt { node: NodeId(holder.node_id) })
        }
        Some(holder) if holder.client_address == status.client_address => {
            Ok(AddLearner::Replace { lost: NodeId(holder.node_id) })
        }
        Some(holder) => Err(refused(format!(
            "{address} has the peer address of node {}, {}, but not its client address",
            holder.node_id, holder.peer_address
        ))),
        None => Ok(AddLearner::Join { record }),
    }
}

/// Whether the empty disk that answers `status` at the address `asked` only says of itself that it is where a
/// member is: see [`AddLearner::Replace`], which must not rest on that.
#[must_use]
pub fn only_says_where(table: &v1::NodeTable, asked: &str, status: &v1::StatusResponse) -> bool {
    let own = &status.client_address;
    let is_held = |node: &v1::NodeRecord| {
        let is_removed = node.state() == v1::NodeState::Removed;
        !is_removed && !node.forced && node.client_address == *own
    };
    !status.joined && own != asked && table.nodes.iter().any(is_held)
}

fn joined(
    table: &v1::NodeTable,
    address: &str,
    status: &v1::StatusResponse,
) -> Result<AddLearner, Error> {
    let ours = ClusterId::from_bytes(&table.cluster_id).map(|id| id.to_string());
    if ours.as_ref() != Some(&status.cluster_id) {
        return Err(refused(format!(
            "the node at {address} belongs to cluster {}",
            status.cluster_id
        )));
    }
    let node = NodeId(status.node_id);
    match find(table, node).map(v1::NodeRecord::state) {
        None | Some(v1::NodeState::Unspecified) => {
            Err(refused(format!("the disk at {address} names node {node}, which is not known")))
        }
        Some(v1::NodeState::Removed) => Err(refused(format!(
            "the disk at {address} is that of node {node}, which was removed; empty it first"
        ))),
        Some(v1::NodeState::Joining) => Ok(AddLearner::Confirm { node }),
        Some(v1::NodeState::NodeLearner | v1::NodeState::Up | v1::NodeState::Draining) => {
            Ok(AddLearner::Known { node })
        }
    }
}

/// Enters the new node, whose id was just taken from the counter.
///
/// # Errors
/// `Internal` when the id has been used: the counter went back, and a second node would pass for
/// the first. `InvalidArgument` or `FailedPrecondition` when the row or the table is over its budget.
pub fn join(
    table: &v1::NodeTable,
    record: v1::NodeRecord,
    node: NodeId,
) -> Result<TableChange, Error> {
    if find(table, node).is_some() || node.0 == 0 {
        return Err(Error::Internal { message: format!("node id {node} was given twice") });
    }
    let record = v1::NodeRecord {
        node_id: node.0,
        state: v1::NodeState::Joining as i32,
        forced: false,
        ..record
    };
    check_record(&record)?;
    let change = TableChange::new(table, &[record]);
    check_table(&change.table)?;
    Ok(change)
}

/// The node has its identity on its disk: from `JOINING` to learner.
///
/// # Errors
/// `NotFound`, or `FailedPrecondition` when it was removed meanwhile.
pub fn confirm(table: &v1::NodeTable, node: NodeId) -> Result<Decision, Error> {
    let record = record(table, node)?;
    match record.state() {
        v1::NodeState::Joining => {
            let mut learner = record.clone();
            learner.set_state(v1::NodeState::NodeLearner);
            Ok(Decision::of(table, &[learner]))
        }
        v1::NodeState::NodeLearner | v1::NodeState::Up => Ok(Decision::Nothing),
        v1::NodeState::Draining | v1::NodeState::Removed | v1::NodeState::Unspecified => {
            Err(refused(format!("node {node} was removed while it joined")))
        }
    }
}

/// Whether nodes of both versions may be in one cluster: the same major version, and minor versions
/// that follow each other, as in a rolling upgrade.
fn may_mix(ours: &str, theirs: &str) -> bool {
    let parse = |text: &str| -> Option<(u64, u64)> {
        let mut parts = text.split('.');
        let (major, minor, _patch) = (parts.next()?, parts.next()?, parts.next()?);
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    match (parse(ours), parse(theirs)) {
        (Some((our_major, our_minor)), Some((major, minor))) => {
            our_major == major && our_minor.abs_diff(minor) <= 1
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbouring_minor_versions_mix() {
        for (ours, theirs, want) in [
            ("0.1.0", "0.1.0", true),
            ("0.1.0", "0.1.9-rc.1", true),
            ("0.1.0", "0.2.0", true),
            ("0.2.0", "0.1.0", true),
            ("0.1.0", "0.3.0", false),
            ("0.1.0", "1.1.0", false),
            ("0.1.0", "", false),
            ("0.1.0", "0.1", false),
            ("0.1.0", "new", false),
        ] {
            assert_eq!(may_mix(ours, theirs), want, "{ours} with {theirs}");
        }
    }
}
