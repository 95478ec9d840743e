//! openraft's own suite for storage, on the log and the state machine of this folder.
//!
//! The suite counts entries from 0. Regions are born with index 1 (`region/lifecycle.rs`), and an
//! applied index of 0 means a peer without a state; so the state machine is seen through
//! [`Shifted`], which calls each index one higher. The log needs no such help.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use flotilla_proto::v1;
use futures::{Stream, StreamExt as _};
use openraft::{
    OptionalSend, RaftSnapshotBuilder, StorageError,
    storage::{EntryResponder, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};
use prost::Message as _;

use super::{
    Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
    fixture::{Writing, append, blank, metrics, open_log},
    log::store::LogStore,
    region_view::RegionView,
    snapshot::{Message, Received, Receiver, Sender, SnapshotData},
    state_machine::{Builder, StateMachine},
};
use crate::{
    ids::{PeerId, RegionId},
    raft::fixture::effects,
    storage::{config::StorageConfig, engine::Engine, memory::MemoryEngine, rocks::RocksEngine},
};

/// A state machine whose indexes are one higher than openraft thinks.
struct Shifted(StateMachine);

fn up(log_id: LogId) -> LogId {
    LogId { index: log_id.index + 1, ..log_id }
}

fn down(log_id: LogId) -> LogId {
    LogId { index: log_id.index - 1, ..log_id }
}

fn down_meta(meta: &SnapshotMeta) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: meta.last_log_id.map(down),
        last_membership: down_membership(&meta.last_membership),
    }
}

fn down_membership(stored: &StoredMembership) -> StoredMembership {
    StoredMembership::new(stored.log_id().map(down), stored.membership().clone())
}

/// The suite hands one peer's snapshot to another, which here is the network's part.
fn carry(from: &RegionView, to: &RegionView) -> Received {
    let mut sender = Sender::open(from.data().as_ref(), from.region, 1 << 10).unwrap();
    let mut descriptor = sender.region().descriptor.clone();
    descriptor.region_id = to.region.0;
    let header = v1::SnapshotHeader {
        region_id: to.region.0,
        to_peer: to.peer.0,
        descriptor: descriptor.encode_to_vec().into(),
        state: Some(sender.region().state.clone()),
        ..v1::SnapshotHeader::default()
    };
    let mut receiver = Receiver::open(to.data().as_ref(), &header).unwrap();
    loop {
        match Message::of(sender.next_chunk().unwrap()).unwrap() {
            Message::Rows { span, rows, crc32c } => {
                receiver.rows(to.data().as_ref(), span, rows, crc32c).unwrap();
            }
            Message::End(end) => return receiver.finish(&end).unwrap(),
        }
    }
}

impl RaftStateMachine<TypeConfig> for Shifted {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = ShiftedBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), std::io::Error> {
        let (applied, membership) = self.0.applied_state().await?;
        Ok((applied.map(down), down_membership(&membership)))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), std::io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, std::io::Error>>
            + Unpin
            + OptionalSend,
    {
        let entries: Vec<_> = entries
            .map(|item| {
                item.map(|(entry, responder)| {
                    (Entry { log_id: up(entry.log_id), payload: entry.payload }, responder)
                })
            })
            .collect()
            .await;
        self.0.apply(futures::stream::iter(entries)).await
    }

    async fn get_snapshot_builder(&mut self) -> ShiftedBuilder {
        ShiftedBuilder { inner: self.0.get_snapshot_builder().await, view: self.0.view() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), std::io::Error> {
        let up_meta = SnapshotMeta {
            last_log_id: meta.last_log_id.map(up),
            last_membership: StoredMembership::new(
                meta.last_membership.log_id().map(up),
                meta.last_membership.membership().clone(),
            ),
        };
        let snapshot = match snapshot {
            SnapshotData::Local(view) if !Arc::ptr_eq(&view, &self.0.view()) => {
                SnapshotData::Received(Box::new(carry(&view, &self.0.view())))
            }
            other => other,
        };
        self.0.install_snapshot(&up_meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, std::io::Error> {
        Ok(self.0.get_current_snapshot().await?.map(|snapshot| Snapshot {
            meta: down_meta(&snapshot.meta),
            snapshot: snapshot.snapshot,
        }))
    }
}

/// The suite purges the log of a peer that has no state, and then starts it. Ours refuse that
/// (`region/recovery.rs`), so the suite is told of a snapshot of nothing.
struct ShiftedBuilder {
    inner: Builder,
    view: Arc<RegionView>,
}

impl RaftSnapshotBuilder<TypeConfig> for ShiftedBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, std::io::Error> {
        if !self.view.is_initialized() {
            let snapshot = SnapshotData::Local(Arc::clone(&self.view));
            return Ok(Snapshot { meta: SnapshotMeta::default(), snapshot });
        }
        let Snapshot { meta, snapshot } = self.inner.build_snapshot().await?;
        Ok(Snapshot { meta: down_meta(&meta), snapshot })
    }
}

/// The engines of one node, and the writer of its logs.
struct Disk {
    log: Arc<dyn Engine>,
    data: Arc<dyn Engine>,
    writing: Writing,
    _dir: Option<tempfile::TempDir>,
}

impl Disk {
    fn in_memory() -> Self {
        Self::over(MemoryEngine::new(), MemoryEngine::new(), None)
    }

    fn on_disk() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let both = RocksEngine::open_both(dir.path(), &StorageConfig::default()).unwrap();
        Self::over(both.log, both.data, Some(dir))
    }

    fn over(log: Arc<dyn Engine>, data: Arc<dyn Engine>, dir: Option<tempfile::TempDir>) -> Self {
        let writing = Writing::start(Arc::clone(&log));
        Self { log, data, writing, _dir: dir }
    }

    fn peer(&self, region: RegionId) -> (LogStore, Shifted) {
        // A small cache, so that both it and the disk are read.
        let log = open_log(region, &self.log, &self.data, &self.writing.writer, 200);
        let (data, own) = (Arc::clone(&self.data), Arc::clone(&log.0));
        let machine =
            StateMachine::open(region, PeerId(1), data, own, metrics(), effects()).unwrap();
        (log, Shifted(machine))
    }
}

/// Each test of the suite gets a node of its own.
struct Alone(fn() -> Disk);

impl StoreBuilder<TypeConfig, LogStore, Shifted, Disk> for Alone {
    async fn build(&self) -> Result<(Disk, LogStore, Shifted), StorageError<TypeConfig>> {
        let disk = (self.0)();
        let (log, machine) = disk.peer(RegionId(7));
        Ok((disk, log, machine))
    }
}

/// All tests of the suite share a node, each with a region of its own.
struct Shared {
    disk: Arc<Disk>,
    next: AtomicU64,
}

impl StoreBuilder<TypeConfig, LogStore, Shifted, ()> for Shared {
    async fn build(&self) -> Result<((), LogStore, Shifted), StorageError<TypeConfig>> {
        let (log, machine) = self.disk.peer(RegionId(self.next.fetch_add(1, Ordering::Relaxed)));
        Ok(((), log, machine))
    }
}

async fn suite_passes_beside_busy_regions(disk: Disk) {
    let disk = Arc::new(disk);
    let busy: Vec<_> = (1..=3)
        .map(|number| {
            let (mut log, _) = disk.peer(RegionId(number));
            tokio::spawn(async move {
                for index in 1.. {
                    append(&mut log, [blank(1, index)]).await;
                }
            })
        })
        .collect();
    // The busy regions need the disk for longer than the suite does.
    let shared = Shared { disk: Arc::clone(&disk), next: AtomicU64::new(100) };
    Suite::test_all(shared).await.unwrap();
    for task in busy {
        assert!(!task.is_finished(), "the other regions went on all the time");
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_passes_in_memory() {
    Suite::test_all(Alone(Disk::in_memory)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_passes_on_disk() {
    Suite::test_all(Alone(Disk::on_disk)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_passes_in_memory_beside_busy_regions() {
    suite_passes_beside_busy_regions(Disk::in_memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_passes_on_disk_beside_busy_regions() {
    suite_passes_beside_busy_regions(Disk::on_disk()).await;
}
