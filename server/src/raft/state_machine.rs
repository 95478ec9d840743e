//! Takes committed entries back from openraft and applies them.
//!
//! All effects of a batch of entries, the region's revision, its membership and its `applied` log id
//! go into one write of `data`. The write is not synced: the log is the truth, and what a power cut
//! takes from `data` is applied again from the log, which is why entries are purged only after a
//! sync (`log/store.rs`). Applying is a function of the log alone, however the log is cut into
//! batches (`command/`). A failed apply stops the peer; it is never skipped. The way here begins in
//! `region/propose.rs`.

#[cfg(test)]
mod tests;

use std::{any::Any, io, sync::Arc, time::Duration, vec::IntoIter};

use flotilla_proto::v1;
use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};

use super::{
    Entry, LogId, Membership, Reply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
    convert::{applied, membership_to_proto, stored_membership},
    log::peer_log::PeerLog,
    region_state::{put_state, read_reached, read_state},
    region_view::RegionView,
    snapshot::{SnapshotData, install},
};
use crate::{
    command::{self, Effect, RegionState},
    ids::{PeerId, RegionId},
    metrics::Metrics,
    panics,
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Durability, Engine, Quick},
        keys,
    },
    world::{Mark, blocking, clock, sometimes},
};

/// Bound: bytes of commands that go into one write, and of what they write and answer, which may be far
/// more; a longer run of entries is cut. One command may exceed it, by what `command/` allows.
const APPLY_BYTES_MAX: usize = 4 << 20;

/// Reads of one batch of entries that are done on the thread of the Raft groups: about a millisecond.
const READ_HERE_KEYS_MAX: usize = 2048;
const READ_HERE_BYTES_MAX: usize = 1 << 20;

/// A larger write goes to a thread that may block, as does one that RocksDB would hold up.
const WRITE_HERE_BYTES_MAX: usize = 256 << 10;

/// After a write that took this long, the disk is slow, and the next one is not tried here.
const WRITE_SLOW: Duration = Duration::from_millis(5);

/// A command that panics is a failure like any other: openraft ends the peer for it.
fn panicked(payload: Box<dyn Any + Send>) -> engine::Error {
    engine::Error::Io { message: format!("applying panicked: {}", panics::words(payload.as_ref())) }
}

/// Meets what applying entries has to tell: `region/effects.rs`.
pub trait Effects: Send + Sync {
    /// On the way of apply: it must not wait.
    ///
    /// Ordering: in the order of the log, once the effects of the entry on `data` are written, and before the entry
    /// shows as applied. `region` is the state after the last entry that was written with it.
    fn meet(&self, effect: Effect, region: &RegionState, view: &Arc<RegionView>);
}

/// One peer's state, persistent in `data`.
pub struct StateMachine {
    view: Arc<RegionView>,
    region: RegionState,
    log: Arc<PeerLog>,
    /// What the disk says under [`keys::meta::reached`].
    reached: u64,
    metrics: Arc<Metrics>,
    effects: Arc<dyn Effects>,
    batch: WriteBatch,
    /// The last write took long.
    slow_disk: bool,
}

/// An entry to apply, and who is told of it.
struct Committed {
    id: LogId,
    payload: Payload,
    responder: Option<ApplyResponder<TypeConfig>>,
}

enum Payload {
    Blank,
    Command(v1::Command),
    Membership(Membership),
}

/// Entries whose effects are in the batch.
struct Step {
    replies: Vec<(ApplyResponder<TypeConfig>, Reply)>,
    descriptor_changed: bool,
    /// There is a command among them, which told the replicated time.
    told: bool,
    /// In the order of the log.
    effects: Vec<Effect>,
}

impl StateMachine {
    /// Opens the state of a peer, empty when the peer was never initialized. `log` is the log that
    /// its entries come from.
    ///
    /// # Errors
    /// When the disk cannot be read or holds something else.
    pub fn open(
        region: RegionId,
        peer: PeerId,
        data: Arc<dyn Engine>,
        log: Arc<PeerLog>,
        metrics: Arc<Metrics>,
        effects: Arc<dyn Effects>,
    ) -> Result<Self, engine::Error> {
        let state = read_state(data.as_ref(), region)?;
        let reached = read_reached(data.as_ref(), region)?;
        let region_state = state.unwrap_or_else(|| RegionState {
            descriptor: v1::Region { region_id: region.0, ..v1::Region::default() },
            state: v1::ApplyState::default(),
        });
        let view = Arc::new(RegionView::new(region, peer, data, &region_state));
        Ok(Self {
            view,
            region: region_state,
            log,
            reached,
            metrics,
            effects,
            batch: WriteBatch::new(),
            slow_disk: false,
        })
    }

    #[must_use]
    pub fn view(&self) -> Arc<RegionView> {
        Arc::clone(&self.view)
    }

    async fn apply_entries(
        &mut self,
        entries: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>,
    ) -> Result<(), engine::Error> {
        let started = clock::monotonic();
        let entries = entries.into_iter().map(|(entry, responder)| self.decode(entry, responder));
        let entries = panics::outlive(|| entries.collect::<Result<Vec<_>, _>>());
        let mut entries = entries.map_err(panicked)??.into_iter();
        let mut quick = true;
        while !entries.as_slice().is_empty() {
            // Judged anew for each batch, as the one before may have made values large; and no more once it was
            // too much, as that is the judgement's own bound.
            quick = quick
                && panics::outlive(|| self.reads_quickly(entries.as_slice()))
                    .map_err(panicked)??;
            let step = self.gather(&mut entries, quick).await?;
            crate::crash_point!("apply-before-write");
            self.write().await?;
            crate::crash_point!("apply-after-write");
            // Ordering: before the entry shows as applied, so that whoever finds the entry of a checksum applied, and no
            // checksum, knows that none will come.
            for effect in step.effects {
                self.effects.meet(effect, &self.region, &self.view);
            }
            // Ordering: published before the proposer is answered, so that a read that follows an
            // acknowledged write on this peer sees it.
            self.view.publish(&self.region, step.descriptor_changed, step.told);
            for (responder, reply) in step.replies {
                responder.send(reply);
            }
        }
        self.metrics.raft.observe_apply(clock::since(started));
        Ok(())
    }

    fn decode(
        &self,
        entry: Entry,
        responder: Option<ApplyResponder<TypeConfig>>,
    ) -> Result<Committed, engine::Error> {
        let id = entry.log_id;
        let payload = match entry.payload {
            EntryPayload::Blank => Payload::Blank,
            EntryPayload::Membership(membership) => Payload::Membership(membership),
            EntryPayload::Normal(bytes) => match command::decode(bytes.0) {
                Ok(command) => Payload::Command(command),
                Err(error) => {
                    let message = format!("entry {id} of region {}: {error}", self.view.region);
                    return Err(engine::Error::Corrupt { message });
                }
            },
        };
        Ok(Committed { id, payload, responder })
    }

    /// Makes the batch of the next entries. What they read is mostly little and in memory, and then that is
    /// done here; a read that is large or waits for the disk must not hold up a thread that carries the
    /// heartbeats of all regions.
    async fn gather(
        &mut self,
        entries: &mut IntoIter<Committed>,
        quick: bool,
    ) -> Result<Step, engine::Error> {
        let step = if quick {
            let data = self.view.data().as_ref();
            panics::outlive(|| gather(data, &mut self.region, &mut self.batch, entries))
                .map_err(panicked)??
        } else {
            let data = Arc::clone(self.view.data());
            let mut region = std::mem::take(&mut self.region);
            let mut batch = std::mem::take(&mut self.batch);
            let mut rest = std::mem::take(entries);
            let gathering = move || {
                let step = gather(data.as_ref(), &mut region, &mut batch, &mut rest)?;
                Ok::<_, engine::Error>((step, region, batch, rest))
            };
            let gathered = blocking::run(|| panics::outlive(gathering)).await?;
            let (step, region, batch, rest) = gathered.map_err(panicked)??;
            (self.region, self.batch, *entries) = (region, batch, rest);
            step
        };
        put_state(&mut self.batch, &self.region, step.descriptor_changed);
        #[cfg(feature = "failpoints")]
        put_own_row(&mut self.batch, &self.region);
        self.put_reached();
        Ok(step)
    }

    /// Whether what the entries read is little and in memory.
    ///
    /// Bound: it stops where the answer is no, so that it costs no more than what it permits.
    fn reads_quickly(&self, entries: &[Committed]) -> Result<bool, engine::Error> {
        let (mut keys, mut bytes) = (0, 0);
        let mut is_quick = |key: &[u8]| {
            let left = READ_HERE_BYTES_MAX - bytes;
            match self.view.data().get_if_quick(Family::Default, key, left)? {
                Quick::Read(row) => bytes += row.map_or(0, |row| row.len()),
                Quick::Large { .. } | Quick::OnDisk => return Ok(false),
            }
            keys += 1;
            Ok::<_, engine::Error>(keys <= READ_HERE_KEYS_MAX)
        };
        for entry in entries {
            if let Payload::Command(command) = &entry.payload
                && !command::reads_quickly(command, &mut is_quick)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the batch. A buffered write takes microseconds, and is done here; one that may take
    /// long must not hold up a thread that carries the heartbeats of all regions.
    async fn write(&mut self) -> Result<(), engine::Error> {
        if !self.slow_disk && self.batch.bytes_len() <= WRITE_HERE_BYTES_MAX && self.write_here()? {
            return Ok(());
        }
        let data = Arc::clone(self.view.data());
        let gate = Arc::clone(self.view.gate());
        let batch = std::mem::take(&mut self.batch);
        let writing = move || -> Result<_, engine::Error> {
            let started = clock::monotonic();
            let _entered = gate.enter()?;
            data.write(&batch, Durability::Buffered)?;
            Ok((batch, clock::since(started)))
        };
        let (batch, took) = blocking::run(writing).await??;
        self.batch = batch;
        self.slow_disk = took >= WRITE_SLOW;
        Ok(())
    }

    /// Whether the batch could be written without waiting for RocksDB.
    fn write_here(&mut self) -> Result<bool, engine::Error> {
        let started = clock::monotonic();
        let entered = self.view.gate().enter()?;
        let written = self.view.data().write_if_quick(&self.batch)?;
        drop(entered);
        self.slow_disk = clock::since(started) >= WRITE_SLOW;
        Ok(written)
    }

    /// Notes with the state how far the log surely is on this disk, for `region/recovery.rs`. That
    /// may be less than what is applied: a quorum of others can commit an entry before the local
    /// disk has it.
    fn put_reached(&mut self) {
        let reached = self.log.flushed_index().min(self.region.state.applied_index);
        if reached > self.reached {
            self.reached = reached;
            let key = keys::meta::reached(self.view.region);
            self.batch.put(Family::Meta, &key, &reached.to_be_bytes());
        }
    }

    fn meta(&self) -> Result<Option<SnapshotMeta>, io::Error> {
        let Some(last) = applied(&self.region.state) else { return Ok(None) };
        let last_membership = stored_membership(&self.region.state).map_err(io::Error::other)?;
        Ok(Some(SnapshotMeta { last_log_id: Some(last), last_membership }))
    }

    fn current_snapshot(&self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.meta()?.map(|meta| Snapshot { meta, snapshot: SnapshotData::Local(self.view()) }))
    }
}

/// Makes the batch of the next entries, up to and with one that wants a checksum or that makes the batch,
/// or the answers, large.
fn gather(
    data: &dyn Engine,
    region: &mut RegionState,
    batch: &mut WriteBatch,
    entries: &mut IntoIter<Committed>,
) -> Result<Step, engine::Error> {
    let mut step =
        Step { replies: Vec::new(), descriptor_changed: false, told: false, effects: Vec::new() };
    batch.clear();
    let mut overlay = command::Overlay::new(data, batch);
    let mut reply_bytes = 0;
    for Committed { id, payload, responder } in entries {
        region.state.applied_term = id.leader_id.term.0;
        region.state.applied_index = id.index;
        let (reply, effect) = match payload {
            Payload::Blank => (Reply::Nothing, Effect::None),
            Payload::Command(command) => {
                fail::fail_point!("apply-computing");
                let (reply, effect) = command::apply(&command, region, &mut overlay)?;
                let level = &mut region.state.feature_level;
                *level = (*level).max(command.feature_level);
                step.told = true;
                (Reply::Command(reply), effect)
            }
            Payload::Membership(membership) => {
                let effect = command::apply_members(region, membership_to_proto(&membership));
                step.descriptor_changed = true;
                (Reply::Nothing, effect)
            }
        };
        if let Some(responder) = responder {
            if let Reply::Command(reply) = &reply {
                reply_bytes += prost::Message::encoded_len(reply);
            }
            step.replies.push((responder, reply));
        }
        // What is met is of the state after exactly this entry.
        if effect != Effect::None {
            step.effects.push(effect);
        }
        if matches!(effect, Effect::Checksum { .. }) {
            break;
        }
        if overlay.batch().bytes_len().max(reply_bytes) >= APPLY_BYTES_MAX {
            break;
        }
    }
    Ok(step)
}

/// Nothing writes rows of a region's own yet. Where the failpoint is set, on all nodes, regions have one all the same, so
/// that their snapshots have all spans.
#[cfg(feature = "failpoints")]
fn put_own_row(batch: &mut WriteBatch, region: &RegionState) {
    fail::fail_point!("apply-own-row", |_| {
        let rows = keys::meta::own_rows(RegionId(region.descriptor.region_id));
        let key = [&rows.start[..], b"of tests"].concat();
        batch.put(Family::Meta, &key, &region.state.applied_index.to_be_bytes());
    });
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let membership = stored_membership(&self.region.state).map_err(io::Error::other)?;
        Ok((applied(&self.region.state), membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            if let EntryPayload::Normal(command) = &entry.payload {
                bytes += command.0.len();
            }
            chunk.push((entry, responder));
            if bytes >= APPLY_BYTES_MAX {
                self.view.add_applied_bytes(bytes as u64);
                self.apply_entries(std::mem::take(&mut chunk)).await.map_err(io::Error::other)?;
                bytes = 0;
            }
        }
        self.view.add_applied_bytes(bytes as u64);
        self.apply_entries(chunk).await.map_err(io::Error::other)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { snapshot: self.current_snapshot() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        match snapshot {
            // Openraft hands our own state back to us at start; it is on the disk already.
            SnapshotData::Local(_) if meta.last_log_id == applied(&self.region.state) => Ok(()),
            SnapshotData::Local(_) => {
                Err(io::Error::other("a snapshot of another state of this peer"))
            }
            SnapshotData::Received(received) => {
                let data = Arc::clone(self.view.data());
                self.view.install_begins();
                let gate = Arc::clone(self.view.gate());
                let installing = move || {
                    let _entered = gate.enter_to_install()?;
                    install(data.as_ref(), *received)
                };
                let region = blocking::run(installing)
                    .await
                    .map_err(io::Error::other)?
                    .map_err(io::Error::other)?;
                if self.region.state.applied_index > 0 {
                    sometimes(Mark::INSTALLED_OVER);
                }
                self.region = region;
                self.effects.meet(Effect::Members, &self.region, &self.view);
                self.view.publish(&self.region, true, true);
                self.view.install_ends();
                Ok(())
            }
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.current_snapshot()
    }
}

/// Building costs nothing: the rows are read when a peer needs them (`snapshot.rs`).
pub struct Builder {
    snapshot: Result<Option<Snapshot>, io::Error>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        match std::mem::replace(&mut self.snapshot, Ok(None)) {
            Ok(Some(snapshot)) => Ok(snapshot),
            Ok(None) => Err(io::Error::other("the peer has no state yet")),
            Err(error) => Err(error),
        }
    }
}
