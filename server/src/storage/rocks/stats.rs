//! Rough sizes for people and metrics.

use std::fs;

use rocksdb::{properties, statistics::Ticker};

use super::{EngineStats, Family, RocksEngine, family};

const LEVELS: usize = 7;

pub(super) fn collect(engine: &RocksEngine) -> EngineStats {
    // A property that cannot be read counts as not known.
    let of = |cf, name| {
        engine.db.property_int_value_cf(family(&engine.db, cf), name).ok().flatten().unwrap_or(0)
    };
    let both = |name| of(Family::Default, name) + of(Family::Meta, name);
    let (level_files, level_bytes) = levels(engine);
    EngineStats {
        memtable_bytes: both(properties::CUR_SIZE_ALL_MEM_TABLES),
        block_cache_bytes: engine.memory.cache.get_usage() as u64,
        block_cache_hits: engine.options.get_ticker_count(Ticker::BlockCacheHit),
        block_cache_misses: engine.options.get_ticker_count(Ticker::BlockCacheMiss),
        live_data_bytes: both(properties::ESTIMATE_LIVE_DATA_SIZE),
        pending_compaction_bytes: both(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        write_stopped: of(Family::Default, properties::IS_WRITE_STOPPED) > 0,
        background_errors: background_errors(engine),
        wal_bytes: wal_bytes(engine),
        reclaimed_rows: engine.reclaim.dropped_rows(),
        stall_micros: engine.options.get_ticker_count(Ticker::StallMicros),
        level_files,
        level_bytes,
    }
}

/// Counted over both families.
pub(super) fn background_errors(engine: &RocksEngine) -> u64 {
    let count = engine.db.property_int_value(properties::BACKGROUND_ERRORS);
    count.ok().flatten().unwrap_or(0)
}

/// Number and size of the files per level, of both families.
fn levels(engine: &RocksEngine) -> (Vec<u64>, Vec<u64>) {
    let (mut files, mut bytes) = (vec![0; LEVELS], vec![0; LEVELS]);
    for file in engine.db.live_files().unwrap_or_default() {
        let level = usize::try_from(file.level).unwrap_or(0).min(LEVELS - 1);
        files[level] += 1;
        bytes[level] += file.size as u64;
    }
    (files, bytes)
}

fn wal_bytes(engine: &RocksEngine) -> u64 {
    let Ok(files) = fs::read_dir(&engine.dir) else { return 0 };
    files
        .flatten()
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "log"))
        .filter_map(|file| file.metadata().ok())
        .map(|file| file.len())
        .sum()
}
