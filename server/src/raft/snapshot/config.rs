use std::time::Duration;

use crate::settings::{
    check::{ConfigError, bytes_within, count_within, duration_within},
    human_bytes::{self, HumanBytes},
    human_duration::{self, HumanDuration},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sending regions to peers that the log cannot bring up to date.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// What this node sends per second, over all snapshots.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub bytes_per_second_max: u64,
    /// Snapshots that this node sends, and that it receives, at once. Others wait their turn: those to
    /// be sent in a queue, those to be received are refused and offered again. Where there are
    /// several, one of those to be sent is kept from any single node, for the others.
    pub concurrent_max: u32,
    /// Size of a chunk. A few of them per snapshot are in memory.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub chunk_bytes: u64,
    /// A snapshot of which no chunk is sent or arrives for this long is given up on both sides, and
    /// begun again later. Ten times as long may pass until the receiver has put it in its place.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub idle_timeout: Duration,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            bytes_per_second_max: 100 << 20,
            concurrent_max: 3,
            chunk_bytes: 1 << 20,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

impl SnapshotConfig {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        let rate = self.bytes_per_second_max;
        bytes_within(errors, "snapshot.bytes_per_second_max", rate, 64 << 10..=1 << 40);
        count_within(errors, "snapshot.concurrent_max", self.concurrent_max.into(), 1..=64);
        bytes_within(errors, "snapshot.chunk_bytes", self.chunk_bytes, 4 << 10..=8 << 20);
        let idle = Duration::from_secs(1)..=Duration::from_secs(3600);
        duration_within(errors, "snapshot.idle_timeout", self.idle_timeout, idle);
        // Else the bound on what is sent per second would look like a sender that has stopped.
        let at_once = f64::from(self.concurrent_max.max(1));
        let chunk_seconds = self.chunk_bytes as f64 * at_once / rate.max(1) as f64;
        if chunk_seconds * 2.0 > self.idle_timeout.as_secs_f64() {
            errors.push(ConfigError::new(
                "snapshot.idle_timeout",
                format!(
                    "is below twice the {chunk_seconds:.0} s that one snapshot.chunk_bytes of each of \
                     snapshot.concurrent_max snapshots takes at snapshot.bytes_per_second_max"
                ),
            ));
        }
    }
}
