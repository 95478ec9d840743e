//! What a node's heartbeat changes in the node table.

use flotilla_proto::v1;

use super::{Decision, check_address, record::check_version_text};
use crate::{ids::NodeId, placement::view::find};

/// Takes over addresses and version of a node that was restarted with others, and confirms a node
/// whose `AddLearner` was cut off after it had its identity: who knows its id has it on its disk.
///
/// To be asked only for a heartbeat that [`super::super::view::ClusterView::hear`] accepted.
#[must_use]
pub fn heard(table: &v1::NodeTable, request: &v1::HeartbeatRequest) -> Decision {
    let Some(before) = find(table, NodeId(request.node_id)) else { return Decision::Nothing };
    let mut after = before.clone();
    match before.state() {
        v1::NodeState::Joining => after.set_state(v1::NodeState::NodeLearner),
        v1::NodeState::NodeLearner | v1::NodeState::Up | v1::NodeState::Draining => {}
        v1::NodeState::Removed | v1::NodeState::Unspecified => return Decision::Nothing,
    }
    // What nobody could dial, or is over its budget, is not taken over: the row stays as it was.
    for (known, told) in [
        (&mut after.client_address, &request.client_address),
        (&mut after.peer_address, &request.peer_address),
        (&mut after.http_address, &request.http_address),
    ] {
        if known != told && check_address("address", told).is_ok() {
            known.clone_from(told);
        }
    }
    if !request.version.is_empty() && check_version_text(&request.version).is_ok() {
        after.version.clone_from(&request.version);
    }
    after.feature_level = request.feature_level;
    if after == *before { Decision::Nothing } else { Decision::of(table, &[after]) }
}
