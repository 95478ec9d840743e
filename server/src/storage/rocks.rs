//! The engine on disk: one RocksDB instance.
//!
//! Two kinds of instance promise different things after a power cut, so they recover differently
//! (see `options.rs`): the log keeps every synced row or refuses to open, the data comes back to a
//! point in time from which the log can be applied again. Neither ever answers with less than it
//! has: a damaged block is an error, also at the end of a cursor. RocksDB alone does not notice a
//! log whose end is missing; [`super::sentinel`] does. What goes on inside RocksDB after an error
//! is not repaired here: a failed write of the log ends the node.

mod birth;
mod cursor;
mod options;
mod reclaim;
mod records;
mod relief;
mod replace;
mod stage;
mod stats;
mod status;
mod view;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod reclaim_tests;
#[cfg(test)]
mod replace_tests;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use flotilla_proto::range::KeyRange;
use rocksdb::{
    ColumnFamily, DB, DBPinnableSlice, ErrorKind, FlushOptions, Options, ReadOptions, ReadTier,
    WriteOptions,
};

pub use self::status::is_open_elsewhere;
use self::{
    cursor::RocksCursor,
    options::{Memory, Plan},
    relief::Removals,
    status::failed,
    view::RocksView,
};
use super::{
    batch::{Change, Family, WriteBatch},
    config::StorageConfig,
    durable_file::{parent_of, sync_dir},
    engine::{
        Attempt, Cursor, Direction, Durability, Engine, EngineStats, Error, Quick, Read, Stage,
        View,
    },
    reclaim::{Claims, Reclaim},
};

/// Which of a node's two instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The Raft logs: the truth.
    Log,
    /// What applying the logs produced.
    Data,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::Data => "data",
        })
    }
}

/// Both instances of a node.
#[derive(Clone, Debug)]
pub struct Instances {
    pub log: Arc<RocksEngine>,
    pub data: Arc<RocksEngine>,
}

/// An open instance; its directory is locked until the last handle, view and cursor is dropped.
pub struct RocksEngine {
    db: Arc<DB>,
    kind: Kind,
    dir: PathBuf,
    /// Where stages lie: beside the instance, on the same file system, so that links work.
    stages_dir: PathBuf,
    /// Hold the counters and the cache that `stats` reads.
    options: Options,
    memory: Memory,
    /// What compactions may drop.
    reclaim: Arc<Reclaim>,
    removals: Removals,
    /// Age at which files are rewritten once there is something to drop.
    reclaim_after_seconds: u64,
    /// Whether they are.
    rewrites: AtomicBool,
    /// Made once: the hot path takes them by reference.
    point_read: ReadOptions,
    /// As `point_read`, from memtables and the block cache alone.
    quick_read: ReadOptions,
    buffered: WriteOptions,
    /// As `buffered`, without waiting for flushes and compactions.
    impatient: WriteOptions,
    synced: WriteOptions,
}

impl RocksEngine {
    /// Opens the instance in `dir`, which is created when it does not exist or is empty; a new
    /// instance survives a power cut when this returns. Stages lie in `dir/../snapshots`.
    ///
    /// # Errors
    /// `Corrupt` when files are damaged, missing or shorter than they were: nothing was skipped or
    /// repaired, and the instance must not be used. `Io` also when another process has it open.
    pub fn open(dir: &Path, kind: Kind, config: &StorageConfig) -> Result<Arc<Self>, Error> {
        Self::open_within(dir, kind, config, &Memory::new(config))
    }

    /// Opens `data_dir/log` and `data_dir/data`, which share one block cache and one bound on
    /// memtables.
    ///
    /// # Errors
    /// As for [`RocksEngine::open`].
    pub fn open_both(data_dir: &Path, config: &StorageConfig) -> Result<Instances, Error> {
        let memory = Memory::new(config);
        // Ordering: the log first, for it is the one that may refuse.
        let log = Self::open_within(&data_dir.join("log"), Kind::Log, config, &memory)?;
        let data = Self::open_within(&data_dir.join("data"), Kind::Data, config, &memory)?;
        Ok(Instances { log, data })
    }

    fn open_within(
        dir: &Path,
        kind: Kind,
        config: &StorageConfig,
        memory: &Memory,
    ) -> Result<Arc<Self>, Error> {
        let reclaim = Arc::new(Reclaim::default());
        let plan = Plan::new(kind, config, memory, &reclaim)?;
        if birth::is_unborn(dir)? {
            birth::create(dir, &plan)?;
        }
        records::check(dir, kind)?;
        let db = plan.open(dir)?;
        // Durability: the log file that the opening began, before anything is written to it.
        sync_dir(dir)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let mut impatient = WriteOptions::default();
        impatient.set_no_slowdown(true);
        let mut quick_read = ReadOptions::default();
        quick_read.set_read_tier(ReadTier::BlockCache);
        Ok(Arc::new(Self {
            db: Arc::new(db),
            kind,
            dir: dir.to_owned(),
            stages_dir: parent_of(dir).join("snapshots"),
            options: plan.into_options(),
            memory: memory.clone(),
            reclaim,
            removals: Removals::default(),
            reclaim_after_seconds: config.reclaim_after.as_secs(),
            rewrites: AtomicBool::new(false),
            point_read: ReadOptions::default(),
            quick_read,
            buffered: WriteOptions::default(),
            impatient,
            synced,
        }))
    }

    fn encode(&self, batch: &WriteBatch) -> rocksdb::WriteBatch {
        // A record is its key and value with a few bytes of kind, family and lengths.
        let bytes = 16 + batch.bytes_len() + 12 * batch.len();
        let mut out = rocksdb::WriteBatch::with_capacity_bytes(bytes);
        let meta = family(&self.db, Family::Meta);
        for (of, change) in batch.iter() {
            match (of, change) {
                (Family::Default, Change::Put { key, value }) => out.put(key, value),
                (Family::Default, Change::Delete { key }) => out.delete(key),
                (Family::Default, Change::DeleteRange { start, end }) => {
                    out.delete_range(start, end);
                }
                (Family::Meta, Change::Put { key, value }) => out.put_cf(meta, key, value),
                (Family::Meta, Change::Delete { key }) => out.delete_cf(meta, key),
                (Family::Meta, Change::DeleteRange { start, end }) => {
                    out.delete_range_cf(meta, start, end);
                }
            }
        }
        out
    }

    /// The value under `key`, in the memory of RocksDB.
    fn find(
        &self,
        of: Family,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<DBPinnableSlice<'_>>, rocksdb::Error> {
        match of {
            Family::Default => self.db.get_pinned_opt(key, options),
            Family::Meta => self.db.get_pinned_cf_opt(family(&self.db, of), key, options),
        }
    }

    fn write_options(&self, durability: Durability) -> &WriteOptions {
        match durability {
            Durability::Buffered => &self.buffered,
            Durability::Synced => &self.synced,
        }
    }
}

/// The handle of a family.
fn family(db: &DB, family: Family) -> &ColumnFamily {
    db.cf_handle(options::name_of(family)).expect("every instance is opened with both families")
}

impl Read for RocksEngine {
    fn get(&self, of: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.find(of, key, &self.point_read).map_err(|e| failed("read", e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, of: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_> {
        let options = cursor::read_options(range);
        let iter = self.db.raw_iterator_cf_opt(family(&self.db, of), options);
        Box::new(RocksCursor::new(iter, range, direction))
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), Error> {
        let out = self.encode(batch);
        self.db.write_opt(out, self.write_options(durability)).map_err(|e| failed("write", e))?;
        self.removals.note(batch);
        Ok(())
    }

    /// RocksDB refuses such a write before it has written anything.
    fn write_if_quick(&self, batch: &WriteBatch) -> Result<bool, Error> {
        match self.db.write_opt(self.encode(batch), &self.impatient) {
            Ok(()) => {
                self.removals.note(batch);
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::Incomplete => Ok(false),
            Err(e) => Err(failed("write", e)),
        }
    }

    fn get_if_quick(&self, of: Family, key: &[u8], bytes_max: usize) -> Result<Quick, Error> {
        match self.find(of, key, &self.quick_read) {
            Ok(Some(value)) if value.len() > bytes_max => Ok(Quick::Large { bytes: value.len() }),
            Ok(value) => Ok(Quick::Read(value.map(|value| Bytes::copy_from_slice(&value)))),
            Err(e) if e.kind() == ErrorKind::Incomplete => Ok(Quick::OnDisk),
            Err(e) => Err(failed("read", e)),
        }
    }

    fn view(&self) -> Arc<dyn View> {
        Arc::new(RocksView::new(Arc::clone(&self.db), self.reclaim.hold(), false))
    }

    fn read_view(&self) -> Arc<dyn View> {
        Arc::new(RocksView::new(Arc::clone(&self.db), self.reclaim.hold(), true))
    }

    fn sync(&self) -> Result<(), Error> {
        self.db.flush_wal(true).map_err(|e| failed("sync", e))
    }

    fn settle(&self) -> Result<(), Error> {
        self.flush()
    }

    fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    fn stage(&self, name: &str) -> Result<Box<dyn Stage>, Error> {
        Ok(Box::new(stage::RocksStage::create(&self.stages_dir, name)?))
    }

    fn replace_range(
        &self,
        of: Family,
        range: &KeyRange,
        name: &str,
        attempt: Attempt,
    ) -> Result<(), Error> {
        let dir = stage::path(&self.stages_dir, name)?;
        replace::replace_range(&self.db, of, range, &dir, attempt)
    }

    fn drop_stage(&self, name: &str) -> Result<(), Error> {
        stage::remove(&stage::path(&self.stages_dir, name)?)
    }

    fn stages(&self) -> Result<Vec<String>, Error> {
        stage::list(&self.stages_dir)
    }

    fn is_staged(&self, name: &str) -> Result<bool, Error> {
        stage::is_complete(&stage::path(&self.stages_dir, name)?)
    }

    fn reclaim_expired(&self, capture: &mut dyn FnMut() -> Claims) -> Result<(), Error> {
        reclaim::reclaim_expired(self, capture)
    }

    fn relieve(&self, room_bytes: u64) -> Result<bool, Error> {
        relief::relieve(self, room_bytes)
    }

    fn withdraw_claims(&self, range: &KeyRange) {
        self.reclaim.withdraw(range);
    }

    /// What lies in files comes from their indexes. RocksDB's C interface does not tell what lies
    /// in memtables, so that is counted.
    fn approximate_bytes(&self, of: Family, range: &KeyRange) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let bounds = [rocksdb::Range::new(&range.start, range.end_key())];
        let files = self.db.get_approximate_sizes_cf(family(&self.db, of), &bounds);
        files.iter().sum::<u64>() + self.memtable_bytes(of, range)
    }

    /// The exit of a process joins RocksDB's threads. Those that compact look every few rows whether they are to end.
    fn end_background_work(&self) {
        self.db.cancel_all_background_work(false);
    }

    fn background_errors(&self) -> u64 {
        stats::background_errors(self)
    }

    fn stats(&self) -> EngineStats {
        stats::collect(self)
    }
}

/// Bound: rows of the memtables looked at for one estimate; past it a range is under-estimated, by
/// no more than what the memtables hold.
const COUNTED_ROWS_MAX: usize = 16_384;

impl RocksEngine {
    /// Moves what is in memtables to files: of both families up to one moment (`options.rs`).
    pub(in crate::storage) fn flush(&self) -> Result<(), Error> {
        let families = [Family::Default, Family::Meta].map(|of| family(&self.db, of));
        self.db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(|e| failed("flush", e))
    }

    fn memtable_bytes(&self, of: Family, range: &KeyRange) -> u64 {
        let mut options = cursor::read_options(range);
        options.set_read_tier(ReadTier::Memtable);
        let iter = self.db.raw_iterator_cf_opt(family(&self.db, of), options);
        let mut rows = RocksCursor::new(iter, range, Direction::Forward);
        let mut bytes = 0;
        for _ in 0..COUNTED_ROWS_MAX {
            // An estimate: on an error it is what was counted so far.
            let Ok(Some((key, value))) = rows.next() else { break };
            bytes += (key.len() + value.len()) as u64;
        }
        bytes
    }
}

impl fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksEngine")
            .field("kind", &self.kind)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}
