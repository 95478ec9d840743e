//! `kvctl nodes`

use std::collections::BTreeMap;

use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;

use super::{
    Context,
    exit::Failure,
    table::{Cell, Table, Tone},
};
use crate::v1;

#[derive(Debug, Args)]
pub(super) struct Nodes {
    /// With the nodes that were removed
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    cluster_id: String,
    version: u64,
    replication_factor: u32,
    nodes: Vec<NodeRecord>,
}

/// A node of the table, for programs.
#[derive(Debug, Serialize)]
pub(super) struct NodeRecord {
    id: u64,
    state: &'static str,
    liveness: &'static str,
    client_address: String,
    peer_address: String,
    http_address: String,
    leaders: u32,
    peers: u32,
    leaders_evicted: bool,
    disk_used_bytes: u64,
    disk_available_bytes: u64,
    version: String,
    labels: BTreeMap<String, String>,
}

impl From<v1::Node> for NodeRecord {
    fn from(node: v1::Node) -> Self {
        Self {
            id: node.node_id,
            state: state_name(node.state()),
            liveness: liveness_name(node.liveness()),
            client_address: node.client_address,
            peer_address: node.peer_address,
            http_address: node.http_address,
            leaders: node.leaders,
            peers: node.peers,
            leaders_evicted: node.leaders_evicted,
            disk_used_bytes: node.disk_used_bytes,
            disk_available_bytes: node.disk_available_bytes,
            version: node.version,
            labels: node.labels,
        }
    }
}

pub(super) fn state_name(state: v1::NodeState) -> &'static str {
    match state {
        v1::NodeState::Unspecified => "unknown",
        v1::NodeState::Joining => "joining",
        v1::NodeState::NodeLearner => "learner",
        v1::NodeState::Up => "up",
        v1::NodeState::Draining => "draining",
        v1::NodeState::Removed => "removed",
    }
}

fn liveness_name(liveness: v1::Liveness) -> &'static str {
    match liveness {
        v1::Liveness::Unspecified => "unknown",
        v1::Liveness::Alive => "alive",
        v1::Liveness::Disconnected => "disconnected",
        v1::Liveness::Down => "down",
    }
}

/// The node table, for people.
pub(super) fn table(nodes: &[v1::Node]) -> Table {
    let mut table = Table::new(&[
        "ID", "STATE", "LIVENESS", "ADDRESS", "LEADERS", "PEERS", "USED", "FREE", "VERSION",
        "LABELS",
    ]);
    for node in nodes {
        let state_tone = match node.state() {
            v1::NodeState::Up => Tone::Good,
            v1::NodeState::Removed => Tone::Faint,
            v1::NodeState::Joining | v1::NodeState::NodeLearner | v1::NodeState::Draining => {
                Tone::Warning
            }
            v1::NodeState::Unspecified => Tone::Plain,
        };
        let liveness_tone = match node.liveness() {
            v1::Liveness::Alive => Tone::Good,
            v1::Liveness::Disconnected => Tone::Warning,
            v1::Liveness::Down => Tone::Bad,
            v1::Liveness::Unspecified => Tone::Plain,
        };
        let evicted = if node.leaders_evicted { " (evicted)" } else { "" };
        let labels: Vec<String> =
            node.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        table.row(vec![
            Cell::number(node.node_id),
            Cell::text(state_name(node.state())).tone(state_tone),
            Cell::text(liveness_name(node.liveness())).tone(liveness_tone),
            Cell::text(&node.client_address),
            Cell::number(format!("{}{evicted}", node.leaders)),
            Cell::number(node.peers),
            Cell::number(HumanBytes(node.disk_used_bytes)),
            Cell::number(HumanBytes(node.disk_available_bytes)),
            Cell::text(&node.version),
            Cell::text(labels.join(",")),
        ]);
    }
    table
}

impl Nodes {
    pub(super) async fn run(self, mut context: Context) -> Result<(), Failure> {
        let request = v1::ListNodesRequest { all: self.all };
        let response = context.client.cluster().list_nodes(request).await?;
        let table = table(&response.nodes);
        let answer = Answer {
            cluster_id: response.cluster_id,
            version: response.version,
            replication_factor: response.replication_factor,
            nodes: response.nodes.into_iter().map(Into::into).collect(),
        };
        context.out.show(&answer, || table)
    }
}
