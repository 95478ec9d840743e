use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::{ConfigError, bytes_within, count_within, duration_within},
    human_bytes::{self, HumanBytes},
    human_duration::{self, HumanDuration},
};

/// Bounds on what clients may ask, and on what may be under way. What is too large is refused with
/// `INVALID_ARGUMENT` and the limit; what is too much with `RESOURCE_EXHAUSTED` and a time to wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Longest key.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub key_bytes_max: usize,
    /// Longest value, whether put or made by appending.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub value_bytes_max: usize,
    /// Largest request, with all its keys and values.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub request_bytes_max: usize,
    /// Most operations in one transaction or batch.
    pub txn_ops_max: usize,
    /// Size at which a page of a scan is closed.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub scan_page_bytes: usize,
    /// Requests of clients that may be under way on this node. Of those that wait for a region to have a
    /// leader again, one region takes at most four times what it leaves to all others; more are told so at
    /// once.
    pub requests_in_flight_max: usize,
    /// Proposals of one region that may be under way.
    pub proposals_in_flight_max: usize,
    /// Size of all proposals of this node that may be under way. One region takes at most four times
    /// what it leaves to the others.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub proposal_bytes_in_flight_max: usize,
    /// Connections of clients; further ones are closed at once.
    pub connections_max: usize,
    /// A client that reads nothing of its answer for this long is given up: a call of gRPC is reset, a
    /// connection of HTTP closed.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub stall_timeout: Duration,
    /// A connection of HTTP without a request for this long is closed. Longer than balancers keep one, so that
    /// none is closed under a request of theirs.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub http_idle_timeout: Duration,
    /// Deadline of a request that names none. Longer than an election, so that the death of a leader is a wait
    /// and no error.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub request_timeout_default: Duration,
    /// Latest deadline a request may name; later ones are cut to it.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub request_timeout_max: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            key_bytes_max: 4096,
            value_bytes_max: 8 << 20,
            request_bytes_max: 16 << 20,
            txn_ops_max: 1024,
            scan_page_bytes: 1 << 20,
            requests_in_flight_max: 4096,
            proposals_in_flight_max: 1024,
            proposal_bytes_in_flight_max: 64 << 20,
            connections_max: 16_384,
            stall_timeout: Duration::from_secs(30),
            http_idle_timeout: Duration::from_secs(90),
            request_timeout_default: Duration::from_secs(15),
            request_timeout_max: Duration::from_secs(30),
        }
    }
}

impl LimitsConfig {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        bytes_within(errors, "limits.key_bytes_max", self.key_bytes_max as u64, 16..=64 << 10);
        let value = self.value_bytes_max as u64;
        bytes_within(errors, "limits.value_bytes_max", value, 1024..=16 << 20);
        // Above it no message of this program is accepted, whatever the settings say.
        let message = flotilla_proto::MESSAGE_BYTES_MAX as u64;
        let request = self.request_bytes_max as u64;
        bytes_within(errors, "limits.request_bytes_max", request, 64 << 10..=message - (1 << 20));
        if self.request_bytes_max < self.value_bytes_max + self.key_bytes_max {
            let problem = "is smaller than one largest key with one largest value";
            errors.push(ConfigError::new("limits.request_bytes_max", problem));
        }
        if self.proposal_bytes_in_flight_max < self.request_bytes_max {
            let problem =
                "is below limits.request_bytes_max: the largest request could never start";
            errors.push(ConfigError::new("limits.proposal_bytes_in_flight_max", problem));
        }
        for (key, value, most) in [
            ("limits.txn_ops_max", self.txn_ops_max, 65_536),
            ("limits.requests_in_flight_max", self.requests_in_flight_max, 1_000_000),
            ("limits.proposals_in_flight_max", self.proposals_in_flight_max, 1_000_000),
            ("limits.connections_max", self.connections_max, 1_000_000),
        ] {
            count_within(errors, key, value as u64, 1..=most);
        }
        let page = self.scan_page_bytes as u64;
        bytes_within(errors, "limits.scan_page_bytes", page, 1024..=request.max(1024));
        let second = Duration::from_secs(1);
        let hour = 3600 * second;
        duration_within(errors, "limits.stall_timeout", self.stall_timeout, second..=hour);
        duration_within(errors, "limits.http_idle_timeout", self.http_idle_timeout, second..=hour);
        let timeout = Duration::from_millis(1)..=Duration::from_secs(3600);
        let (default, most) = (self.request_timeout_default, self.request_timeout_max);
        duration_within(errors, "limits.request_timeout_max", most, timeout.clone());
        duration_within(errors, "limits.request_timeout_default", default, *timeout.start()..=most);
    }
}
