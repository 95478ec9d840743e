//! What everybody but the state machine sees of a region's state on this node.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use flotilla_proto::{range::KeyRange, region::range_of, v1};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::{sync::watch, time::Instant};

use super::{
    LogId,
    convert::{applied, members_entry},
};
use crate::{
    command,
    ids::{PeerId, RegionId},
    storage::engine::{self, Engine},
    world::clock,
};

/// Checksums kept for `CheckRegion`, oldest dropped first.
pub(super) const CHECKSUMS_MAX: usize = 8;

/// What readers of a region see of its state: kept current by apply.
pub struct RegionView {
    pub region: RegionId,
    pub peer: PeerId,
    data: Arc<dyn Engine>,
    published: RwLock<Published>,
    applied_index: watch::Sender<u64>,
    /// Bytes of commands applied in this process; drives log compaction.
    applied_bytes: AtomicU64,
    /// Odd while a snapshot replaces the range, when rows must not be read; see
    /// [`RegionView::read_consistently`].
    installs: AtomicU64,
    /// By the index of the entry that asks for one.
    checksums: Mutex<BTreeMap<u64, Checksum>>,
    gate: Arc<ApplyGate>,
    /// As the gate, for readers, who do not wait for writes.
    unreadable: AtomicBool,
}

/// A snapshot is replacing the region's rows right now, or the peer is being destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rows are being replaced or removed")]
pub struct Unreadable;

/// The state after the newest applied entry.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub descriptor: Arc<v1::Region>,
    pub revision: u64,
    /// The region's replicated time.
    pub time_ms: u64,
    /// Since when it is that here.
    pub time_since: Option<Instant>,
    /// Largest expiry ever given; until then time must go on.
    pub expiry_max_ms: u64,
    pub applied: Option<LogId>,
    pub joint: bool,
    /// The entry by which the members are who they are.
    pub members_entry: Option<LogId>,
}

/// Outcome of one `ChecksumCommand` on this peer.
#[derive(Clone, Debug)]
pub struct Checksum {
    pub applied_index: u64,
    /// Sum and number of keys, or why there is none; `None` while it is computed.
    pub outcome: Option<Result<(u64, u64), String>>,
}

/// Held while the region's rows or state are written.
#[derive(Default)]
pub(super) struct ApplyGate {
    /// They never are again.
    closed: Mutex<bool>,
    /// The peer has ended, and whoever waits for an install of it has gone on.
    no_installs: AtomicBool,
}

impl ApplyGate {
    /// # Errors
    /// When the peer is being destroyed.
    pub(super) fn enter(&self) -> Result<MutexGuard<'_, bool>, engine::Error> {
        let closed = self.closed.lock();
        if *closed {
            return Err(engine::Error::Io { message: "the peer is being destroyed".to_owned() });
        }
        Ok(closed)
    }

    /// # Errors
    /// When the peer is being destroyed, or [`RegionView::end_installs`] was called.
    pub(super) fn enter_to_install(&self) -> Result<MutexGuard<'_, bool>, engine::Error> {
        let entered = self.enter()?;
        if self.no_installs.load(Ordering::SeqCst) {
            return Err(engine::Error::Io { message: "the peer has ended".to_owned() });
        }
        Ok(entered)
    }

    fn close(&self) {
        *self.closed.lock() = true;
    }
}

impl RegionView {
    pub(super) fn new(
        region: RegionId,
        peer: PeerId,
        data: Arc<dyn Engine>,
        state: &command::RegionState,
    ) -> Self {
        let view = Self {
            region,
            peer,
            data,
            published: RwLock::default(),
            applied_index: watch::Sender::new(0),
            applied_bytes: AtomicU64::new(0),
            installs: AtomicU64::new(0),
            checksums: Mutex::default(),
            gate: Arc::default(),
            unreadable: AtomicBool::new(false),
        };
        view.publish(state, true, true);
        view
    }

    /// The state after the newest applied entry.
    #[must_use]
    pub fn published(&self) -> Published {
        self.published.read().clone()
    }

    /// Runs `f` on the state without copying it.
    pub fn with<T>(&self, f: impl FnOnce(&Published) -> T) -> T {
        f(&self.published.read())
    }

    /// Whether the peer has a range yet.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.with(|published| published.applied.is_some())
    }

    #[must_use]
    pub fn range(&self) -> KeyRange {
        self.with(|published| range_of(&published.descriptor))
    }

    #[must_use]
    pub fn data(&self) -> &Arc<dyn Engine> {
        &self.data
    }

    #[must_use]
    pub fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add_applied_bytes(&self, bytes: u64) {
        self.applied_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn gate(&self) -> &Arc<ApplyGate> {
        &self.gate
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_applied(&self, index: u64) {
        if *self.applied_index.borrow() >= index {
            return;
        }
        let mut applied = self.applied_index.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = applied.wait_for(|applied| *applied >= index).await;
    }

    /// Runs a read of the region's rows, which must not see a half-installed snapshot, nor the
    /// nothing that a destroyed peer leaves.
    ///
    /// # Errors
    /// When that is or was meanwhile so: nothing was read that counts.
    pub fn read_consistently<T>(&self, read: impl FnOnce() -> T) -> Result<T, Unreadable> {
        let check = || {
            let installs = self.installs.load(Ordering::SeqCst);
            if self.unreadable.load(Ordering::SeqCst) || installs % 2 == 1 {
                return Err(Unreadable);
            }
            Ok(installs)
        };
        let before = check()?;
        let result = read();
        if check()? == before { Ok(result) } else { Err(Unreadable) }
    }

    /// Ends all reads of the peer's rows and all writes of them: waits for the one under way, as openraft's shutdown
    /// does not; later ones fail. Blocks on the disk.
    ///
    /// Ordering: before a peer's rows are erased, or a late install would bring them back beneath
    /// the next peer of the region.
    pub fn close(&self) {
        self.unreadable.store(true, Ordering::SeqCst);
        self.gate.close();
    }

    /// Waits for the install under way; later ones fail, which openraft may still hold for a peer that has
    /// ended. Blocks on the disk.
    pub fn end_installs(&self) {
        self.gate.no_installs.store(true, Ordering::SeqCst);
        drop(self.gate.closed.lock());
    }

    /// The checksum that the entry at `index` asks for, once it has been applied here.
    #[must_use]
    pub fn checksum(&self, index: u64) -> Option<Checksum> {
        self.checksums.lock().get(&index).cloned()
    }

    /// Index of a checksum that is being computed.
    #[must_use]
    pub fn checksum_under_way(&self) -> Option<u64> {
        let checksums = self.checksums.lock();
        checksums.iter().find(|(_, sum)| sum.outcome.is_none()).map(|(index, _)| *index)
    }

    /// The checksum of the state at this index is being computed.
    pub fn checksum_begins(&self, applied_index: u64) {
        let mut checksums = self.checksums.lock();
        checksums.insert(applied_index, Checksum { applied_index, outcome: None });
        while checksums.len() > CHECKSUMS_MAX {
            checksums.pop_first();
        }
    }

    /// It was computed, or not.
    pub fn checksum_ends(&self, index: u64, outcome: Result<(u64, u64), String>) {
        if let Some(checksum) = self.checksums.lock().get_mut(&index) {
            checksum.outcome = Some(outcome);
        }
    }

    /// The rows are being replaced from here to [`Self::install_ends`]. Where that never comes, the peer has
    /// stopped and must not be read.
    pub(super) fn install_begins(&self) {
        self.installs.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn install_ends(&self) {
        self.installs.fetch_add(1, Ordering::AcqRel);
    }

    /// `told`: the state is of a command, or of many, since the last time. See `region/clock.rs`.
    pub(super) fn publish(
        &self,
        region: &command::RegionState,
        descriptor_changed: bool,
        told: bool,
    ) {
        let id = applied(&region.state);
        {
            let mut published = self.published.write();
            if descriptor_changed {
                published.descriptor = Arc::new(region.descriptor.clone());
            }
            published.revision = region.state.revision;
            if told {
                published.time_since = Some(clock::now());
            }
            published.time_ms = region.state.time_ms;
            published.expiry_max_ms = region.state.expiry_max_ms;
            published.applied = id;
            published.joint = region.state.membership.as_ref().is_some_and(|m| m.voters.len() > 1);
            published.members_entry = members_entry(&region.state);
        }
        self.applied_index.send_replace(id.map_or(0, |id| id.index));
    }
}
