//! `kvctl nodes`

use clap::Args;
use flotilla_proto::json::{self, disk_level_name, liveness_name, state_name};
use indicatif::HumanBytes;

use super::{
    Context,
    exit::Failure,
    listing::{self, Stale, Wanted},
    table::{Cell, Table, Tone},
};
use crate::v1;

#[derive(Debug, Args)]
pub(super) struct Nodes {
    /// With the nodes that were removed
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    stale: Stale,
}

/// The word for a node's state, with what was done to it that the state alone does not tell.
pub(super) fn state(node: &v1::Node) -> String {
    let why = match (node.demoted, node.forced) {
        (true, _) => " (demoted)",
        (_, true) => " (forced)",
        (false, false) => "",
    };
    format!("{}{why}", state_name(node.state()))
}

/// The node table, for people.
pub(super) fn table(nodes: &[v1::Node]) -> Table {
    // Flotilla's own files, and what the file system has left: who else is on it is no matter of this table.
    let mut header =
        vec!["ID", "STATE", "LIVENESS", "ADDRESS", "LEADERS", "PEERS", "DATA", "DISK FREE"];
    // What says nothing takes no room, so that the table fits a terminal of 80 columns.
    let has_versions = nodes.iter().any(|node| node.version != nodes[0].version);
    let has_labels = nodes.iter().any(|node| !node.labels.is_empty());
    header.extend(has_versions.then_some("VERSION"));
    header.extend(has_labels.then_some("LABELS"));
    let mut table = Table::new(&header);
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
            v1::Liveness::Suspect | v1::Liveness::Disconnected => Tone::Warning,
            v1::Liveness::Down => Tone::Bad,
            v1::Liveness::Unspecified => Tone::Plain,
        };
        let evicted = if node.leaders_evicted { " (evicted)" } else { "" };
        let labels: Vec<String> =
            node.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        // A node that has told nothing yet, or that is gone, has not told 0.
        let is_told = node.disk_used_bytes > 0 || node.disk_available_bytes > 0;
        let bytes = |bytes| match is_told {
            true => HumanBytes(bytes).to_string(),
            false => "-".to_owned(),
        };
        let free = bytes(node.disk_available_bytes);
        let free = match node.disk_level() {
            v1::DiskLevel::Unspecified | v1::DiskLevel::Normal => Cell::number(free),
            level @ v1::DiskLevel::Low => {
                Cell::number(format!("{free} ({})", disk_level_name(level))).tone(Tone::Warning)
            }
            level @ v1::DiskLevel::Critical => {
                Cell::number(format!("{free} ({})", disk_level_name(level))).tone(Tone::Bad)
            }
        };
        let mut cells = vec![
            Cell::number(node.node_id),
            Cell::text(state(node)).tone(state_tone),
            Cell::text(liveness_name(node.liveness())).tone(liveness_tone),
            Cell::text(&node.client_address),
            Cell::number(format!("{}{evicted}", node.leaders)),
            Cell::number(node.peers),
            Cell::number(bytes(node.data_bytes)),
            free,
        ];
        cells.extend(has_versions.then(|| Cell::text(&node.version)));
        cells.extend(has_labels.then(|| Cell::text(labels.join(","))));
        table.row(cells);
    }
    table
}

impl Nodes {
    pub(super) async fn run(self, mut context: Context) -> Result<(), Failure> {
        let wanted = Wanted { nodes: true, all_nodes: self.all, regions: None };
        let listing = listing::list(&context.client, self.stale, &wanted).await?;
        listing.note(&context.out);
        for node in listing.nodes.nodes.iter().filter(|node| !node.waits_for.is_empty()) {
            context.out.tell(&format!("node {} drains: {}", node.node_id, node.waits_for));
        }
        let table = table(&listing.nodes.nodes);
        let told_by_nodes = listing.told_by_nodes();
        let cluster = json::Cluster { told_by_nodes, ..listing.nodes.into() };
        context.out.show(&cluster, || table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_refuses_writes_is_named_with_what_its_disk_has_left() {
        let node = |disk_level: v1::DiskLevel| v1::Node {
            disk_available_bytes: 5 << 20,
            disk_level: disk_level.into(),
            ..v1::Node::default()
        };
        for (level, want) in [
            (v1::DiskLevel::Unspecified, "5.00 MiB"),
            (v1::DiskLevel::Normal, "5.00 MiB"),
            (v1::DiskLevel::Low, "5.00 MiB (low)"),
            (v1::DiskLevel::Critical, "5.00 MiB (critical)"),
        ] {
            let text = table(&[node(level)]).render(false);
            let row = text.lines().nth(1).unwrap();
            assert!(row.ends_with(&format!(" {want}")), "{text}");
        }
    }
}
