//! The one thread of a node that writes the Raft logs of all its regions.
//!
//! Throughput comes from sharing: while one write is on its way to the disk, every region's
//! appends, votes and truncations gather in a queue, and the next write takes all of them with one
//! batch and one fsync. Nothing waits on a timer, so an idle node still answers after one fsync.
//! Completions are reported in the order of the queue, after the sync and never before. A failed
//! write ends the node: after it nobody knows what is on the disk, and RocksDB never heals from a
//! full disk in its WAL (see docs/architecture.md).

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap, io, path::PathBuf, sync::Arc, thread, time::Duration, time::Instant,
};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use super::{
    super::{Entry, LogId, TypeConfig, Vote},
    codec,
    tail::Tail,
};
use crate::{
    ids::RegionId,
    metrics::Metrics,
    storage::{
        batch::{Family, WriteBatch},
        engine::{Durability, Engine},
        keys,
        sentinel::Sentinel,
    },
    world::{
        self, World, clock,
        known_bad::{self, Fault},
    },
};

/// How often the sentinel is renewed while the log grows.
const SENTINEL_INTERVAL: Duration = Duration::from_secs(1);

/// Told once, when the log can no longer be written.
pub type OnFailure = Box<dyn Fn(String) + Send + Sync>;

/// Hands changes of Raft logs to the writer thread. Cheap to clone.
#[derive(Clone)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Wake,
    /// Wakes appenders that wait for room.
    room: Notify,
    queue_bytes_max: usize,
}

#[derive(Default)]
struct Queue {
    changes: Vec<Change>,
    bytes: usize,
    committed: BTreeMap<RegionId, LogId>,
    /// Nothing is taken any more.
    stop: bool,
}

impl Queue {
    fn has_work(&self) -> bool {
        !self.changes.is_empty() || self.stop
    }
}

/// Wakes the writer.
enum Wake {
    /// A thread, in the product.
    Thread(Condvar),
    /// A task, in a simulation.
    Task(Notify),
}

impl Wake {
    fn notify_one(&self) {
        match self {
            Self::Thread(wake) => drop(wake.notify_one()),
            Self::Task(wake) => wake.notify_one(),
        }
    }
}

/// One change of one region's log.
enum Change {
    Append {
        region: RegionId,
        entries: Vec<Entry>,
        flushed: Arc<Tail>,
        callback: IOFlushed<TypeConfig>,
        /// When it was handed over.
        since: Instant,
    },
    Vote {
        region: RegionId,
        vote: Vote,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Removes entries from `from_index` on.
    Truncate {
        region: RegionId,
        from_index: u64,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Removes entries up to and with `upto`.
    Purge {
        region: RegionId,
        upto: LogId,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Removes everything of the region but its tombstone.
    Clear {
        region: RegionId,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Writes a row that promises something.
    Promise {
        key: [u8; 9],
        value: Vec<u8>,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Sets the sentinel to what is there.
    Restate {
        done: oneshot::Sender<io::Result<()>>,
    },
}

/// Settings of the writer.
pub struct LogWriterConfig {
    /// Bound: bytes of entries that may wait; an append beyond it waits for room, which fills the
    /// queue of proposals, which answers `ServerIsBusy`.
    pub queue_bytes_max: usize,
    /// Where the sentinel lives; `None` (in memory) keeps none.
    pub sentinel_dir: Option<PathBuf>,
    /// What the sentinel says now; only [`LogWriter::restate_sentinel`] sets it back, so that a log
    /// which lost its end is not taken for whole at the next start.
    pub sentinel_sequence: u64,
}

/// The thread that writes.
#[must_use = "the process must wait for it at its end"]
pub struct WriterThread(Option<thread::JoinHandle<()>>);

impl WriterThread {
    /// Waits for its end, after [`LogWriter::stop`].
    pub fn join(self) -> thread::Result<()> {
        self.0.map_or(Ok(()), thread::JoinHandle::join)
    }
}

impl LogWriter {
    /// Starts the thread; in a simulation, a task. `on_failure` is called at most once.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        engine: Arc<dyn Engine>,
        config: LogWriterConfig,
        metrics: Arc<Metrics>,
        on_failure: OnFailure,
    ) -> io::Result<(Self, WriterThread)> {
        let world = world::simulated();
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: match world {
                Some(_) => Wake::Task(Notify::new()),
                None => Wake::Thread(Condvar::new()),
            },
            room: Notify::new(),
            queue_bytes_max: config.queue_bytes_max,
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            engine,
            sentinel_dir: config.sentinel_dir,
            metrics,
            on_failure,
            sentinel_sequence: config.sentinel_sequence,
            next_sentinel: clock::monotonic() + SENTINEL_INTERVAL,
        };
        let thread = match world {
            Some(world) => {
                tokio::spawn(worker.run_simulated(world));
                None
            }
            None => {
                let name = "log-writer".to_owned();
                Some(thread::Builder::new().name(name).spawn(move || worker.run())?)
            }
        };
        Ok((Self { shared }, WriterThread(thread)))
    }

    /// Writes what is queued, renews the sentinel and ends the thread. Later changes fail.
    pub fn stop(&self) {
        self.shared.queue.lock().stop = true;
        self.shared.wake.notify_one();
    }

    /// Queues entries; `callback` fires when they are on the disk.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, nothing was queued.
    pub(super) async fn append(
        &self,
        region: RegionId,
        entries: Vec<Entry>,
        bytes: usize,
        flushed: Arc<Tail>,
        callback: IOFlushed<TypeConfig>,
    ) -> io::Result<()> {
        let since = clock::monotonic();
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut queue = self.shared.queue.lock();
                if queue.stop {
                    return Err(stopped());
                }
                if queue.bytes == 0 || queue.bytes + bytes <= self.shared.queue_bytes_max {
                    queue.bytes += bytes;
                    let was_empty = queue.changes.is_empty();
                    queue.changes.push(Change::Append {
                        region,
                        entries,
                        flushed,
                        callback,
                        since,
                    });
                    drop(queue);
                    if was_empty {
                        self.shared.wake.notify_one();
                    }
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// Notes how far the region is committed; written with the next batch, not synced for.
    pub(super) fn committed(&self, region: RegionId, committed: LogId) {
        self.shared.queue.lock().committed.insert(region, committed);
    }

    pub(super) async fn vote(&self, region: RegionId, vote: Vote) -> io::Result<()> {
        self.run(|done| Change::Vote { region, vote, done }).await
    }

    pub(super) async fn truncate(&self, region: RegionId, from_index: u64) -> io::Result<()> {
        self.run(|done| Change::Truncate { region, from_index, done }).await
    }

    pub(super) async fn purge(&self, region: RegionId, upto: LogId) -> io::Result<()> {
        self.run(|done| Change::Purge { region, upto, done }).await
    }

    /// Removes the whole log of a region and that a peer of it is here, for one that is destroyed.
    ///
    /// # Errors
    /// When the log cannot be written; the node is about to end.
    pub async fn clear(&self, region: RegionId) -> io::Result<()> {
        self.run(|done| Change::Clear { region, done }).await
    }

    /// Writes a row of `region/promises.rs`.
    ///
    /// Durability: on the disk when it returns.
    ///
    /// # Errors
    /// As for [`LogWriter::clear`].
    pub async fn promise(&self, key: [u8; 9], value: Vec<u8>) -> io::Result<()> {
        self.run(|done| Change::Promise { key, value, done }).await
    }

    /// Sets the sentinel to where the log ends now, so that a loss is told once: after every peer was
    /// judged by the old one, and what was found is on the disk.
    ///
    /// # Errors
    /// As for [`LogWriter::clear`].
    pub async fn restate_sentinel(&self) -> io::Result<()> {
        self.run(|done| Change::Restate { done }).await
    }

    async fn run(
        &self,
        change: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Change,
    ) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.stop {
                return Err(stopped());
            }
            queue.changes.push(change(done));
        }
        self.shared.wake.notify_one();
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log writer has stopped")
}

struct Worker {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    sentinel_dir: Option<PathBuf>,
    metrics: Arc<Metrics>,
    on_failure: OnFailure,
    sentinel_sequence: u64,
    next_sentinel: Instant,
}

/// What the writer takes up at once.
struct Taken {
    changes: Vec<Change>,
    committed: BTreeMap<RegionId, LogId>,
    stop: bool,
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.committed.is_empty()
    }
}

impl Worker {
    fn run(mut self) {
        let mut batch = WriteBatch::new();
        loop {
            self.wait();
            let taken = self.take();
            let stop = taken.stop;
            let written = self.write(&mut batch, taken).map(|written| self.report(written));
            if !self.goes_on(written, stop) {
                return;
            }
        }
    }

    /// As [`Worker::run`]. The disk takes its time before it has what it is given, and before it says so: whoever
    /// crashes between finds what nobody was told of.
    async fn run_simulated(mut self, world: Arc<dyn World>) {
        let mut batch = WriteBatch::new();
        let shared = Arc::clone(&self.shared);
        loop {
            if let Wake::Task(wake) = &shared.wake
                && !shared.queue.lock().has_work()
            {
                let _ = tokio::time::timeout(SENTINEL_INTERVAL, wake.notified()).await;
            }
            let taken = self.take();
            let stop = taken.stop;
            if !taken.is_empty() {
                tokio::time::sleep(world.disk_takes()).await;
            }
            let written = match self.write(&mut batch, taken) {
                Ok(written) => {
                    if !written.is_empty() {
                        tokio::time::sleep(world.disk_takes()).await;
                    }
                    self.report(written);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if !self.goes_on(written, stop) {
                return;
            }
        }
    }

    /// Meets what has become of what was taken. False at the end.
    fn goes_on(&mut self, written: Result<(), String>, stop: bool) -> bool {
        if let Err(error) = written {
            self.end();
            (self.on_failure)(format!("write the raft log: {error}"));
            return false;
        }
        if stop || clock::monotonic() >= self.next_sentinel {
            self.next_sentinel = clock::monotonic() + SENTINEL_INTERVAL;
            if let Err(error) = self.renew_sentinel() {
                self.end();
                (self.on_failure)(format!("write the log's sentinel: {error}"));
                return false;
            }
        }
        if stop {
            self.end();
        }
        !stop
    }

    /// Refuses what comes from now on, and what came since the last take.
    fn end(&self) {
        let late = {
            let mut queue = self.shared.queue.lock();
            queue.stop = true;
            std::mem::take(&mut queue.changes)
        };
        self.shared.room.notify_waiters();
        // Their senders go with them, which tells whoever waits.
        drop(late);
    }

    /// Waits for changes, at most until the sentinel is due.
    fn wait(&self) {
        let Wake::Thread(wake) = &self.shared.wake else { return };
        let mut queue = self.shared.queue.lock();
        if !queue.has_work() {
            wake.wait_for(&mut queue, SENTINEL_INTERVAL);
        }
    }

    /// Takes all changes that are there.
    fn take(&self) -> Taken {
        let mut queue = self.shared.queue.lock();
        queue.bytes = 0;
        Taken {
            changes: std::mem::take(&mut queue.changes),
            committed: std::mem::take(&mut queue.committed),
            stop: queue.stop,
        }
    }

    /// Writes what was taken, and answers what is to be reported.
    fn write(&mut self, batch: &mut WriteBatch, taken: Taken) -> Result<Vec<Change>, String> {
        if taken.is_empty() {
            return Ok(taken.changes);
        }
        let Taken { changes, committed, .. } = taken;
        let started = clock::monotonic();
        batch.clear();
        let mut durability = Durability::Buffered;
        let mut entry_count = 0;
        for (region, id) in &committed {
            batch.put(Family::Default, &keys::log::committed(*region), &codec::encode_log_id(id));
        }
        for change in &changes {
            match change {
                Change::Append { region, entries, .. } => {
                    durability = Durability::Synced;
                    entry_count += entries.len();
                    for entry in entries {
                        codec::put_entry(batch, *region, entry);
                    }
                }
                Change::Vote { region, vote, .. } => {
                    durability = Durability::Synced;
                    let value: Bytes = codec::encode_vote(vote);
                    batch.put(Family::Default, &keys::log::vote(*region), &value);
                }
                Change::Truncate { region, from_index, .. } => {
                    durability = Durability::Synced;
                    let range = keys::log::entries(*region, *from_index..u64::MAX);
                    batch.delete_range(Family::Default, &range.start, &range.end);
                }
                Change::Purge { region, upto, .. } => {
                    batch.put(
                        Family::Default,
                        &keys::log::purged(*region),
                        &codec::encode_log_id(upto),
                    );
                    let range = keys::log::entries(*region, 0..upto.index + 1);
                    batch.delete_range(Family::Default, &range.start, &range.end);
                }
                Change::Clear { region, .. } => {
                    durability = Durability::Synced;
                    let range = keys::log::raft_range(*region);
                    batch.delete_range(Family::Default, &range.start, &range.end);
                    batch.delete(Family::Default, &keys::log::own_peer(*region));
                    batch.delete(Family::Default, &keys::log::quarantine(*region));
                }
                Change::Promise { key, value, .. } => {
                    durability = Durability::Synced;
                    batch.put(Family::Default, key, value);
                }
                Change::Restate { .. } => {
                    durability = Durability::Synced;
                    batch.delete(Family::Default, &keys::log::loss());
                }
            }
        }
        if known_bad::is(Fault::AcknowledgedUnsynced) {
            durability = Durability::Buffered;
        }
        crate::crash_point!("log-before-write");
        self.engine.write(batch, durability).map_err(|error| error.to_string())?;
        crate::crash_point!("log-after-write");
        if durability == Durability::Synced {
            self.metrics.raft.observe_log_write(clock::since(started), entry_count);
        }

        if changes.iter().any(|change| matches!(change, Change::Restate { .. })) {
            self.sentinel_sequence = 0;
            self.renew_sentinel()?;
        }
        Ok(changes)
    }

    /// Tells everybody that what they handed over is on the disk, and that there is room again.
    fn report(&self, changes: Vec<Change>) {
        // Ordering: in the order of the queue; openraft keeps only the newest completion.
        for change in changes {
            match change {
                Change::Append { entries, flushed, callback, since, .. } => {
                    if let Some(last) = entries.last() {
                        flushed.mark_flushed(last.log_id.index);
                    }
                    self.metrics.raft.observe_append(clock::since(since));
                    callback.io_completed(Ok(()));
                }
                Change::Vote { done, .. }
                | Change::Truncate { done, .. }
                | Change::Purge { done, .. }
                | Change::Clear { done, .. }
                | Change::Promise { done, .. }
                | Change::Restate { done } => {
                    // The asker may have gone; the change stands all the same.
                    let _ = done.send(Ok(()));
                }
            }
        }
        self.shared.room.notify_waiters();
    }

    /// Durability: names a sequence number that is surely on the disk, because every synced write
    /// covers all before it and the sentinel is written after.
    fn renew_sentinel(&mut self) -> Result<(), String> {
        let Some(dir) = &self.sentinel_dir else { return Ok(()) };
        let sequence = self.engine.sequence();
        if sequence <= self.sentinel_sequence {
            return Ok(());
        }
        self.engine.sync().map_err(|error| error.to_string())?;
        Sentinel { log_sequence: sequence }.write(dir).map_err(|error| error.to_string())?;
        self.sentinel_sequence = sequence;
        Ok(())
    }
}
