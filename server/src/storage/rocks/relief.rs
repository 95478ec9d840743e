//! Space that removals give back before RocksDB would see to it.
//!
//! What a batch removes stays in the files until compactions rewrite them, and those come by themselves
//! where something is written. On a disk that is nearly full, clients write nothing: what they delete to
//! make room would stay for ever. So an instance knows what was removed lately, and when it is asked
//! for room it flushes the removals and rewrites the files that they cover.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flotilla_proto::range::KeyRange;
use parking_lot::Mutex;
use rocksdb::{BottommostLevelCompaction, CompactOptions, properties};

use super::{Error, Family, RocksEngine, family};
use crate::storage::{
    batch::{Change, WriteBatch},
    engine::Engine as _,
};

/// Bound: ranges that are remembered; the latest. What is beyond is left to RocksDB, as single keys are: it
/// chooses files that are mostly removals by itself once they are flushed.
const RANGES_MAX: usize = 64;

/// What was removed and may still take space.
#[derive(Debug, Default)]
pub(super) struct Removals {
    any: AtomicBool,
    ranges: Mutex<Vec<KeyRange>>,
}

impl Removals {
    /// Ordering: after the batch is written, or a flush that it is not in would count for it.
    pub(super) fn note(&self, batch: &WriteBatch) {
        for (of, change) in batch.iter() {
            match change {
                Change::Put { .. } => continue,
                Change::DeleteRange { start, end } if of == Family::Default => {
                    let [start, end] = [start, end].map(Bytes::copy_from_slice);
                    self.remember([KeyRange { start, end }]);
                }
                Change::Delete { .. } | Change::DeleteRange { .. } => {}
            }
            self.any.store(true, Ordering::Relaxed);
        }
    }

    fn remember(&self, more: impl IntoIterator<Item = KeyRange>) {
        let mut ranges = self.ranges.lock();
        ranges.extend(more);
        let beyond = ranges.len().saturating_sub(RANGES_MAX);
        ranges.drain(..beyond);
    }
}

/// Bound: what a compaction writes before it frees anything, beside the rows of the range: files of the upper
/// levels that overlap it.
const COMPACTION_BYTES: u64 = 512 << 20;

/// What takes less is not worth the rewriting of what lies beside it.
const WORTH_BYTES: u64 = 1 << 20;

pub(super) fn relieve(engine: &RocksEngine, room_bytes: u64) -> Result<bool, Error> {
    let removals = &engine.removals;
    if !removals.any.swap(false, Ordering::Relaxed) {
        return Ok(false);
    }
    // A flush that finds no room ends the node, which can wait: deletes are still let in.
    let memtable = engine.db.property_int_value(properties::CUR_SIZE_ALL_MEM_TABLES);
    if room_bytes < memtable.ok().flatten().unwrap_or_default() {
        removals.any.store(true, Ordering::Relaxed);
        return Ok(false);
    }
    // Ordering: taken before the flush, so that each of them is in a file.
    let ranges = std::mem::take(&mut *removals.ranges.lock());
    // With it go the files of the write-ahead log, which no family needs any more.
    if let Err(error) = engine.flush() {
        removals.remember(ranges);
        removals.any.store(true, Ordering::Relaxed);
        return Err(error);
    }
    // It must not take the space that it is to give: then RocksDB is left to choose, piece by piece.
    if room_bytes < COMPACTION_BYTES.min(engine.stats().file_bytes()) {
        removals.remember(ranges);
        return Ok(true);
    }
    let rows = family(&engine.db, Family::Default);
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(false);
    // Files of the last level that nothing was removed from stay as they are.
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Skip);
    for range in ranges {
        if engine.approximate_bytes(Family::Default, &range) >= WORTH_BYTES {
            engine.db.compact_range_cf_opt(rows, Some(range.start), Some(range.end), &options);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{tests::put, *},
        *,
    };

    const MIB: u64 = 1 << 20;

    /// A range by its tombstone, keys by theirs: RocksDB would keep both for as long as nobody writes.
    #[test]
    fn what_was_removed_gives_its_space_back_when_it_is_asked_for() {
        type Remove = fn(&mut WriteBatch, u32);
        let by_range: Remove = |batch, _| batch.delete_range(Family::Default, b"k", b"l");
        let by_key: Remove = |batch, count| {
            for number in 0..count {
                batch.delete(Family::Default, format!("k{number:03}").as_bytes());
            }
        };
        for (why, remove) in [("a range", by_range), ("keys", by_key)] {
            let dir = tempfile::tempdir().unwrap();
            let config = StorageConfig::default();
            let engine = RocksEngine::open(&dir.path().join("data"), Kind::Data, &config).unwrap();
            let value: String =
                std::iter::repeat_with(|| rand::random_range('!'..='~')).take(256 << 10).collect();
            (0..200).for_each(|number| put(&engine, &format!("k{number:03}"), &value));
            put(&engine, "a z", "kept");
            engine.flush().unwrap();
            let before = engine.stats().file_bytes();
            assert!(before > 30 * MIB, "{why}: {before}");
            let mut batch = WriteBatch::new();
            remove(&mut batch, 200);
            engine.write(&batch, Durability::Buffered).unwrap();
            assert!(engine.relieve(u64::MAX).unwrap(), "{why}");
            assert!(!engine.relieve(u64::MAX).unwrap(), "{why}: nothing was removed since");
            let began = crate::world::clock::monotonic();
            while engine.stats().file_bytes() > MIB {
                assert!(began.elapsed() < Duration::from_secs(30), "{why}: it is all still there");
            }
            for key in ["a", "z"] {
                let value = engine.get(Family::Default, key.as_bytes()).unwrap();
                assert_eq!(value, Some("kept".into()), "{why}");
            }
        }
    }
}
