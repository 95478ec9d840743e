//! Settings as the parts of a node take them.

use std::time::Duration;

use super::{DiskConfig, LimitsConfig, PlacementConfig, RaftConfig, StorageConfig};
use crate::{api, placement, storage};

/// A leader hears a live peer at each Raft heartbeat; this many missed ones make it silent.
const SILENT_HEARTBEATS: u32 = 10;

impl LimitsConfig {
    /// As `api/` takes them.
    #[must_use]
    pub fn to_api(&self) -> api::Limits {
        let defaults = api::Limits::default();
        api::Limits {
            key_bytes_max: self.key_bytes_max,
            value_bytes_max: self.value_bytes_max,
            request_bytes_max: self.request_bytes_max,
            txn_ops_max: self.txn_ops_max,
            scan_page_bytes_max: self.scan_page_bytes as u64,
            requests_in_flight_max: self.requests_in_flight_max,
            request_timeout_default: self.request_timeout_default,
            request_timeout_max: self.request_timeout_max,
            connections: api::ConnectionLimits {
                connections_max: self.connections_max,
                ..defaults.connections.clone()
            },
            ..defaults
        }
    }
}

impl StorageConfig {
    /// As `storage/` takes them.
    #[must_use]
    pub fn to_storage(&self) -> storage::config::StorageConfig {
        let defaults = storage::config::StorageConfig::default();
        let memtables = self.log_memtable_bytes + self.data_memtable_bytes;
        storage::config::StorageConfig {
            block_cache_bytes: self.block_cache_bytes,
            memtables_bytes_max: defaults.memtables_bytes_max.max(memtables + memtables / 2),
            log_memtable_bytes: self.log_memtable_bytes,
            data_memtable_bytes: self.data_memtable_bytes,
            open_files_max: self.open_files_max.div_ceil(2).max(32),
            background_threads_max: self.background_threads.max(2),
            ..defaults
        }
    }
}

impl DiskConfig {
    /// As `storage/` takes them; a size that was left at its default follows the file system's.
    #[must_use]
    pub fn to_storage(&self) -> storage::disk::DiskConfig {
        let defaults = Self::default();
        let unless_default =
            |value: u64, default: u64| (value != default).then_some(value);
        storage::disk::DiskConfig {
            ballast_bytes: unless_default(self.ballast_bytes, defaults.ballast_bytes),
            low_bytes: unless_default(self.low_bytes, defaults.low_bytes),
            critical_bytes: unless_default(self.critical_bytes, defaults.critical_bytes),
        }
    }
}

impl PlacementConfig {
    /// As `placement/` takes them.
    #[must_use]
    pub fn to_placement(&self, raft: &RaftConfig) -> placement::config::PlacementConfig {
        let defaults = placement::config::PlacementConfig::default();
        let silent = raft.heartbeat_interval * SILENT_HEARTBEATS;
        placement::config::PlacementConfig {
            interval: self.interval,
            node_disconnected_after: self.node_disconnected_after,
            node_down_after: self.node_down_after,
            peer_silent_after: silent.max(Duration::from_secs(1)),
            lag_entries_max: self.lag_entries_max,
            steps_per_round_max: self.steps_per_round as usize,
            ..defaults
        }
    }
}

