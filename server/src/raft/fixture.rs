//! Engines that can be stopped and broken, and short names, for the tests of this folder.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    thread::{self, ThreadId},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::{range::KeyRange, v1};
use openraft::{EntryPayload, storage::RaftLogStorageExt as _};
use parking_lot::{Condvar, Mutex};
use prometheus::Registry;

use super::{
    CommandBytes, Entry, LogId,
    convert::log_id,
    log::{
        LogBounds,
        memory::LogMemory,
        peer_log::PeerLog,
        store::LogStore,
        writer::{LogWriter, LogWriterConfig, WriterThread},
    },
};
use crate::{
    command,
    ids::{PeerId, RegionId},
    metrics::Metrics,
    raft::state_machine::Effects,
    region::{checks::Checks, effects::RegionEffects},
    storage::{
        batch::{Change, Family, WriteBatch},
        engine::{
            Attempt, Cursor, Direction, Durability, Engine, EngineStats, Error, Quick, Read, Row,
            Stage, View,
        },
        keys,
        memory::MemoryEngine,
        reclaim::Claims,
    },
    world::maps::HashMap,
};

/// What follows from entries, of a node of its own.
pub(crate) fn effects() -> Arc<dyn Effects> {
    Arc::new(RegionEffects::new(Checks::default(), Arc::default()))
}

/// Bound: wait for something that must happen.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// Most bytes that a replication read of [`open_log`]'s log answers.
pub(crate) const READ_BYTES_MAX: usize = 300_000;

/// What `future` comes to, which must not take for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, future).await.unwrap_or_else(|_| panic!("{what} never happens"))
}

pub(crate) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::register(&Registry::new()).unwrap())
}

/// Where in its order a changing call of [`Probe`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Nothing of it is done.
    Before,
    /// All of it is done, and the caller is told that it failed.
    After,
}

/// A [`MemoryEngine`] of which reads and writes can be held back, and writes looked at and made to fail.
pub(crate) struct Probe {
    pub(crate) inner: Arc<MemoryEngine>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: bool,
    reads_held: bool,
    /// Calls that wait for the disk.
    readers: usize,
    /// So many stages are still dropped, then the disk stands still.
    drops_left: Option<usize>,
    /// Writes that were begun, each with what is in it.
    writes: Vec<Vec<String>>,
    /// Changing calls so far.
    calls: usize,
    fails: Option<(usize, Failing)>,
    /// Where a block of the disk is damaged: whoever comes there is told so.
    damaged: Damage,
    /// Bytes of values, by the thread that read them.
    read_bytes: HashMap<ThreadId, usize>,
}

type Damage = Vec<(Family, KeyRange)>;

/// The error of a read that needs a damaged block.
fn damaged(family: Family, key: &[u8]) -> Error {
    Error::Corrupt { message: format!("injected, {family:?} {key:02x?}") }
}

fn is_damaged(damage: &Damage, family: Family, key: &[u8]) -> bool {
    damage.iter().any(|(of, range)| *of == family && range.contains(key))
}

/// A pinned state with damaged blocks.
struct DamagedView {
    view: Arc<dyn View>,
    damage: Damage,
}

impl View for DamagedView {}

impl Read for DamagedView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if is_damaged(&self.damage, family, key) {
            return Err(damaged(family, key));
        }
        self.view.get(family, key)
    }

    fn scan(&self, family: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        let (rows, damage) = (self.view.scan(family, range, direction), self.damage.clone());
        Box::new(DamagedCursor { rows, family, damage })
    }
}

struct DamagedCursor<'a> {
    rows: Box<dyn Cursor + 'a>,
    family: Family,
    damage: Damage,
}

impl Cursor for DamagedCursor<'_> {
    fn next(&mut self) -> Result<Option<Row<'_>>, Error> {
        let Self { rows, family, damage } = self;
        match rows.next()? {
            Some((key, _)) if is_damaged(damage, *family, key) => Err(damaged(*family, key)),
            row => Ok(row),
        }
    }
}

impl Probe {
    pub(crate) fn new() -> Arc<Self> {
        Self::over(MemoryEngine::new())
    }

    pub(crate) fn over(inner: Arc<MemoryEngine>) -> Arc<Self> {
        Arc::new(Self { inner, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Writes stand still from now on, until [`Probe::release`].
    pub(crate) fn hold(&self) {
        self.state.lock().held = true;
    }

    /// Nothing is in memory from now on, and the disk stands still, until [`Probe::release`].
    pub(crate) fn hold_reads(&self) {
        self.state.lock().reads_held = true;
    }

    pub(crate) fn release(&self) {
        let mut state = self.state.lock();
        (state.held, state.reads_held, state.drops_left) = (false, false, None);
        self.changed.notify_all();
    }

    /// Stages are dropped `count` times from now on, and then no more until [`Probe::release`].
    pub(crate) fn hold_drops_after(&self, count: usize) {
        self.state.lock().drops_left = Some(count);
    }

    /// Waits until the drop of a stage stands still.
    pub(crate) async fn drop_is_held(&self) {
        while self.state.lock().drops_left != Some(usize::MAX) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn wait_to_drop(&self) {
        let mut state = self.state.lock();
        match &mut state.drops_left {
            Some(0) => state.drops_left = Some(usize::MAX),
            Some(left) => *left -= 1,
            None => {}
        }
        while state.drops_left == Some(usize::MAX) {
            self.changed.wait(&mut state);
        }
    }

    /// Whoever reads a row of the range is told of damage from now on, until [`Probe::mend`].
    pub(crate) fn damage(&self, family: Family, range: KeyRange) {
        self.state.lock().damaged.push((family, range));
    }

    pub(crate) fn mend(&self) {
        self.state.lock().damaged.clear();
    }

    fn over_damage(&self, view: Arc<dyn View>) -> Arc<dyn View> {
        let damage = self.state.lock().damaged.clone();
        if damage.is_empty() { view } else { Arc::new(DamagedView { view, damage }) }
    }

    fn wait_for_disk(&self) {
        let mut state = self.state.lock();
        state.readers += 1;
        while state.reads_held {
            self.changed.wait(&mut state);
        }
        state.readers -= 1;
    }

    /// How many reads stand still now, each on a thread.
    pub(crate) fn readers(&self) -> usize {
        self.state.lock().readers
    }

    /// The changing call number `call` fails, counted from now.
    pub(crate) fn fail(&self, call: usize, how: Failing) {
        let mut state = self.state.lock();
        state.fails = Some((state.calls + call, how));
    }

    /// Waits until `count` writes were begun.
    pub(crate) fn wait_writes(&self, count: usize) {
        let mut state = self.state.lock();
        while state.writes.len() < count {
            let late = self.changed.wait_for(&mut state, WAIT).timed_out();
            assert!(!late, "{} writes were begun, not {count}", state.writes.len());
        }
    }

    /// Bytes of values that this thread has read, and that others have.
    pub(crate) fn read_bytes(&self) -> (usize, usize) {
        let state = self.state.lock();
        let here = state.read_bytes.get(&thread::current().id()).copied().unwrap_or_default();
        (here, state.read_bytes.values().sum::<usize>() - here)
    }

    /// What was written, change by change.
    pub(crate) fn writes(&self) -> Vec<Vec<String>> {
        self.state.lock().writes.clone()
    }

    fn change(&self, act: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let how = {
            let mut state = self.state.lock();
            let call = state.calls;
            state.calls += 1;
            state.fails.filter(|(fails, _)| *fails == call).map(|(_, how)| how)
        };
        if how != Some(Failing::Before) {
            act()?;
        }
        match how {
            None => Ok(()),
            Some(how) => Err(Error::Io { message: format!("injected: {how:?}") }),
        }
    }
}

/// A change of a log in words.
fn describe(change: &Change<'_>) -> String {
    let part = |key: &[u8]| match keys::log::decode(key) {
        Some(keys::log::LogKey { region, part }) => match part {
            keys::log::LogPart::Entry { index } => format!("{region} entry {index}"),
            part => format!("{region} {part:?}").to_lowercase(),
        },
        None => format!("{key:02x?}"),
    };
    match change {
        Change::Put { key, .. } => part(key),
        Change::Delete { key } => format!("delete {}", part(key)),
        Change::DeleteRange { start, .. } => format!("cut {}", part(start)),
    }
}

impl Read for Probe {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.wait_for_disk();
        if is_damaged(&self.state.lock().damaged, family, key) {
            return Err(damaged(family, key));
        }
        let value = self.inner.get(family, key)?;
        let bytes = value.as_ref().map_or(0, Bytes::len);
        *self.state.lock().read_bytes.entry(thread::current().id()).or_default() += bytes;
        Ok(value)
    }

    fn scan(&self, family: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        self.wait_for_disk();
        let damage = self.state.lock().damaged.clone();
        let rows = self.inner.scan(family, range, direction);
        if damage.is_empty() { rows } else { Box::new(DamagedCursor { rows, family, damage }) }
    }
}

impl Engine for Probe {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), Error> {
        {
            let mut state = self.state.lock();
            state.writes.push(batch.iter().map(|(_, change)| describe(&change)).collect());
            self.changed.notify_all();
            while state.held {
                self.changed.wait(&mut state);
            }
        }
        self.change(|| self.inner.write(batch, durability))
    }

    fn write_if_quick(&self, batch: &WriteBatch) -> Result<bool, Error> {
        if self.state.lock().held {
            return Ok(false);
        }
        self.write(batch, Durability::Buffered).map(|()| true)
    }

    fn get_if_quick(&self, family: Family, key: &[u8], bytes_max: usize) -> Result<Quick, Error> {
        if self.state.lock().reads_held {
            return Ok(Quick::OnDisk);
        }
        match self.inner.get_if_quick(family, key, bytes_max)? {
            Quick::Read(_) => self.get(family, key).map(Quick::Read),
            slow => Ok(slow),
        }
    }

    fn view(&self) -> Arc<dyn View> {
        self.over_damage(self.inner.view())
    }

    fn read_view(&self) -> Arc<dyn View> {
        self.wait_for_disk();
        self.over_damage(self.inner.read_view())
    }

    fn sync(&self) -> Result<(), Error> {
        self.change(|| self.inner.sync())
    }

    fn settle(&self) -> Result<(), Error> {
        self.change(|| self.inner.settle())
    }

    fn sequence(&self) -> u64 {
        self.inner.sequence()
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Stage>, Error> {
        self.inner.stage(name)
    }

    fn replace_range(
        &self,
        family: Family,
        range: &KeyRange,
        name: &str,
        attempt: Attempt,
    ) -> Result<(), Error> {
        self.change(|| self.inner.replace_range(family, range, name, attempt))
    }

    fn drop_stage(&self, name: &str) -> Result<(), Error> {
        self.wait_to_drop();
        self.change(|| self.inner.drop_stage(name))
    }

    fn stages(&self) -> Result<Vec<String>, Error> {
        self.inner.stages()
    }

    fn is_staged(&self, name: &str) -> Result<bool, Error> {
        self.inner.is_staged(name)
    }

    fn reclaim_expired(&self, capture: &mut dyn FnMut() -> Claims) -> Result<(), Error> {
        self.inner.reclaim_expired(capture)
    }

    fn withdraw_claims(&self, range: &KeyRange) {
        self.inner.withdraw_claims(range);
    }

    fn approximate_bytes(&self, family: Family, range: &KeyRange) -> u64 {
        self.inner.approximate_bytes(family, range)
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

/// A running [`LogWriter`], and what it said when it failed.
pub(crate) struct Writing {
    pub(crate) writer: LogWriter,
    pub(crate) failures: Arc<Mutex<Vec<String>>>,
    thread: Option<WriterThread>,
}

impl Writing {
    pub(crate) fn start(engine: Arc<dyn Engine>) -> Self {
        let config =
            LogWriterConfig { queue_bytes_max: 1 << 20, sentinel_dir: None, sentinel_sequence: 0 };
        Self::with(engine, config)
    }

    pub(crate) fn with(engine: Arc<dyn Engine>, config: LogWriterConfig) -> Self {
        let failures = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&failures);
        let on_failure = Box::new(move |reason| told.lock().push(reason));
        let (writer, thread) = LogWriter::start(engine, config, metrics(), on_failure).unwrap();
        Self { writer, failures, thread: Some(thread) }
    }

    /// Stops it and waits until its thread has ended.
    pub(crate) fn stop(&mut self) {
        self.writer.stop();
        self.join();
    }

    /// Waits until its thread has ended.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.writer.stop();
    }
}

/// Bounds of a log that has the memory of its node for itself.
pub(crate) fn log_bounds() -> LogBounds {
    LogBounds {
        tail_bytes_max: 1 << 20,
        read_bytes_max: READ_BYTES_MAX,
        memory: LogMemory::new(usize::MAX, &metrics().raft),
    }
}

pub(crate) fn open_log(
    region: RegionId,
    log: &Arc<dyn Engine>,
    data: &Arc<dyn Engine>,
    writer: &LogWriter,
    tail_bytes_max: usize,
) -> LogStore {
    let (log, data) = (Arc::clone(log), Arc::clone(data));
    let bounds = LogBounds { tail_bytes_max, ..log_bounds() };
    LogStore(PeerLog::open(region, log, data, writer.clone(), bounds).unwrap())
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    log_id(term, index)
}

pub(crate) fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: id(term, index), payload: EntryPayload::Blank }
}

/// An entry of `bytes` bytes that nobody applies.
pub(crate) fn heavy(term: u64, index: u64, bytes: usize) -> Entry {
    let payload = EntryPayload::Normal(CommandBytes(vec![7; bytes].into()));
    Entry { log_id: id(term, index), payload }
}

/// An entry with a command for the region of [`region_state`].
pub(crate) fn entry_of(term: u64, index: u64, body: v1::command::Body) -> Entry {
    let command =
        v1::Command { epoch_version: 1, time_ms: index, body: Some(body), ..Default::default() };
    let payload = EntryPayload::Normal(CommandBytes(command::encode(&command)));
    Entry { log_id: id(term, index), payload }
}

/// An entry that puts `value` under `key`.
pub(crate) fn put(term: u64, index: u64, key: &str, value: &str) -> Entry {
    let put = v1::PutOp {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..v1::PutOp::default()
    };
    let write = v1::WriteCommand {
        success: vec![v1::Op { op: Some(v1::op::Op::Put(put)) }],
        ..v1::WriteCommand::default()
    };
    entry_of(term, index, v1::command::Body::Write(write))
}

/// Appends, and waits for the disk.
pub(crate) async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = Entry>) {
    let entries: Vec<Entry> = entries.into_iter().collect();
    soon("an append", log.blocking_append(entries)).await.unwrap();
}

/// A region `[start, end)` that applied up to `applied`, with the one voter `peer` on node 1.
pub(crate) fn region_state(
    region: RegionId,
    peer: PeerId,
    (start, end): (&'static str, &'static str),
    applied: LogId,
) -> command::RegionState {
    let voter = v1::Peer { peer_id: peer.0, node_id: 1, role: v1::PeerRole::Voter.into() };
    command::RegionState {
        descriptor: v1::Region {
            region_id: region.0,
            start_key: Bytes::from_static(start.as_bytes()),
            end_key: Bytes::from_static(end.as_bytes()),
            epoch: Some(v1::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: vec![voter],
        },
        state: v1::ApplyState {
            applied_term: applied.leader_id.term.0,
            applied_index: applied.index,
            revision: applied.index,
            time_ms: 1,
            expiry_max_ms: 0,
            membership: Some(v1::Membership {
                voters: vec![v1::VoterSet { peer_ids: vec![peer.0] }],
                peers: vec![v1::MemberPeer { peer_id: peer.0, node_id: 1 }],
            }),
            membership_term: 1,
            membership_index: 1,
            feature_level: 0,
        },
    }
}

/// Everything in a family.
pub(crate) fn all_rows(read: &(impl Read + ?Sized), family: Family) -> Vec<(Bytes, Bytes)> {
    let mut rows = Vec::new();
    let mut cursor = read.scan(family, &KeyRange::default(), Direction::Forward);
    while let Some((key, value)) = cursor.next().unwrap() {
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
    }
    rows
}
