//! The cluster of a script: who is alive, what lies on whose disk, who leads, and the driver that hears of it.
//!
//! Descriptors change as they do on every peer, by applying the membership that openraft would have in its log. How
//! openraft gets from one set of voters to another is its own (`Membership::next_coherent`) and stands here in short:
//! through both sets at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_proto::v1::{self, DiskLevel, NodeState, PeerRole, step::Action};
use tokio::time::Instant;

use super::{VERSION, tell};
use crate::{
    command,
    ids::{ClusterId, NodeId, PeerId, RegionId},
    metrics::StepResult,
    placement::{
        config::PlacementConfig,
        fixture::{CLUSTER, record, table},
        membership::{self, Decision, TableChange},
        plan::plan,
        reports::Reports,
        steps::{Verdict, verdict},
        view::{ClusterView, Heard},
    },
    raft::{Membership, PeerAddress, convert::membership_to_proto, quorum::is_quorum},
    region::carry_out::{Goal, goal},
    world::clock,
};

/// Seconds without an event after which a cluster is at rest: longer than any patience but for the dead.
const REST: u64 = 60;
/// Bound: seconds of a run.
const RUN_MAX: u64 = 3600;
/// Peers that the driver makes; those of a script are `100 * region + node`.
const FIRST_PEER: u64 = 1001;

pub(super) struct Node {
    host: String,
    /// Since when it is not there.
    silent_since: Option<u64>,
    /// Since when the other nodes and it do not hear each other, and the regions that it led then: it believes that it does.
    cut: Option<(u64, BTreeMap<RegionId, Region>)>,
    incarnation: u64,
    pub(super) level: u32,
    pub(super) disk: DiskLevel,
    reports: Reports,
    /// What the driver last made of it.
    heard: Heard,
}

/// What lies at an address.
struct Disk {
    id: u64,
    node: Option<NodeId>,
}

/// What is wrong with a peer.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Found {
    Quarantined,
    Contradicted,
    Reverted,
    Buried,
    Refused { since_ms: u64 },
}

#[derive(Clone)]
pub(super) struct Region {
    state: command::RegionState,
    membership: Membership,
    term: u64,
    leader: Option<PeerId>,
    /// The term of the leader that finishes a joint change by itself.
    joint_of: Option<u64>,
    last_index: u64,
    matched: BTreeMap<PeerId, u64>,
    pub(super) found: BTreeMap<PeerId, Found>,
}

pub(super) struct Cluster {
    pub(super) config: PlacementConfig,
    pub(super) view: ClusterView,
    pub(super) now_ms: u64,
    began: Instant,
    nodes: BTreeMap<NodeId, Node>,
    regions: BTreeMap<RegionId, Region>,
    disks: BTreeMap<String, Disk>,
    drivers: u64,
    next_peer: u64,
    next_disk: u64,
    held: Option<v1::HeartbeatRequest>,
}

impl Region {
    fn node_of(&self, peer: PeerId) -> NodeId {
        let mut nodes = self.membership.nodes();
        nodes.find(|(id, _)| **id == peer).map_or(NodeId(0), |(_, address)| address.node)
    }

    fn peers(&self) -> Vec<PeerId> {
        self.membership.nodes().map(|(peer, _)| *peer).collect()
    }

    fn is_joint(&self) -> bool {
        self.membership.get_joint_config().len() > 1
    }

    fn leader_node(&self) -> Option<NodeId> {
        self.leader.map(|leader| self.node_of(leader))
    }

    /// An entry of the log that every peer applies.
    fn apply(&mut self, membership: Membership) {
        self.last_index += 1;
        let state = &mut self.state.state;
        (state.applied_term, state.applied_index) = (self.term, self.last_index);
        command::apply_members(&mut self.state, membership_to_proto(&membership));
        self.membership = membership;
        let left: BTreeSet<PeerId> = self.peers().into_iter().collect();
        self.matched.retain(|peer, _| left.contains(peer));
        self.found.retain(|peer, _| left.contains(peer));
    }

    /// One entry on the way to `voters`.
    fn go_towards(&mut self, voters: BTreeSet<PeerId>) {
        let last = self.membership.get_joint_config().last().cloned().unwrap_or_default();
        let mut nodes: BTreeMap<PeerId, PeerAddress> =
            self.membership.nodes().map(|(peer, address)| (*peer, *address)).collect();
        let configs = if voters == last {
            let leave = |peer: &PeerId| {
                self.membership.voter_ids().any(|voter| voter == *peer) && !voters.contains(peer)
            };
            nodes.retain(|peer, _| !leave(peer));
            vec![voters]
        } else {
            vec![last, voters]
        };
        self.joint_of = (configs.len() > 1).then_some(self.term);
        self.apply(Membership::new(configs, nodes).expect("every voter has a node"));
    }

    fn line(&self) -> String {
        let descriptor = &self.state.descriptor;
        let joint = if self.is_joint() { " joint" } else { "" };
        format!(
            "region {} {} epoch {} term {}: {}{joint}\n",
            descriptor.region_id,
            tell::range(descriptor),
            tell::epoch(descriptor.epoch.as_ref()),
            self.term,
            tell::peers(descriptor, self.leader.map(|peer| peer.0)),
        )
    }
}

impl Cluster {
    pub(super) fn new(replication_factor: u32) -> Self {
        let mut table = table(replication_factor, Vec::new());
        table.version = 1;
        Self {
            config: PlacementConfig::default(),
            view: ClusterView::new(table, 0),
            now_ms: 0,
            began: clock::now(),
            nodes: BTreeMap::new(),
            regions: BTreeMap::new(),
            disks: BTreeMap::new(),
            drivers: 1,
            next_peer: FIRST_PEER,
            next_disk: 1,
            held: None,
        }
    }

    pub(super) fn table(&self) -> &v1::NodeTable {
        self.view.table()
    }

    pub(super) fn node(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("there is such a node")
    }

    pub(super) fn region(&mut self, region: RegionId) -> &mut Region {
        self.regions.get_mut(&region).expect("there is such a region")
    }

    // ---- how it begins ----

    pub(super) fn put_node(
        &mut self,
        id: NodeId,
        state: NodeState,
        labels: BTreeMap<String, String>,
        level: u32,
    ) {
        let mut table = self.table().clone();
        let record = v1::NodeRecord { labels, feature_level: level, ..record(id.0, state) };
        table.nodes.push(record);
        table.feature_level = table.nodes.iter().map(|node| node.feature_level).min().unwrap_or(1);
        self.view = ClusterView::new(table, self.now_ms);
        self.settle_in(&format!("n{id}"), id, level);
    }

    fn settle_in(&mut self, host: &str, id: NodeId, level: u32) {
        self.disk(host).node = Some(id);
        let node = Node {
            host: host.to_owned(),
            silent_since: None,
            cut: None,
            incarnation: 1,
            level,
            disk: DiskLevel::Normal,
            reports: Reports::default(),
            heard: Heard::Accepted,
        };
        self.nodes.insert(id, node);
    }

    fn disk(&mut self, host: &str) -> &mut Disk {
        let next = self.next_disk;
        self.disks.entry(host.to_owned()).or_insert_with(|| {
            self.next_disk += 1;
            Disk { id: next, node: None }
        })
    }

    pub(super) fn put_region(&mut self, id: RegionId, range: &str, peers: &[&str]) {
        let (start, end) = range.split_once("..").expect("start..end");
        let mut leader = None;
        let (mut voters, mut nodes, mut matched) =
            (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        for word in peers {
            let digits = word.trim_end_matches(['*', 'l']);
            let node: u64 = super::number(digits);
            let peer = PeerId(100 * id.0 + node);
            nodes.insert(peer, PeerAddress { node: NodeId(node) });
            matched.insert(peer, 10);
            if !word.ends_with('l') {
                voters.insert(peer);
            }
            if word.ends_with('*') {
                leader = Some(peer);
            }
        }
        let membership = Membership::new(vec![voters], nodes).expect("every voter has a node");
        let descriptor = v1::Region {
            region_id: id.0,
            start_key: start.to_owned().into(),
            end_key: end.to_owned().into(),
            epoch: Some(v1::RegionEpoch { conf_ver: 0, version: 1 }),
            peers: Vec::new(),
        };
        let mut region = Region {
            state: command::RegionState { descriptor, state: v1::ApplyState::default() },
            membership: membership.clone(),
            term: 1,
            leader,
            joint_of: None,
            last_index: 9,
            matched,
            found: BTreeMap::new(),
        };
        region.apply(membership);
        self.regions.insert(id, region);
    }

    // ---- what is ----

    /// Whether the region's leader gets answers from the peer, in truth.
    fn answers(&self, region: &Region, peer: PeerId) -> bool {
        let node = self.nodes.get(&region.node_of(peer));
        node.is_some_and(|node| node.silent_since.is_none() && node.cut.is_none())
            && !matches!(
                region.found.get(&peer),
                Some(Found::Quarantined | Found::Contradicted | Found::Buried)
            )
    }

    fn has_quorum(&self, region: &Region) -> bool {
        let configs = region.membership.get_joint_config();
        configs.iter().all(|set| is_quorum(set.iter().map(|peer| self.answers(region, *peer))))
    }

    /// What the node that leads it, or believes that it does, reports. `cut_ms` is since when it hears nobody.
    fn report(&self, region: &Region, cut_ms: Option<u64>) -> v1::RegionReport {
        let leader = region.leader.expect("somebody reports it");
        let progress = |peer: PeerId| {
            let node = self.nodes.get(&region.node_of(peer));
            let found = region.found.get(&peer).copied();
            let silent_since = cut_ms.or_else(|| {
                let node = node?;
                node.silent_since.or_else(|| node.cut.as_ref().map(|(since, _)| *since))
            });
            let refused_since = match found {
                Some(Found::Refused { since_ms }) => Some(since_ms),
                _ => None,
            };
            let silent_ms = match silent_since {
                Some(since) => self.now_ms - since,
                None if self.answers(region, peer) => 100,
                None => u64::MAX / 2,
            };
            v1::PeerProgress {
                peer_id: peer.0,
                matched_index: region.matched.get(&peer).copied().unwrap_or(0),
                silent_ms,
                reverted: found == Some(Found::Reverted),
                buried: found == Some(Found::Buried),
                refused: refused_since.map_or_else(String::new, |_| "its disk is low".to_owned()),
                refused_ms: refused_since.map_or(0, |since| self.now_ms - since),
            }
        };
        v1::RegionReport {
            region: Some(region.state.descriptor.clone()),
            term: region.term,
            leader_peer_id: leader.0,
            joint: region.is_joint(),
            last_index: region.last_index,
            progress: region
                .peers()
                .into_iter()
                .filter(|peer| *peer != leader)
                .map(progress)
                .collect(),
            approximate_bytes: 0,
        }
    }

    /// Everything that a node leads, or believes that it does.
    fn led_by(&self, id: NodeId) -> Vec<v1::RegionReport> {
        match &self.nodes[&id].cut {
            Some((since, believed)) => {
                believed.values().map(|region| self.report(region, Some(*since))).collect()
            }
            None => {
                let led = self.regions.values().filter(|region| region.leader_node() == Some(id));
                led.map(|region| self.report(region, None)).collect()
            }
        }
    }

    fn heartbeat(&mut self, id: NodeId) -> v1::HeartbeatRequest {
        let led = self.led_by(id);
        let found = |what: Found| {
            let of = |region: &Region| {
                let region_id = region.state.descriptor.region_id;
                let here = region
                    .found
                    .iter()
                    .filter(|(peer, found)| **found == what && region.node_of(**peer) == id);
                let peer_id =
                    |peer: &PeerId| v1::LocalPeer { region_id, peer_id: peer.0, conf_ver: None };
                here.map(|(peer, _)| peer_id(peer)).collect::<Vec<_>>()
            };
            self.regions.values().flat_map(of).collect::<Vec<_>>()
        };
        let (quarantined, contradicted) = (found(Found::Quarantined), found(Found::Contradicted));
        let now = self.began + Duration::from_millis(self.now_ms);
        let config = self.config.clone();
        let node = self.node(id);
        let part = node.reports.next(led, &config, now);
        v1::HeartbeatRequest {
            cluster_id: CLUSTER.to_vec().into(),
            node_id: id.0,
            incarnation: node.incarnation,
            feature_level: node.level,
            disk_level: node.disk.into(),
            version: VERSION.to_owned(),
            session: part.session,
            sequence: part.sequence,
            regions: part.regions,
            led_no_more: part.led_no_more,
            quarantined,
            contradicted,
            ..v1::HeartbeatRequest::default()
        }
    }

    // ---- time passes ----

    /// Followers follow, joint changes end, nodes tell the driver of themselves.
    pub(super) fn second(&mut self) -> String {
        self.now_ms += 1_000;
        let mut told = String::new();
        for id in self.regions.keys().copied().collect::<Vec<_>>() {
            told += &self.follow(id);
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            if self.nodes[&id].silent_since.is_none() {
                told += &self.beat(id);
            }
        }
        self.timed(&told)
    }

    /// With the time in front of each line.
    fn timed(&self, told: &str) -> String {
        let at = humantime::format_duration(Duration::from_millis(self.now_ms));
        told.lines().map(|line| format!("{at}: {line}\n")).collect()
    }

    fn follow(&mut self, id: RegionId) -> String {
        let region = &self.regions[&id];
        if region.leader.is_none() || !self.has_quorum(region) {
            return String::new();
        }
        let takes = |peer: &PeerId| {
            let refused = matches!(region.found.get(peer), Some(Found::Refused { .. }));
            self.answers(region, *peer) && !refused
        };
        let follow: Vec<PeerId> = region.peers().into_iter().filter(takes).collect();
        let region = self.region(id);
        let last = region.last_index;
        region.matched.extend(follow.into_iter().map(|peer| (peer, last)));
        // A later leader leaves it as it is.
        if region.joint_of != Some(region.term) {
            return String::new();
        }
        let goal = region.membership.get_joint_config().last().cloned().unwrap_or_default();
        region.go_towards(goal);
        region.line()
    }

    pub(super) fn beat(&mut self, id: NodeId) -> String {
        let heartbeat = self.heartbeat(id);
        self.hear(heartbeat)
    }

    fn hear(&mut self, heartbeat: v1::HeartbeatRequest) -> String {
        let id = NodeId(heartbeat.node_id);
        let (heard, session) =
            (self.view.hear(heartbeat.clone(), self.now_ms), self.view.session());
        let node = self.node(id);
        match heard {
            Heard::Accepted => _ = node.reports.acknowledged(session),
            Heard::Unfollowed => _ = node.reports.acknowledged(0),
            _ => node.reports.lost(),
        }
        let is_news =
            std::mem::replace(&mut node.heard, heard) != heard && heard != Heard::Accepted;
        let mut told =
            if is_news { format!("node {id} is heard as {heard:?}\n") } else { String::new() };
        if matches!(heard, Heard::Accepted | Heard::Unfollowed)
            && let Decision::Write(change) = membership::heard(self.table(), &heartbeat)
        {
            told += &self.write(change);
        }
        told
    }

    /// A round, in the order of `Driver::round`.
    pub(super) fn plan(&mut self) -> String {
        let mut told = String::new();
        for (step, result) in self.view.settle_orders(&self.config, self.now_ms) {
            match result {
                StepResult::Done => {}
                StepResult::Overtaken => told += &format!("overtaken: {}\n", tell::step(&step)),
                StepResult::TimedOut => told += &format!("timed out: {}\n", tell::step(&step)),
            }
        }
        if let Some(change) = membership::finish_removals(&self.view, &self.config, self.now_ms) {
            told += &self.write(change);
        }
        if let Some(change) = membership::raise_feature_level(&self.view, &self.config, self.now_ms)
        {
            told += &self.write(change);
        }
        let mut next = self.next_peer;
        let planned = plan(&self.view, &self.config, self.now_ms, &mut || {
            next += 1;
            Some(PeerId(next - 1))
        });
        self.next_peer = next;
        for step in &planned {
            told += &format!("{}\n", tell::step(step));
        }
        self.view.order(&planned, self.now_ms);
        told
    }

    /// What the answers to the next heartbeats bring.
    pub(super) fn apply(&mut self, lost: bool) -> String {
        let mut told = String::new();
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            if self.nodes[&id].silent_since.is_some() {
                continue;
            }
            for step in self.view.orders_for(id, &self.config, self.now_ms) {
                told += &match lost {
                    true => format!("lost: {}\n", tell::step(&step)),
                    false => self.carry_out(id, &step),
                };
            }
        }
        told
    }

    fn carry_out(&mut self, node: NodeId, step: &v1::Step) -> String {
        let led = self.led_by(node);
        let of = |report: &&v1::RegionReport| {
            report.region.as_ref().is_some_and(|region| region.region_id == step.region_id)
        };
        let Some(report) = led.iter().find(of) else {
            return format!("node {node} does not lead: {}\n", tell::step(step));
        };
        let refused = match verdict(step, report, &self.config) {
            Verdict::Apply => None,
            Verdict::Done => Some("it is done".to_owned()),
            Verdict::Wait { why } => Some(format!("not now: {why}")),
            Verdict::Stale { why } => Some(format!("stale: {why}")),
            Verdict::Unsafe { why } => Some(format!("unsafe: {why}")),
        };
        if let Some(why) = refused {
            return format!("node {node} does not {}: {why}\n", tell::action(step));
        }
        let leader = PeerId(report.leader_peer_id);
        let region = self.region(RegionId(step.region_id));
        match step.action.as_ref().expect("judged") {
            Action::AddLearner(add) => {
                let mut nodes: BTreeMap<PeerId, PeerAddress> =
                    region.membership.nodes().map(|(peer, at)| (*peer, *at)).collect();
                nodes.insert(PeerId(add.peer_id), PeerAddress { node: NodeId(add.node_id) });
                let configs = region.membership.get_joint_config().clone();
                region.apply(Membership::new(configs, nodes).expect("every voter has a node"));
            }
            Action::Transfer(to) => {
                region.leader = Some(PeerId(to.peer_id));
                region.term += 1;
            }
            Action::Change(change) => match goal(&region.membership, change, leader) {
                Ok(Goal { voters, learners }) => {
                    if let Some(voters) = voters {
                        region.go_towards(voters);
                    }
                    if !learners.is_empty() {
                        let nodes: BTreeMap<PeerId, PeerAddress> = region
                            .membership
                            .nodes()
                            .filter(|(peer, _)| !learners.contains(peer))
                            .map(|(peer, at)| (*peer, *at))
                            .collect();
                        let configs = region.membership.get_joint_config().clone();
                        region.apply(Membership::new(configs, nodes).expect("only learners leave"));
                    }
                }
                Err(why) => return format!("node {node} does not {}: {why}\n", tell::action(step)),
            },
        }
        region.line()
    }

    /// Until nothing happens any more.
    pub(super) fn run(&mut self) -> String {
        let (mut told, mut quiet) = (String::new(), 0);
        for _ in 0..RUN_MAX {
            let mut now = self.second();
            let then = self.apply(false) + &self.plan();
            now += &self.timed(&then);
            quiet = if now.is_empty() { quiet + 1 } else { 0 };
            told += &now;
            if quiet == REST {
                return told;
            }
        }
        told + "it does not come to rest\n"
    }

    // ---- what happens ----

    pub(super) fn regions(&self) -> String {
        self.regions.values().map(Region::line).collect()
    }

    pub(super) fn silence(&mut self, id: NodeId) -> String {
        self.node(id).silent_since = Some(self.now_ms);
        for region in self.regions.values_mut() {
            if region.leader_node() == Some(id) {
                region.leader = None;
            }
        }
        String::new()
    }

    pub(super) fn start(&mut self, id: NodeId) -> String {
        let node = self.node(id);
        (node.silent_since, node.reports) = (None, Reports::default());
        node.incarnation += 1;
        String::new()
    }

    pub(super) fn wipe(&mut self, id: NodeId) -> String {
        self.silence(id);
        let host = self.node(id).host.clone();
        self.disks.remove(&host);
        self.disk(&host);
        String::new()
    }

    pub(super) fn cut(&mut self, id: NodeId) -> String {
        let led = self.regions.iter().filter(|(_, region)| region.leader_node() == Some(id));
        let believed: BTreeMap<_, _> = led.map(|(id, region)| (*id, region.clone())).collect();
        for region in believed.keys() {
            self.region(*region).leader = None;
        }
        let now_ms = self.now_ms;
        self.node(id).cut = Some((now_ms, believed));
        String::new()
    }

    pub(super) fn heal(&mut self, id: NodeId) -> String {
        self.node(id).cut = None;
        String::new()
    }

    pub(super) fn hold(&mut self, id: NodeId) -> String {
        self.held = Some(self.heartbeat(id));
        String::new()
    }

    pub(super) fn deliver(&mut self) -> String {
        let held = self.held.take().expect("something is held");
        self.hear(held)
    }

    pub(super) fn elect(&mut self, id: RegionId, peer: PeerId) -> String {
        let region = &self.regions[&id];
        assert!(self.has_quorum(region) && self.answers(region, peer), "nobody elects it");
        let region = self.region(id);
        (region.leader, region.term) = (Some(peer), region.term + 1);
        region.line()
    }

    pub(super) fn grow(&mut self, id: RegionId, entries: u64) -> String {
        self.region(id).last_index += entries;
        String::new()
    }

    pub(super) fn find(&mut self, id: RegionId, peer: PeerId, found: Found) {
        let region = self.region(id);
        assert!(region.peers().contains(&peer), "no such peer");
        region.found.insert(peer, found);
        if matches!(found, Found::Quarantined | Found::Contradicted) && region.leader == Some(peer)
        {
            region.leader = None;
        }
    }

    pub(super) fn take_over(&mut self) -> String {
        self.drivers += 1;
        let table = self.table().clone();
        self.view = ClusterView::new(table, self.now_ms).in_session(self.drivers);
        String::new()
    }

    /// What a node is told that has a peer, of this membership, which hears no leader.
    pub(super) fn gone(&self, region: RegionId, peer: PeerId, conf_ver: u64) -> String {
        let silent =
            v1::LocalPeer { region_id: region.0, peer_id: peer.0, conf_ver: Some(conf_ver) };
        let gone = self.view.gone(vec![silent], &self.config, self.now_ms);
        if gone.is_empty() { "it may be needed" } else { "it is gone" }.to_owned()
    }

    // ---- the node table ----

    /// Applies a change of the table; tells what is otherwise than before.
    pub(super) fn write(&mut self, change: TableChange) -> String {
        let before = self.table().clone();
        assert_eq!(change.table.version, before.version + 1, "it was decided on this table");
        self.view.set_table(change.table);
        let mut told = String::new();
        for record in &self.table().nodes {
            let old = before.nodes.iter().find(|old| old.node_id == record.node_id);
            let (was, is) = (old.map(tell::row), tell::row(record));
            if was.as_ref() != Some(&is) {
                told += &format!("{is}\n");
            } else if let Some(old) = old.filter(|old| old.feature_level != record.feature_level) {
                let [was, is] = [old, record].map(|record| record.feature_level);
                told += &format!("node {} is of level {is}, it was of {was}\n", record.node_id);
            }
        }
        let after = self.table();
        if after.replication_factor != before.replication_factor {
            told += &format!("the replication factor is {}\n", after.replication_factor);
        }
        if after.feature_level != before.feature_level {
            told += &format!("the cluster is of level {}\n", after.feature_level);
        }
        told
    }

    /// What the disk at an address says of itself.
    pub(super) fn status(&mut self, host: &str) -> v1::StatusResponse {
        let Disk { id, node } = *self.disk(host);
        let state = node.and_then(|node| self.view.record(node)).map(v1::NodeRecord::state);
        v1::StatusResponse {
            joined: node.is_some(),
            removed: state == Some(NodeState::Removed),
            node_id: node.map_or(0, |node| node.0),
            cluster_id: node.map_or_else(String::new, |_| ClusterId(CLUSTER).to_string()),
            version: VERSION.to_owned(),
            client_address: format!("{host}:7420"),
            peer_address: format!("{host}:7421"),
            http_address: format!("{host}:7422"),
            feature_level: node.and_then(|node| self.nodes.get(&node)).map_or(1, |node| node.level),
            disk_id: u128::from(id).to_be_bytes().to_vec().into(),
            ..v1::StatusResponse::default()
        }
    }

    /// The node gets a number, and has not heard of it.
    pub(super) fn join(&mut self, host: &str, record: v1::NodeRecord) -> String {
        let last = self.table().nodes.iter().map(|node| node.node_id).max().unwrap_or(0);
        match membership::join(self.table(), record, NodeId(last + 1)) {
            Ok(change) => self.write(change) + &format!("next: add {host}"),
            Err(error) => tell::refusal(&error),
        }
    }

    /// The node is handed its identity, and runs.
    pub(super) fn adopt(&mut self, host: &str, id: NodeId) -> String {
        self.settle_in(host, id, 1);
        format!("{host} has the identity of node {id}\nnext: confirm {id}")
    }
}

#[test]
fn joint_change_goes_through_both_sets_and_leaves_no_node_behind() {
    let mut cluster = Cluster::new(3);
    cluster.put_region(RegionId(2), "..", &["1*", "2", "3", "4l"]);
    let region = cluster.region(RegionId(2));
    let [one, two, three, four] = [201, 202, 203, 204].map(PeerId);
    region.go_towards(BTreeSet::from([one, two, four]));
    let joint = [BTreeSet::from([one, two, three]), BTreeSet::from([one, two, four])];
    assert_eq!(region.membership.get_joint_config()[..], joint);
    let voters = region.state.descriptor.peers.iter().filter(|peer| peer.role() == PeerRole::Voter);
    assert_eq!(voters.count(), 4, "those that come and those that go have a vote");
    region.go_towards(BTreeSet::from([one, two, four]));
    assert_eq!(region.peers(), [one, two, four]);
}
