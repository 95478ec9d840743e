//! What a node says of itself.

use flotilla_proto::v1;

use super::{Node, identity, local, readiness};
use crate::{api::Check, storage::disk::Level};

/// How this node is, by itself.
pub(super) fn status(node: &Node, request: &v1::StatusRequest) -> v1::StatusResponse {
    // The checks look at every region: a listing of many pages is to cost them once.
    if let (false, after @ 1..) = (request.without_peers, request.after_region) {
        return further_peers(node, after);
    }
    let checks = readiness::checks(node);
    let complaints = |counts: bool| {
        let checks = checks.iter().filter(move |check| check.counts == counts);
        checks.filter_map(Check::complaint)
    };
    let reasons: Vec<String> = complaints(true).collect();
    let disk = *node.disk_status.lock();
    let mut status = v1::StatusResponse {
        removed: node.is_removed(),
        ready: reasons.is_empty(),
        not_ready_reasons: reasons,
        warnings: complaints(false).collect(),
        disk_level: match disk.map(|disk| disk.level) {
            None | Some(Level::Normal) => "normal",
            Some(Level::Low) => "low",
            Some(Level::Critical) => "critical",
        }
        .to_owned(),
        disk_available_bytes: disk.map_or(0, |disk| disk.available_bytes),
        disk_used_bytes: disk.map_or(0, |disk| disk.total_bytes - disk.available_bytes),
        data_bytes: node.data_bytes(),
        ..node.introduce()
    };
    if let Some(joined) = node.joined.get() {
        status.joined = true;
        status.cluster_id = joined.cluster.to_string();
        status.node_id = joined.node.0;
        let table = node.directory.table();
        (status.table_version, status.cluster_feature_level) = (table.version, table.feature_level);
        status.system_leader_node = joined.driver.system_leader().map_or(0, |leader| leader.0);
        if !request.without_peers {
            (status.peers, status.more_peers) = local::peers(joined, 0);
        }
    } else if let Ok(Some(stored)) = identity::read(node.log.as_ref()) {
        status.joined = true;
        status.cluster_id = stored.cluster.to_string();
        status.node_id = stored.node.0;
    }
    status.birth_id = node.births.birth_id(status.joined);
    if status.joined {
        status.told_of.clear();
    }
    status
}

/// A page of a status but the first: who answers, and peers.
fn further_peers(node: &Node, after_region: u64) -> v1::StatusResponse {
    let mut page = node.introduce();
    if let Some(joined) = node.joined.get() {
        page.joined = true;
        page.cluster_id = joined.cluster.to_string();
        page.node_id = joined.node.0;
        (page.peers, page.more_peers) = local::peers(joined, after_region);
    }
    page
}
