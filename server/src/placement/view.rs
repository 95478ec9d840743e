//! The cluster as last heard: nodes with liveness, regions as their leaders see them.
//!
//! The truth is elsewhere: nodes are in the replicated table, descriptors in each region's own state
//! machine. This is one driver's memory of what it was told and when, thrown away with its term and
//! rebuilt within one heartbeat interval. Two things make it fit to decide upon. A region's newest
//! descriptor wins whoever tells it, so a leader that was replaced and does not know cannot take
//! the view back. And absence is only believed when it is proven: `ClusterView::is_complete` asks
//! for regions that tile the whole key space, `ClusterView::confirmed` for a leader that a
//! majority answers; before that nobody may conclude that a node holds nothing.

mod health;
mod listing;
mod regions;
#[cfg(test)]
mod scale_tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_proto::{
    region::{Epoch, borders_of},
    v1,
};

use super::config::{PlacementConfig, millis};
use crate::{
    feature_level,
    ids::{NodeId, PeerId, RegionId},
    storage::disk::Level,
};

pub use self::{
    listing::{check_located, page, page_regions},
    regions::Regions,
};

/// Bound: process starts of one node that are remembered to notice a copied disk; older ones are
/// forgotten, and a copy that was silent for that many restarts is then noticed one heartbeat later.
const INCARNATIONS_MAX: usize = 8;

/// How long heartbeats of a replaced process may still arrive from queues on their way. One that is
/// heard for longer is alive.
const LATE_MS: u64 = 5_000;

/// What becomes of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Accepted,
    /// Accepted but for its regions: they are changes to what this view was never told, so the node is
    /// to tell everything.
    Unfollowed,
    /// From another cluster; nothing was taken over.
    WrongCluster,
    /// From a node that the table does not have; nothing was taken over.
    Unknown,
    /// From a program that can do less than the cluster uses: it must end, and nothing was taken over.
    TooOld,
    /// From a node that was removed: it must stop serving, for ever.
    Removed,
    /// From a process that a later one replaced, perhaps long on its way; nothing was taken over.
    Superseded,
    /// Two processes use one node id: both are refused until a new one starts alone.
    Duplicate,
}

/// A node of the table with what was heard of it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub record: v1::NodeRecord,
    pub liveness: v1::Liveness,
    /// Leaders are kept away for now.
    pub evicted: bool,
    pub disk_level: v1::DiskLevel,
    /// It was low, or worse, a short while ago: whether it has room for good is not known yet.
    pub was_low: bool,
    pub disk_available_bytes: u64,
    pub disk_used_bytes: u64,
    pub data_bytes: u64,
    /// Peers that the regions' descriptors have on this node, learners included.
    pub peers: usize,
    /// Of `peers`: learners, which are being initialized.
    pub learners: usize,
    pub leaders: usize,
}

impl NodeView {
    /// Of a node of which nothing is known but its row.
    #[must_use]
    pub fn unheard(record: v1::NodeRecord) -> Self {
        Self {
            record,
            liveness: v1::Liveness::Unspecified,
            evicted: false,
            disk_level: v1::DiskLevel::Unspecified,
            was_low: false,
            disk_available_bytes: 0,
            disk_used_bytes: 0,
            data_bytes: 0,
            peers: 0,
            learners: 0,
            leaders: 0,
        }
    }

    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.record.node_id)
    }

    #[must_use]
    pub fn state(&self) -> v1::NodeState {
        self.record.state()
    }

    /// Whether it counts for a quorum: nothing is taken from a node that is only suspect.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.liveness, v1::Liveness::Alive | v1::Liveness::Suspect)
    }

    /// Whether clients' writes to regions that it leads, and snapshots, are taken here.
    #[must_use]
    pub fn has_room(&self) -> bool {
        Level::from(self.disk_level).has_room()
    }

    fn serves(&self) -> bool {
        self.state() == v1::NodeState::Up && self.liveness == v1::Liveness::Alive
    }

    /// Whether it may get anything new: in service and heard of just now, nothing against it.
    #[must_use]
    pub fn may_receive(&self) -> bool {
        self.serves() && self.has_room()
    }

    /// Whether a leader may be placed here.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        self.may_receive() && !self.evicted && !self.was_low
    }

    /// Whether a leader may be placed here that must leave where it is, and has nowhere better to go:
    /// what is led from here may be read, and what is deleted makes room.
    #[must_use]
    pub fn may_lead_at_worst(&self) -> bool {
        self.serves() && !self.evicted && self.disk_level != v1::DiskLevel::Critical
    }

    /// A label's value; `None` when absent or empty.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.record.labels.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// As clients see it.
    #[must_use]
    pub fn to_node(&self) -> v1::Node {
        let v1::NodeRecord {
            node_id,
            client_address,
            peer_address,
            http_address,
            state,
            labels,
            version,
            forced,
            feature_level: _,
            demoted,
            disk_id: _,
        } = self.record.clone();
        v1::Node {
            node_id,
            client_address,
            peer_address,
            http_address,
            state,
            labels,
            version,
            liveness: self.liveness as i32,
            leaders: u32::try_from(self.leaders).unwrap_or(u32::MAX),
            peers: u32::try_from(self.peers).unwrap_or(u32::MAX),
            leaders_evicted: self.evicted,
            disk_available_bytes: self.disk_available_bytes,
            disk_used_bytes: self.disk_used_bytes,
            data_bytes: self.data_bytes,
            forced,
            demoted,
            disk_level: self.disk_level.into(),
            waits_for: String::new(),
        }
    }
}

/// The peer that leads a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderPeer {
    pub peer: PeerId,
    pub node: NodeId,
}

/// A region as its leader last reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct HeardRegion {
    pub region: v1::Region,
    pub term: u64,
    /// `None` once the node that led it stopped to report it, until another does.
    pub leader: Option<LeaderPeer>,
    /// Since when this peer leads, as seen here.
    pub leader_since_ms: u64,
    /// Since when the region is in a joint change of the same epoch.
    pub joint_since_ms: Option<u64>,
    pub last_index: u64,
    pub progress: BTreeMap<PeerId, v1::PeerProgress>,
    pub approximate_bytes: u64,
    /// When this was told. Until something changes it is not told again: that it still holds is what
    /// the heartbeats of the leader's node say.
    pub reported_at_ms: u64,
}

impl HeardRegion {
    #[must_use]
    pub fn id(&self) -> RegionId {
        RegionId(self.region.region_id)
    }

    #[must_use]
    pub fn epoch(&self) -> v1::RegionEpoch {
        self.region.epoch.unwrap_or_default()
    }

    fn rank(&self) -> (Epoch, u64) {
        (Epoch::of(&self.region), self.term)
    }
}

/// A step that was given to the leader that a region had, and when.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) step: v1::Step,
    pub(super) leader: Option<LeaderPeer>,
    pub(super) at_ms: u64,
}

/// The last heartbeat of a node, without its regions.
#[derive(Clone, Debug)]
struct NodeHeard {
    at_ms: u64,
    incarnation: u64,
    feature_level: u32,
    /// Process starts that a later one replaced, newest last.
    superseded: VecDeque<Superseded>,
    disk_level: v1::DiskLevel,
    /// When it last said that its disk is low, or worse.
    low_at_ms: Option<u64>,
    disk_available_bytes: u64,
    disk_used_bytes: u64,
    data_bytes: u64,
    quarantined: BTreeSet<(RegionId, PeerId)>,
    contradicted: BTreeSet<(RegionId, PeerId)>,
    /// Of its last heartbeat.
    sequence: u64,
    /// Regions it reported and did not say it leads no more.
    led: BTreeSet<RegionId>,
}

impl NodeHeard {
    /// What to answer a process that a later one replaced; `None` to any other.
    fn answer_to_replaced(&mut self, incarnation: u64, now_ms: u64) -> Option<Heard> {
        let old = self.superseded.iter_mut().find(|old| old.incarnation == incarnation)?;
        let since_ms = *old.heard_since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) < LATE_MS {
            return Some(Heard::Superseded);
        }
        // The one that replaced it may be the copy: neither is believed from here on.
        let last = self.incarnation;
        if self.superseded.iter().all(|old| old.incarnation != last) {
            self.superseded.push_back(Superseded { incarnation: last, heard_since_ms: Some(0) });
        }
        Some(Heard::Duplicate)
    }
}

#[derive(Clone, Copy, Debug)]
struct Superseded {
    incarnation: u64,
    /// Since when it is heard although it was replaced.
    heard_since_ms: Option<u64>,
}

/// One driver's view of the cluster.
///
/// Times are milliseconds of any clock that does not go back.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// A node that was never heard counts as silent since then, so that a new driver does not take
    /// the whole cluster for dead.
    started_ms: u64,
    table: v1::NodeTable,
    heard: BTreeMap<NodeId, NodeHeard>,
    regions: Regions,
    /// See [`ClusterView::session`].
    session: u64,
    evicted_until_ms: BTreeMap<NodeId, u64>,
    /// When a peer of the region was last given up on the node as refused, or a learner as without room. Bound:
    /// `refusal_memory`.
    refused_at_ms: BTreeMap<(RegionId, NodeId), u64>,
    /// At most one per region: see `orders.rs`.
    pub(super) orders: BTreeMap<RegionId, Order>,
}

impl ClusterView {
    /// The view of a driver whose term begins now.
    #[must_use]
    pub fn new(table: v1::NodeTable, now_ms: u64) -> Self {
        Self {
            started_ms: now_ms,
            table,
            heard: BTreeMap::new(),
            regions: Regions::default(),
            session: 1,
            evicted_until_ms: BTreeMap::new(),
            refused_at_ms: BTreeMap::new(),
            orders: BTreeMap::new(),
        }
    }

    /// As another session than that of any view before it.
    #[must_use]
    pub fn in_session(self, session: u64) -> Self {
        Self { session: session.max(1), ..self }
    }

    /// Names what this view was told. A node that tells changes names the session that they continue;
    /// one that this view has not heard the beginning of is asked for everything.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// How long this driver has listened.
    #[must_use]
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.started_ms)
    }

    /// Takes over a newer node table; an older one is passed over.
    pub fn set_table(&mut self, table: v1::NodeTable) {
        if table.version >= self.table.version {
            self.table = table;
        }
    }

    #[must_use]
    pub fn table(&self) -> &v1::NodeTable {
        &self.table
    }

    /// The node's row of the table.
    #[must_use]
    pub fn record(&self, node: NodeId) -> Option<&v1::NodeRecord> {
        find(&self.table, node)
    }

    /// Why a node is not heard, by who it says it is; `None` for a node of this cluster's table.
    #[must_use]
    pub fn refuses(&self, request: &v1::HeartbeatRequest) -> Option<Heard> {
        if request.cluster_id != self.table.cluster_id {
            return Some(Heard::WrongCluster);
        }
        match self.record(NodeId(request.node_id)).map(v1::NodeRecord::state) {
            None => Some(Heard::Unknown),
            Some(v1::NodeState::Removed) => Some(Heard::Removed),
            Some(_) => feature_level::check(request.feature_level, self.table.feature_level)
                .err()
                .map(|_| Heard::TooOld),
        }
    }

    /// Takes over what a node tells: of its regions what has changed, or, in session 0, everything from
    /// the beginning.
    pub fn hear(&mut self, request: v1::HeartbeatRequest, now_ms: u64) -> Heard {
        if let Some(refusal) = self.refuses(&request) {
            return refusal;
        }
        let node = NodeId(request.node_id);
        let mut superseded = VecDeque::new();
        let mut led = BTreeSet::new();
        let mut continues = false;
        let mut low_at_ms = None;
        if let Some(before) = self.heard.get_mut(&node) {
            if let Some(verdict) = before.answer_to_replaced(request.incarnation, now_ms) {
                return verdict;
            }
            let last = before.incarnation;
            if last == request.incarnation && request.sequence < before.sequence {
                // It was overtaken on its way: what it tells is over.
                return Heard::Superseded;
            }
            continues = last == request.incarnation && request.session == self.session;
            led = std::mem::take(&mut before.led);
            low_at_ms = before.low_at_ms;
            superseded = std::mem::take(&mut before.superseded);
            if last != request.incarnation && superseded.iter().all(|old| old.incarnation != last) {
                superseded.push_back(Superseded { incarnation: last, heard_since_ms: None });
            }
            while superseded.len() > INCARNATIONS_MAX {
                superseded.pop_front();
            }
        }
        let begins = request.session == 0;
        let told = || {
            let told = request.regions.iter().filter_map(|report| report.region.as_ref());
            told.map(|region| RegionId(region.region_id))
        };
        let over: BTreeSet<RegionId> = if continues {
            request.led_no_more.iter().copied().map(RegionId).collect()
        } else if begins {
            let told: BTreeSet<_> = told().collect();
            led.difference(&told).copied().collect()
        } else {
            led.clone()
        };
        for id in over {
            led.remove(&id);
            if let Some(region) = self.regions.get_mut(id)
                && region.leader.is_some_and(|leader| leader.node == node)
            {
                region.leader = None;
            }
        }
        if continues || begins {
            led.extend(told());
        }
        let pair = |local: &v1::LocalPeer| (RegionId(local.region_id), PeerId(local.peer_id));
        let disk_level = request.disk_level();
        if !Level::from(disk_level).has_room() {
            low_at_ms = Some(now_ms);
        }
        let heard = NodeHeard {
            at_ms: now_ms,
            incarnation: request.incarnation,
            feature_level: request.feature_level,
            superseded,
            disk_level,
            low_at_ms,
            disk_available_bytes: request.disk_available_bytes,
            disk_used_bytes: request.disk_used_bytes,
            data_bytes: request.data_bytes,
            quarantined: request.quarantined.iter().map(pair).collect(),
            contradicted: request.contradicted.iter().map(pair).collect(),
            sequence: request.sequence,
            led,
        };
        self.heard.insert(node, heard);
        if !continues && !begins {
            return Heard::Unfollowed;
        }
        for report in request.regions {
            self.hear_region(node, report, now_ms);
        }
        Heard::Accepted
    }

    fn hear_region(&mut self, node: NodeId, report: v1::RegionReport, now_ms: u64) {
        let Some(region) = report.region else { return };
        if borders_of(&region).is_empty() {
            return;
        }
        let id = RegionId(region.region_id);
        let leader = LeaderPeer { peer: PeerId(report.leader_peer_id), node };
        let mut new = HeardRegion {
            region,
            term: report.term,
            leader: Some(leader),
            leader_since_ms: now_ms,
            joint_since_ms: report.joint.then_some(now_ms),
            last_index: report.last_index,
            progress: report
                .progress
                .into_iter()
                .map(|progress| (PeerId(progress.peer_id), progress))
                .collect(),
            approximate_bytes: report.approximate_bytes,
            reported_at_ms: now_ms,
        };
        if let Some(old) = self.regions.get(&id) {
            if old.rank() > new.rank() {
                return;
            }
            if old.leader == new.leader && old.term == new.term {
                new.leader_since_ms = old.leader_since_ms;
            }
            if let (Some(since), true) = (old.joint_since_ms, old.epoch() == new.epoch()) {
                new.joint_since_ms = new.joint_since_ms.map(|_| since);
            }
            let refused = |peer: &v1::Peer| {
                let told = old.progress.get(&PeerId(peer.peer_id));
                told.is_some_and(|told| !told.refused.is_empty())
            };
            // Else it would have room again once the learner is gone, and get another, over and over.
            let without_room = |peer: &v1::Peer| {
                let heard = self.heard.get(&NodeId(peer.node_id));
                peer.role() == v1::PeerRole::Learner
                    && heard.is_some_and(|heard| !Level::from(heard.disk_level).has_room())
            };
            let left = |peer: &&v1::Peer| {
                (refused(peer) || without_room(peer))
                    && !new.region.peers.iter().any(|here| here.peer_id == peer.peer_id)
            };
            for peer in old.region.peers.iter().filter(left) {
                self.refused_at_ms.insert((id, NodeId(peer.node_id)), now_ms);
            }
        }
        let stays = |old: &HeardRegion| {
            old.region.start_key == new.region.start_key && old.region.end_key == new.region.end_key
        };
        // One that is where it was overlaps none, as before.
        if !self.regions.get(&id).is_some_and(stays) && !self.make_room(&new) {
            return;
        }
        self.regions.insert(new);
    }

    /// Removes what a region overlaps; false when that is newer. Of two that overlap, the one of the older
    /// version has been split or merged since.
    fn make_room(&mut self, new: &HeardRegion) -> bool {
        let version = new.epoch().version;
        let overlapping: Vec<(RegionId, u64)> = self
            .regions
            .overlapping(&new.region)
            .map(|other| (other.id(), other.epoch().version))
            .collect();
        if overlapping.iter().any(|(_, other)| *other > version) {
            return false;
        }
        for (other, _) in overlapping {
            self.regions.remove(other);
        }
        true
    }

    /// How long ago a node was heard; since this driver began, when it never was.
    fn node_silent_ms(&self, node: NodeId, now_ms: u64) -> u64 {
        let heard_ms = self.heard.get(&node).map_or(self.started_ms, |heard| heard.at_ms);
        now_ms.saturating_sub(heard_ms)
    }

    /// Whether the region's leader is heard, so that a step would reach it.
    #[must_use]
    pub fn is_fresh(&self, region: &HeardRegion, config: &PlacementConfig, now_ms: u64) -> bool {
        let silent_max = millis(config.peer_silent_after);
        region.leader.is_some_and(|leader| {
            self.heard.contains_key(&leader.node)
                && self.node_silent_ms(leader.node, now_ms) <= silent_max
        })
    }

    /// Of the silent peers of a node those that their regions no longer have.
    ///
    /// Invariant: none by the word of a leader that others have replaced, and that has not heard of it: its membership
    /// is older than the one by which the peer came.
    #[must_use]
    pub fn gone(
        &self,
        silent: Vec<v1::LocalPeer>,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> Vec<v1::LocalPeer> {
        let is_gone = |local: &v1::LocalPeer| {
            self.regions.get(&RegionId(local.region_id)).is_some_and(|region| {
                self.is_fresh(region, config, now_ms)
                    && !region.region.peers.iter().any(|peer| peer.peer_id == local.peer_id)
                    && local.conf_ver.is_none_or(|applied| region.epoch().conf_ver > applied)
            })
        };
        silent.into_iter().filter(is_gone).collect()
    }

    /// How long `peer` has not answered the region's leader; `None` when the leader did not say.
    #[must_use]
    pub fn silent_ms(&self, region: &HeardRegion, peer: PeerId, now_ms: u64) -> Option<u64> {
        let told = region.progress.get(&peer)?.silent_ms;
        // One that answers goes on to answer until the leader says otherwise, as long as that is heard;
        // one that does not is silent since.
        let since = match told {
            0 => region.leader.map_or(0, |leader| self.node_silent_ms(leader.node, now_ms)),
            _ => now_ms.saturating_sub(region.reported_at_ms),
        };
        Some(told.saturating_add(since))
    }

    /// For how long the node of `peer` has not taken the region's state, and why.
    #[must_use]
    pub fn refusal<'a>(
        &self,
        region: &'a HeardRegion,
        peer: PeerId,
        now_ms: u64,
    ) -> Option<(u64, &'a str)> {
        let told = region.progress.get(&peer).filter(|told| !told.refused.is_empty())?;
        let since = now_ms.saturating_sub(region.reported_at_ms);
        Some((told.refused_ms.saturating_add(since), &told.refused))
    }

    /// Where peers of regions were given up of late since their nodes did not take the state, or had no room to spare.
    #[must_use]
    pub fn refused_lately(
        &self,
        config: &PlacementConfig,
        now_ms: u64,
    ) -> BTreeSet<(RegionId, NodeId)> {
        let memory = millis(config.refusal_memory);
        let lately = |at_ms: &u64| now_ms.saturating_sub(*at_ms) < memory;
        let lately = self.refused_at_ms.iter().filter(|(_, at_ms)| lately(at_ms));
        lately.map(|(where_, _)| *where_).collect()
    }

    /// Forgets refusals that do not count any more.
    pub(super) fn forget_refusals(&mut self, config: &PlacementConfig, now_ms: u64) {
        let memory = millis(config.refusal_memory);
        self.refused_at_ms.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < memory);
    }

    /// Keeps leaders away from a node until then; a time that is past ends it.
    pub fn evict_leaders(&mut self, node: NodeId, until_ms: u64) {
        self.evicted_until_ms.insert(node, until_ms);
    }

    #[must_use]
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    #[must_use]
    pub fn liveness(&self, node: NodeId, config: &PlacementConfig, now_ms: u64) -> v1::Liveness {
        let silent_ms = self.node_silent_ms(node, now_ms);
        if silent_ms >= millis(config.node_down_after) {
            v1::Liveness::Down
        } else if silent_ms >= millis(config.node_disconnected_after) {
            v1::Liveness::Disconnected
        } else if silent_ms >= millis(config.node_suspect_after()) {
            v1::Liveness::Suspect
        } else {
            v1::Liveness::Alive
        }
    }

    /// What the program that runs on a node can do, by what it says itself; `None` while it is not heard.
    #[must_use]
    pub fn told_level(&self, node: NodeId, config: &PlacementConfig, now_ms: u64) -> Option<u32> {
        let heard = self.heard.get(&node)?;
        let alive = self.liveness(node, config, now_ms) == v1::Liveness::Alive;
        alive.then_some(heard.feature_level)
    }

    /// Whether the node that holds `peer` said that the peer, or one of the region whose id it has lost,
    /// cannot be trusted.
    #[must_use]
    pub fn is_quarantined(&self, node: NodeId, region: RegionId, peer: PeerId) -> bool {
        self.heard.get(&node).is_some_and(|heard| {
            [peer, PeerId::UNKNOWN].iter().any(|peer| heard.quarantined.contains(&(region, *peer)))
        })
    }

    /// Whether the node that holds `peer` said that its leader lacks what was committed and applied there.
    #[must_use]
    pub fn is_contradicted(&self, node: NodeId, region: RegionId, peer: PeerId) -> bool {
        self.heard.get(&node).is_some_and(|heard| heard.contradicted.contains(&(region, peer)))
    }

    /// Where a log of a region lies of which the disk has lost whose it is. No peer of the region can be made
    /// there: nobody can say that what it promised is over, so no tombstone covers it.
    #[must_use]
    pub fn ownerless(&self) -> BTreeSet<(RegionId, NodeId)> {
        let heard = self.heard.iter();
        let of = |(node, heard): (&NodeId, &NodeHeard)| {
            let unknown = |(_, peer): &&(RegionId, PeerId)| *peer == PeerId::UNKNOWN;
            let node = *node;
            let regions: Vec<_> = heard.quarantined.iter().filter(unknown).copied().collect();
            regions.into_iter().map(move |(region, _)| (region, node))
        };
        heard.flat_map(of).collect()
    }

    /// Every node of the table, removed ones too.
    #[must_use]
    pub fn nodes(&self, config: &PlacementConfig, now_ms: u64) -> BTreeMap<NodeId, NodeView> {
        let mut nodes = self.standing_nodes(config, now_ms);
        for region in self.regions.values() {
            for peer in &region.region.peers {
                if let Some(node) = nodes.get_mut(&NodeId(peer.node_id)) {
                    node.peers += 1;
                    node.learners += usize::from(peer.role() == v1::PeerRole::Learner);
                }
            }
            if let Some(node) = region.leader.and_then(|leader| nodes.get_mut(&leader.node)) {
                node.leaders += 1;
            }
        }
        nodes
    }

    fn node_view(&self, record: v1::NodeRecord, config: &PlacementConfig, now_ms: u64) -> NodeView {
        let id = NodeId(record.node_id);
        let heard = self.heard.get(&id);
        NodeView {
            liveness: self.liveness(id, config, now_ms),
            evicted: self.evicted_until_ms.get(&id).is_some_and(|until| *until > now_ms),
            disk_level: heard.map_or(v1::DiskLevel::Unspecified, |heard| heard.disk_level),
            was_low: heard.and_then(|heard| heard.low_at_ms).is_some_and(|low_at_ms| {
                now_ms.saturating_sub(low_at_ms) < millis(config.leader_cool_down)
            }),
            disk_available_bytes: heard.map_or(0, |heard| heard.disk_available_bytes),
            disk_used_bytes: heard.map_or(0, |heard| heard.disk_used_bytes),
            data_bytes: heard.map_or(0, |heard| heard.data_bytes),
            ..NodeView::unheard(record)
        }
    }

    /// Regions that have a peer on `node`, and regions led there.
    #[must_use]
    pub fn left_on(&self, node: NodeId) -> (usize, usize) {
        let regions = self.regions.values();
        let peers = regions
            .clone()
            .filter(|region| region.region.peers.iter().any(|peer| NodeId(peer.node_id) == node));
        let leaders =
            regions.filter(|region| region.leader.is_some_and(|leader| leader.node == node));
        (peers.count(), leaders.count())
    }

    /// Whether the known regions tile the whole key space, so that no region is unheard of.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.regions.are_complete()
    }

    /// Whether a peer cannot be trusted: its node says so, or the leader found it without what it had
    /// acknowledged, or buried, so that it never comes again.
    #[must_use]
    pub fn is_lost(&self, region: &HeardRegion, node: NodeId, peer: PeerId) -> bool {
        self.is_quarantined(node, region.id(), peer)
            || region.progress.get(&peer).is_some_and(|told| told.reverted || told.buried)
    }

    /// The peers of a region that cannot be trusted.
    #[must_use]
    pub fn lost_peers(&self, region: &HeardRegion) -> Vec<u64> {
        peers_where(region, |node, peer| self.is_lost(region, node, peer))
    }

    /// The peers of a region whose leader lacks what they have.
    #[must_use]
    pub fn contradicted_peers(&self, region: &HeardRegion) -> Vec<u64> {
        peers_where(region, |node, peer| self.is_contradicted(node, region.id(), peer))
    }
}

fn peers_where(region: &HeardRegion, is_so: impl Fn(NodeId, PeerId) -> bool) -> Vec<u64> {
    let is_so = |peer: &&v1::Peer| is_so(NodeId(peer.node_id), PeerId(peer.peer_id));
    region.region.peers.iter().filter(is_so).map(|peer| peer.peer_id).collect()
}

/// A node's row of `table`.
pub(super) fn find(table: &v1::NodeTable, node: NodeId) -> Option<&v1::NodeRecord> {
    table.nodes.iter().find(|record| record.node_id == node.0)
}

#[cfg(test)]
mod tests;
