//! The peers of this node: found by region or by key, spoken to by other nodes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use flotilla_proto::v1::{self, message::Body, refused::Reason};
use futures::{FutureExt, future::BoxFuture};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::Streaming;

use super::{
    Environment, Peer,
    changing::{Changes, Changing},
    destroyer::Destroyer,
    incarnations::Incarnations,
    lifecycle::{self, Opened},
    news::News,
    promises::{self, Described, Fate, Promises},
    receive::UnderWay,
    recovery::Loss,
    serve::refused,
};
use crate::{
    clock,
    ids::{NodeId, PeerId, RegionId},
    raft::{
        presence::Presence,
        region_state::{Damage, read_descriptors},
        snapshot,
        transport::{self, Inbox},
    },
};

/// Peers that run here, peers that must not, and peers that are gone.
pub struct Peers {
    pub(super) env: Arc<Environment>,
    /// Invariant: changed only under its lock, and what is taken out or moved is told by itself, not by
    /// its region: another peer of the region may have come in its place.
    pub(super) map: RwLock<Map>,
    pub(super) changing: Changing,
    pub(super) destroyer: Destroyer,
    /// Largest buried peer of each region.
    tombstones: RwLock<HashMap<RegionId, PeerId>>,
    pub(super) quarantined: RwLock<BTreeMap<RegionId, Quarantined>>,
    /// Before this no vote is given, because a lease that this node granted before its restart may
    /// still run.
    vote_gate: Instant,
    incarnations: Mutex<Incarnations>,
    /// When a node last answered a heartbeat of this one, as the driver.
    driven: Mutex<HashMap<NodeId, Instant>>,
    pub(super) news: Arc<News>,
    nodes: RwLock<Nodes>,
    /// Regions of which a snapshot is being received or installed.
    pub(super) receiving: Mutex<HashMap<RegionId, UnderWay>>,
}

/// Who is in the node table, as last heard.
#[derive(Default)]
struct Nodes {
    known: HashSet<NodeId>,
    /// Of `known`: those that were removed.
    removed: HashSet<NodeId>,
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
    fn insert(&mut self, peer: Arc<Peer>) {
        let region = peer.region;
        self.by_id.insert(region, peer);
        self.index(region);
    }

    /// Finds a peer by the range that it has now, if it is still here.
    pub(super) fn reindex(&mut self, peer: &Arc<Peer>) {
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
    /// Opens every peer that the disk knows. `restarted` tells whether the node may have granted
    /// leases before, `loss` what its log was found to lack.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub async fn open(
        env: Arc<Environment>,
        restarted: bool,
        loss: Option<Loss>,
    ) -> anyhow::Result<Arc<Self>> {
        let gate = if restarted { env.config.lease() } else { Duration::ZERO };
        let peers = Self {
            map: RwLock::default(),
            changing: Changing::default(),
            destroyer: Destroyer::default(),
            tombstones: RwLock::default(),
            quarantined: RwLock::default(),
            vote_gate: clock::now() + gate,
            incarnations: Mutex::default(),
            driven: Mutex::default(),
            news: Arc::default(),
            nodes: RwLock::default(),
            receiving: Mutex::default(),
            env,
        };
        snapshot::resume(peers.env.data.as_ref()).context("finish installs of snapshots")?;
        for (region, promises, described) in peers.found()? {
            if let Some(buried) = promises.buried {
                peers.note_tombstone(region, buried);
            }
            match promises.fate(described) {
                Fate::Open(peer) => {
                    let opened = lifecycle::open(&peers.env, region, peer, loss);
                    match opened.await? {
                        Opened::Running(peer) => {
                            // Ordering: before its first timeout, however many are still to be opened.
                            peer.raft().runtime_config().elect(false);
                            peers.map.write().insert(peer);
                        }
                        Opened::Quarantined { region, peer, reason }
                        | Opened::Unreadable { region, peer, reason } => {
                            peers.note_quarantine(region, peer, reason);
                        }
                    }
                }
                Fate::Quarantine(peer, reason) => {
                    lifecycle::quarantine(&peers.env, region, peer, &reason).await?;
                    peers.note_quarantine(region, peer, reason);
                }
                Fate::Quarantined(peer, reason) => peers.note_quarantine(region, peer, reason),
                Fate::Erase => lifecycle::erase(&peers.env, region).await?,
                Fate::Nothing => {}
            }
        }
        if loss.is_some() {
            // Ordering: every peer was judged, and what was found is on the disk. Told again, it would
            // condemn those that have begun since.
            peers.env.writer.restate_sentinel().await?;
        }
        let peers = Arc::new(peers);
        peers.all().iter().for_each(|peer| peers.watch_over(peer));
        peers.begin_elections().await;
        Ok(peers)
    }

    /// A peer that is alone leads at once. One that is not campaigns only behind the vote gate: a
    /// candidate votes for itself, which would break the promise of before the restart as well.
    async fn begin_elections(self: &Arc<Self>) {
        let mut gated = Vec::new();
        for peer in self.all() {
            match peer.knows_other_voters().await {
                Some(true) => gated.push(peer),
                Some(false) => {
                    peer.raft().runtime_config().elect(true);
                    if peer.view().is_initialized() {
                        self.env.runtime.spawn(async move {
                            // A peer that has stopped will not lead, alone or not.
                            let _ = peer.unless_stopped(peer.raft().trigger().elect(false)).await;
                        });
                    }
                }
                // It has stopped, and will not campaign.
                None => {}
            }
        }
        let gate = self.vote_gate;
        self.env.runtime.spawn(async move {
            tokio::time::sleep_until(gate).await;
            gated.iter().for_each(|peer| peer.raft().runtime_config().elect(true));
        });
    }

    /// Every region of which there is anything on this disk: what was promised about it, and which peer
    /// its state says is here.
    fn found(&self) -> anyhow::Result<Vec<(RegionId, Promises, Option<Described>)>> {
        let mut described = BTreeMap::new();
        let mut promised = promises::read_all(self.env.log.as_ref())?;
        let known = promised.keys().copied().collect();
        let (descriptors, damage) = read_descriptors(self.env.data.as_ref(), &known)?;
        if let Some(Damage { regions, error }) = damage {
            // What lies in it may be of a region that only `data` knows, and must not be taken for a new one.
            let regions = regions.iter().map(|region| region.0).collect::<Vec<_>>();
            return Err(anyhow::Error::new(error)
                .context(format!("read the descriptors of regions {regions:?}")));
        }
        for (region, descriptor) in descriptors {
            let is_own = |peer: &&v1::Peer| peer.node_id == self.env.node.0;
            let of = match descriptor {
                None => Described::Unreadable,
                Some(descriptor) => match descriptor.peers.iter().find(is_own) {
                    Some(own) => Described::Of(PeerId(own.peer_id)),
                    None => Described::OfOthers,
                },
            };
            described.insert(region, of);
        }
        for region in described.keys() {
            promised.entry(*region).or_default();
        }
        Ok(promised
            .into_iter()
            .map(|(region, promises)| (region, promises, described.get(&region).copied()))
            .collect())
    }

    fn note_quarantine(&self, region: RegionId, peer: PeerId, reason: String) {
        tracing::error!(%region, %peer, reason, "peer is quarantined");
        let quarantined = Quarantined { peer, reason, remains: None };
        self.quarantined.write().insert(region, quarantined);
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

    /// The caller has seen, after it got the right to change the region, that nothing of it is here.
    pub(super) async fn create(
        self: &Arc<Self>,
        changes: &Changes,
        peer: PeerId,
    ) -> Result<Arc<Peer>, v1::Refused> {
        let region = changes.region;
        tracing::info!(%region, %peer, "creating a peer, to be initialized by snapshot");
        let peer = lifecycle::create(&self.env, region, peer).await.map_err(failed)?;
        self.map.write().insert(Arc::clone(&peer));
        self.watch_over(&peer);
        Ok(peer)
    }

    /// Destroys a peer that is no longer a member of its region. Doing it again does nothing.
    ///
    /// # Errors
    /// When the disk fails; the next start repeats it.
    ///
    /// # Cancel safety
    /// Once begun it goes on.
    pub async fn destroy(self: &Arc<Self>, region: RegionId, peer: PeerId) -> anyhow::Result<()> {
        let peers = Arc::clone(self);
        let destroying = async move {
            let changes = peers.changing.begin(region).await;
            peers.destroy_while(&changes, peer).await
        };
        self.env.runtime.spawn(destroying).await?
    }

    async fn destroy_while(&self, changes: &Changes, peer: PeerId) -> anyhow::Result<()> {
        let region = changes.region;
        let here = self.get(region).filter(|here| here.id == peer);
        let remains = || {
            let quarantined = self.quarantined.read();
            quarantined.get(&region).filter(|here| here.peer == peer).map(|of| of.remains.clone())
        };
        let here = match (here, remains()) {
            (None, None) => return Ok(()),
            (here, remains) => here.or_else(|| remains.flatten()),
        };
        tracing::info!(%region, %peer, "destroying a peer");
        lifecycle::bury(&self.env, region, peer).await?;
        self.note_tombstone(region, peer);
        if let Some(here) = here {
            self.map.write().take_out(&here);
            here.stop().await;
            let view = Arc::clone(here.view());
            tokio::task::spawn_blocking(move || view.close()).await?;
        }
        self.quarantined.write().remove(&region);
        lifecycle::erase(&self.env, region).await
    }

    pub(super) fn is_buried(&self, region: RegionId, peer: PeerId) -> bool {
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
                Body::Append(append) => match self.get(region) {
                    Some(peer) if peer.id == to => peer,
                    _ => return self.answer_for_absent(region, to, append),
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
            let served = Arc::clone(&peer).serve(body).await;
            if let Err(refused) = &served
                && refused.reason() == Reason::Reverted
            {
                self.quarantine(peer, refused.message.clone());
            }
            served
        }
        .await;
        match result {
            Ok(body) => transport::answer(&message, body),
            Err(refused) => transport::refusal(&message, refused),
        }
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

pub(super) fn failed(error: impl std::fmt::Display) -> v1::Refused {
    refused(Reason::Failed, error.to_string())
}

impl Inbox for Arc<Peers> {
    fn identity(&self) -> Option<transport::Identity> {
        Some(self.env.transport.identity())
    }

    fn disk_level(&self) -> v1::DiskLevel {
        self.env.disk.level().into()
    }

    fn admit(&self, batch: &v1::MessageBatch, presence: &Presence) -> Result<(), v1::Refused> {
        let identity = self.env.transport.identity();
        if batch.cluster_id[..] != identity.cluster.0 {
            return Err(refused(Reason::WrongCluster, "this node is of another cluster"));
        }
        if batch.to_node != identity.node.0 {
            return Err(refused(Reason::WrongNode, format!("this is node {}", identity.node)));
        }
        let from = NodeId(batch.from_node);
        {
            let nodes = self.nodes.read();
            if nodes.removed.contains(&from) {
                return Err(refused(Reason::SenderRemoved, format!("node {from} was removed")));
            }
            // Bound: processes are remembered of nodes of the table only. One that is not in this copy of
            // it may have joined since and be needed for a quorum, without which there is no newer copy.
            if !nodes.known.contains(&from) {
                return Ok(());
            }
        }
        self.recognize(from, batch.from_incarnation, presence)
    }

    fn deliver(&self, _from: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message> {
        Arc::clone(self).dispatch(message).boxed()
    }

    fn snapshot(
        &self,
        header: v1::SnapshotHeader,
        presence: Presence,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult> {
        let peers = Arc::clone(self);
        let (region, peer) = (RegionId(header.region_id), PeerId(header.to_peer));
        let from = NodeId(header.from_node);
        // On its own: a sender that goes away must not take the guard from a running install.
        let taken = self.env.runtime.spawn(peers.take_snapshot(header, presence, chunks));
        async move {
            taken.await.unwrap_or_else(|error| Err(failed(error))).unwrap_or_else(|refused| {
                tell_untaken(region, peer, from, &refused);
                v1::SnapshotResult { vote: None, refused: Some(refused) }
            })
        }
        .boxed()
    }
}

/// A node that is busy with other snapshots is asked again, and takes it then: nothing is wrong.
fn tell_untaken(region: RegionId, peer: PeerId, from: NodeId, refused: &v1::Refused) {
    let (reason, text) = (&refused.message, "a snapshot was not taken");
    if refused.reason() == Reason::Busy {
        tracing::debug!(%region, %peer, %from, reason, "{text}");
    } else {
        tracing::warn!(%region, %peer, %from, reason, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::range::KeyRange;

    use super::*;
    use crate::{
        raft::fixture::Probe,
        region::fixture::{Fixture, PEER, REGION, until},
        storage::{
            batch::{Family, WriteBatch},
            engine::{Durability, Engine as _, Read as _},
            keys,
        },
    };

    async fn opened(fixture: &Fixture) -> Arc<Peers> {
        Peers::open(Arc::clone(&fixture.env), true, None).await.expect("a disk that can be read")
    }

    #[test]
    fn snapshot_that_is_not_taken_is_told_with_whose_it_is_and_quietly_where_nothing_is_wrong() {
        let told = |reason: Reason| {
            let refused = refused(reason, "the disk is too full");
            crate::telemetry::lines_of(|| tell_untaken(REGION, PEER, NodeId(3), &refused))
        };
        let fields = format!("region={REGION} peer={PEER} from=3 reason=\"the disk is too full\"");
        for (reason, level) in [(Reason::NotReady, "WARN"), (Reason::Busy, "DEBUG")] {
            let told = told(reason);
            assert!(told.trim_start().starts_with(level) && told.contains(&fields), "{told}");
        }
    }

    /// The peer as a snapshot for it finds or makes it.
    async fn reach(peers: &Arc<Peers>) -> Result<Arc<Peer>, v1::Refused> {
        let changes = peers.changing.begin(REGION).await;
        peers.refuse_gone(REGION, PEER)?;
        match peers.get(REGION) {
            Some(here) => Ok(here),
            None => peers.create(&changes, PEER).await,
        }
    }

    fn promised(fixture: &Fixture) -> Promises {
        promises::read(fixture.log.as_ref(), REGION).expect("a log that can be read")
    }

    fn has_vote(fixture: &Fixture) -> bool {
        fixture.log.get(Family::Default, &keys::log::vote(REGION)).expect("a read").is_some()
    }

    /// As `data` does after damage to its write-ahead log: without a word.
    fn after_data_fell_back(fixture: &Fixture) -> Fixture {
        Fixture::over(Probe::over(fixture.log.inner.crash(0)), Probe::new(), |_| {})
    }

    #[tokio::test]
    async fn voter_whose_state_is_gone_is_quarantined_and_never_taken_for_a_new_one() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        assert_eq!(opened(&fixture).await.all().len(), 1, "a whole disk");

        let fixture = after_data_fell_back(&fixture);
        let peers = opened(&fixture).await;
        let [(region, peer, _)] = &peers.quarantined()[..] else { panic!("not in quarantine") };
        assert_eq!((*region, *peer), (REGION, PEER));
        let refused = reach(&peers).await.err().expect("it must not begin anew");
        assert_eq!(refused.reason(), Reason::NotReady, "{}", refused.message);
        assert!(has_vote(&fixture), "its vote is kept");

        let again = Fixture::over(Arc::clone(&fixture.log), Arc::clone(&fixture.data), |_| {});
        assert_eq!(opened(&again).await.quarantined().len(), 1, "the mark is on the disk");
    }

    #[tokio::test]
    async fn peer_without_a_state_yet_keeps_its_vote_over_a_restart_that_lost_the_data() {
        let fixture = Fixture::new(|_| {});
        let peers = opened(&fixture).await;
        let peer = reach(&peers).await.expect("a new peer");
        let request =
            openraft::raft::VoteRequest::new(openraft::Vote::new(5.into(), PeerId(71)), None);
        peer.raft().vote(request).await.expect("a vote");
        let voted = peer.raft().with_raft_state(|state| *state.vote_ref()).await.expect("it runs");
        peer.stop().await;

        let fixture = after_data_fell_back(&fixture);
        let peers = opened(&fixture).await;
        let peer = reach(&peers).await.expect("the same peer");
        let vote = peer.raft().with_raft_state(|state| *state.vote_ref()).await.expect("it runs");
        assert_eq!(vote, voted);
    }

    #[tokio::test]
    async fn nothing_begins_on_a_log_without_an_owner() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let mut batch = WriteBatch::new();
        batch.delete(Family::Default, &keys::log::own_peer(REGION));
        fixture.log.write(&batch, Durability::Synced).expect("a write");
        let created = lifecycle::create(&fixture.env, REGION, PeerId(71)).await;
        let error = created.err().expect("there is a vote").to_string();
        assert!(error.contains("cannot begin on what is here"), "{error}");
        assert!(has_vote(&fixture), "it is kept");
        let [(_, peer, _)] = &opened(&fixture).await.quarantined()[..] else { panic!("it runs") };
        assert_eq!(*peer, PEER, "the state still knows");
    }

    #[tokio::test]
    async fn what_a_disk_promises_survives_a_power_cut() {
        let fixture = Fixture::new(|_| {});
        let peers = opened(&fixture).await;
        let promised = |log: &Probe| {
            promises::read(log.inner.crash(0).as_ref(), REGION).expect("a log that can be read")
        };
        reach(&peers).await.expect("a new peer");
        assert_eq!(promised(&fixture.log).own, Some(PEER));
        lifecycle::quarantine(&fixture.env, REGION, PEER, "a test").await.expect("a mark");
        assert_eq!(promised(&fixture.log).quarantined, Some((PEER, "a test".to_owned())));
        lifecycle::bury(&fixture.env, REGION, PEER).await.expect("a tombstone");
        lifecycle::bury(&fixture.env, REGION, PeerId(3)).await.expect("an older one");
        assert_eq!(promised(&fixture.log).buried, Some(PEER), "the latest stays");
        peers.destroy(REGION, PEER).await.expect("destroyed");
        let left = Promises { buried: Some(PEER), ..Promises::default() };
        assert_eq!(promised(&fixture.log), left);
    }

    #[tokio::test]
    async fn destruction_that_was_interrupted_is_finished_whatever_the_data_fell_back_to() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        lifecycle::bury(&fixture.env, REGION, PEER).await.expect("a tombstone");
        let state = fixture.data.inner.crash(0);
        let peers = opened(&fixture).await;
        assert!(peers.all().is_empty() && peers.quarantined().is_empty());
        assert!(!has_vote(&fixture));

        let fixture =
            Fixture::over(Probe::over(fixture.log.inner.crash(0)), Probe::over(state), |_| {});
        let peers = opened(&fixture).await;
        assert!(peers.all().is_empty() && peers.quarantined().is_empty());
        let descriptor = keys::meta::descriptor(REGION);
        assert_eq!(fixture.data.get(Family::Meta, &descriptor).expect("a read"), None);
        assert_eq!(promised(&fixture).buried, Some(PEER));
    }

    /// A descriptor that does not decode names no range, and neither a buried region nor another one's ruin is a
    /// reason not to start.
    #[tokio::test]
    async fn buried_region_with_a_rotten_descriptor_is_erased_and_another_is_quarantined() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        lifecycle::bury(&fixture.env, REGION, PEER).await.expect("a tombstone");
        let stranger = RegionId(77);
        let mut batch = WriteBatch::new();
        for region in [REGION, stranger] {
            batch.put(Family::Meta, &keys::meta::descriptor(region), &[0xff; 7]);
        }
        fixture.data.write(&batch, Durability::Synced).expect("a write");
        let peers = opened(&fixture).await;
        assert!(peers.all().is_empty());
        let stored = |region| {
            fixture.data.get(Family::Meta, &keys::meta::descriptor(region)).expect("a read")
        };
        assert_eq!(stored(REGION), None);
        assert!(!has_vote(&fixture) && promised(&fixture).own.is_none(), "its log is gone too");
        let [(region, peer, _)] = &peers.quarantined()[..] else { panic!("not in quarantine") };
        assert_eq!((*region, *peer), (stranger, PeerId::UNKNOWN));
        assert!(stored(stranger).is_some(), "nothing proves that it may go");
    }

    #[tokio::test]
    async fn start_on_damaged_descriptors_ends_and_names_the_regions() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let key = keys::meta::descriptor(REGION);
        let block = KeyRange::new(key.to_vec(), [&key[..], &[0]].concat());
        fixture.data.damage(Family::Meta, block);
        let error = Peers::open(Arc::clone(&fixture.env), false, None).await.err().expect("damage");
        let words = format!("{error:#}");
        assert!(
            words.contains(&format!("regions [{REGION}]")) && words.contains("injected"),
            "{words}"
        );
        fixture.data.mend();
        assert_eq!(opened(&fixture).await.all().len(), 1, "nothing was changed");
    }

    /// It has voted and granted leases before, and its election would depose a leader that is well.
    #[tokio::test]
    async fn restarted_peer_with_other_voters_does_not_campaign_before_the_vote_gate() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let peers = Peers::open(Arc::clone(&fixture.env), true, None).await.expect("opened");
        let peer = peers.get(REGION).expect("the peer");
        let vote = async || peer.raft().with_raft_state(|state| *state.vote_ref()).await;
        let before = vote().await.expect("it runs");
        let gate = peers.vote_gate - Duration::from_millis(20);
        assert!(clock::now() < gate, "too late to see anything");
        while clock::now() < gate {
            assert_eq!(vote().await.expect("it runs"), before, "it campaigned");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn restarted_peer_that_is_alone_leads_at_once() {
        let fixture = Fixture::new(|config| {
            config.raft.election_timeout_max = Duration::from_secs(3600);
        });
        fixture.bear();
        let peers = Peers::open(Arc::clone(&fixture.env), true, None).await.expect("opened");
        let peer = peers.get(REGION).expect("the peer");
        until("it to lead", || peer.is_leader()).await;
    }
}
