use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::{ConfigError, duration_within},
    human_bytes::{self, HumanBytes},
    human_duration::{self, HumanDuration},
};

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
    /// `auto`: an eighth of the file system, at most 4 GiB.
    #[serde(with = "human_bytes::auto")]
    #[schemars(with = "HumanBytes")]
    pub low_bytes: Option<u64>,
    /// With less available than this, the node gives up its leaderships. `auto`: a twentieth of
    /// the file system, at most 1 GiB.
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
    /// What the disk is watched by.
    #[must_use]
    pub fn to_storage(&self) -> crate::storage::disk::DiskConfig {
        let Self { ballast_bytes, low_bytes, critical_bytes, probe_timeout: _ } = *self;
        crate::storage::disk::DiskConfig { ballast_bytes, low_bytes, critical_bytes }
    }
}
