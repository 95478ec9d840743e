//! Settings of the disk layer.

use serde::{Deserialize, Serialize};

use super::disk::DiskConfig;

const MIB: u64 = 1 << 20;

/// What keeps the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// RocksDB, on disk.
    #[default]
    Rocks,
    /// Memory: everything is gone when the process ends. For tests and trials.
    Memory,
}

/// Memory, files and threads of the two RocksDB instances. Read at start; a change needs a restart.
///
/// Together they may take `block_cache_bytes + memtables_bytes_max` and a little more, whatever the
/// amount of data: index and filter blocks live in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Where the data is kept.
    pub engine: EngineKind,
    /// Uncompressed blocks, indexes and filters kept in memory, both instances together.
    pub block_cache_bytes: u64,
    /// Writes kept in memory before they are flushed to files, both instances together. When it is
    /// reached the largest memtable of the instance being written is flushed early.
    pub memtables_bytes_max: u64,
    /// One memtable of the log. Large, so that most entries are purged before they are flushed.
    pub log_memtable_bytes: u64,
    /// One memtable of the data.
    pub data_memtable_bytes: u64,
    /// Files each instance keeps open.
    pub open_files_max: u32,
    /// Threads that flush and compact, both instances together.
    pub background_threads_max: u32,
    /// Age of a file of the data at which it is rewritten to drop the rows that have expired, if
    /// any region of the node has such rows.
    pub reclaim_after_seconds: u64,
    /// Space and health of the device.
    pub disk: DiskConfig,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            engine: EngineKind::Rocks,
            block_cache_bytes: 64 * MIB,
            memtables_bytes_max: 64 * MIB,
            log_memtable_bytes: 32 * MIB,
            data_memtable_bytes: 16 * MIB,
            open_files_max: 256,
            background_threads_max: 2,
            reclaim_after_seconds: 24 * 60 * 60,
            disk: DiskConfig::default(),
        }
    }
}

impl StorageConfig {
    /// Every violated constraint as key (below `storage.`) and reason, so that one failed start
    /// shows the operator all of them.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut errors = Vec::new();
        let mut at_least = |key, value: u64, min: u64| {
            if value < min {
                errors.push((key, format!("{value} is below the minimum of {min}")));
            }
        };
        at_least("block_cache_bytes", self.block_cache_bytes, 4 * MIB);
        at_least("log_memtable_bytes", self.log_memtable_bytes, MIB);
        at_least("data_memtable_bytes", self.data_memtable_bytes, MIB);
        at_least("open_files_max", u64::from(self.open_files_max), 32);
        at_least("background_threads_max", u64::from(self.background_threads_max), 2);
        if self.reclaim_after_seconds < 60 {
            errors.push(("reclaim_after", "below a minute".to_owned()));
        }
        let both = self.log_memtable_bytes.saturating_add(self.data_memtable_bytes);
        if self.memtables_bytes_max < both {
            let reason = format!("below one memtable of the log and one of the data ({both})");
            errors.push(("memtables_bytes_max", reason));
        }
        if i32::try_from(self.open_files_max).is_err() {
            errors.push(("open_files_max", "above what RocksDB takes".to_owned()));
        }
        if i32::try_from(self.background_threads_max).is_err() {
            errors.push(("background_threads_max", "above what RocksDB takes".to_owned()));
        }
        self.disk.check(&mut errors);
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_yaml() {
        let config = StorageConfig::default();
        assert_eq!(config.check(), vec![]);
        let yaml = serde_yaml::to_string(&config).unwrap();
        assert_eq!(serde_yaml::from_str::<StorageConfig>(&yaml).unwrap(), config);
    }

    #[test]
    fn misspelt_key_is_an_error() {
        assert!(serde_yaml::from_str::<StorageConfig>("block_cache: 5").is_err());
        assert!(serde_yaml::from_str::<StorageConfig>("disk: {ballast: 5}").is_err());
    }

    #[test]
    fn check_reports_every_violation_at_once() {
        let config = StorageConfig {
            block_cache_bytes: 0,
            memtables_bytes_max: MIB,
            open_files_max: u32::MAX,
            disk: DiskConfig { low_bytes: Some(1), critical_bytes: Some(2), ..Default::default() },
            ..Default::default()
        };
        let keys: Vec<_> = config.check().into_iter().map(|(key, _)| key).collect();
        let want = ["block_cache_bytes", "memtables_bytes_max", "open_files_max", "disk.low_bytes"];
        assert_eq!(keys, want);
    }
}
