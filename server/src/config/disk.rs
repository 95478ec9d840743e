use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::{ConfigError, duration_within},
    human_bytes::{self, HumanBytes},
    human_duration::{self, HumanDuration},
};

/// What is done before the disk is full, since a log write that fails ends the process. The three
/// sizes are scaled down on small file systems.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// Size of a file that is deleted when space is critical, so that there is room to recover in.
    /// `0` for none.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub ballast_bytes: u64,
    /// With less available than this, writes of clients are refused; deletes and moves are not.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub low_bytes: u64,
    /// With less available than this, the node gives up its leaderships.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub critical_bytes: u64,
    /// A small write and fsync is tried about once a second. The process ends when one takes
    /// longer than this: a disk that hangs must not look like a node that lives.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub probe_timeout: Duration,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            ballast_bytes: 1 << 30,
            low_bytes: 1 << 30,
            critical_bytes: 256 << 20,
            probe_timeout: Duration::from_secs(30),
        }
    }
}

impl DiskConfig {
    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        if self.critical_bytes >= self.low_bytes {
            errors.push(ConfigError::new(
                "disk.critical_bytes",
                format!(
                    "is {}, not below disk.low_bytes ({})",
                    human_bytes::format(self.critical_bytes),
                    human_bytes::format(self.low_bytes)
                ),
            ));
        }
        let timeout = Duration::from_secs(1)..=Duration::from_secs(600);
        duration_within(errors, "disk.probe_timeout", self.probe_timeout, timeout);
    }
}
