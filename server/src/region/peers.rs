//! The peers of this node: found by region or by key, and what is known of other nodes.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::{
    region::borders_of,
    v1::{self, refused::Reason},
};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::{
    Environment, Peer, changing::Changing, given_up::GivenUp, incarnations::Incarnations,
    news::leaders::News, serve::refused, under_way::UnderWay,
};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    world::{
        clock,
        known_bad::{self, Fault},
        maps::{HashMap, HashSet},
        presence::Presence,
    },
};

/// Peers that run here, peers that must not, and peers that are gone.
pub struct Peers {
    pub(super) env: Arc<Environment>,
    /// Invariant: changed only under its lock, and what is taken out or moved is told by itself, not by
    /// its region: another peer of the region may have come in its place.
    pub(super) map: RwLock<Map>,
    pub(super) changing: Changing,
    pub(super) given_up: GivenUp,
    /// Largest buried peer of each region.
    pub(super) tombstones: RwLock<HashMap<RegionId, PeerId>>,
    pub(super) quarantined: RwLock<BTreeMap<RegionId, Quarantined>>,
    /// Before this no vote is given, because a lease that this node granted before its restart may
    /// still run.
    pub(super) vote_gate: Instant,
    pub(super) incarnations: Mutex<Incarnations>,
    /// When a node last answered a heartbeat of this one, as the driver.
    pub(super) driven: Mutex<HashMap<NodeId, Instant>>,
    pub(super) news: Arc<News>,
    pub(super) nodes: RwLock<Nodes>,
    /// Regions of which a snapshot is being received or installed.
    pub(super) receiving: Mutex<HashMap<RegionId, UnderWay>>,
}

/// Who is in the node table, as last heard.
#[derive(Default)]
pub(super) struct Nodes {
    pub(super) known: HashSet<NodeId>,
    /// Of `known`: those that were removed.
    pub(super) removed: HashSet<NodeId>,
}

#[derive(Default)]
pub(super) struct Map {
    by_id: BTreeMap<RegionId, Arc<Peer>>,
    /// First key of each initialized region.
    by_start: BTreeMap<Bytes, RegionId>,
}

/// A peer that must not take part.
pub(super) struct Quarantined {
    pub(super) peer: PeerId,
    pub(super) reason: String,
    /// What is left of one that ran: it may still write, until it is closed.
    pub(super) remains: Option<Arc<Peer>>,
}

impl Map {
    pub(super) fn insert(&mut self, peer: Arc<Peer>) {
        let region = peer.region;
        self.by_id.insert(region, peer);
        self.index(region);
    }

    /// Finds a peer by the range that it has now, if it is still here.
    pub(super) fn reindex(&mut self, peer: &Arc<Peer>) {
        if known_bad::is(Fault::DeadPeerPutBack) {
            self.insert(Arc::clone(peer));
        }
        if self.has(peer) {
            self.by_start.retain(|_, region| *region != peer.region);
            self.index(peer.region);
        }
    }

    fn index(&mut self, region: RegionId) {
        if let Some(peer) = self.by_id.get(&region)
            && peer.view().is_initialized()
        {
            self.by_start.insert(peer.view().range().start, region);
        }
    }

    fn has(&self, peer: &Arc<Peer>) -> bool {
        self.by_id.get(&peer.region).is_some_and(|here| Arc::ptr_eq(here, peer))
    }

    /// Whether it was here.
    pub(super) fn take_out(&mut self, peer: &Arc<Peer>) -> bool {
        if !self.has(peer) {
            return false;
        }
        self.by_id.remove(&peer.region);
        self.by_start.retain(|_, region| *region != peer.region);
        true
    }
}

impl Peers {
    #[must_use]
    pub fn environment(&self) -> &Arc<Environment> {
        &self.env
    }

    #[must_use]
    pub fn get(&self, region: RegionId) -> Option<Arc<Peer>> {
        self.map.read().by_id.get(&region).cloned()
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<Peer>> {
        self.map.read().by_id.values().cloned().collect()
    }

    /// The initialized peer whose region has `key`.
    #[must_use]
    pub fn route(&self, key: &[u8]) -> Option<Arc<Peer>> {
        let map = self.map.read();
        let (_, region) =
            map.by_start.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        let peer = map.by_id.get(region)?;
        let ends_after = peer.view().with(|now| borders_of(&now.descriptor).ends_after(key));
        ends_after.then(|| Arc::clone(peer))
    }

    /// Peers in quarantine, with the reason.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(RegionId, PeerId, String)> {
        self.quarantined
            .read()
            .iter()
            .map(|(region, of)| (*region, of.peer, of.reason.clone()))
            .collect()
    }

    /// Peers that take nothing from their leaders, with the reason: those lack what was applied here.
    #[must_use]
    pub fn contradicted(&self) -> Vec<(RegionId, PeerId, String)> {
        let of = |peer: &Arc<Peer>| Some((peer.region, peer.id, peer.contradiction()?));
        self.map.read().by_id.values().filter_map(of).collect()
    }

    /// Peers in quarantine, each with the newest membership that it had applied where it ran before it was set aside; of
    /// another nobody looks.
    #[must_use]
    pub fn quarantined_as_of(&self) -> Vec<(RegionId, PeerId, Option<u64>)> {
        let conf_ver = |of: &Quarantined| of.remains.as_ref().map(|peer| peer.conf_ver());
        let quarantined = self.quarantined.read();
        quarantined.iter().map(|(region, of)| (*region, of.peer, conf_ver(of))).collect()
    }

    /// Takes over the node table: who is in the cluster and who was (nothing that a removed node says is
    /// heard), and what all of them can do.
    pub fn set_nodes(&self, table: &v1::NodeTable) {
        let known: HashSet<NodeId> =
            table.nodes.iter().map(|record| NodeId(record.node_id)).collect();
        let is_removed = |record: &&v1::NodeRecord| record.state() == v1::NodeState::Removed;
        let removed = table.nodes.iter().filter(is_removed);
        let removed = removed.map(|record| NodeId(record.node_id)).collect();
        // Bound: nodes that are in the table.
        self.driven.lock().retain(|node, _| known.contains(node));
        *self.nodes.write() = Nodes { known, removed };
        self.env.feature_level.fetch_max(table.feature_level, Ordering::Relaxed);
    }

    /// Up to which id peers of a region are buried here.
    #[must_use]
    pub fn tombstone(&self, region: RegionId) -> Option<PeerId> {
        self.tombstones.read().get(&region).copied()
    }

    pub(super) fn is_buried(&self, region: RegionId, peer: PeerId) -> bool {
        let buried = self.tombstone(region).is_some_and(|buried| peer <= buried);
        buried && !known_bad::is(Fault::TombstoneIgnored)
    }

    pub(super) fn note_tombstone(&self, region: RegionId, peer: PeerId) {
        let mut tombstones = self.tombstones.write();
        let buried = tombstones.entry(region).or_insert(peer);
        *buried = (*buried).max(peer);
    }

    /// Believes one process per node id: see `incarnations.rs`.
    ///
    /// # Errors
    /// When another process with this id is alive.
    pub fn recognize(
        &self,
        node: NodeId,
        incarnation: u64,
        presence: &Presence,
    ) -> Result<(), v1::Refused> {
        let identity = self.env.transport.identity();
        let is_recognized = if node == identity.node {
            // Of itself a process knows without having heard it that it is not gone.
            incarnation == identity.incarnation
        } else {
            self.incarnations.lock().recognize(node, incarnation, presence, clock::now())
        };
        if is_recognized {
            return Ok(());
        }
        Err(refused(Reason::DuplicateNode, format!("another process speaks as node {node}")))
    }

    /// Notes that a node has just answered a heartbeat as the driver.
    pub fn note_driver(&self, node: NodeId) {
        self.driven.lock().insert(node, clock::now());
    }

    /// Since a node last answered a heartbeat as the driver.
    pub(super) fn answered_as_driver(&self, node: NodeId) -> Option<Duration> {
        let at = *self.driven.lock().get(&node)?;
        Some(clock::now().saturating_duration_since(at))
    }

    /// See [`Incarnations::is_gone`].
    pub(super) fn is_gone(&self, node: NodeId) -> Option<bool> {
        self.incarnations.lock().is_gone(node)
    }

    /// The other nodes of the cluster.
    pub(super) fn others(&self) -> Vec<NodeId> {
        let nodes = self.nodes.read();
        let others = nodes.known.difference(&nodes.removed);
        others.copied().filter(|node| *node != self.env.node).collect()
    }
}

#[cfg(test)]
impl Peers {
    /// How many nodes processes are remembered of.
    pub(crate) fn recognized(&self) -> usize {
        self.incarnations.lock().len()
    }
}
