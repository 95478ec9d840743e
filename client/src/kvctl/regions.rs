//! `kvctl regions`

use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;

use super::{
    Context,
    encoding::{Encoding, to_hex},
    exit::Failure,
    listing::{self, Stale, Wanted},
    region_keys::show_bound,
    table::{Cell, Table, Tone},
};
use crate::v1;

#[derive(Debug, Args)]
pub(super) struct Regions {
    /// With the system region, and over all keyspaces
    #[arg(long)]
    all: bool,
    /// From the region of this key on
    #[arg(long)]
    from: Option<String>,
    /// Up to this key, exclusive
    #[arg(long)]
    to: Option<String>,
    /// At most so many; 0 is all
    #[arg(long, short = 'n', default_value_t = 0)]
    limit: u32,
    #[command(flatten)]
    stale: Stale,
}

#[derive(Debug, Serialize)]
struct RegionRecord {
    id: u64,
    /// `keyspace:key`, or `start` and `end`.
    start: String,
    end: String,
    /// As encoded, for programs.
    start_key_hex: String,
    end_key_hex: String,
    conf_ver: u64,
    version: u64,
    leader: Option<LeaderRecord>,
    term: u64,
    peers: Vec<PeerRecord>,
    down_peers: Vec<u64>,
    pending_peers: Vec<u64>,
    lost_peers: Vec<u64>,
    contradicted_peers: Vec<u64>,
    refused_peers: Vec<RefusedRecord>,
    low_node_ids: Vec<u64>,
    approximate_bytes: u64,
    health: &'static str,
    voters_wanted: u32,
}

#[derive(Debug, Serialize)]
struct LeaderRecord {
    peer_id: u64,
    node_id: u64,
    client_address: String,
}

#[derive(Debug, Serialize)]
struct RefusedRecord {
    peer_id: u64,
    node_id: u64,
    reason: String,
}

#[derive(Debug, Serialize)]
struct PeerRecord {
    peer_id: u64,
    node_id: u64,
    role: &'static str,
}

impl From<v1::RefusedPeer> for RefusedRecord {
    fn from(refused: v1::RefusedPeer) -> Self {
        let v1::RefusedPeer { peer_id, node_id, reason } = refused;
        Self { peer_id, node_id, reason }
    }
}

fn role_name(role: v1::PeerRole) -> &'static str {
    match role {
        v1::PeerRole::Unspecified => "unknown",
        v1::PeerRole::Voter => "voter",
        v1::PeerRole::Learner => "learner",
    }
}

/// The word for a region's health.
pub(super) fn health_name(health: v1::RegionHealth) -> &'static str {
    match health {
        v1::RegionHealth::Unspecified => "unknown",
        v1::RegionHealth::Healthy => "healthy",
        v1::RegionHealth::Changing => "changing",
        v1::RegionHealth::UnderReplicated => "under_replicated",
        v1::RegionHealth::NoQuorum => "no_quorum",
        v1::RegionHealth::NoLeader => "no_leader",
    }
}

impl RegionRecord {
    fn new(encoding: Encoding, info: v1::RegionInfo) -> Self {
        let health = health_name(info.health());
        let region = info.region.unwrap_or_default();
        let epoch = region.epoch.unwrap_or_default();
        let leader = info.leader.map(|leader| LeaderRecord {
            peer_id: leader.peer_id,
            node_id: leader.node_id,
            client_address: leader.client_address,
        });
        let peers = region.peers.iter().map(|peer| PeerRecord {
            peer_id: peer.peer_id,
            node_id: peer.node_id,
            role: role_name(peer.role()),
        });
        Self {
            id: region.region_id,
            start: show_bound(encoding, &region.start_key, false),
            end: show_bound(encoding, &region.end_key, true),
            start_key_hex: to_hex(&region.start_key),
            end_key_hex: to_hex(&region.end_key),
            conf_ver: epoch.conf_ver,
            version: epoch.version,
            leader,
            term: info.term,
            peers: peers.collect(),
            down_peers: info.down_peers,
            pending_peers: info.pending_peers,
            lost_peers: info.lost_peers,
            contradicted_peers: info.contradicted_peers,
            refused_peers: info.refused_peers.into_iter().map(RefusedRecord::from).collect(),
            low_node_ids: info.low_node_ids,
            approximate_bytes: info.approximate_bytes,
            health,
            voters_wanted: info.voters_wanted,
        }
    }

    fn cells(&self) -> Vec<Cell> {
        let is_leader = |peer: &PeerRecord| {
            self.leader.as_ref().is_some_and(|leader| leader.peer_id == peer.peer_id)
        };
        // The nodes, the leader's with a star, learners in brackets.
        let peers = self.peers.iter().map(|peer| match (is_leader(peer), peer.role) {
            (true, _) => format!("{}*", peer.node_id),
            (false, "learner") => format!("({})", peer.node_id),
            (false, _) => peer.node_id.to_string(),
        });
        let leader = match &self.leader {
            Some(leader) => Cell::text(format!("{} {}", leader.node_id, leader.client_address)),
            None => Cell::text("none").tone(Tone::Bad),
        };
        let (health, tone) = self.health();
        let health = Cell::text(health).tone(tone);
        vec![
            Cell::number(self.id),
            Cell::text(&self.start),
            Cell::text(&self.end),
            Cell::text(format!("{}/{}", self.conf_ver, self.version)),
            leader,
            Cell::text(peers.collect::<Vec<_>>().join(" ")),
            health,
            Cell::number(HumanBytes(self.approximate_bytes)),
        ]
    }
}

impl RegionRecord {
    /// How it is, in few words, with the nodes that are the reason.
    fn health(&self) -> (String, Tone) {
        let nodes = |peers: &[u64]| {
            let of = |id: &u64| {
                let peer = self.peers.iter().find(|peer| peer.peer_id == *id);
                peer.map_or_else(|| format!("peer {id}"), |peer| peer.node_id.to_string())
            };
            peers.iter().map(of).collect::<Vec<_>>().join(" ")
        };
        let voters = self.peers.iter().filter(|peer| peer.role == "voter");
        let live = voters.filter(|peer| !self.down_peers.contains(&peer.peer_id)).count();
        let (mut text, tone) = match self.health {
            "no_quorum" => ("no quorum".to_owned(), Tone::Bad),
            "no_leader" => ("no leader".to_owned(), Tone::Bad),
            "under_replicated" => {
                (format!("{live} of {} voters", self.voters_wanted), Tone::Warning)
            }
            "changing" => ("changing".to_owned(), Tone::Warning),
            "healthy" if self.pending_peers.is_empty() => ("ok".to_owned(), Tone::Good),
            "healthy" => ("ok".to_owned(), Tone::Warning),
            _ => ("unknown".to_owned(), Tone::Plain),
        };
        if !self.down_peers.is_empty() {
            text += &format!(", down: {}", nodes(&self.down_peers));
        }
        if !self.lost_peers.is_empty() {
            text += &format!(", lost: {}", nodes(&self.lost_peers));
        }
        if !self.contradicted_peers.is_empty() {
            text += &format!(", contradicted: {}", nodes(&self.contradicted_peers));
        }
        if !self.pending_peers.is_empty() {
            text += &format!(", behind: {}", nodes(&self.pending_peers));
        }
        for refused in &self.refused_peers {
            text += &format!(", refused by {}: {}", refused.node_id, refused.reason);
        }
        if self.low_node_ids.is_empty() {
            return (text, tone);
        }
        let low: Vec<_> = self.low_node_ids.iter().map(u64::to_string).collect();
        text += &format!(", deletes only, low disks: {}", low.join(" "));
        (text, if tone == Tone::Good { Tone::Warning } else { tone })
    }
}

impl Regions {
    pub(super) async fn run(self, context: Context) -> Result<(), Failure> {
        let Context { client, encoding, mut out, .. } = context;
        let bound = |text: &Option<String>| match text {
            Some(text) => encoding.decode("key", text),
            None => Ok(Vec::new()),
        };
        let request = v1::ListRegionsRequest {
            keyspace: client.settings.keyspace.get(),
            start_key: bound(&self.from)?.into(),
            end_key: bound(&self.to)?.into(),
            limit: self.limit,
            all: self.all,
            ..v1::ListRegionsRequest::default()
        };
        let wanted = Wanted { regions: Some(request), ..Wanted::default() };
        let listing = listing::list(&client, self.stale, &wanted).await?;
        listing.note(&out);
        // A range always lies in some region.
        let is_told_of = !listing.regions.is_empty() || listing.told.is_none();
        let records: Vec<RegionRecord> =
            listing.regions.into_iter().map(|info| RegionRecord::new(encoding, info)).collect();
        out.show(&records, || {
            let mut table =
                Table::new(&["ID", "START", "END", "EPOCH", "LEADER", "NODES", "HEALTH", "SIZE"]);
            records.iter().for_each(|record| table.row(record.cells()));
            table
        })?;
        if is_told_of {
            return Ok(());
        }
        Err(Failure::No(
            "none of the nodes that answered has a peer that runs of any of these regions: `kvctl status --peers` \
             tells of each why, /readyz?verbose of those in quarantine"
                .to_owned(),
        ))
    }
}
