//! `kvctl status`

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

/// Asks each node for itself; works on a node that belongs to no cluster too. Ends with 1 when one
/// does not answer.
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
    status: Option<StatusRecord>,
}

#[derive(Debug, Serialize)]
struct StatusRecord {
    joined: bool,
    removed: bool,
    cluster_id: String,
    node_id: u64,
    version: String,
    client_address: String,
    peer_address: String,
    http_address: String,
    labels: BTreeMap<String, String>,
    table_version: u64,
    ready: bool,
    not_ready_reasons: Vec<String>,
    disk_level: String,
    disk_used_bytes: u64,
    disk_available_bytes: u64,
    system_leader_node: u64,
    peers: Vec<PeerRecord>,
}

#[derive(Debug, Serialize)]
struct PeerRecord {
    region_id: u64,
    peer_id: u64,
    role: String,
    term: u64,
    leader_peer_id: u64,
    last_index: u64,
    committed_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    purged_index: u64,
}

impl From<v1::PeerStatus> for PeerRecord {
    fn from(peer: v1::PeerStatus) -> Self {
        Self {
            region_id: peer.region.map(|region| region.region_id).unwrap_or_default(),
            peer_id: peer.peer_id,
            role: peer.role,
            term: peer.term,
            leader_peer_id: peer.leader_peer_id,
            last_index: peer.last_index,
            committed_index: peer.committed_index,
            applied_index: peer.applied_index,
            snapshot_index: peer.snapshot_index,
            purged_index: peer.purged_index,
        }
    }
}

impl From<v1::StatusResponse> for StatusRecord {
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
            disk_level: status.disk_level,
            disk_used_bytes: status.disk_used_bytes,
            disk_available_bytes: status.disk_available_bytes,
            system_leader_node: status.system_leader_node,
            peers: status.peers.into_iter().map(Into::into).collect(),
        }
    }
}

impl NodeStatus {
    fn cells(&self) -> Vec<Cell> {
        let Some(status) = &self.status else {
            let error = self.error.clone().unwrap_or_default();
            return vec![
                Cell::text(&self.address),
                Cell::default(),
                Cell::text(format!("no answer: {error}")).tone(Tone::Bad),
            ];
        };
        let state = match (status.joined, status.removed, status.ready) {
            (_, true, _) => Cell::text("removed").tone(Tone::Bad),
            (false, false, _) => Cell::text("not joined").tone(Tone::Warning),
            (true, false, true) => Cell::text("ready").tone(Tone::Good),
            (true, false, false) => {
                let reasons = status.not_ready_reasons.join(", ");
                Cell::text(format!("not ready: {reasons}")).tone(Tone::Warning)
            }
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
            Cell::text(&status.disk_level).tone(disk_tone),
            Cell::number(HumanBytes(status.disk_available_bytes)),
            Cell::text(&status.version),
            Cell::text(&status.cluster_id),
        ]
    }
}

impl Status {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, mut out, .. } = context;
        let addresses = match self.addresses.is_empty() {
            true => client.endpoints(),
            false => self.addresses,
        };
        let cluster = client.cluster();
        let asked = addresses.into_iter().map(async |address| {
            let answer = cluster.status_of(&address).await;
            let error = answer.as_ref().err().map(ToString::to_string);
            NodeStatus { address, error, status: answer.ok().map(Into::into) }
        });
        let statuses = futures::future::join_all(asked).await;
        out.show(&statuses, || {
            let mut table = Table::new(&[
                "ENDPOINT", "NODE", "STATE", "LEADERS", "PEERS", "DISK", "FREE", "VERSION",
                "CLUSTER",
            ]);
            statuses.iter().for_each(|status| table.row(status.cells()));
            table
        })?;
        if self.peers && out.format == super::output::Format::Table {
            out.show(&(), || peers_table(&statuses))?;
        }
        let silent = statuses.iter().filter(|status| status.status.is_none()).count();
        match silent {
            0 => Ok(()),
            silent => Err(Failure::Failed(format!("{silent} nodes did not answer"))),
        }
    }
}

fn peers_table(statuses: &[NodeStatus]) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "REGION",
        "PEER",
        "ROLE",
        "TERM",
        "LAST",
        "COMMITTED",
        "APPLIED",
        "SNAPSHOT",
        "PURGED",
    ]);
    for status in statuses.iter().filter_map(|status| status.status.as_ref()) {
        for peer in &status.peers {
            let tone = match peer.role.as_str() {
                "leader" => Tone::Good,
                "candidate" | "quarantined" => Tone::Warning,
                _ => Tone::Plain,
            };
            table.row(vec![
                Cell::number(status.node_id),
                Cell::number(peer.region_id),
                Cell::number(peer.peer_id),
                Cell::text(&peer.role).tone(tone),
                Cell::number(peer.term),
                Cell::number(peer.last_index),
                Cell::number(peer.committed_index),
                Cell::number(peer.applied_index),
                Cell::number(peer.snapshot_index),
                Cell::number(peer.purged_index),
            ]);
        }
    }
    table
}
