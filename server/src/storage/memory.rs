//! The engine in memory: the promises of RocksDB, with a crash that can be had at will.
//!
//! Two copies of the maps are kept, which share their keys and values. `current` is what readers
//! see; `durable` is what a power cut would leave; the steps between the two wait in a tail until a
//! sync. [`MemoryEngine::crash`] keeps `durable` and any number of steps from the front of the
//! tail, as a disk might. Readers pin a map instead of locking it, and the first write after that
//! copies it: fine for tests and simulation, slow for a large map that is scanned while it is
//! written.

mod maps;
mod stage;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use flotilla_proto::range::KeyRange;
use parking_lot::{Mutex, RwLock};

use self::maps::{Map, Maps, Pinned, Step};
use super::{
    batch::{Family, WriteBatch},
    engine::{
        Attempt, Cursor, Direction, Durability, Engine, EngineStats, Error, Quick, Read, Stage,
        View,
    },
    reclaim::{Claims, Reclaim},
};
use crate::world::blocking;

/// Bound: the tail's size, after which its front becomes durable without a sync, as an operating
/// system writes back in its own time.
const TAIL_BYTES_MAX: usize = 64 << 20;

/// A failure to come, for tests: each is used up by the first call it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next write fails and leaves nothing.
    WriteLost,
    /// The next write fails, and yet is there, unsynced.
    WriteKept,
    /// The next sync, or synced write, fails; nothing becomes durable, and what it was asked for is not by any later
    /// sync either: an operating system that could not write a page says so once, and counts it as written.
    Sync,
    /// The next `replace_range` fails between clearing the range and filling it.
    Replace,
}

/// An instance in memory.
#[derive(Default)]
pub struct MemoryEngine {
    state: RwLock<State>,
    stages: Arc<Mutex<Stages>>,
    faults: Mutex<Vec<Fault>>,
    /// One of them has struck, and nobody has asked since.
    has_failed: AtomicBool,
    reclaim: Arc<Reclaim>,
}

/// Rows of complete stages; `None` for one that is being written.
type Stages = BTreeMap<String, Option<Arc<Map>>>;

#[derive(Default)]
struct State {
    current: Maps,
    /// Invariant: `durable` with all steps of `tail` applied is `current`, but for what a sync has failed for.
    durable: Maps,
    tail: VecDeque<Step>,
    /// How many changes a sync has failed for.
    failed: u64,
    tail_bytes: usize,
    sequence: u64,
}

impl State {
    fn apply(&mut self, step: Step) {
        self.sequence += step.changes();
        self.tail_bytes += step.bytes();
        self.current.apply(&step);
        self.tail.push_back(step);
        while self.tail_bytes > TAIL_BYTES_MAX {
            self.make_front_durable();
        }
    }

    fn make_front_durable(&mut self) {
        if let Some(step) = self.tail.pop_front() {
            self.tail_bytes -= step.bytes();
            self.durable.apply(&step);
        }
    }

    fn fail(&mut self) {
        self.failed += self.tail.drain(..).map(|step| step.changes()).sum::<u64>();
        self.tail_bytes = 0;
    }

    fn sync(&mut self) {
        while !self.tail.is_empty() {
            self.make_front_durable();
        }
    }
}

impl MemoryEngine {
    /// An empty instance.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The next call that fits fails.
    pub fn inject(&self, fault: Fault) {
        self.faults.lock().push(fault);
    }

    /// No call fails that has not failed yet. Whether there was one.
    pub fn forgive(&self) -> bool {
        !mem::take(&mut *self.faults.lock()).is_empty()
    }

    /// Whether a call has failed that was to fail, since this was asked last.
    #[must_use]
    pub fn take_failure(&self) -> bool {
        self.has_failed.swap(false, Relaxed)
    }

    /// Damages rows of a family that are on the disk, so many or fewer that lie side by side: they read as corruption until
    /// they are written over. `first` chooses among so many. Whether there are any.
    pub fn damage(&self, family: Family, rows: usize, first: impl FnOnce(usize) -> usize) -> bool {
        let mut state = self.state.write();
        let on_disk = state.durable.keys(family);
        let count = on_disk.len();
        if count == 0 {
            return false;
        }
        let block: Vec<Bytes> = on_disk.skip(first(count)).take(rows).cloned().collect();
        for key in &block {
            // Unless a newer one hides it.
            if state.current.get(family, key) == state.durable.get(family, key) {
                state.current.damage(family, key);
            }
            state.durable.damage(family, key);
        }
        !block.is_empty()
    }

    /// Whether something is damaged that was not written over, or that a power cut would bring back.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let state = self.state.read();
        state.durable.has_damage() || state.current.has_damage()
    }

    /// What was damaged is as it was.
    pub fn mend(&self) {
        let mut state = self.state.write();
        state.durable.mend_all();
        state.current.mend_all();
    }

    /// How many steps (a batch is one, a replaced range two) a crash may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.state.read().tail.len()
    }

    /// What every power cut leaves of a key.
    #[must_use]
    pub fn get_synced(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.state.read().durable.get(family, key)
    }

    /// What is found after a power cut that lost all but the first `kept` unsynced steps. Stages survive, as complete as
    /// they are. The instance itself goes on, but belongs to a machine that is gone.
    #[must_use]
    pub fn crash(&self, kept: usize) -> Arc<Self> {
        self.crash_keeping(kept, || false)
    }

    /// As [`MemoryEngine::crash`]. Of a range that was replaced behind those steps, the rows may be there all the same, as
    /// [`Engine::replace_range`] says: each is asked for.
    #[must_use]
    pub fn crash_keeping(&self, kept: usize, mut replaced: impl FnMut() -> bool) -> Arc<Self> {
        let state = self.state.read();
        let mut after = State { durable: state.durable.clone(), ..State::default() };
        for step in state.tail.iter().take(kept) {
            after.durable.apply(step);
        }
        let mut lost = state.failed;
        let mut behind = state.tail.iter().skip(kept).peekable();
        while let Some(step) = behind.next() {
            // The one before it cleared the range.
            if let Some(fill @ Step::Fill { .. }) = behind.peek().copied()
                && replaced()
            {
                after.durable.apply(step);
                after.durable.apply(fill);
                behind.next();
            } else {
                lost += step.changes();
            }
        }
        after.sequence = state.sequence - lost;
        after.current = after.durable.clone();
        self.with(after)
    }

    /// What the next process finds when this one has ended and the machine has not: all that was written, of which a power
    /// cut takes what it would have taken. What a sync had failed for is read, and written anew.
    #[must_use]
    pub fn reopened(&self) -> Arc<Self> {
        let state = self.state.read();
        let mut after = State {
            current: state.current.clone(),
            durable: state.durable.clone(),
            tail: state.tail.clone(),
            tail_bytes: state.tail_bytes,
            failed: 0,
            sequence: state.sequence,
        };
        if state.failed > 0 {
            let unsynced: u64 = after.tail.drain(..).map(|step| step.changes()).sum();
            let changes = state.failed + unsynced;
            after.tail = VecDeque::from([Step::Whole { maps: state.current.clone(), changes }]);
            after.tail_bytes = 0;
        }
        self.with(after)
    }

    fn with(&self, state: State) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(state),
            stages: Arc::new(Mutex::new(self.stages.lock().clone())),
            faults: Mutex::default(),
            has_failed: AtomicBool::default(),
            reclaim: Arc::default(),
        })
    }

    fn maps(&self) -> Maps {
        self.state.read().current.clone()
    }

    /// Whether `fault` was injected; it then is used up.
    fn fails(&self, fault: Fault) -> bool {
        let mut faults = self.faults.lock();
        let found = faults.iter().position(|injected| *injected == fault);
        let fails = found.map(|at| faults.remove(at)).is_some();
        self.has_failed.fetch_or(fails, Relaxed);
        fails
    }
}

fn injected(fault: Fault) -> Error {
    Error::Io { message: format!("injected fault: {fault:?}") }
}

impl Read for MemoryEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.state.read().current.read(family, key)
    }

    fn scan(&self, family: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        self.maps().scan(family, range, direction)
    }
}

impl Engine for MemoryEngine {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), Error> {
        if self.fails(Fault::WriteLost) {
            return Err(injected(Fault::WriteLost));
        }
        let step = Step::batch(batch);
        let mut state = self.state.write();
        state.apply(step);
        if self.fails(Fault::WriteKept) {
            return Err(injected(Fault::WriteKept));
        }
        if durability == Durability::Synced {
            if self.fails(Fault::Sync) {
                state.fail();
                return Err(injected(Fault::Sync));
            }
            state.sync();
        }
        Ok(())
    }

    fn write_if_quick(&self, batch: &WriteBatch) -> Result<bool, Error> {
        if blocking::would_wait() {
            return Ok(false);
        }
        self.write(batch, Durability::Buffered).map(|()| true)
    }

    fn get_if_quick(&self, family: Family, key: &[u8], bytes_max: usize) -> Result<Quick, Error> {
        if blocking::would_wait() {
            return Ok(Quick::OnDisk);
        }
        Ok(Quick::of(self.get(family, key)?, bytes_max))
    }

    fn view(&self) -> Arc<dyn View> {
        let hold = self.reclaim.hold();
        Arc::new(Pinned::new(self.maps(), hold))
    }

    fn read_view(&self) -> Arc<dyn View> {
        self.view()
    }

    fn sync(&self) -> Result<(), Error> {
        if self.fails(Fault::Sync) {
            self.state.write().fail();
            return Err(injected(Fault::Sync));
        }
        self.state.write().sync();
        Ok(())
    }

    fn settle(&self) -> Result<(), Error> {
        self.sync()
    }

    fn sequence(&self) -> u64 {
        self.state.read().sequence
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Stage>, Error> {
        self.stages.lock().insert(name.to_owned(), None);
        Ok(Box::new(stage::MemoryStage::new(Arc::clone(&self.stages), name)))
    }

    fn replace_range(
        &self,
        family: Family,
        range: &KeyRange,
        name: &str,
        _: Attempt,
    ) -> Result<(), Error> {
        let Some(rows) = self.stages.lock().get(name).cloned().flatten() else {
            return Err(Error::StageLost { message: format!("no complete stage {name}") });
        };
        if !rows.keys().all(|key| range.contains(key)) {
            let message = format!("stage {name} has rows outside of the range");
            return Err(Error::Io { message });
        }
        self.state.write().apply(Step::clear(family, range));
        if self.fails(Fault::Replace) {
            return Err(injected(Fault::Replace));
        }
        self.state.write().apply(Step::Fill { family, rows });
        Ok(())
    }

    fn drop_stage(&self, name: &str) -> Result<(), Error> {
        self.stages.lock().remove(name);
        Ok(())
    }

    fn stages(&self) -> Result<Vec<String>, Error> {
        Ok(self.stages.lock().keys().cloned().collect())
    }

    fn is_staged(&self, name: &str) -> Result<bool, Error> {
        Ok(self.stages.lock().get(name).is_some_and(Option::is_some))
    }

    /// What may go, goes at once; not from pinned maps, which are copies. Time grows with the map.
    fn reclaim_expired(&self, capture: &mut dyn FnMut() -> Claims) -> Result<(), Error> {
        let ticket = self.reclaim.begin();
        let claims = capture();
        if self.reclaim.knows(&claims) {
            return Ok(());
        }
        self.sync()?;
        self.reclaim.propose(ticket, claims);
        let mut pass = self.reclaim.pass();
        let mut state = self.state.write();
        state.sync();
        state.current.drop_rows(|key, stored| pass.drops(key, stored));
        state.durable = state.current.clone();
        Ok(())
    }

    fn withdraw_claims(&self, range: &KeyRange) {
        self.reclaim.withdraw(range);
    }

    fn approximate_bytes(&self, family: Family, range: &KeyRange) -> u64 {
        self.maps().bytes(family, range)
    }

    fn stats(&self) -> EngineStats {
        let state = self.state.read();
        let live: u64 = [Family::Default, Family::Meta]
            .map(|family| state.current.bytes(family, &KeyRange::default()))
            .iter()
            .sum();
        EngineStats {
            live_data_bytes: live,
            memtable_bytes: live,
            wal_bytes: state.tail_bytes as u64,
            reclaimed_rows: self.reclaim.dropped_rows(),
            ..EngineStats::default()
        }
    }
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEngine").field("sequence", &self.sequence()).finish_non_exhaustive()
    }
}
