//! Nodes and states as JSON: the same for `curl` and for `kvctl`.
//!
//! The fields of an object come in the order they are declared in, and have the names of the
//! contracts, but for `id`. Enumerations are short words in lower case.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::v1;

/// The node table.
#[derive(Debug, Serialize)]
pub struct Cluster {
    pub cluster_id: String,
    pub version: u64,
    pub replication_factor: u32,
    pub nodes: Vec<Node>,
    /// Nodes that told this by themselves, without a placement driver; absent when it told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub told_by_nodes: Vec<u64>,
}

/// A node of the table with what was heard of it.
#[derive(Debug, Serialize)]
pub struct Node {
    pub id: u64,
    pub client_address: String,
    pub peer_address: String,
    pub http_address: String,
    pub state: &'static str,
    pub liveness: &'static str,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub leaders: u32,
    pub peers: u32,
    pub leaders_evicted: bool,
    pub demoted: bool,
    pub forced: bool,
    pub disk_available_bytes: u64,
    pub disk_used_bytes: u64,
    pub data_bytes: u64,
    pub disk_level: &'static str,
    /// Of a draining node, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub waits_for: String,
}

/// What one node says of itself.
#[derive(Debug, Serialize)]
pub struct Status {
    pub joined: bool,
    pub removed: bool,
    pub cluster_id: String,
    pub node_id: u64,
    pub version: String,
    pub client_address: String,
    pub peer_address: String,
    pub http_address: String,
    pub labels: BTreeMap<String, String>,
    pub table_version: u64,
    pub ready: bool,
    pub not_ready_reasons: Vec<String>,
    pub warnings: Vec<String>,
    pub disk_level: String,
    pub disk_available_bytes: u64,
    pub disk_used_bytes: u64,
    pub data_bytes: u64,
    pub system_leader_node: u64,
    pub feature_level: u32,
    pub cluster_feature_level: u32,
    pub peers: Vec<Peer>,
}

/// A peer of the node that is asked.
#[derive(Debug, Serialize)]
pub struct Peer {
    pub region_id: u64,
    pub peer_id: u64,
    pub role: String,
    pub term: u64,
    pub leader_peer_id: u64,
    pub last_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub purged_index: u64,
    pub reads_per_second: f64,
    pub writes_per_second: f64,
}

/// The word for a node's state.
#[must_use]
pub fn state_name(state: v1::NodeState) -> &'static str {
    match state {
        v1::NodeState::Unspecified => "unknown",
        v1::NodeState::Joining => "joining",
        v1::NodeState::NodeLearner => "learner",
        v1::NodeState::Up => "up",
        v1::NodeState::Draining => "draining",
        v1::NodeState::Removed => "removed",
    }
}

/// The word for a node's liveness.
#[must_use]
pub fn liveness_name(liveness: v1::Liveness) -> &'static str {
    match liveness {
        v1::Liveness::Unspecified => "unknown",
        v1::Liveness::Alive => "alive",
        v1::Liveness::Suspect => "suspect",
        v1::Liveness::Disconnected => "disconnected",
        v1::Liveness::Down => "down",
    }
}

/// The word for how much room a node's disk has.
#[must_use]
pub fn disk_level_name(level: v1::DiskLevel) -> &'static str {
    match level {
        v1::DiskLevel::Unspecified => "unknown",
        v1::DiskLevel::Normal => "normal",
        v1::DiskLevel::Low => "low",
        v1::DiskLevel::Critical => "critical",
    }
}

/// The nodes in the order of their ids.
impl From<v1::ListNodesResponse> for Cluster {
    fn from(table: v1::ListNodesResponse) -> Self {
        let mut nodes: Vec<Node> = table.nodes.into_iter().map(Node::from).collect();
        nodes.sort_by_key(|node| node.id);
        Self {
            cluster_id: table.cluster_id,
            version: table.version,
            replication_factor: table.replication_factor,
            nodes,
            told_by_nodes: Some(table.told_by_node).filter(|node| *node != 0).into_iter().collect(),
        }
    }
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        Self {
            id: node.node_id,
            state: state_name(node.state()),
            liveness: liveness_name(node.liveness()),
            disk_level: disk_level_name(node.disk_level()),
            waits_for: node.waits_for.clone(),
            client_address: node.client_address,
            peer_address: node.peer_address,
            http_address: node.http_address,
            labels: node.labels,
            version: node.version,
            leaders: node.leaders,
            peers: node.peers,
            leaders_evicted: node.leaders_evicted,
            demoted: node.demoted,
            forced: node.forced,
            disk_available_bytes: node.disk_available_bytes,
            disk_used_bytes: node.disk_used_bytes,
            data_bytes: node.data_bytes,
        }
    }
}

impl From<v1::StatusResponse> for Status {
    fn from(status: v1::StatusResponse) -> Self {
        Self {
            joined: status.joined,
            removed: status.removed,
            cluster_id: status.cluster_id,
            node_id: status.node_id,
            version: status.version,
            client_address: status.client_address,
            peer_address: status.peer_address,
            http_address: status.http_address,
            labels: status.labels,
            table_version: status.table_version,
            ready: status.ready,
            not_ready_reasons: status.not_ready_reasons,
            warnings: status.warnings,
            disk_level: status.disk_level,
            disk_available_bytes: status.disk_available_bytes,
            disk_used_bytes: status.disk_used_bytes,
            data_bytes: status.data_bytes,
            system_leader_node: status.system_leader_node,
            feature_level: status.feature_level,
            cluster_feature_level: status.cluster_feature_level,
            peers: status.peers.into_iter().map(Peer::from).collect(),
        }
    }
}

impl From<v1::PeerStatus> for Peer {
    fn from(peer: v1::PeerStatus) -> Self {
        Self {
            region_id: peer.region.map_or(0, |region| region.region_id),
            peer_id: peer.peer_id,
            role: peer.role,
            term: peer.term,
            leader_peer_id: peer.leader_peer_id,
            last_index: peer.last_index,
            committed_index: peer.committed_index,
            applied_index: peer.applied_index,
            snapshot_index: peer.snapshot_index,
            purged_index: peer.purged_index,
            reads_per_second: peer.reads_per_second,
            writes_per_second: peer.writes_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts cut these answers apart, some of them without a parser.
    #[test]
    fn bytes_are_what_they_always_were() {
        let node = |node_id| v1::Node {
            node_id,
            client_address: "a:1".to_owned(),
            peer_address: "a:2".to_owned(),
            http_address: "a:3".to_owned(),
            state: v1::NodeState::NodeLearner.into(),
            liveness: v1::Liveness::Disconnected.into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            version: "1.2.3".to_owned(),
            leaders: 4,
            peers: 5,
            leaders_evicted: true,
            forced: false,
            demoted: true,
            disk_available_bytes: 6,
            disk_used_bytes: 7,
            data_bytes: 8,
            disk_level: v1::DiskLevel::Low.into(),
            waits_for: String::new(),
        };
        let table = v1::ListNodesResponse {
            cluster_id: "c".to_owned(),
            version: 8,
            nodes: vec![node(2), node(1)],
            replication_factor: 3,
            told_by_node: 0,
        };
        let text = serde_json::to_string(&Cluster::from(table)).expect("JSON");
        let node = |id| {
            format!(
                r#"{{"id":{id},"client_address":"a:1","peer_address":"a:2","http_address":"a:3","#
            ) + r#""state":"learner","liveness":"disconnected","labels":{"zone":"a"},"#
                + r#""version":"1.2.3","leaders":4,"peers":5,"leaders_evicted":true,"#
                + r#""demoted":true,"forced":false,"#
                + r#""disk_available_bytes":6,"disk_used_bytes":7,"data_bytes":8,"disk_level":"low"}"#
        };
        let want = format!(
            r#"{{"cluster_id":"c","version":8,"replication_factor":3,"nodes":[{},{}]}}"#,
            node(1),
            node(2)
        );
        assert_eq!(text, want);

        let status = v1::StatusResponse {
            joined: true,
            node_id: 1,
            ready: true,
            disk_level: "normal".to_owned(),
            peers: vec![v1::PeerStatus { role: "leader".to_owned(), ..Default::default() }],
            ..Default::default()
        };
        let text = serde_json::to_string(&Status::from(status)).expect("JSON");
        let want = concat!(
            r#"{"joined":true,"removed":false,"cluster_id":"","node_id":1,"version":"","#,
            r#""client_address":"","peer_address":"","http_address":"","labels":{},"#,
            r#""table_version":0,"ready":true,"not_ready_reasons":[],"warnings":[],"disk_level":"normal","#,
            r#""disk_available_bytes":0,"disk_used_bytes":0,"data_bytes":0,"#,
            r#""system_leader_node":0,"#,
            r#""feature_level":0,"cluster_feature_level":0,"peers":["#,
            r#"{"region_id":0,"peer_id":0,"role":"leader","term":0,"leader_peer_id":0,"#,
            r#""last_index":0,"committed_index":0,"applied_index":0,"snapshot_index":0,"#,
            r#""purged_index":0,"reads_per_second":0.0,"writes_per_second":0.0}]}"#
        );
        assert_eq!(text, want);
    }
}
