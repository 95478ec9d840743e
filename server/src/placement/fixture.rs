//! Clusters as one writes them down, for tests.
//!
//! Nodes: `1:up 2:off 3:drain`, with failure domains as `4:up@zone/host`. Peers of a region: `1*` leads,
//! `2` is a voter, `3l` a learner that has caught up; see [`Fixture::new`] and [`Fixture::region`] for
//! all words. The peer of a region on node `n` has the id `100 * region + n`.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::v1::{self, NodeState, PeerRole};

use super::{
    config::PlacementConfig,
    view::{ClusterView, Heard},
};
use crate::ids::{NodeId, PeerId};

pub(super) const NOW_MS: u64 = 10_000_000;
pub(super) const CLUSTER: [u8; 16] = [7; 16];
pub(super) const LAST_INDEX: u64 = 100_000;

#[derive(Clone, Debug)]
pub(super) struct Fixture {
    pub table: v1::NodeTable,
    /// Silence of each node that is heard of at all.
    silent_ms: BTreeMap<u64, u64>,
    evicted: BTreeSet<u64>,
    levels_of_disks: BTreeMap<u64, v1::DiskLevel>,
    quarantined: BTreeMap<u64, Vec<v1::LocalPeer>>,
    contradicted: BTreeMap<u64, Vec<v1::LocalPeer>>,
    /// What programs say that they can do, where that is not the first level.
    levels: BTreeMap<u64, u32>,
    /// With the node that leads.
    pub reports: Vec<(u64, v1::RegionReport)>,
}

pub(super) fn record(node: u64, state: NodeState) -> v1::NodeRecord {
    v1::NodeRecord {
        node_id: node,
        client_address: format!("n{node}:7420"),
        peer_address: format!("n{node}:7421"),
        http_address: format!("n{node}:7422"),
        state: state as i32,
        version: "0.1.0".to_owned(),
        feature_level: 1,
        ..Default::default()
    }
}

pub(super) fn table(replication_factor: u32, nodes: Vec<v1::NodeRecord>) -> v1::NodeTable {
    v1::NodeTable {
        version: 10,
        nodes,
        replication_factor,
        cluster_id: CLUSTER.to_vec().into(),
        feature_level: 1,
    }
}

impl Fixture {
    /// Words for nodes. In service: `up`, `off` (disconnected), `down`, `evict`, `low` or `crit` (its disk). Else:
    /// `joining`, `joiningoff`, `learner`, `demoted`, `drain`, `drainoff`, `draindown`, `force` (given up, disconnected),
    /// `zombie` (given up, alive), `removed`.
    pub(super) fn new(replication_factor: u32, nodes: &str) -> Self {
        let mut fixture = Self {
            table: table(replication_factor, Vec::new()),
            silent_ms: BTreeMap::new(),
            evicted: BTreeSet::new(),
            levels_of_disks: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            contradicted: BTreeMap::new(),
            levels: BTreeMap::new(),
            reports: Vec::new(),
        };
        for word in nodes.split_whitespace() {
            let (id, rest) = word.split_once(':').expect("id:state");
            let id: u64 = id.parse().expect("node id");
            let (state, domains) = rest.split_once('@').unwrap_or((rest, ""));
            let (alive, off, down) = (100, 60_000, 700_000);
            let (state, forced, silent_ms) = match state {
                "up" | "evict" | "low" | "crit" => (NodeState::Up, false, alive),
                "off" => (NodeState::Up, false, off),
                "down" => (NodeState::Up, false, down),
                "joining" => (NodeState::Joining, false, alive),
                "joiningoff" => (NodeState::Joining, false, off),
                "learner" | "demoted" => (NodeState::NodeLearner, false, alive),
                "drain" => (NodeState::Draining, false, alive),
                "drainoff" => (NodeState::Draining, false, off),
                "draindown" => (NodeState::Draining, false, down),
                "force" => (NodeState::Draining, true, off),
                "zombie" => (NodeState::Draining, true, alive),
                "removed" => (NodeState::Removed, false, alive),
                other => panic!("no state {other}"),
            };
            let demoted = rest.starts_with("demoted");
            let mut record = v1::NodeRecord { forced, demoted, ..record(id, state) };
            for (label, value) in ["zone", "host"].into_iter().zip(domains.split('/')) {
                record.labels.insert(label.to_owned(), value.to_owned());
            }
            fixture.table.nodes.push(record);
            fixture.silent_ms.insert(id, silent_ms);
            if rest.starts_with("evict") {
                fixture.evicted.insert(id);
            }
            for (word, level) in [("low", v1::DiskLevel::Low), ("crit", v1::DiskLevel::Critical)] {
                if rest.starts_with(word) {
                    fixture.levels_of_disks.insert(id, level);
                }
            }
        }
        fixture
    }

    /// Adds a region, from id 2 on; the key space is cut evenly among them. Words for peers, by the
    /// node they are on: `1*` leader, `1` voter, `1l` learner, then any of `-` lags, `0` has no
    /// data, `s` silent for a while, `S` silent for long, `q` quarantined, `c` contradicted by its
    /// leader for long, `b` buried by its node, `r` found reverted by the leader, `x` its node does not
    /// take the region's state, for a minute now, `y` for a few seconds. `1?`: no peer, but a log of
    /// one on the node, nobody knows of which. A last word `joint`.
    pub(super) fn region(mut self, peers: &str) -> Self {
        let id = 2 + self.reports.len() as u64;
        let mut report = v1::RegionReport {
            region: Some(v1::Region {
                region_id: id,
                epoch: Some(v1::RegionEpoch { conf_ver: 5, version: 1 }),
                ..Default::default()
            }),
            term: 3,
            last_index: LAST_INDEX,
            ..Default::default()
        };
        let mut lead = 0;
        for word in peers.split_whitespace() {
            if word == "joint" {
                report.joint = true;
                continue;
            }
            let flags = word.trim_start_matches(|c: char| c.is_ascii_digit() && c != '0');
            let node: u64 = word[..word.len() - flags.len()].parse().expect("node id");
            let peer = 100 * id + node;
            if flags == "?" {
                let local =
                    v1::LocalPeer { region_id: id, peer_id: PeerId::UNKNOWN.0, conf_ver: None };
                self.quarantined.entry(node).or_default().push(local);
                continue;
            }
            let mut progress = v1::PeerProgress {
                peer_id: peer,
                matched_index: LAST_INDEX - 1,
                silent_ms: self.silent_ms.get(&node).copied().unwrap_or(u64::MAX),
                ..v1::PeerProgress::default()
            };
            let mut role = PeerRole::Voter;
            for flag in flags.chars() {
                match flag {
                    '*' => (lead, report.leader_peer_id) = (node, peer),
                    'l' => role = PeerRole::Learner,
                    '-' => progress.matched_index = LAST_INDEX / 2,
                    '0' => progress.matched_index = 0,
                    's' => progress.silent_ms = 30_000,
                    'r' => progress.reverted = true,
                    'b' => progress.buried = true,
                    'x' | 'y' => {
                        progress.refused = "the disk is too full".to_owned();
                        progress.refused_ms = if flag == 'x' { 60_000 } else { 5_000 };
                    }
                    'S' => progress.silent_ms = 3_000_000,
                    'q' => {
                        let local = v1::LocalPeer { region_id: id, peer_id: peer, conf_ver: None };
                        self.quarantined.entry(node).or_default().push(local);
                        progress.silent_ms = 30_000;
                    }
                    'c' => {
                        let local = v1::LocalPeer { region_id: id, peer_id: peer, conf_ver: None };
                        self.contradicted.entry(node).or_default().push(local);
                        progress.silent_ms = 3_000_000;
                    }
                    other => panic!("no flag {other}"),
                }
            }
            let region = report.region.as_mut().expect("set above");
            region.peers.push(v1::Peer { peer_id: peer, node_id: node, role: role as i32 });
            if lead != node {
                report.progress.push(progress);
            }
        }
        self.reports.push((lead, report));
        let cut = |at: usize| format!("{at:04}").into_bytes().into();
        let last = self.reports.len() - 1;
        for (at, (_, report)) in self.reports.iter_mut().enumerate() {
            let region = report.region.as_mut().expect("set above");
            region.start_key = if at == 0 { Default::default() } else { cut(at) };
            region.end_key = if at == last { Default::default() } else { cut(at + 1) };
        }
        self
    }

    /// The programs of nodes 1, 2 and so on can do this.
    pub(super) fn tell_levels(mut self, levels: &[u32]) -> Self {
        self.levels = (1..).zip(levels.iter().copied()).collect();
        self
    }

    fn disk_level(&self, id: u64) -> v1::DiskLevel {
        self.levels_of_disks.get(&id).copied().unwrap_or(v1::DiskLevel::Normal)
    }

    /// From now on a node's disk is at this level.
    pub(super) fn set_disk_level(&mut self, id: u64, level: v1::DiskLevel) {
        self.levels_of_disks.insert(id, level);
    }

    /// What node `id` says.
    pub(super) fn heartbeat(&self, id: u64) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            cluster_id: CLUSTER.to_vec().into(),
            node_id: id,
            incarnation: 1,
            regions: self
                .reports
                .iter()
                .filter(|(lead, _)| *lead == id)
                .map(|(_, report)| report.clone())
                .collect(),
            quarantined: self.quarantined.get(&id).cloned().unwrap_or_default(),
            contradicted: self.contradicted.get(&id).cloned().unwrap_or_default(),
            disk_level: self.disk_level(id).into(),
            feature_level: self.levels.get(&id).copied().unwrap_or(1),
            ..Default::default()
        }
    }

    /// The view at [`NOW_MS`], with leaders that have led for a minute.
    pub(super) fn view(&self) -> ClusterView {
        let mut view = ClusterView::new(self.table.clone(), 0);
        for ago_ms in [60_000, 0] {
            for (id, silent_ms) in &self.silent_ms {
                let removed = view.record(NodeId(*id)).expect("in the table").state();
                let heard = view.hear(self.heartbeat(*id), NOW_MS - ago_ms - silent_ms);
                assert_eq!(heard == Heard::Accepted, removed != NodeState::Removed, "node {id}");
            }
        }
        for id in &self.evicted {
            view.evict_leaders(NodeId(*id), NOW_MS + 1);
        }
        view
    }

    pub(super) fn config() -> PlacementConfig {
        PlacementConfig::default()
    }
}
