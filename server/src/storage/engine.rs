//! The seam to the disk.
//!
//! Everything above speaks to these traits; `rocks.rs` keeps the data in RocksDB and `memory.rs` in
//! memory, with an unsynced tail that a simulated crash loses. Calls block for as long as the disk
//! does.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use flotilla_proto::range::KeyRange;
use tokio::task::JoinError;

use super::{
    batch::{Family, WriteBatch},
    reclaim::Claims,
};

/// What a write has survived when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process, not a power cut.
    Buffered,
    /// A power cut.
    Synced,
}

/// A failed operation of the disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Stored bytes do not match their checksum, or do not decode.
    #[error("corrupt data: {message}")]
    Corrupt { message: String },
    /// Stored by a newer version, in a way that this one does not know. Nothing is damaged.
    #[error("of a newer version: {message}")]
    TooNew { message: String },
    /// The device has no space left.
    #[error("no space left: {message}")]
    Full { message: String },
    /// What was staged is not there as a whole, and never will be again. Of what else is on the disk this says nothing.
    #[error("stage lost: {message}")]
    StageLost { message: String },
    #[error("{message}")]
    Io { message: String },
}

/// Work that waits for the disk, on a thread that may, panicked there; or the node stops.
impl From<JoinError> for Error {
    fn from(error: JoinError) -> Self {
        Self::Io { message: error.to_string() }
    }
}

/// Which call of [`Engine::replace_range`] it is for this stage and range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    First,
    /// One before it was interrupted, perhaps by something that it did: nothing is done that only saves work later.
    Again,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Reverse,
}

/// A key and its value.
pub type Row<'a> = (&'a [u8], &'a [u8]);

/// Keys of a range, in order, each once.
pub trait Cursor {
    /// The next key and value; `None` at the end.
    ///
    /// # Errors
    /// A damaged block ends the cursor with an error, never with an early `None`: a short answer
    /// would be a lie.
    fn next(&mut self) -> Result<Option<Row<'_>>, Error>;
}

/// Reads of one state.
pub trait Read {
    /// The value under `key`.
    ///
    /// # Errors
    /// A damaged block, or a failed read.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// The keys of `range` as of now; later writes do not show.
    fn scan(&self, family: Family, range: &KeyRange, direction: Direction) -> Box<dyn Cursor + '_>;
}

/// What [`Engine::get_if_quick`] comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quick {
    /// The value under the key.
    Read(Option<Bytes>),
    /// It is in memory, and too large to be copied here.
    Large { bytes: usize },
    /// Only the disk knows.
    OnDisk,
}

impl Quick {
    /// What was read from memory, unless it is too large to be copied.
    pub(super) fn of(value: Option<Bytes>, bytes_max: usize) -> Self {
        match value {
            Some(value) if value.len() > bytes_max => Self::Large { bytes: value.len() },
            value => Self::Read(value),
        }
    }
}

/// A state that is pinned: later writes do not show in it. Holds disk space while it lives, and
/// with it the rows that expire meanwhile, of all regions.
pub trait View: Read + Send + Sync {}

/// Sorted rows being written to files outside of the map, for [`Engine::replace_range`].
pub trait Stage: Send {
    /// Adds a row; keys must ascend strictly.
    ///
    /// # Errors
    /// A failed write; the stage is then useless.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error>;

    /// Completes the files and syncs them.
    ///
    /// # Errors
    /// As for `put`.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// Rough sizes for people and metrics; each is `0` where the engine does not know.
#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    pub memtable_bytes: u64,
    pub block_cache_bytes: u64,
    pub block_cache_hits: u64,
    pub block_cache_misses: u64,
    pub live_data_bytes: u64,
    pub pending_compaction_bytes: u64,
    pub write_stopped: bool,
    pub background_errors: u64,
    pub wal_bytes: u64,
    /// Time for which writers were held up since the start.
    pub stall_micros: u64,
    /// Files per level.
    pub level_files: Vec<u64>,
    /// Size of these files, per level.
    pub level_bytes: Vec<u64>,
    /// Expired rows dropped since the start.
    pub reclaimed_rows: u64,
}

impl EngineStats {
    /// What the engine's files take on the disk.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.wal_bytes + self.level_bytes.iter().sum::<u64>()
    }
}

/// One RocksDB instance, or its stand-in in memory. Two families, atomic batches over both.
pub trait Engine: Read + Send + Sync + fmt::Debug {
    /// Applies all of `batch` or nothing.
    ///
    /// # Errors
    /// After an error it is not known what is on disk; see the caller for what that means.
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), Error>;

    /// As [`Engine::write`], buffered, unless the engine would hold the writer up because its own work
    /// is behind: then nothing is done and the answer is `false`.
    ///
    /// # Errors
    /// As for `write`.
    fn write_if_quick(&self, batch: &WriteBatch) -> Result<bool, Error> {
        self.write(batch, Durability::Buffered).map(|()| true)
    }

    /// As [`Read::get`], unless the disk would have to be read, or more than `bytes_max` to be copied.
    ///
    /// # Errors
    /// As for `get`.
    fn get_if_quick(&self, family: Family, key: &[u8], bytes_max: usize) -> Result<Quick, Error> {
        Ok(Quick::of(self.get(family, key)?, bytes_max))
    }

    /// Gives the space back that removed rows still take on the disk, as far as it knows of them; whether it
    /// knew of any. Takes as long as files are rewritten, and for that time some of the `room_bytes` that are
    /// left.
    ///
    /// # Errors
    /// A failed write.
    fn relieve(&self, room_bytes: u64) -> Result<bool, Error> {
        let _ = room_bytes;
        Ok(false)
    }

    /// Pins the present state, for snapshots and checks: they read a lot once, so scans leave the
    /// block cache alone.
    fn view(&self) -> Arc<dyn View>;

    /// Pins the present state for one read of a client, whose scans may well be repeated: they fill
    /// the block cache.
    fn read_view(&self) -> Arc<dyn View>;

    /// Makes every write so far survive a power cut.
    ///
    /// # Errors
    /// After an error nothing is known of what survives.
    fn sync(&self) -> Result<(), Error>;

    /// Makes every write so far survive also damage to the engine's own log of writes: no later opening comes back to a
    /// moment before this. Takes as long as files are written.
    ///
    /// # Errors
    /// As for `sync`.
    fn settle(&self) -> Result<(), Error>;

    /// Grows with every change and never falls in the life of the files. Reopening after a loss of
    /// the log's tail gives a smaller number than was seen before; so does a power cut after
    /// unsynced writes, which is why only a number read before a `sync` that succeeded may be held
    /// against it.
    fn sequence(&self) -> u64;

    /// Starts to collect rows under `name` (`[a-z0-9-]+`), dropping what an earlier attempt left.
    ///
    /// # Errors
    /// A failed write.
    fn stage(&self, name: &str) -> Result<Box<dyn Stage>, Error>;

    /// Replaces all keys of `range` in `family` by the rows staged under `name`, which may be none. Repeating it after a
    /// crash at any point of an earlier call gives the same result, for as long as the stage is not dropped. While it
    /// runs, readers may see the range empty. Damage to the rows that are replaced, or beside them, is no hindrance.
    ///
    /// Ordering: the new rows may survive a power cut which takes earlier unsynced writes with it.
    /// So whatever makes the caller repeat an interrupted call must be synced before the call, and
    /// may be removed only by a later write.
    ///
    /// # Errors
    /// `StageLost`: no finished stage of this name, or one that is damaged; that alone makes a repetition useless. A
    /// failed write, or a stage with rows outside of `range`.
    fn replace_range(
        &self,
        family: Family,
        range: &KeyRange,
        name: &str,
        attempt: Attempt,
    ) -> Result<(), Error>;

    /// Removes what was staged under `name`; nothing if there is none.
    ///
    /// # Errors
    /// A failed removal.
    fn drop_stage(&self, name: &str) -> Result<(), Error>;

    /// Names of the stages that exist, complete or not.
    ///
    /// # Errors
    /// A failed read of the directory.
    fn stages(&self) -> Result<Vec<String>, Error>;

    /// Whether all of what was staged under `name` is there.
    ///
    /// # Errors
    /// A failed read.
    fn is_staged(&self, name: &str) -> Result<bool, Error>;

    /// Lets rows of the default family go that have expired: some at once, others in the engine's
    /// own time, none that `reclaim.rs` forbids. `capture` says what is true of the state that is
    /// written when it is called; it is called once. Without claims, or with those that are known
    /// already, nothing is done. Blocks on the disk.
    ///
    /// Durability: that state is in files before any row goes. Neither a power cut nor damage to the
    /// write-ahead log brings an older one back.
    ///
    /// # Errors
    /// A failed write; the claims then come to nothing.
    fn reclaim_expired(&self, capture: &mut dyn FnMut() -> Claims) -> Result<(), Error>;

    /// Ends every claim on `range`.
    ///
    /// Ordering: before its rows are erased, for those that may come after it.
    fn withdraw_claims(&self, range: &KeyRange);

    /// Bytes in `range`, estimated from file properties.
    fn approximate_bytes(&self, family: Family, range: &KeyRange) -> u64;

    /// Gives up what the engine does in the background, as to compact files, which may take minutes more: the process
    /// is about to end, which waits for it. Nothing is lost by that, and what needs files to be made, as writes in
    /// the long run do, fails from now on.
    fn end_background_work(&self) {}

    /// Errors that the engine has met in the background so far. After one it may refuse all writes, or
    /// have mended it.
    fn background_errors(&self) -> u64 {
        0
    }

    fn stats(&self) -> EngineStats;
}
