use std::time::Duration;

use crate::settings::{
    check::{ConfigError, count_within, duration_within},
    human_duration::{self, HumanDuration},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which requests are slow, and what is told of them in the log: a line a second for the slowest, with method,
/// client, region, a salted hash of the key, and what took how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlowRequestsConfig {
    /// From here on a request is slow. A write on healthy disks takes milliseconds; an election takes
    /// seconds. `0s`: none is.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub threshold: Duration,
    /// First bytes of the key that are told beside its hash, in hexadecimal digits. 0: none, so that no part of
    /// a key is in the log.
    pub key_prefix_bytes: u32,
}

impl Default for SlowRequestsConfig {
    fn default() -> Self {
        Self { threshold: Duration::from_secs(1), key_prefix_bytes: 0 }
    }
}

impl SlowRequestsConfig {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        let threshold = Duration::ZERO..=Duration::from_secs(3600);
        duration_within(errors, "slow_requests.threshold", self.threshold, threshold);
        let bytes = self.key_prefix_bytes.into();
        count_within(errors, "slow_requests.key_prefix_bytes", bytes, 0..=256);
    }
}
