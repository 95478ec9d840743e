//! `kvctl nodes`

use clap::Args;
use flotilla_proto::json::{self, liveness_name, state_name};
use indicatif::HumanBytes;

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
        context.out.show(&json::Cluster::from(response), || table)
    }
}
