//! The log of one peer: what is in memory, and the way to the rest.
//!
//! A bounded tail of recent entries stays in memory, where replication and apply find them; RocksDB is read only for
//! peers that are far behind, and at start. A damaged or missing entry in the middle is an error, never a shorter
//! answer.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{
    super::{Entry, LogId},
    codec::{decode_entry, decode_log_id, decode_vote},
    tail::{Kept, LogBounds, Tail, entry_bytes},
    writer::LogWriter,
};
use crate::{
    ids::RegionId,
    storage::{
        batch::Family,
        engine::{self, Direction, Engine},
        keys,
    },
    world::known_bad::{self, Fault},
};

/// The log of one peer: what is in memory, and the way to the rest.
pub struct PeerLog {
    pub(super) region: RegionId,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) data: Arc<dyn Engine>,
    pub(super) writer: LogWriter,
    pub(super) tail: Arc<Tail>,
    /// Largest applied index whose state survives a power cut; entries above must not be purged.
    pub(super) durable_applied: AtomicU64,
}

impl PeerLog {
    /// Opens the region's log, empty or as it was left.
    ///
    /// # Errors
    /// When the disk cannot be read or holds something else than a log.
    pub fn open(
        region: RegionId,
        engine: Arc<dyn Engine>,
        data: Arc<dyn Engine>,
        writer: LogWriter,
        bounds: LogBounds,
    ) -> Result<Arc<Self>, engine::Error> {
        let read = |key: &[u8]| engine.get(Family::Default, key);
        let mut vote = read(&keys::log::vote(region))?;
        if known_bad::is(Fault::VotesInData) {
            vote = data.get(Family::Meta, &keys::log::vote(region))?.or(vote);
        }
        let vote = vote.map(|value| decode_vote(&value)).transpose()?;
        let committed =
            read(&keys::log::committed(region))?.map(|value| decode_log_id(&value)).transpose()?;
        let purged =
            read(&keys::log::purged(region))?.map(|value| decode_log_id(&value)).transpose()?;
        let last = {
            let range = keys::log::entries(region, purged.map_or(0, |id| id.index + 1)..u64::MAX);
            let mut cursor = engine.scan(Family::Default, &range, Direction::Reverse);
            match cursor.next()? {
                Some((key, value)) => {
                    Some(decode_entry(key, &Bytes::copy_from_slice(value))?.log_id)
                }
                None => purged,
            }
        };
        let first = match purged {
            Some(purged) => purged.index + 1,
            None => first_index(engine.as_ref(), region)?,
        };
        let flushed_index = last.map_or(0, |id| id.index);
        let kept = Kept { last, purged, first, vote, committed, flushed_index, ..Kept::default() };
        let tail = Tail::new(kept, bounds);
        let durable_applied = AtomicU64::new(0);
        Ok(Arc::new(Self { region, engine, data, writer, tail, durable_applied }))
    }

    /// Last log id here, flushed or not.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        self.tail.lock().last
    }

    #[must_use]
    pub fn purged(&self) -> Option<LogId> {
        self.tail.lock().purged
    }

    /// The index up to which the log is on the disk.
    #[must_use]
    pub fn flushed_index(&self) -> u64 {
        self.tail.lock().flushed_index
    }

    /// The state of `applied_index` survives a power cut from now on.
    pub fn mark_durable_applied(&self, applied_index: u64) {
        self.durable_applied.fetch_max(applied_index, Ordering::AcqRel);
    }

    /// The smallest index that may stay if at most `keep_bytes` of entries are to be kept; 0 when
    /// the entries in memory do not reach that far.
    #[must_use]
    pub fn index_within_bytes(&self, keep_bytes: usize) -> u64 {
        let tail = self.tail.lock();
        let mut bytes = 0;
        for (entry, size) in tail.entries.iter().rev() {
            bytes += size;
            if bytes > keep_bytes {
                return entry.log_id.index + 1;
            }
        }
        0
    }

    /// Size of the entries on the disk, estimated. Blocks on the disk.
    #[must_use]
    pub fn approximate_bytes(&self) -> u64 {
        let range = keys::log::entries(self.region, self.tail.lock().first..u64::MAX);
        self.engine.approximate_bytes(Family::Default, &range)
    }

    /// Entries of `[start, end)` that the log has, up to `bytes_max` but at least one. Blocks on the disk.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        loop {
            let before = self.tail.lock().cuts;
            let answer = self.read_once(start, end, bytes_max);
            // What was cut off meanwhile is not missing. Bound: cuts are rare, and each is made by
            // the one task that owns the log.
            if answer.is_ok() || self.tail.lock().cuts == before {
                return answer;
            }
        }
    }

    fn read_once(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (start, end, cached_from) = match self.find(start, end, bytes_max) {
            Located::InMemory(entries) => return Ok(entries),
            Located::OnDisk { start, end, cached_from } => (start, end, cached_from),
        };
        // Evicted entries are flushed, so the disk has them. Entries that were truncated and
        // appended anew meanwhile may be mixed with old ones: replication checks the vote after
        // reading, and apply reads what is committed, which is never truncated.
        let mut entries = self.read_disk(start, end.min(cached_from), bytes_max)?;
        let next = start + entries.len() as u64;
        let bytes: usize = entries.iter().map(entry_bytes).sum();
        if next == cached_from && next < end && bytes < bytes_max {
            let tail = self.tail.lock();
            let cached_now = tail.entries.front().map_or(u64::MAX, |(entry, _)| entry.log_id.index);
            if cached_now <= next {
                entries.extend(tail.copy(next, end, cached_now, bytes_max - bytes));
            }
        }
        Ok(entries)
    }

    pub(super) fn find(&self, start: u64, end: u64, bytes_max: usize) -> Located {
        self.tail.note_use();
        let tail = self.tail.lock();
        let next = tail.last.map_or(0, |id| id.index + 1);
        let (start, end) = (start.max(tail.first), end.min(next));
        if start >= end {
            return Located::InMemory(Vec::new());
        }
        let cached_from = tail.entries.front().map_or(next, |(entry, _)| entry.log_id.index);
        if start < cached_from {
            return Located::OnDisk { start, end, cached_from };
        }
        Located::InMemory(tail.copy(start, end, cached_from, bytes_max))
    }

    fn read_disk(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let range = keys::log::entries(self.region, start..end);
        let mut cursor = self.engine.scan(Family::Default, &range, Direction::Forward);
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some((key, value)) = cursor.next().map_err(io::Error::other)? {
            bytes += value.len();
            if !entries.is_empty() && bytes > bytes_max {
                return Ok(entries);
            }
            let entry =
                decode_entry(key, &Bytes::copy_from_slice(value)).map_err(io::Error::other)?;
            let expected = start + entries.len() as u64;
            if entry.log_id.index != expected {
                return Err(missing(self.region, expected));
            }
            entries.push(entry);
        }
        if start + (entries.len() as u64) < end {
            return Err(missing(self.region, start + entries.len() as u64));
        }
        Ok(entries)
    }
}

/// Where the entries of a range are that the log has.
pub(super) enum Located {
    /// Those asked for, up to the bound.
    InMemory(Vec<Entry>),
    /// From `start` on; those from `cached_from` on are in memory as well.
    OnDisk { start: u64, end: u64, cached_from: u64 },
}

/// Index of the first entry on the disk, 0 if there is none.
fn first_index(engine: &dyn Engine, region: RegionId) -> Result<u64, engine::Error> {
    let range = keys::log::entries(region, 0..u64::MAX);
    let mut cursor = engine.scan(Family::Default, &range, Direction::Forward);
    match cursor.next()? {
        Some((key, value)) => Ok(decode_entry(key, &Bytes::copy_from_slice(value))?.log_id.index),
        None => Ok(0),
    }
}

fn missing(region: RegionId, index: u64) -> io::Error {
    io::Error::other(format!("entry {index} of the log of region {region} is missing"))
}
