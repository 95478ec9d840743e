//! The peers of this node: found by region or by key, spoken to by other nodes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use flotilla_proto::v1::{self, message::Body, refused::Reason};
use futures::{FutureExt, future::BoxFuture};
use openraft::raft::SnapshotResponse;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::Streaming;

use super::{
    Environment, Peer,
    lifecycle::{self, Opened},
    serve::refused,
};
use crate::{
    clock,
    ids::{NodeId, PeerId, RegionId},
    metrics,
    raft::{
        Snapshot, SnapshotMeta, convert,
        snapshot::{self, Receiver, SnapshotData},
        transport::{self, Inbox},
    },
    storage::engine::{Direction, Family},
    storage::keys,
};

/// A second process with a known node id must stay silent this long before it is believed: a
/// restarted node waits for it once, a copied disk for ever.
const INCARNATION_QUIET: Duration = Duration::from_secs(2);

/// Bound: wait for the next part of a snapshot, after which the transfer is given up.
const CHUNK_WAIT_MAX: Duration = Duration::from_secs(30);

/// Peers that run here, peers that must not, and peers that are gone.
pub struct Peers {
    env: Arc<Environment>,
    map: RwLock<Map>,
    /// Serializes creation and destruction.
    changing: tokio::sync::Mutex<()>,
    /// Largest buried peer of each region.
    tombstones: RwLock<HashMap<RegionId, PeerId>>,
    quarantined: RwLock<BTreeMap<RegionId, (PeerId, String)>>,
    /// Before this no vote is given, because a lease that this node granted before its restart may
    /// still run.
    vote_gate: Instant,
    incarnations: Mutex<HashMap<NodeId, Incarnation>>,
    removed_nodes: RwLock<HashSet<NodeId>>,
    /// Regions of which a snapshot is being received or installed.
    receiving: Mutex<HashSet<RegionId>>,
}

#[derive(Default)]
struct Map {
    by_id: BTreeMap<RegionId, Arc<Peer>>,
    /// First key of each initialized region.
    by_start: BTreeMap<Bytes, RegionId>,
}

struct Incarnation {
    id: u64,
    last_heard: Instant,
}

impl Peers {
    /// Opens every peer that the disk knows. `restarted` tells whether the node may have granted
    /// leases before.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub async fn open(
        env: Arc<Environment>,
        restarted: bool,
        sentinel_sequence: Option<u64>,
        log_sequence: u64,
    ) -> anyhow::Result<Arc<Self>> {
        let gate = if restarted { env.config.lease() } else { Duration::ZERO };
        let peers = Self {
            map: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            tombstones: RwLock::default(),
            quarantined: RwLock::default(),
            vote_gate: clock::now() + gate,
            incarnations: Mutex::default(),
            removed_nodes: RwLock::default(),
            receiving: Mutex::default(),
            env,
        };
        peers.read_tombstones()?;
        snapshot::resume(peers.env.data.as_ref())?;
        for (region, peer) in peers.known()? {
            if peers.is_buried(region, peer) {
                lifecycle::erase(&peers.env, region).await?;
                continue;
            }
            match lifecycle::open(&peers.env, region, peer, sentinel_sequence, log_sequence).await?
            {
                Opened::Running(peer) => peers.insert(peer),
                Opened::Quarantined { region, peer, reason } => {
                    tracing::error!(%region, %peer, reason, "peer is quarantined");
                    peers.quarantined.write().insert(region, (peer, reason));
                }
            }
        }
        let peers = Arc::new(peers);
        peers.begin_elections();
        Ok(peers)
    }

    /// A peer that is alone leads at once. One that is not campaigns only behind the vote gate: a
    /// candidate votes for itself, which would break the promise of before the restart as well.
    fn begin_elections(self: &Arc<Self>) {
        let mut gated = Vec::new();
        for peer in self.all() {
            if peer.has_other_voters() {
                if clock::now() < self.vote_gate {
                    peer.raft().runtime_config().elect(false);
                    gated.push(peer);
                }
            } else if peer.view().is_initialized() {
                self.env.runtime.spawn(async move {
                    // A peer that has stopped will not lead, alone or not.
                    let _ = peer.raft().trigger().elect(false).await;
                });
            }
        }
        if !gated.is_empty() {
            let gate = self.vote_gate;
            self.env.runtime.spawn(async move {
                tokio::time::sleep_until(gate).await;
                gated.iter().for_each(|peer| peer.raft().runtime_config().elect(true));
            });
        }
    }

    fn read_tombstones(&self) -> anyhow::Result<()> {
        let data = &self.env.data;
        let mut cursor = data.scan(Family::Meta, &keys::meta::all_tombstones(), Direction::Forward);
        while let Some((key, _)) = cursor.next()? {
            if let Some(keys::meta::MetaKey::Tombstone(region, peer)) = keys::meta::decode(key) {
                self.note_tombstone(region, peer);
            }
        }
        Ok(())
    }

    /// Every peer that lives on this disk, also one that waits for its first snapshot.
    fn known(&self) -> anyhow::Result<Vec<(RegionId, PeerId)>> {
        let mut known = Vec::new();
        let data = &self.env.data;
        let mut cursor = data.scan(Family::Meta, &keys::meta::all_own_peers(), Direction::Forward);
        while let Some((key, value)) = cursor.next()? {
            let Some(keys::meta::MetaKey::OwnPeer(region)) = keys::meta::decode(key) else {
                anyhow::bail!("the key of a peer does not decode: {key:02x?}");
            };
            let peer = value
                .try_into()
                .with_context(|| format!("read the id of region {region}'s peer"))?;
            known.push((region, PeerId(u64::from_be_bytes(peer))));
        }
        Ok(known)
    }

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
        peer.view()
            .with(|now| {
                let end = &now.descriptor.end_key;
                end.is_empty() || key < &end[..]
            })
            .then(|| Arc::clone(peer))
    }

    /// Peers in quarantine, with the reason.
    #[must_use]
    pub fn quarantined(&self) -> Vec<(RegionId, PeerId, String)> {
        self.quarantined
            .read()
            .iter()
            .map(|(region, (peer, reason))| (*region, *peer, reason.clone()))
            .collect()
    }

    /// Nodes that were removed from the cluster: nothing they say is heard.
    pub fn set_removed_nodes(&self, removed: impl IntoIterator<Item = NodeId>) {
        *self.removed_nodes.write() = removed.into_iter().collect();
    }

    fn insert(&self, peer: Arc<Peer>) {
        let mut map = self.map.write();
        if peer.view().is_initialized() {
            map.by_start.insert(peer.view().range().start, peer.region);
        }
        map.by_id.insert(peer.region, peer);
    }

    /// The peer that a leader's message is for, created if need be.
    async fn reach(&self, region: RegionId, peer: PeerId) -> Result<Arc<Peer>, v1::Refused> {
        if let Some(here) = self.get(region)
            && here.id == peer
        {
            return Ok(here);
        }
        let _changing = self.changing.lock().await;
        if self.is_buried(region, peer) {
            return Err(refused(Reason::Tombstone, format!("peer {peer} was removed here")));
        }
        match self.get(region) {
            Some(here) if here.id == peer => Ok(here),
            // Peer ids only grow, and a node has one peer of a region: ours was removed.
            Some(here) if here.id < peer => {
                self.destroy_locked(region, here.id).await.map_err(failed)?;
                self.create_locked(region, peer).await
            }
            Some(here) => Err(refused(
                Reason::Tombstone,
                format!("peer {peer} was followed by peer {}", here.id),
            )),
            None => {
                let quarantined = self.quarantined.read().get(&region).map(|(peer, _)| *peer);
                match quarantined {
                    Some(old) if old < peer => {
                        self.destroy_locked(region, old).await.map_err(failed)?;
                    }
                    Some(_) => {
                        return Err(refused(Reason::NotReady, "the peer is quarantined"));
                    }
                    None => {}
                }
                self.create_locked(region, peer).await
            }
        }
    }

    async fn create_locked(
        &self,
        region: RegionId,
        peer: PeerId,
    ) -> Result<Arc<Peer>, v1::Refused> {
        tracing::info!(%region, %peer, "creating a peer, to be initialized by snapshot");
        let peer = lifecycle::create(&self.env, region, peer).await.map_err(failed)?;
        self.insert(Arc::clone(&peer));
        Ok(peer)
    }

    /// Destroys a peer that is no longer a member of its region. Doing it again does nothing.
    ///
    /// # Errors
    /// When the disk fails; the next start repeats it.
    pub async fn destroy(&self, region: RegionId, peer: PeerId) -> anyhow::Result<()> {
        let _changing = self.changing.lock().await;
        self.destroy_locked(region, peer).await
    }

    async fn destroy_locked(&self, region: RegionId, peer: PeerId) -> anyhow::Result<()> {
        let here = self.get(region).filter(|here| here.id == peer);
        let is_quarantined =
            self.quarantined.read().get(&region).is_some_and(|(here, _)| *here == peer);
        if here.is_none() && !is_quarantined {
            return Ok(());
        }
        tracing::info!(%region, %peer, "destroying a peer");
        lifecycle::bury(self.env.data.as_ref(), region, peer)?;
        self.note_tombstone(region, peer);
        {
            let mut map = self.map.write();
            map.by_id.remove(&region);
            map.by_start.retain(|_, id| *id != region);
        }
        if let Some(here) = here {
            // It may have failed before; what counts is that it does not run.
            let _ = here.raft().shutdown().await;
            let view = Arc::clone(here.view());
            tokio::task::spawn_blocking(move || view.close()).await?;
        }
        self.quarantined.write().remove(&region);
        lifecycle::erase(&self.env, region).await
    }

    fn is_buried(&self, region: RegionId, peer: PeerId) -> bool {
        self.tombstones.read().get(&region).is_some_and(|buried| peer <= *buried)
    }

    fn note_tombstone(&self, region: RegionId, peer: PeerId) {
        let mut tombstones = self.tombstones.write();
        let buried = tombstones.entry(region).or_insert(peer);
        *buried = (*buried).max(peer);
    }

    /// Hands a request to the peer it is for.
    async fn dispatch(self: Arc<Self>, message: v1::Message) -> v1::Message {
        let (region, to) = (RegionId(message.region_id), PeerId(message.to_peer));
        let Some(body) = message.body.clone() else {
            return transport::refusal(&message, refused(Reason::Malformed, "an empty message"));
        };
        let result = async {
            let peer = match &body {
                Body::Append(_) => match self.get(region) {
                    Some(peer) if peer.id == to => peer,
                    _ => self.reach(region, to).await?,
                },
                Body::Forward(_) => self
                    .get(region)
                    .ok_or_else(|| refused(Reason::UnknownPeer, "the region is not here"))?,
                _ => self.get(region).filter(|peer| peer.id == to).ok_or_else(|| {
                    if self.is_buried(region, to) {
                        refused(Reason::Tombstone, format!("peer {to} was removed here"))
                    } else {
                        refused(Reason::UnknownPeer, format!("peer {to} is not here"))
                    }
                })?,
            };
            if matches!(body, Body::Vote(_)) && clock::now() < self.vote_gate {
                return Err(refused(
                    Reason::NotReady,
                    "restarted within a lease: a promise of before may still hold",
                ));
            }
            peer.serve(body).await
        }
        .await;
        match result {
            Ok(body) => transport::answer(&message, body),
            Err(refused) => transport::refusal(&message, refused),
        }
    }

    async fn take_snapshot(
        self: Arc<Self>,
        header: v1::SnapshotHeader,
        mut chunks: Streaming<v1::SnapshotChunk>,
    ) -> Result<v1::SnapshotResult, v1::Refused> {
        self.admit(&v1::MessageBatch {
            cluster_id: header.cluster_id.clone(),
            to_node: header.to_node,
            from_node: header.from_node,
            from_incarnation: header.from_incarnation,
            ..v1::MessageBatch::default()
        })?;
        let region = RegionId(header.region_id);
        let _only = Receiving::begin(&self, region)?;
        let under_way = self.env.metrics.raft.snapshot(metrics::Direction::Receive);
        let peer = self.reach(region, PeerId(header.to_peer)).await?;
        let vote = convert::vote_from_proto(header.vote.as_ref()).map_err(failed)?;
        if header.state.as_ref().is_some_and(|state| state.applied_term > vote.leader_id.term) {
            return Err(refused(Reason::Malformed, "the state is of a later term than its sender"));
        }
        let mut receiver = Receiver::open(self.env.data.as_ref(), &header).map_err(failed)?;
        self.refuse_overlap(region, &header)?;
        let received = loop {
            let chunk = tokio::time::timeout(CHUNK_WAIT_MAX, chunks.message())
                .await
                .map_err(|_| failed("the sender has fallen silent"))?
                .map_err(failed)?;
            match chunk.and_then(|chunk| chunk.body) {
                Some(v1::snapshot_chunk::Body::Rows(rows)) => {
                    fail::fail_point!("snapshot-while-receiving");
                    receiver = tokio::task::spawn_blocking(move || {
                        receiver.rows(&rows).map(|()| receiver)
                    })
                    .await
                    .map_err(failed)?
                    .map_err(failed)?;
                }
                Some(v1::snapshot_chunk::Body::End(end)) => {
                    break tokio::task::spawn_blocking(move || receiver.finish(&end))
                        .await
                        .map_err(failed)?
                        .map_err(failed)?;
                }
                _ => return Err(failed("the snapshot ended early")),
            }
        };
        let state = &received.region.state;
        let meta = SnapshotMeta {
            last_log_id: convert::applied(state),
            last_membership: convert::stored_membership(state).map_err(failed)?,
        };
        // Again: somebody may have come into the range meanwhile.
        self.refuse_overlap(region, &header)?;
        let stage = received.stage.clone();
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(Box::new(received)) };
        let SnapshotResponse { vote: answered, .. } =
            peer.raft().install_full_snapshot(vote, snapshot).await.map_err(failed)?;
        // A later vote turns the snapshot down.
        if answered == vote {
            under_way.done();
        }
        // One that openraft turned down is of no use; after an install it is gone already.
        self.env.data.drop_stage(&stage).map_err(failed)?;
        self.insert(peer); // it may have a range now
        Ok(v1::SnapshotResult { vote: Some(convert::vote_to_proto(&answered)), refused: None })
    }

    /// No two regions of a node may overlap; the other must apply what makes room first.
    fn refuse_overlap(
        &self,
        region: RegionId,
        header: &v1::SnapshotHeader,
    ) -> Result<(), v1::Refused> {
        let descriptor: v1::Region =
            prost::Message::decode(header.descriptor.clone()).map_err(failed)?;
        let range = crate::raft::state_machine::range_of(&descriptor);
        for other in self.all() {
            if other.region != region
                && other.view().is_initialized()
                && other.view().range().overlaps(&range)
            {
                return Err(refused(
                    Reason::NotReady,
                    format!("the range overlaps region {} here", other.region),
                ));
            }
        }
        Ok(())
    }

    /// Believes one process per node id: a second one only after the first fell silent.
    ///
    /// # Errors
    /// When another process with this id is alive.
    pub fn recognize(&self, node: NodeId, incarnation: u64) -> Result<(), v1::Refused> {
        let now = clock::now();
        let mut known = self.incarnations.lock();
        let entry = known.entry(node).or_insert(Incarnation { id: incarnation, last_heard: now });
        if entry.id == incarnation {
            entry.last_heard = now;
            return Ok(());
        }
        if now.saturating_duration_since(entry.last_heard) >= INCARNATION_QUIET {
            *entry = Incarnation { id: incarnation, last_heard: now };
            return Ok(());
        }
        Err(refused(Reason::DuplicateNode, format!("another process speaks as node {node}")))
    }
}

/// The right to receive a snapshot of a region, given back on drop. Transfers to one peer share the
/// name of their stage: a second one would pull it from under the install of the first.
struct Receiving {
    peers: Arc<Peers>,
    region: RegionId,
}

impl Receiving {
    fn begin(peers: &Arc<Peers>, region: RegionId) -> Result<Self, v1::Refused> {
        if !peers.receiving.lock().insert(region) {
            return Err(refused(Reason::NotReady, "another snapshot of the region is under way"));
        }
        Ok(Self { peers: Arc::clone(peers), region })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.peers.receiving.lock().remove(&self.region);
    }
}

fn failed(error: impl std::fmt::Display) -> v1::Refused {
    refused(Reason::Failed, error.to_string())
}

impl Inbox for Arc<Peers> {
    fn admit(&self, batch: &v1::MessageBatch) -> Result<(), v1::Refused> {
        let identity = self.env.transport.identity();
        if batch.cluster_id[..] != identity.cluster.0 {
            return Err(refused(Reason::WrongCluster, "this node is of another cluster"));
        }
        if batch.to_node != identity.node.0 {
            return Err(refused(Reason::WrongNode, format!("this is node {}", identity.node)));
        }
        let from = NodeId(batch.from_node);
        if self.removed_nodes.read().contains(&from) {
            return Err(refused(Reason::SenderRemoved, format!("node {from} was removed")));
        }
        self.recognize(from, batch.from_incarnation)
    }

    fn deliver(&self, _from: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message> {
        Arc::clone(self).dispatch(message).boxed()
    }

    fn snapshot(
        &self,
        header: v1::SnapshotHeader,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult> {
        let peers = Arc::clone(self);
        // On its own: a sender that goes away must not take the guard from a running install.
        let taken = self.env.runtime.spawn(peers.take_snapshot(header, chunks));
        async move {
            taken.await.unwrap_or_else(|error| Err(failed(error))).unwrap_or_else(|refused| {
                tracing::warn!(reason = refused.message, "a snapshot was not taken");
                v1::SnapshotResult { vote: None, refused: Some(refused) }
            })
        }
        .boxed()
    }
}
