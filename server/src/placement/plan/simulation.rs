//! A model cluster that carries the steps out, under everything that can happen to it.
//!
//! One seed decides joins, deaths, returns, drains, forced removals, quarantines, evictions, elections,
//! lost heartbeats, lost steps and restarts of the driver. After every step that a region's leader
//! carries out, the rules are checked against the truth, not against the view. Then the faults stop,
//! the dead that were not given up come back, and the cluster must reach the replication factor,
//! finish every removal, and come to rest.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use flotilla_proto::v1::{self, DiskLevel, NodeState, PeerRole, step::Action};

use crate::{
    ids::{NodeId, PeerId, RegionId},
    placement::{
        config::{PlacementConfig, millis},
        fixture::{CLUSTER, record, table},
        membership::{self, Decision, TableChange},
        plan::plan,
        steps::{self, Verdict, is_finish},
        view::{ClusterView, Heard},
    },
    raft::quorum::is_quorum,
};

const TICK_MS: u64 = 1_000;
const CHAOS_TICKS: u64 = 300;
const HEAL_TICKS_MAX: u64 = 600;
/// Ticks without a step after which the cluster counts as at rest; longer than every patience.
const REST_TICKS: u64 = 45;
const NODES_MAX: usize = 9;

struct Node {
    alive: bool,
    died_ms: u64,
    incarnation: u64,
    disk: DiskLevel,
    /// It has too little room for any region, although its disk is not low.
    small: bool,
    /// Its disk will not come back.
    lost: bool,
}

impl Node {
    fn new() -> Self {
        let disk = DiskLevel::Normal;
        Self { alive: true, died_ms: 0, incarnation: 1, disk, small: false, lost: false }
    }
}

struct Region {
    region: v1::Region,
    term: u64,
    leader: Option<u64>,
    last_index: u64,
    matched: BTreeMap<u64, u64>,
    /// Learners whose nodes do not take its state, and since when.
    refused: BTreeMap<u64, u64>,
    /// Peers whose data must not be used any more.
    quarantined: BTreeSet<u64>,
    joint: Option<Joint>,
}

/// A joint change that is under way. The leader that began it completes it; a later one leaves it as
/// it is, until it is told to finish.
struct Joint {
    old: BTreeSet<u64>,
    new: BTreeSet<u64>,
    term: u64,
}

struct Sim {
    rng: StdRng,
    now_ms: u64,
    config: PlacementConfig,
    table: v1::NodeTable,
    nodes: BTreeMap<u64, Node>,
    regions: BTreeMap<u64, Region>,
    view: ClusterView,
    next_node: u64,
    next_peer: u64,
    peers_seen: BTreeSet<u64>,
    steps_applied: usize,
    /// The largest replication factor so far.
    factor_max: u32,
    /// The factor before the last change, and until when a step that was planned on it may come.
    factor_before: (u32, u64),
    log: Vec<String>,
}

fn config() -> PlacementConfig {
    use std::time::Duration;
    PlacementConfig {
        node_disconnected_after: Duration::from_secs(8),
        node_down_after: Duration::from_secs(25),
        peer_silent_after: Duration::from_secs(4),
        joint_patience: Duration::from_secs(6),
        step_timeout: Duration::from_secs(5),
        leader_cool_down: Duration::from_secs(15),
        refusal_patience: Duration::from_secs(10),
        refusal_memory: Duration::from_secs(30),
        ..PlacementConfig::default()
    }
}

impl Sim {
    fn new(seed: u64, replication_factor: u32, nodes: u64, regions: u64) -> Self {
        let mut table = table(replication_factor, Vec::new());
        for id in 1..=nodes {
            let mut node = record(id, NodeState::Up);
            node.labels.insert("zone".to_owned(), ["a", "b", "c"][id as usize % 3].to_owned());
            table.nodes.push(node);
        }
        let cut = |at: u64| format!("{at:06}").into_bytes().into();
        let regions = (1..=regions)
            .map(|id| {
                let peer = 1_000 + id;
                let region = v1::Region {
                    region_id: id,
                    start_key: if id == 1 { Default::default() } else { cut(id) },
                    end_key: if id == regions { Default::default() } else { cut(id + 1) },
                    epoch: Some(v1::RegionEpoch { conf_ver: 1, version: 1 }),
                    peers: vec![v1::Peer {
                        peer_id: peer,
                        node_id: 1,
                        role: PeerRole::Voter as i32,
                    }],
                };
                let region = Region {
                    region,
                    term: 1,
                    leader: Some(peer),
                    last_index: 10,
                    matched: BTreeMap::from([(peer, 10)]),
                    refused: BTreeMap::new(),
                    quarantined: BTreeSet::new(),
                    joint: None,
                };
                (id, region)
            })
            .collect();
        Self {
            rng: StdRng::seed_from_u64(seed),
            now_ms: 1_000_000,
            config: config(),
            view: ClusterView::new(table.clone(), 1_000_000),
            nodes: (1..=nodes).map(|id| (id, Node::new())).collect(),
            table,
            regions,
            next_node: nodes + 1,
            next_peer: 10_000,
            peers_seen: BTreeSet::new(),
            steps_applied: 0,
            factor_max: replication_factor,
            factor_before: (replication_factor, 0),
            log: vec![format!("seed {seed}, replication factor {replication_factor}")],
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    fn note(&mut self, text: impl Into<String>) {
        self.log.push(format!("{:>6}: {}", (self.now_ms - 1_000_000) / 1_000, text.into()));
    }

    fn fail(&self, why: &str) -> ! {
        let from = self.log.len().saturating_sub(80);
        let regions: Vec<_> = self
            .regions
            .values()
            .map(|region| {
                format!(
                    "{:?} leader {:?} joint {} quarantined {:?}",
                    region.region,
                    region.leader,
                    region.joint.is_some(),
                    region.quarantined
                )
            })
            .collect();
        panic!("{}\n{}\n{}\n{why}", self.log[0], self.log[from..].join("\n"), regions.join("\n"));
    }

    // ---- the truth ----

    fn state(&self, node: u64) -> NodeState {
        self.table
            .nodes
            .iter()
            .find(|record| record.node_id == node)
            .map_or(NodeState::Unspecified, v1::NodeRecord::state)
    }

    fn node_of(region: &Region, peer: u64) -> u64 {
        let peers = &region.region.peers;
        peers.iter().find(|other| other.peer_id == peer).map_or(0, |peer| peer.node_id)
    }

    /// Its data is there and it will take part again, if not now.
    fn has_data(&self, region: &Region, peer: u64) -> bool {
        let node = self.nodes.get(&Self::node_of(region, peer));
        node.is_some_and(|node| !node.lost) && !region.quarantined.contains(&peer)
    }

    fn is_live(&self, region: &Region, peer: u64) -> bool {
        let node = Self::node_of(region, peer);
        self.has_data(region, peer)
            && self.nodes.get(&node).is_some_and(|node| node.alive)
            && self.state(node) != NodeState::Removed
    }

    /// As its leader knows it: a death shows as silence that grows.
    fn silent_ms(&self, region: &Region, peer: u64) -> u64 {
        if self.is_live(region, peer) {
            return 100;
        }
        if !self.has_data(region, peer) {
            return u64::MAX / 2;
        }
        let node = self.nodes.get(&Self::node_of(region, peer));
        node.map_or(u64::MAX / 2, |node| self.now_ms - node.died_ms)
    }

    fn voters(region: &Region) -> BTreeSet<u64> {
        let voters = region.region.peers.iter().filter(|peer| peer.role() == PeerRole::Voter);
        voters.map(|peer| peer.peer_id).collect()
    }

    /// The voter sets that must each agree.
    fn quorums(region: &Region) -> Vec<BTreeSet<u64>> {
        match &region.joint {
            Some(joint) => vec![joint.old.clone(), joint.new.clone()],
            None => vec![Self::voters(region)],
        }
    }

    fn all_quorums(region: &Region, live: impl Fn(u64) -> bool) -> bool {
        Self::quorums(region).iter().all(|set| is_quorum(set.iter().map(|peer| live(*peer))))
    }

    fn has_quorum(&self, region: &Region) -> bool {
        Self::all_quorums(region, |peer| self.is_live(region, peer))
    }

    fn report(&self, region: &Region) -> v1::RegionReport {
        let leader = region.leader.expect("asked of a leader");
        let followers = region.region.peers.iter().filter(|peer| peer.peer_id != leader);
        v1::RegionReport {
            region: Some(region.region.clone()),
            term: region.term,
            leader_peer_id: leader,
            joint: region.joint.is_some(),
            last_index: region.last_index,
            progress: followers
                .map(|peer| v1::PeerProgress {
                    peer_id: peer.peer_id,
                    matched_index: region.matched.get(&peer.peer_id).copied().unwrap_or(0),
                    silent_ms: self.silent_ms(region, peer.peer_id),
                    refused: match region.refused.contains_key(&peer.peer_id) {
                        true => "its disk is too full".to_owned(),
                        false => String::new(),
                    },
                    refused_ms: self.now_ms
                        - region.refused.get(&peer.peer_id).copied().unwrap_or(self.now_ms),
                    ..v1::PeerProgress::default()
                })
                .collect(),
            approximate_bytes: 0,
        }
    }

    // ---- time passes ----

    /// Heartbeats, a planning round, and the steps on their way back. Says whether all was quiet.
    fn tick(&mut self, faults: bool) -> bool {
        self.now_ms += TICK_MS;
        self.elect();
        self.replicate();
        let mut quiet = true;
        let loss = if faults { 0.1 } else { 0.0 };
        if faults && self.chance(0.01) {
            self.note("the driver starts anew");
            self.view = ClusterView::new(self.table.clone(), self.now_ms);
        }
        let alive: Vec<u64> =
            self.nodes.iter().filter(|(_, node)| node.alive).map(|(id, _)| *id).collect();
        for node in alive {
            if self.chance(loss) {
                continue;
            }
            let heartbeat = self.heartbeat(node);
            if self.view.hear(heartbeat.clone(), self.now_ms) == Heard::Accepted
                && let Decision::Write(change) = membership::heard(&self.table, &heartbeat)
            {
                self.write(change);
            }
            for step in self.view.orders_for(NodeId(node), &self.config, self.now_ms) {
                quiet = false;
                if !self.chance(loss) {
                    self.carry_out(node, &step);
                }
            }
        }
        if let Some(change) = membership::finish_removals(&self.view, &self.config, self.now_ms) {
            quiet = false;
            self.check_removals(&change);
            self.write(change);
        }
        self.view.settle_orders(&self.config, self.now_ms);
        let mut next_peer = self.next_peer;
        let planned = plan(&self.view, &self.config, self.now_ms, &mut || {
            next_peer += 1;
            Some(PeerId(next_peer))
        });
        self.next_peer = next_peer;
        for step in &planned {
            quiet = false;
            self.note(format!("plan region {}: {}", step.region_id, step.reason));
            self.check_copies(step);
        }
        self.view.order(&planned, self.now_ms);
        quiet
    }

    fn heartbeat(&self, node: u64) -> v1::HeartbeatRequest {
        let led = self.regions.values().filter(|region| {
            region.leader.is_some_and(|leader| Self::node_of(region, leader) == node)
        });
        let quarantined = self.regions.values().flat_map(|region| {
            region.quarantined.iter().filter(|peer| Self::node_of(region, **peer) == node).map(
                |peer| v1::LocalPeer {
                    region_id: region.region.region_id,
                    peer_id: *peer,
                    conf_ver: None,
                },
            )
        });
        v1::HeartbeatRequest {
            cluster_id: CLUSTER.to_vec().into(),
            node_id: node,
            incarnation: self.nodes[&node].incarnation,
            disk_level: self.nodes[&node].disk.into(),
            feature_level: 1,
            regions: led.map(|region| self.report(region)).collect(),
            quarantined: quarantined.collect(),
            ..Default::default()
        }
    }

    fn write(&mut self, change: TableChange) {
        assert_eq!(change.table.version, self.table.version + 1);
        self.table = change.table;
        self.view.set_table(self.table.clone());
    }

    /// A leader that is gone is replaced by the live voter that has the most, if a quorum can vote.
    fn elect(&mut self) {
        let ids: Vec<u64> = self.regions.keys().copied().collect();
        for id in ids {
            let region = &self.regions[&id];
            let leads = region.leader.is_some_and(|leader| self.is_live(region, leader));
            if leads {
                continue;
            }
            let best = Self::quorums(region)
                .into_iter()
                .flatten()
                .filter(|peer| self.is_live(region, *peer))
                .max_by_key(|peer| region.matched.get(peer).copied().unwrap_or(0));
            let elected = best.filter(|_| self.has_quorum(region));
            let elected = elected.filter(|_| self.rng.random_bool(0.5));
            let region = self.regions.get_mut(&id).expect("listed");
            region.leader = elected;
            region.term += u64::from(elected.is_some());
        }
    }

    /// Logs grow, followers follow, joint changes complete.
    fn replicate(&mut self) {
        let ids: Vec<u64> = self.regions.keys().copied().collect();
        for id in ids {
            let region = &self.regions[&id];
            let Some(leader) = region.leader else { continue };
            if !self.has_quorum(region) {
                continue;
            }
            let live: BTreeSet<u64> = region
                .region
                .peers
                .iter()
                .map(|peer| peer.peer_id)
                .filter(|peer| self.is_live(region, *peer))
                .collect();
            let takes: BTreeSet<u64> = live
                .iter()
                .copied()
                .filter(|peer| {
                    let node = &self.nodes[&Self::node_of(region, *peer)];
                    node.disk == DiskLevel::Normal && !node.small
                })
                .collect();
            let now_ms = self.now_ms;
            let grows = self.rng.random_range(0..400);
            let slow = self.rng.random_bool(0.4);
            let completes = self.rng.random_bool(0.7);
            let region = self.regions.get_mut(&id).expect("listed");
            region.last_index += grows;
            let last = region.last_index;
            for peer in &live {
                let initialized = region.matched.contains_key(peer);
                if !initialized && !takes.contains(peer) {
                    region.refused.entry(*peer).or_insert(now_ms);
                } else if *peer == leader || initialized || !slow {
                    region.matched.insert(*peer, last);
                    region.refused.remove(peer);
                }
            }
            if completes && region.joint.as_ref().is_some_and(|joint| joint.term == region.term) {
                Self::complete(region);
            }
        }
    }

    fn complete(region: &mut Region) {
        let Some(Joint { new, .. }) = region.joint.take() else { return };
        region
            .region
            .peers
            .retain(|peer| peer.role() == PeerRole::Learner || new.contains(&peer.peer_id));
        bump(&mut region.region);
        let left: BTreeSet<u64> = region.region.peers.iter().map(|peer| peer.peer_id).collect();
        region.matched.retain(|peer, _| left.contains(peer));
        region.quarantined.retain(|peer| left.contains(peer));
    }

    // ---- steps ----

    fn carry_out(&mut self, node: u64, step: &v1::Step) {
        let Some(region) = self.regions.get(&step.region_id) else { return };
        let Some(leader) = region.leader.filter(|peer| Self::node_of(region, *peer) == node) else {
            return;
        };
        let verdict = steps::verdict(step, &self.report(region), &self.config);
        if verdict != Verdict::Apply {
            self.note(format!("region {}: {verdict:?}", step.region_id));
            return;
        }
        // Without a quorum the leader would propose in vain.
        if !self.has_quorum(region) {
            return;
        }
        self.check_rules(region, leader, step);
        self.steps_applied += 1;
        self.note(format!("region {}: {:?}", step.region_id, step.action));
        let region = self.regions.get_mut(&step.region_id).expect("found above");
        match step.action.as_ref().expect("judged") {
            Action::AddLearner(add) => {
                self.peers_seen.insert(add.peer_id);
                region.region.peers.push(v1::Peer {
                    peer_id: add.peer_id,
                    node_id: add.node_id,
                    role: PeerRole::Learner as i32,
                });
                bump(&mut region.region);
            }
            Action::Transfer(to) => {
                region.leader = Some(to.peer_id);
                region.term += 1;
            }
            Action::Change(change) if is_finish(change) => Self::complete(region),
            Action::Change(change) => {
                let old = Self::voters(region);
                let new = after(&old, change);
                if new != old {
                    region.joint = Some(Joint { old, new, term: region.term });
                    for peer in &mut region.region.peers {
                        if change.promote.contains(&peer.peer_id) {
                            peer.set_role(PeerRole::Voter);
                        }
                    }
                    bump(&mut region.region);
                } else {
                    let peers = &mut region.region.peers;
                    peers.retain(|peer| !change.remove.contains(&peer.peer_id));
                    bump(&mut region.region);
                    region.matched.retain(|peer, _| !change.remove.contains(peer));
                    region.quarantined.retain(|peer| !change.remove.contains(peer));
                }
            }
        }
        self.check_bound(step);
    }

    /// Nodes that come and go must not leave a trail of learners behind.
    fn check_bound(&self, step: &v1::Step) {
        let peers = self.regions[&step.region_id].region.peers.len();
        if peers > 2 * self.factor_max as usize + 2 {
            self.fail(&format!("{step:?} leaves {peers} peers"));
        }
    }

    /// What no step may do, whatever the view believed.
    fn check_rules(&self, region: &Region, leader: u64, step: &v1::Step) {
        let heard = |peer: u64| {
            peer == leader || self.silent_ms(region, peer) <= millis(self.config.peer_silent_after)
        };
        match step.action.as_ref().expect("judged") {
            Action::AddLearner(add) => {
                if self.peers_seen.contains(&add.peer_id) {
                    self.fail("a peer id was used twice");
                }
                if region.region.peers.iter().any(|peer| peer.node_id == add.node_id) {
                    self.fail("two peers of a region on one node");
                }
            }
            Action::Transfer(to) => {
                if !Self::voters(region).contains(&to.peer_id) {
                    self.fail("a peer without a vote was to lead");
                }
            }
            Action::Change(change) if is_finish(change) => {}
            Action::Change(change) => {
                if change.remove.contains(&leader) {
                    self.fail("a leader was to be removed");
                }
                let old = Self::voters(region);
                let new = after(&old, change);
                for set in [&old, &new] {
                    if !is_quorum(set.iter().map(|peer| heard(*peer))) {
                        self.fail(&format!("{change:?} takes the quorum of {old:?} -> {new:?}"));
                    }
                }
                for peer in &change.promote {
                    if !region.matched.contains_key(peer) {
                        self.fail("a peer without data was promoted");
                    }
                }
            }
        }
    }

    /// Data that is there is only given up where as many copies as are wanted remain.
    fn check_copies(&self, step: &v1::Step) {
        let Some(Action::Change(change)) = &step.action else { return };
        let region = &self.regions[&step.region_id];
        if is_finish(change) || region.region.epoch != step.epoch {
            return;
        }
        let in_service = |state: NodeState| state == NodeState::Up;
        let up = self.table.nodes.iter().filter(|node| in_service(node.state())).count();
        let (before, until_ms) = self.factor_before;
        let factor = match self.table.replication_factor {
            factor if self.now_ms < until_ms => factor.min(before),
            factor => factor,
        };
        let wanted = (factor as usize).min(up);
        let copies = |voters: &BTreeSet<u64>| {
            let counts = |peer: &&u64| {
                let node = Self::node_of(region, **peer);
                let record = self.table.nodes.iter().find(|record| record.node_id == node);
                let (node, region) = (NodeId(node), RegionId(step.region_id));
                record.is_some_and(|record| !record.forced)
                    && self.state(node.0) != NodeState::Removed
                    && !self.view.is_quarantined(node, region, PeerId(**peer))
            };
            voters.iter().filter(counts).count()
        };
        let old = Self::voters(region);
        let new = after(&old, change);
        if copies(&new) < copies(&old).min(wanted) {
            self.fail(&format!("{step:?} leaves fewer than {wanted} copies: {old:?} -> {new:?}"));
        }
    }

    /// A node that is let go holds no voter in truth.
    fn check_removals(&self, change: &TableChange) {
        for record in &change.table.nodes {
            if record.state() != NodeState::Removed || self.state(record.node_id) == record.state()
            {
                continue;
            }
            for region in self.regions.values() {
                if Self::voters(region).iter().any(|p| Self::node_of(region, *p) == record.node_id)
                {
                    self.fail(&format!("node {} was let go with a voter", record.node_id));
                }
            }
        }
    }

    // ---- what happens to it ----

    fn pick(&mut self, wanted: impl Fn(&Self, u64) -> bool) -> Option<u64> {
        let ids: Vec<u64> = self.nodes.keys().copied().filter(|id| wanted(self, *id)).collect();
        ids.choose(&mut self.rng).copied()
    }

    fn happen(&mut self) {
        match self.rng.random_range(0..100) {
            0..4 => self.join(),
            4..10 => self.promote(),
            10..20 => self.kill(),
            20..34 => self.revive(),
            34..38 => self.remove(false),
            38..44 => self.remove(true),
            44..46 => self.cancel(),
            46..48 => self.demote(),
            48..54 => self.quarantine(),
            54..58 => {
                if let Some(node) = self.pick(|_, _| true) {
                    let until_ms = self.now_ms + 20_000;
                    self.view.evict_leaders(NodeId(node), until_ms);
                }
            }
            58..60 => {
                if let Some(node) = self.pick(|sim, id| sim.nodes[&id].alive) {
                    self.fill_disk(node, &[DiskLevel::Normal, DiskLevel::Low, DiskLevel::Critical]);
                }
            }
            60..66 => {
                let ids: Vec<u64> = self.regions.keys().copied().collect();
                let id = *ids.choose(&mut self.rng).expect("there are regions");
                self.regions.get_mut(&id).expect("listed").leader = None;
                self.note(format!("region {id} lost its leader"));
            }
            66 => {
                let factor = *[1, 3, 5].choose(&mut self.rng).expect("three");
                let before = self.table.replication_factor;
                self.change_membership(&[], &[], Some(factor));
                if self.table.replication_factor != before {
                    self.factor_max = self.factor_max.max(factor);
                    let before = match self.factor_before {
                        (earlier, until_ms) if self.now_ms < until_ms => earlier.min(before),
                        _ => before,
                    };
                    let until_ms = self.now_ms + 2 * millis(self.config.step_timeout);
                    self.factor_before = (before, until_ms);
                }
            }
            _ => {}
        }
    }

    fn join(&mut self) {
        let known = self.table.nodes.iter().filter(|node| node.state() != NodeState::Removed);
        if known.count() >= NODES_MAX {
            return;
        }
        let id = self.next_node;
        self.next_node += 1;
        let mut new = record(id, NodeState::Joining);
        new.labels.insert("zone".to_owned(), ["a", "b", "c"][id as usize % 3].to_owned());
        let change = membership::join(&self.table, new, NodeId(id)).expect("the id is new");
        self.write(change);
        self.nodes.insert(id, Node::new());
        self.note(format!("node {id} joins"));
    }

    fn change_membership(&mut self, promote: &[u64], demote: &[u64], factor: Option<u32>) {
        let request = v1::ChangeMembershipRequest {
            promote: promote.to_vec(),
            demote: demote.to_vec(),
            replication_factor: factor,
            ..Default::default()
        };
        let decision = membership::change_membership(&self.table, &request);
        let outcome = outcome(&decision);
        self.note(format!("promote {promote:?}, demote {demote:?}, factor {factor:?}: {outcome}"));
        if let Ok(Decision::Write(change)) = decision {
            self.write(change);
        }
    }

    fn promote(&mut self) {
        if let Some(node) = self.pick(|sim, id| sim.state(id) == NodeState::NodeLearner) {
            self.change_membership(&[node], &[], None);
        }
    }

    fn demote(&mut self) {
        if let Some(node) = self.pick(|sim, id| sim.state(id) == NodeState::Up) {
            self.change_membership(&[], &[node], None);
        }
    }

    fn kill(&mut self) {
        if let Some(id) = self.pick(|sim, id| sim.nodes[&id].alive) {
            let node = self.nodes.get_mut(&id).expect("picked");
            (node.alive, node.died_ms) = (false, self.now_ms);
            self.note(format!("node {id} dies"));
        }
    }

    fn revive(&mut self) {
        if let Some(id) = self.pick(|sim, id| !sim.nodes[&id].alive && !sim.nodes[&id].lost) {
            self.bring_back(id);
        }
    }

    fn bring_back(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.alive = true;
        node.incarnation += 1;
        self.note(format!("node {id} is back"));
    }

    fn remove(&mut self, force: bool) {
        let fits = |sim: &Self, id: u64| {
            let in_table = !matches!(sim.state(id), NodeState::Removed | NodeState::Unspecified);
            in_table && (!force || !sim.nodes[&id].alive)
        };
        let Some(id) = self.pick(fits) else { return };
        let request = v1::RemoveNodeRequest { node_id: id, force, expected_version: None };
        let decision = membership::remove_node(&self.view, &request, &self.config, self.now_ms);
        self.note(format!("remove node {id}, force {force}: {}", outcome(&decision)));
        let Ok(Decision::Write(change)) = decision else { return };
        // Two losses in one instant are more than any answer could have known of.
        let lost_before = self.nodes[&id].lost;
        if force {
            self.nodes.get_mut(&id).expect("picked").lost = true;
            let stands = |region| Self::all_quorums(region, |peer| self.has_data(region, peer));
            if !self.regions.values().all(stands) {
                self.nodes.get_mut(&id).expect("picked").lost = lost_before;
                return;
            }
            // Half of those that are given up come back all the same.
            let returns = self.chance(0.5);
            self.nodes.get_mut(&id).expect("picked").lost = !returns;
        }
        self.write(change);
    }

    fn cancel(&mut self) {
        if let Some(id) = self.pick(|sim, id| sim.state(id) == NodeState::Draining) {
            let request = v1::CancelRemoveNodeRequest { node_id: id, expected_version: None };
            let decision = membership::cancel_remove_node(&self.table, &request);
            self.note(format!("cancel removal of node {id}: {}", outcome(&decision)));
            if let Ok(Decision::Write(change)) = decision {
                self.write(change);
            }
        }
    }

    /// A peer finds that its log lost its end; never more than a quorum can spare.
    fn quarantine(&mut self) {
        let ids: Vec<u64> = self.regions.keys().copied().collect();
        let id = *ids.choose(&mut self.rng).expect("there are regions");
        let peers: Vec<u64> = {
            let region = &self.regions[&id];
            let peers = region.region.peers.iter().map(|peer| peer.peer_id);
            peers.filter(|peer| Some(*peer) != region.leader).collect()
        };
        let Some(peer) = peers.choose(&mut self.rng).copied() else { return };
        self.regions.get_mut(&id).expect("listed").quarantined.insert(peer);
        let region = &self.regions[&id];
        if Self::all_quorums(region, |peer| self.has_data(region, peer)) {
            self.note(format!("region {id}: peer {peer} is quarantined"));
        } else {
            self.regions.get_mut(&id).expect("listed").quarantined.remove(&peer);
        }
    }

    // ---- the end ----

    fn heal(&mut self) {
        self.note("the faults stop");
        let dead: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, node)| !node.alive && !node.lost)
            .map(|(id, _)| *id)
            .collect();
        for id in dead {
            self.bring_back(id);
        }
        for node in self.nodes.values_mut() {
            node.disk = DiskLevel::Normal;
        }
        self.come_to_rest();
        self.check_healed();
    }

    /// On a healthy cluster: leaders go to where there is room, and then all is at rest again.
    fn fill_disks(&mut self) {
        self.note("disks fill");
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.fill_disk(id, &[DiskLevel::Normal, DiskLevel::Low]);
        }
        self.come_to_rest();
        self.check_healed();
        self.check_led_with_room();
    }

    fn come_to_rest(&mut self) {
        let mut rest = 0;
        for _ in 0..HEAL_TICKS_MAX {
            rest = if self.tick(false) { rest + 1 } else { 0 };
            if rest == REST_TICKS {
                return;
            }
        }
        self.fail("the cluster does not come to rest");
    }

    fn fill_disk(&mut self, node: u64, levels: &[DiskLevel]) {
        let level = *levels.choose(&mut self.rng).expect("some");
        self.nodes.get_mut(&node).expect("a node").disk = level;
        self.note(format!("the disk of node {node} is {level:?}"));
    }

    /// No node refuses writes to a region of which another voter has room.
    fn check_led_with_room(&self) {
        for region in self.regions.values() {
            let has_room = |peer: u64| {
                let node = self.nodes.get(&Self::node_of(region, peer));
                node.is_some_and(|node| node.disk == DiskLevel::Normal)
            };
            let leader = region.leader.expect("checked before");
            if !has_room(leader) && Self::voters(region).into_iter().any(has_room) {
                self.fail(&format!("region {} takes no writes", region.region.region_id));
            }
        }
    }

    fn check_healed(&self) {
        let up = self.table.nodes.iter().filter(|node| node.state() == NodeState::Up).count();
        if self.table.nodes.iter().any(|node| node.state() == NodeState::Draining) {
            self.fail("a removal does not end");
        }
        for region in self.regions.values() {
            let voters = Self::voters(region);
            let wanted = (self.table.replication_factor as usize).min(up);
            let wanted = if region.region.region_id == RegionId::SYSTEM.0 {
                wanted.min(flotilla_proto::replication::SYSTEM_VOTERS_MAX)
            } else {
                wanted
            };
            if voters.len() != wanted || region.region.peers.len() != wanted {
                self.fail(&format!("region {} is not at {wanted}", region.region.region_id));
            }
            if region.joint.is_some() || region.leader.is_none() {
                self.fail("a change without end, or no leader");
            }
            for peer in &region.region.peers {
                if !self.has_data(region, peer.peer_id) || self.state(peer.node_id) != NodeState::Up
                {
                    self.fail(&format!("peer {} is not healthy", peer.peer_id));
                }
            }
        }
    }
}

/// The voters after a change of `old`.
fn after(old: &BTreeSet<u64>, change: &v1::ChangePeers) -> BTreeSet<u64> {
    let all = old.iter().chain(&change.promote).copied();
    all.filter(|peer| !change.remove.contains(peer)).collect()
}

fn bump(region: &mut v1::Region) {
    let epoch = region.epoch.get_or_insert_default();
    epoch.conf_ver += 1;
}

fn outcome(decision: &Result<Decision, crate::error::Error>) -> String {
    match decision {
        Ok(Decision::Nothing) => "nothing to do".to_owned(),
        Ok(Decision::Write(_)) => "done".to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

/// One run; answers how many steps were carried out.
fn run(seed: u64) -> usize {
    let replication_factor = [1, 3, 3, 5][seed as usize % 4];
    let mut sim = Sim::new(seed, replication_factor, 1 + seed % 6, 1 + seed % 5);
    // From one event in ten seconds, which leaves time to repair, to one every second.
    let events = [0.1, 0.3, 1.0][seed as usize % 3];
    for _ in 0..CHAOS_TICKS {
        if sim.chance(events) {
            sim.happen();
        }
        sim.tick(true);
    }
    sim.heal();
    sim.fill_disks();
    sim.steps_applied
}

/// `FLOTILLA_SIM_SEEDS=5000` runs more; a failure prints its seed, which `FLOTILLA_SIM_SEED` repeats.
#[test]
fn every_history_keeps_quorums_and_ends_at_the_replication_factor_at_rest() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("FLOTILLA_SIM_SEED") {
        run(seed);
        return;
    }
    let seeds = number("FLOTILLA_SIM_SEEDS").unwrap_or(300);
    let steps: usize = (0..seeds).map(run).sum();
    assert!(steps as u64 > 20 * seeds, "the histories did too little: {steps} steps");
}

#[test]
fn drain_ends_although_a_node_refuses_every_region() {
    let mut sim = Sim::new(0, 3, 3, 30);
    sim.heal();
    let (small, spare) = (4, 5);
    for node in [small, spare] {
        sim.join();
        sim.tick(false);
        sim.change_membership(&[node], &[], None);
    }
    sim.nodes.get_mut(&small).expect("joined").small = true;
    let request = v1::RemoveNodeRequest { node_id: 2, force: false, expected_version: None };
    let decision = membership::remove_node(&sim.view, &request, &sim.config, sim.now_ms);
    let Ok(Decision::Write(change)) = decision else { panic!("{decision:?}") };
    sim.write(change);
    sim.heal();
    assert_eq!(sim.state(2), NodeState::Removed);
    let on = |node: u64| {
        let regions = sim.regions.values();
        regions.filter(|region| region.region.peers.iter().any(|peer| peer.node_id == node)).count()
    };
    assert_eq!((on(small), on(spare)), (0, 30));
}

#[test]
fn same_seed_gives_the_same_history() {
    let history = |seed| {
        let mut sim = Sim::new(seed, 3, 5, 4);
        for _ in 0..CHAOS_TICKS {
            sim.happen();
            sim.tick(true);
        }
        sim.log
    };
    assert_eq!(history(11), history(11));
}

#[test]
fn cluster_of_one_grows_to_three_and_spreads_its_leaders() {
    let mut sim = Sim::new(0, 3, 3, 30);
    sim.heal();
    let mut leaders = BTreeMap::<u64, usize>::new();
    for region in sim.regions.values() {
        *leaders.entry(Sim::node_of(region, region.leader.expect("led"))).or_default() += 1;
    }
    assert_eq!(leaders.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}
