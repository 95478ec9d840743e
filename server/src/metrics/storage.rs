//! The disk: two RocksDB instances and the file system below them.

use prometheus::{Counter, CounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Children, Counters, Gauges, Label as _, add, label::label};
use crate::storage::engine::EngineStats;

label! {
    /// One of the two RocksDB instances of a node. Not called `instance` as a label: Prometheus gives
    /// that name to what it scrapes, and would rename ours.
    Instance, "engine" {
        Log = "log",
        Data = "data",
    }
}

/// Filled from [`EngineStats`] when somebody reads the metrics, not while data is written.
#[derive(Clone, Debug)]
pub struct StorageMetrics {
    /// Space that this node can still use.
    pub disk_available_bytes: IntGauge,
    /// Space of the file system that is taken, by whomever.
    pub disk_used_bytes: IntGauge,
    /// 0 normal, 1 low, 2 critical.
    pub disk_level: IntGauge,
    memtable_bytes: Gauges<Instance>,
    block_cache_bytes: Gauges<Instance>,
    block_cache_hits_total: Counters<Instance>,
    block_cache_misses_total: Counters<Instance>,
    live_data_bytes: Gauges<Instance>,
    pending_compaction_bytes: Gauges<Instance>,
    reclaimed_rows_total: Counters<Instance>,
    write_stopped: Gauges<Instance>,
    background_errors_total: Counters<Instance>,
    wal_bytes: Gauges<Instance>,
    stall_seconds_total: Children<Instance, Counter>,
    level_files: IntGaugeVec,
    level_bytes: IntGaugeVec,
}

impl StorageMetrics {
    /// # Errors
    /// A name that is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| add(registry, IntGauge::new(name, help)?);
        let gauges = |name: &str, help: &str| Gauges::register(registry, name, help);
        let hits = Counters::register(
            registry,
            "flotilla_storage_block_cache_hits_total",
            "Blocks that were found in the cache",
        )?;
        let misses = Counters::register(
            registry,
            "flotilla_storage_block_cache_misses_total",
            "Blocks that were read from disk",
        )?;
        let reclaimed_rows = Counters::register(
            registry,
            "flotilla_storage_reclaimed_rows_total",
            "Expired rows that were dropped from disk",
        )?;
        let background_errors = Counters::register(
            registry,
            "flotilla_storage_background_errors_total",
            "Flushes and compactions that failed",
        )?;
        let per_level = |name: &str, help: &str| {
            let labels = [Instance::NAME, "level"];
            add(registry, IntGaugeVec::new(Opts::new(name, help), &labels)?)
        };
        let stalls = Opts::new(
            "flotilla_storage_stall_seconds_total",
            "Time for which RocksDB held writers up",
        );
        let stalls = add(registry, CounterVec::new(stalls, &[Instance::NAME])?)?;
        debug_assert_eq!(Instance::VALUES.len(), 2);
        Ok(Self {
            disk_available_bytes: gauge(
                "flotilla_disk_available_bytes",
                "Space that this node can still use",
            )?,
            disk_used_bytes: gauge(
                "flotilla_disk_used_bytes",
                "Space of the file system that is taken, by whomever",
            )?,
            disk_level: gauge("flotilla_disk_level", "0 normal, 1 low, 2 critical")?,
            memtable_bytes: gauges("flotilla_storage_memtable_bytes", "Size of the memtables")?,
            block_cache_bytes: gauges(
                "flotilla_storage_block_cache_bytes",
                "Size of the block cache, which both instances share",
            )?,
            block_cache_hits_total: hits,
            block_cache_misses_total: misses,
            live_data_bytes: gauges(
                "flotilla_storage_live_data_bytes",
                "Estimated size of live data in files",
            )?,
            pending_compaction_bytes: gauges(
                "flotilla_storage_pending_compaction_bytes",
                "Estimated size that compaction has still to rewrite",
            )?,
            reclaimed_rows_total: reclaimed_rows,
            write_stopped: gauges(
                "flotilla_storage_write_stopped",
                "1 while RocksDB stalls all writes",
            )?,
            background_errors_total: background_errors,
            wal_bytes: gauges("flotilla_storage_wal_bytes", "Size of the write-ahead logs")?,
            stall_seconds_total: Children::new(|value| stalls.with_label_values(&[*value])),
            level_files: per_level("flotilla_storage_level_files", "Files per level")?,
            level_bytes: per_level("flotilla_storage_level_bytes", "Size of the files per level")?,
        })
    }

    /// Takes over what an instance says of itself.
    pub fn record(&self, instance: Instance, stats: &EngineStats) {
        let set = |gauges: &Gauges<Instance>, value: u64| {
            gauges.get(instance).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.memtable_bytes, stats.memtable_bytes);
        set(&self.block_cache_bytes, stats.block_cache_bytes);
        set(&self.live_data_bytes, stats.live_data_bytes);
        set(&self.pending_compaction_bytes, stats.pending_compaction_bytes);
        set(&self.write_stopped, u64::from(stats.write_stopped));
        set(&self.wal_bytes, stats.wal_bytes);
        // RocksDB gives totals since its start, which is the process's.
        for (counters, total) in [
            (&self.block_cache_hits_total, stats.block_cache_hits),
            (&self.block_cache_misses_total, stats.block_cache_misses),
            (&self.reclaimed_rows_total, stats.reclaimed_rows),
            (&self.background_errors_total, stats.background_errors),
        ] {
            let counter = counters.get(instance);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let stalled = self.stall_seconds_total.get(instance);
        stalled.inc_by((stats.stall_micros as f64 / 1e6 - stalled.get()).max(0.0));
        for (gauges, levels) in
            [(&self.level_files, &stats.level_files), (&self.level_bytes, &stats.level_bytes)]
        {
            for (level, value) in levels.iter().enumerate() {
                gauges
                    .with_label_values(&[Instance::VALUES[instance.index()], &level.to_string()])
                    .set(i64::try_from(*value).unwrap_or(i64::MAX));
            }
        }
    }
}
