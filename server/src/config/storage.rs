use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::{ConfigError, bytes_within, count_within},
    human_bytes::{self, HumanBytes},
};

/// What holds the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// On disk.
    #[default]
    Rocksdb,
    /// In memory: everything is gone when the process ends. For tests and trials.
    Memory,
}

/// The two RocksDB instances of this node, `log` and `data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// `rocksdb`, or `memory`, which loses everything when the process ends.
    pub engine: EngineKind,
    /// Cache of blocks that were read, shared by both instances. The setting to raise first when
    /// reads go to disk.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub block_cache_bytes: u64,
    /// Size of a memtable of `log`. Large ones let entries be purged before they are ever flushed.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub log_memtable_bytes: u64,
    /// Size of a memtable of `data`.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub data_memtable_bytes: u64,
    /// Files that both instances together may hold open.
    pub open_files_max: u32,
    /// Threads that flush and compact.
    pub background_threads: u32,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            engine: EngineKind::default(),
            block_cache_bytes: 64 << 20,
            log_memtable_bytes: 32 << 20,
            data_memtable_bytes: 32 << 20,
            open_files_max: 1024,
            background_threads: 2,
        }
    }
}

impl StorageConfig {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        let memtable = (1 << 20)..=(4 << 30);
        for (key, value) in [
            ("storage.log_memtable_bytes", self.log_memtable_bytes),
            ("storage.data_memtable_bytes", self.data_memtable_bytes),
        ] {
            bytes_within(errors, key, value, memtable.clone());
        }
        bytes_within(
            errors,
            "storage.block_cache_bytes",
            self.block_cache_bytes,
            1 << 20..=1 << 40,
        );
        count_within(errors, "storage.open_files_max", self.open_files_max.into(), 64..=1 << 20);
        count_within(errors, "storage.background_threads", self.background_threads.into(), 1..=64);
    }
}
