use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::ConfigError,
    human_bytes::{self, HumanBytes},
    human_duration::{self, HumanDuration},
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
    /// Writes that both instances together keep in memory before they are flushed to files. When it
    /// is reached, the largest memtable is flushed early.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub memtables_bytes_max: u64,
    /// Size of a memtable of `log`. Large ones let entries be purged before they are ever flushed.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub log_memtable_bytes: u64,
    /// Size of a memtable of `data`.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub data_memtable_bytes: u64,
    /// Files that each instance may hold open.
    pub open_files_max: u32,
    /// Threads that flush and compact, for both instances together.
    pub background_threads_max: u32,
    /// Age of a file of `data` at which it is rewritten to free the space of keys that have expired.
    /// Only where keys expire at all; often overwritten ranges are freed sooner by themselves.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub reclaim_after: Duration,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            engine: EngineKind::default(),
            block_cache_bytes: 64 << 20,
            memtables_bytes_max: 64 << 20,
            log_memtable_bytes: 32 << 20,
            data_memtable_bytes: 16 << 20,
            open_files_max: 256,
            background_threads_max: 2,
            reclaim_after: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl StorageConfig {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        // The disk layer knows its own bounds.
        let violated = self.to_storage().check();
        errors.extend(
            violated
                .into_iter()
                .map(|(key, problem)| ConfigError::new(format!("storage.{key}"), problem)),
        );
    }

    /// What the disk layer is opened with.
    #[must_use]
    pub fn to_storage(&self) -> crate::storage::config::StorageConfig {
        let Self {
            engine,
            block_cache_bytes,
            memtables_bytes_max,
            log_memtable_bytes,
            data_memtable_bytes,
            open_files_max,
            background_threads_max,
            reclaim_after,
        } = *self;
        crate::storage::config::StorageConfig {
            engine: match engine {
                EngineKind::Rocksdb => crate::storage::config::EngineKind::Rocks,
                EngineKind::Memory => crate::storage::config::EngineKind::Memory,
            },
            block_cache_bytes,
            memtables_bytes_max,
            log_memtable_bytes,
            data_memtable_bytes,
            open_files_max,
            background_threads_max,
            reclaim_after_seconds: reclaim_after.as_secs(),
            ..crate::storage::config::StorageConfig::default()
        }
    }
}
