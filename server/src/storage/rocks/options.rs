//! RocksDB's options, by kind of instance, each with the measurement or the rule behind it.

use std::{path::Path, sync::Arc};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    LogLevel, LruCacheOptions, Options, WriteBufferManager, statistics::StatsLevel,
};

use super::{
    super::{config::StorageConfig, reclaim::Reclaim},
    Error, Family, Kind,
    reclaim::DropExpired,
    status,
};

/// Name of [`super::Family::Default`] on disk.
pub(super) const DEFAULT: &str = "default";
/// Name of [`super::Family::Meta`] on disk.
pub(super) const META: &str = "meta";

/// The name of a family on disk.
pub(super) fn name_of(family: Family) -> &'static str {
    match family {
        Family::Default => DEFAULT,
        Family::Meta => META,
    }
}

/// Options that the crate has no setter for. An unknown name is an error, so a typo cannot hide.
///
/// - Each memtable entry carries a checksum from its write to its flush.
/// - Each file gets a checksum of the whole in the manifest.
const INTEGRITY: &str = "memtable_protection_bytes_per_key=8;\
                         file_checksum_gen_factory=FileChecksumGenCrc32cFactory";

/// Durability: a log file that is missing, or ends before what the next one or the manifest says,
/// refuses to open. (A last log file that was cut short still opens: see `sentinel.rs`.)
const WAL_TRACKING: &str = ";track_and_verify_wals=true;track_and_verify_wals_in_manifest=true";

/// Memory of the meta family of `log`, which has nothing: the promises of regions are in the other one.
const LOG_META_MEMTABLE_BYTES: u64 = 4 << 20;
/// Memtables of a family: one that is written to, and two that are being flushed.
const MEMTABLES_MAX: i32 = 3;

/// What instances share: blocks read, and the bound on memtables.
#[derive(Clone)]
pub(super) struct Memory {
    pub(super) cache: Cache,
    memtables: WriteBufferManager,
}

impl Memory {
    pub(super) fn new(config: &StorageConfig) -> Self {
        let mut lru = LruCacheOptions::default();
        lru.set_capacity(size(config.block_cache_bytes));
        // Four shards: little contention on few cores, and a large block still fits in one.
        lru.set_num_shard_bits(2);
        // Bound: flushes early instead of stalling writers.
        let memtables = size(config.memtables_bytes_max);
        Self {
            cache: Cache::new_lru_cache_opts(&lru),
            memtables: WriteBufferManager::new_write_buffer_manager(memtables, false),
        }
    }
}

/// How one instance is opened.
pub(super) struct Plan {
    kind: Kind,
    db: Options,
    default: Options,
    meta: Options,
}

impl Plan {
    pub(super) fn new(
        kind: Kind,
        config: &StorageConfig,
        memory: &Memory,
        reclaim: &Arc<Reclaim>,
    ) -> Result<Self, Error> {
        Ok(Self {
            kind,
            db: database(kind, config, memory)?,
            default: default_family(kind, config, memory, reclaim)?,
            meta: meta_family(kind, config, memory)?,
        })
    }

    /// Opens an instance that exists.
    pub(super) fn open(&self, dir: &Path) -> Result<DB, Error> {
        self.open_with(&self.db, dir)
    }

    /// Makes a new instance in `dir`.
    pub(super) fn create(&self, dir: &Path) -> Result<DB, Error> {
        let mut db = self.db.clone();
        db.create_if_missing(true);
        db.create_missing_column_families(true);
        db.set_error_if_exists(true);
        self.open_with(&db, dir)
    }

    fn open_with(&self, db: &Options, dir: &Path) -> Result<DB, Error> {
        let families = [(DEFAULT, &self.default), (META, &self.meta)]
            .map(|(name, options)| ColumnFamilyDescriptor::new(name, options.clone()));
        DB::open_cf_descriptors(db, dir, families)
            .map_err(|e| status::failed_open(self.kind, dir, e))
    }

    pub(super) fn into_options(self) -> Options {
        self.db
    }
}

/// Options with what both kinds and all families have in common.
fn base(kind: Kind, config: &StorageConfig) -> Result<Options, Error> {
    let rest = match kind {
        Kind::Log => WAL_TRACKING.to_owned(),
        // Where nothing is written, RocksDB looks at the age of files when it wakes up by itself.
        // Bound: twelve hours, as without this.
        Kind::Data => {
            let seconds = (config.reclaim_after.as_secs() / 4).clamp(1, 12 * 60 * 60);
            format!(";max_compaction_trigger_wakeup_seconds={seconds}")
        }
    };
    Options::default()
        .get_options_from_string(format!("{INTEGRITY}{rest}"))
        .map_err(|e| status::failed("set options of RocksDB", e))
}

fn database(kind: Kind, config: &StorageConfig, memory: &Memory) -> Result<Options, Error> {
    let mut options = base(kind, config)?;
    // A directory that has lost its files is damage, not a new instance: see `birth.rs`.
    options.create_if_missing(false);
    options.set_wal_recovery_mode(match kind {
        // Durability: a torn last record was never acknowledged; any other damage refuses. The
        // default would drop all synced rows after one flipped bit.
        Kind::Log => DBRecoveryMode::TolerateCorruptedTailRecords,
        // Rows are not synced one by one, so a power cut may leave holes: what is before the first
        // comes back, the log has the rest.
        Kind::Data => DBRecoveryMode::PointInTime,
    });
    // Durability: both families have files up to the same moment. Else the one of the few and small rows keeps files
    // of the write-ahead log for which the other has no use any more, and a hole in one of those refuses
    // to open: there is no earlier moment that both could come back to.
    options.set_atomic_flush(kind == Kind::Data);
    options.set_paranoid_checks(true);
    options.set_max_open_files(int(config.open_files_max));
    options.set_max_background_jobs(int(config.background_threads_max));
    options.set_write_buffer_manager(&memory.memtables);
    options.set_max_total_wal_size(4 * memtable_bytes(kind, config));
    // Smooths writeback of large files; has no part in durability.
    options.set_bytes_per_sync(1 << 20);
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    // RocksDB's own text log: kept small, without the periodic dumps that wake an idle node.
    options.set_log_level(LogLevel::Info);
    options.set_max_log_file_size(4 << 20);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    Ok(options)
}

fn default_family(
    kind: Kind,
    config: &StorageConfig,
    memory: &Memory,
    reclaim: &Arc<Reclaim>,
) -> Result<Options, Error> {
    let mut options = base(kind, config)?;
    options.set_write_buffer_size(size(memtable_bytes(kind, config)));
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    match kind {
        Kind::Log => {
            // Entries die young: compressing them is wasted.
            options.set_compression_type(DBCompressionType::None);
            options.set_block_based_table_factory(&tables(Some(memory)));
        }
        Kind::Data => {
            data_files(&mut options, &tables(Some(memory)));
            take_files_in(&mut options);
            // Most reads are of keys that are not in the memtable: say so without a search.
            options.set_memtable_prefix_bloom_ratio(0.02);
            options.set_memtable_whole_key_filtering(true);
            // A file that is half removals is rewritten by itself, whatever is written beside it.
            options.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
            options.set_compaction_filter_factory(DropExpired::new(Arc::clone(reclaim)));
            // RocksDB would rewrite all files every 30 days for the sake of the filter; `reclaim.rs`
            // turns it on when there is something to drop.
            options.set_periodic_compaction_seconds(0);
        }
    }
    Ok(options)
}

fn meta_family(kind: Kind, config: &StorageConfig, memory: &Memory) -> Result<Options, Error> {
    let mut options = base(kind, config)?;
    // Families of `data` are flushed together, and apply states that overwrite each other fill this one: were it
    // the smaller one, small values would be flushed long before they fill theirs.
    options.set_write_buffer_size(size(match kind {
        Kind::Log => LOG_META_MEMTABLE_BYTES,
        Kind::Data => memtable_bytes(kind, config),
    }));
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    options.set_compression_type(DBCompressionType::None);
    options.set_block_based_table_factory(&tables(Some(memory)));
    if kind == Kind::Data {
        take_files_in(&mut options);
    }
    Ok(options)
}

/// A snapshot that lands on files which span it puts its own on the top level, 16 for each GiB: that is no reason to slow
/// writers down, those of the other family with them.
fn take_files_in(options: &mut Options) {
    options.set_level_zero_slowdown_writes_trigger(40);
    options.set_level_zero_stop_writes_trigger(72);
}

/// Options of files that are made outside of an instance, to be taken into a `data` instance.
pub(super) fn staged_files() -> Options {
    let mut options = Options::default();
    data_files(&mut options, &tables(None));
    options
}

fn data_files(options: &mut Options, tables: &BlockBasedOptions) {
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(tables);
}

fn tables(memory: Option<&Memory>) -> BlockBasedOptions {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_size(8 << 10);
    // Whole keys, one false positive in a hundred.
    tables.set_bloom_filter(10.0, false);
    tables.set_whole_key_filtering(true);
    match memory {
        Some(memory) => {
            tables.set_block_cache(&memory.cache);
            // Bound: indexes and filters count against the cache instead of growing with the data.
            tables.set_cache_index_and_filter_blocks(true);
            tables.set_cache_index_and_filter_blocks_with_high_priority(true);
            tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
        }
        None => tables.disable_cache(),
    }
    tables
}

fn memtable_bytes(kind: Kind, config: &StorageConfig) -> u64 {
    match kind {
        Kind::Log => config.log_memtable_bytes,
        Kind::Data => config.data_memtable_bytes,
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn int(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
