//! A node with one region of which it is the only voter, in memory, for tests of what peers do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::v1;
use openraft::ServerState;

use super::{
    DiskGate, Environment, Peer, RegionConfig,
    lifecycle::{self, Opened},
    read,
};
use crate::{
    command::RegionState,
    ids::{ClusterId, NodeId, PeerId, RegionId},
    raft::{
        config::RaftConfig,
        convert::entry_to_proto,
        fixture::{self, Probe, WAIT, Writing, metrics},
        log::{config::LogConfig, memory::LogMemory},
        settings,
        snapshot::config::SnapshotConfig,
        transport::{Directory, Identity, Transport, TransportConfig},
    },
    region::{checks::Checks, read::config::ReadsConfig},
    storage::{batch::WriteBatch, disk::Level, engine::Engine, rocks::RocksEngine},
    world::clock,
};

pub(crate) const REGION: RegionId = RegionId(7);
pub(crate) const PEER: PeerId = PeerId(70);
pub(crate) const NODE: NodeId = NodeId(1);

/// See the module.
pub(crate) struct Fixture {
    pub(crate) log: Arc<Probe>,
    /// Of nobody where the data is on a disk.
    pub(crate) data: Arc<Probe>,
    pub(crate) env: Arc<Environment>,
    pub(crate) room: Arc<Room>,
    _writing: Writing,
}

/// Knows nobody.
struct Nowhere;

impl Directory for Nowhere {
    fn peer_address(&self, _: NodeId) -> Option<String> {
        None
    }
}

/// What the disk of a [`Fixture`] has room for.
pub(crate) const DISK_BYTES: u64 = 1 << 40;

/// A disk that may be low.
#[derive(Default)]
pub(crate) struct Room {
    pub(crate) low: AtomicBool,
}

impl DiskGate for Room {
    fn level(&self) -> Level {
        if self.low.load(Ordering::Relaxed) { Level::Low } else { Level::Normal }
    }

    fn available_bytes(&self) -> u64 {
        DISK_BYTES
    }

    fn refuse_bytes(&self, bytes: u64) -> Option<u64> {
        (bytes > DISK_BYTES).then_some(DISK_BYTES)
    }
}

impl Fixture {
    /// With an empty disk, and settings as `change` leaves them.
    pub(crate) fn new(change: impl FnOnce(&mut RegionConfig)) -> Self {
        Self::over(Probe::new(), Probe::new(), change)
    }

    /// With the disk of an earlier life.
    pub(crate) fn over(
        log: Arc<Probe>,
        data: Arc<Probe>,
        change: impl FnOnce(&mut RegionConfig),
    ) -> Self {
        let engine = Arc::clone(&data) as _;
        Self::with(log, data, engine, change)
    }

    /// With the data on a disk.
    pub(crate) fn on_disk(log: Arc<Probe>, data: Arc<RocksEngine>) -> Self {
        Self::with(log, Probe::new(), data, |_| {})
    }

    fn with(
        log: Arc<Probe>,
        data: Arc<Probe>,
        engine: Arc<dyn Engine>,
        change: impl FnOnce(&mut RegionConfig),
    ) -> Self {
        let writing = Writing::start(Arc::clone(&log) as _);
        let room = Arc::<Room>::default();
        let metrics = metrics();
        let mut config = RegionConfig {
            raft: RaftConfig {
                heartbeat_interval: Duration::from_millis(50),
                election_timeout_max: Duration::from_millis(600),
                queue_messages_max: *RaftConfig::QUEUE_MESSAGES.start(),
                ..RaftConfig::default()
            },
            log: LogConfig {
                tail_cache_bytes: 1 << 20,
                compact_entries: 100,
                compact_bytes: 1 << 20,
                keep_entries: 10,
                catch_up_bytes: 1 << 20,
                catch_up_bytes_max: 1 << 20,
                ..LogConfig::default()
            },
            snapshot: SnapshotConfig {
                concurrent_max: 2,
                chunk_bytes: 64 << 10,
                idle_timeout: Duration::from_millis(200),
                ..SnapshotConfig::default()
            },
            reads: ReadsConfig { lease_enabled: false },
            proposals_max: 1024,
            proposal_bytes_max: 64 << 20,
        };
        change(&mut config);
        config.raft.election_timeout_min = config.raft.election_timeout_max * 3 / 4;
        let raft_config = settings::openraft("test".to_owned(), &config.raft);
        let identity = Identity { cluster: ClusterId([1; 16]), node: NODE, incarnation: 1 };
        let transport = Transport::new(
            identity,
            Arc::new(Nowhere),
            TransportConfig {
                snapshot: config.snapshot.clone(),
                silence_max: Duration::from_millis(600),
            },
            Arc::clone(&metrics),
        );
        let env = Arc::new(Environment {
            node: NODE,
            data: engine,
            log: Arc::clone(&log) as _,
            writer: writing.writer.clone(),
            transport,
            config,
            log_memory: LogMemory::new(usize::MAX, &metrics.raft),
            raft_config: Arc::new(raft_config.validate().expect("settings that fit")),
            metrics,
            runtime: tokio::runtime::Handle::current(),
            proposal_bytes: Arc::default(),
            disk_reads: Arc::new(tokio::sync::Semaphore::new(read::DISK_READS_MAX)),
            checks: Checks::default(),
            unmet: Arc::default(),
            disk: Arc::clone(&room) as _,
            feature_level: Arc::new(crate::feature_level::FIRST.into()),
        });
        Self { log, data, env, room, _writing: writing }
    }

    /// Writes the region to the disk, with all keys in it.
    pub(crate) fn bear(&self) {
        self.bear_with(WriteBatch::new());
    }

    /// Writes two regions to the disk, that of [`Fixture::bear`] cut at `border`.
    pub(crate) fn bear_cut(&self, border: &Bytes) {
        let left = lifecycle::newborn(REGION, Bytes::new(), border.clone(), &[(PEER, NODE)]);
        let (region, peer) = (RegionId(REGION.0 + 1), PeerId(PEER.0 + 1));
        let right = lifecycle::newborn(region, border.clone(), Bytes::new(), &[(peer, NODE)]);
        let regions = [(PEER, left), (peer, right)];
        lifecycle::birth(self.log.as_ref(), self.data.as_ref(), &regions, WriteBatch::new())
            .expect("a birth in memory");
    }

    /// As [`Fixture::bear`], with further voters, each on a node of its own that nobody knows.
    pub(crate) fn bear_with_voters(&self, voters: &[PeerId]) {
        let voters: Vec<(PeerId, NodeId)> =
            voters.iter().zip(NODE.0..).map(|(peer, node)| (*peer, NodeId(node))).collect();
        let region = lifecycle::newborn(REGION, Bytes::new(), Bytes::new(), &voters);
        self.write(region, WriteBatch::new());
    }

    /// As [`Fixture::bear`], with rows.
    pub(crate) fn bear_with(&self, rows: WriteBatch) {
        let voters = [(PEER, NODE)];
        self.write(lifecycle::newborn(REGION, Bytes::new(), Bytes::new(), &voters), rows);
    }

    fn write(&self, region: RegionState, rows: WriteBatch) {
        lifecycle::birth(self.log.as_ref(), self.data.as_ref(), &[(PEER, region)], rows)
            .expect("a birth in memory");
    }

    /// The region's peer, from the disk.
    pub(crate) async fn open(&self) -> Arc<Peer> {
        match lifecycle::open(&self.env, REGION, PEER, None).await.expect("open a peer") {
            Opened::Running(peer) => peer,
            Opened::Quarantined { reason, .. } | Opened::Unreadable { reason, .. } => {
                panic!("it does not run: {reason}")
            }
        }
    }

    /// The region's peer after its birth, leading.
    pub(crate) async fn leader(&self) -> Arc<Peer> {
        self.bear();
        let peer = self.open().await;
        lead(&peer).await;
        peer
    }
}

/// Makes a lone peer the leader.
pub(crate) async fn lead(peer: &Peer) {
    peer.raft().trigger().elect(false).await.expect("the peer runs");
    let leads = peer.raft().wait(Some(WAIT)).state(ServerState::Leader, "it is alone").await;
    leads.expect("a leader");
}

/// An entry without a command, as a leader sends it.
pub(crate) fn blank(term: u64, index: u64) -> v1::LogEntry {
    entry_to_proto(&fixture::blank(term, index))
}

/// Waits until a peer has applied all up to there, and nothing more.
pub(crate) async fn until_applied(peer: &Peer, index: u64) {
    until("it to be applied", || {
        peer.view().with(|now| now.applied).map(|id| id.index) == Some(index)
    })
    .await;
}

/// A command that puts one row.
pub(crate) fn put(key: &str, value: &str) -> v1::WriteCommand {
    let put = v1::PutOp {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..v1::PutOp::default()
    };
    v1::WriteCommand {
        success: vec![v1::Op { op: Some(v1::op::Op::Put(put)) }],
        ..v1::WriteCommand::default()
    }
}

/// A step that adds a learner to the region of `peer`, by its members as they are.
pub(crate) fn add_learner(peer: &Peer) -> v1::Step {
    let add = v1::AddLearnerPeer { peer_id: 71, node_id: 2 };
    v1::Step {
        region_id: peer.region.0,
        epoch: peer.view().published().descriptor.epoch,
        action: Some(v1::step::Action::AddLearner(add)),
        ..v1::Step::default()
    }
}

/// A command that deletes one row.
pub(crate) fn delete(key: &str) -> v1::WriteCommand {
    let delete =
        v1::DeleteOp { key: Bytes::copy_from_slice(key.as_bytes()), ..v1::DeleteOp::default() };
    v1::WriteCommand {
        success: vec![v1::Op { op: Some(v1::op::Op::Delete(delete)) }],
        ..v1::WriteCommand::default()
    }
}

/// Waits until `holds` does.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = clock::now() + WAIT;
    while !holds() {
        assert!(clock::now() < deadline, "{what}: still not so");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
