//! Settings as the parts of a node take them.

use super::LimitsConfig;
use crate::api;

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
