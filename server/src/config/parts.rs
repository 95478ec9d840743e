//! Settings as the parts of a node take them.

use std::time::Duration;

use super::{LimitsConfig, PlacementConfig, RaftConfig};
use crate::{api, placement};

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
                stall_timeout: self.stall_timeout,
                idle_timeout: self.http_idle_timeout,
                ..defaults.connections.clone()
            },
            ..defaults
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
            steps_per_round_max: self.steps_per_round_max,
            ..defaults
        }
    }
}
