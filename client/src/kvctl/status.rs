//! `kvctl status`

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use flotilla_proto::json;
use indicatif::HumanBytes;
use serde::Serialize;

use super::{
    Context,
    exit::Failure,
    output::count,
    table::{Cell, Table, Tone},
};

/// Bound: a node answers for itself at once or not at all, with no election to wait for.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks each node for itself; works on a node that belongs to no cluster too. Ends with 1 when one
/// does not answer, or when they belong to several clusters.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Addresses of nodes; all endpoints if none is given
    addresses: Vec<String>,
    /// With the peers of each node
    #[arg(long)]
    peers: bool,
}

/// One node's answer, or why there is none.
#[derive(Debug, Serialize)]
struct NodeStatus {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    status: Option<json::Status>,
}

impl NodeStatus {
    fn cells(&self) -> Vec<Cell> {
        let Some(status) = &self.status else {
            return vec![
                Cell::text(&self.address),
                Cell::default(),
                Cell::text("no answer").tone(Tone::Bad),
            ];
        };
        let state = match (status.joined, status.removed, status.ready) {
            (_, true, _) => Cell::text("removed").tone(Tone::Bad),
            (false, false, _) => Cell::text("not joined").tone(Tone::Warning),
            (true, false, true) => Cell::text("ready").tone(Tone::Good),
            (true, false, false) => Cell::text("not ready").tone(Tone::Warning),
        };
        let leaders = status.peers.iter().filter(|peer| peer.role == "leader").count();
        let disk_tone = match status.disk_level.as_str() {
            "normal" => Tone::Good,
            "low" => Tone::Warning,
            "critical" => Tone::Bad,
            _ => Tone::Plain,
        };
        vec![
            Cell::text(&self.address),
            Cell::number(status.node_id),
            state,
            Cell::number(leaders),
            Cell::number(status.peers.len()),
            Cell::number(HumanBytes(status.data_bytes)),
            Cell::text(&status.disk_level).tone(disk_tone),
            // Enough to tell two clusters apart; JSON and YAML have all of it, and the version.
            Cell::text(status.cluster_id.chars().take(8).collect::<String>()),
        ]
    }

    /// What is wrong with the node, a line for each: in the table it would make every row as long.
    fn complaints(&self) -> Vec<String> {
        let asked = self.error.iter().cloned();
        let of_status = |status: &json::Status| {
            let reasons = status.not_ready_reasons.iter().map(|why| format!("not ready: {why}"));
            reasons.chain(status.warnings.iter().cloned()).collect::<Vec<_>>()
        };
        asked.chain(self.status.iter().flat_map(of_status)).collect()
    }
}

impl Status {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, mut out, .. } = context;
        let addresses = match self.addresses.is_empty() {
            true => client.endpoints(),
            false => self.addresses,
        };
        let timeout = client.settings.timeout.min(TIMEOUT);
        let cluster = client.with_timeout(timeout)?.cluster();
        let asked = addresses.into_iter().map(async |address| {
            let answer = cluster.status_of(&address).await;
            let error = answer.as_ref().err().map(ToString::to_string);
            NodeStatus { address, error, status: answer.ok().map(Into::into) }
        });
        let statuses = futures::future::join_all(asked).await;
        out.show(&statuses, || {
            let mut table = Table::new(&[
                "ENDPOINT", "NODE", "STATE", "LEADERS", "PEERS", "DATA", "DISK", "CLUSTER",
            ]);
            statuses.iter().for_each(|status| table.row(status.cells()));
            table
        })?;
        if self.peers && out.format == super::output::Format::Table {
            out.show(&(), || peers_table(&statuses))?;
        }
        for status in &statuses {
            for complaint in status.complaints() {
                out.tell(&format!("{}: {complaint}", status.address));
            }
        }
        let ids = statuses.iter().filter_map(|status| status.status.as_ref());
        let ids: BTreeSet<&str> =
            ids.map(|status| status.cluster_id.as_str()).filter(|id| !id.is_empty()).collect();
        if ids.len() > 1 {
            // Each answers for itself, so that a call to all of them finds now one, now the other.
            let ids = ids.into_iter().collect::<Vec<_>>().join(" and ");
            return Err(Failure::Failed(format!("the nodes belong to several clusters: {ids}")));
        }
        let silent = statuses.iter().filter(|status| status.status.is_none()).count();
        match silent {
            0 => Ok(()),
            silent => {
                Err(Failure::Failed(format!("{} did not answer", count(silent as u64, "node"))))
            }
        }
    }
}

/// Of little only whether there is any.
fn rate(per_second: f64) -> String {
    if per_second >= 10.0 { format!("{per_second:.0}") } else { format!("{per_second:.1}") }
}

fn peers_table(statuses: &[NodeStatus]) -> Table {
    let mut table = Table::new(&[
        "NODE", "REGION", "PEER", "ROLE", "TERM", "LAST", "APPLIED", "READS/S", "WRITES/S",
    ]);
    for status in statuses.iter().filter_map(|status| status.status.as_ref()) {
        for peer in &status.peers {
            let tone = match peer.role.as_str() {
                "leader" => Tone::Good,
                "candidate" | "contradicted" | "quarantined" => Tone::Warning,
                _ => Tone::Plain,
            };
            table.row(vec![
                Cell::number(status.node_id),
                Cell::number(peer.region_id),
                Cell::number(peer.peer_id),
                Cell::text(&peer.role).tone(tone),
                Cell::number(peer.term),
                Cell::number(peer.last_index),
                Cell::number(peer.applied_index),
                Cell::number(rate(peer.reads_per_second)),
                Cell::number(rate(peer.writes_per_second)),
            ]);
        }
    }
    table
}
