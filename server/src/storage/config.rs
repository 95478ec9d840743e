//! Settings of what is on the disk: `storage` and `disk`.

use std::time::Duration;

use crate::settings::{
    check::{ConfigError, bytes_within, count_within, duration_within},
    human_bytes::{self, HumanBytes},
    human_duration::{self, HumanDuration},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

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
    /// Size of the files that one full memtable of each instance becomes.
    #[must_use]
    pub fn flush_bytes(&self) -> u64 {
        self.log_memtable_bytes.saturating_add(self.data_memtable_bytes)
    }

    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        // What RocksDB counts files and threads in.
        const COUNT_MAX: u64 = i32::MAX as u64;
        for (key, bytes, least) in [
            ("storage.block_cache_bytes", self.block_cache_bytes, 4 * MIB),
            ("storage.log_memtable_bytes", self.log_memtable_bytes, MIB),
            ("storage.data_memtable_bytes", self.data_memtable_bytes, MIB),
        ] {
            bytes_within(errors, key, bytes, least..=1 << 40);
        }
        let both = self.flush_bytes();
        if self.memtables_bytes_max < both {
            let [is, both] = [self.memtables_bytes_max, both].map(human_bytes::format);
            let problem =
                format!("is {is}, below one memtable of the log and one of the data ({both})");
            errors.push(ConfigError::new("storage.memtables_bytes_max", problem));
        }
        let files = self.open_files_max.into();
        count_within(errors, "storage.open_files_max", files, 32..=COUNT_MAX);
        let threads = self.background_threads_max.into();
        count_within(errors, "storage.background_threads_max", threads, 2..=COUNT_MAX);
        let reclaim = Duration::from_secs(60)..=Duration::from_secs(10 * 365 * 24 * 60 * 60);
        duration_within(errors, "storage.reclaim_after", self.reclaim_after, reclaim);
    }
}

/// What is done before the disk is full, since a log write that fails ends the process. `auto` goes
/// by the size of the file system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// Size of a file that is deleted when space is critical, so that there is room to recover in.
    /// `0` for none. `auto`: a twentieth of the file system, at most 1 GiB; none below 256 MiB.
    #[serde(with = "human_bytes::auto")]
    #[schemars(with = "HumanBytes")]
    pub ballast_bytes: Option<u64>,
    /// With less available than this, writes of clients are refused; deletes and moves are not.
    /// `auto`: an eighth of the file system, at most 4 GiB; on a small one more, for what is written between
    /// two looks and flushed: twice a memtable of each instance and 32 MiB, at most half of it.
    #[serde(with = "human_bytes::auto")]
    #[schemars(with = "HumanBytes")]
    pub low_bytes: Option<u64>,
    /// With less available than this, the node gives up its leaderships. `auto`: a twentieth of
    /// the file system, at most 1 GiB, and at least a memtable of each instance, at most a quarter of it.
    #[serde(with = "human_bytes::auto")]
    #[schemars(with = "HumanBytes")]
    pub critical_bytes: Option<u64>,
    /// A small write and fsync is tried about once a second. The process ends when one takes
    /// longer than this: a disk that hangs must not look like a node that lives.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub probe_timeout: Duration,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            ballast_bytes: None,
            low_bytes: None,
            critical_bytes: None,
            probe_timeout: Duration::from_secs(30),
        }
    }
}

impl DiskConfig {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        if let (Some(low), Some(critical)) = (self.low_bytes, self.critical_bytes)
            && critical > low
        {
            let [low, critical] = [low, critical].map(human_bytes::format);
            let problem = format!("is {critical}, above disk.low_bytes ({low})");
            errors.push(ConfigError::new("disk.critical_bytes", problem));
        }
        let timeout = Duration::from_secs(1)..=Duration::from_secs(600);
        duration_within(errors, "disk.probe_timeout", self.probe_timeout, timeout);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violated(storage: &StorageConfig, disk: &DiskConfig) -> Vec<String> {
        let mut errors = Vec::new();
        storage.check(&mut errors);
        disk.check(&mut errors);
        errors.into_iter().map(|error| error.key).collect()
    }

    #[test]
    fn check_reports_every_violation_at_once() {
        assert!(violated(&StorageConfig::default(), &DiskConfig::default()).is_empty());
        let storage = StorageConfig {
            block_cache_bytes: 0,
            memtables_bytes_max: MIB,
            open_files_max: u32::MAX,
            background_threads_max: 1,
            reclaim_after: Duration::from_secs(59),
            ..StorageConfig::default()
        };
        let disk =
            DiskConfig { low_bytes: Some(1), critical_bytes: Some(2), ..DiskConfig::default() };
        let want = [
            "storage.block_cache_bytes",
            "storage.memtables_bytes_max",
            "storage.open_files_max",
            "storage.background_threads_max",
            "storage.reclaim_after",
            "disk.critical_bytes",
        ];
        assert_eq!(violated(&storage, &disk), want);
    }
}
