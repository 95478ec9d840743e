use std::{ops::RangeInclusive, time::Duration};

use crate::settings::{
    check::{ConfigError, bytes_within, count_within, duration_within},
    human_bytes::{self, HumanBytes},
    human_duration::{self, HumanDuration},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Timing and batches of every Raft group on this node. Give all nodes of a cluster the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RaftConfig {
    /// How often a leader proves to its followers that it is alive.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub heartbeat_interval: Duration,
    /// Shortest silence after which a follower campaigns. At least three Raft heartbeats, so that
    /// one lost packet never costs an election. Also bounds the read lease.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub election_timeout_min: Duration,
    /// Longest silence after which a follower campaigns. Each draws its own time between the two,
    /// so that seldom two campaign at once.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub election_timeout_max: Duration,
    /// Most entries in one append message.
    pub append_entries_max: u64,
    /// Largest append message; a single entry that is larger goes alone.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub append_bytes_max: u64,
    /// Most requests of one peer that wait for its turn: proposals, messages of other nodes. A full queue holds
    /// up whoever asks.
    pub queue_messages_max: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(500),
            election_timeout_min: Duration::from_secs(3),
            election_timeout_max: Duration::from_secs(6),
            append_entries_max: 1024,
            append_bytes_max: 1 << 20,
            queue_messages_max: 1024,
        }
    }
}

impl RaftConfig {
    /// What `raft.queue_messages_max` may be.
    pub const QUEUE_MESSAGES: RangeInclusive<u64> = 256..=65_536;

    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        let heartbeat = Duration::from_millis(10)..=Duration::from_secs(60);
        duration_within(errors, "raft.heartbeat_interval", self.heartbeat_interval, heartbeat);
        if self.election_timeout_min < 3 * self.heartbeat_interval {
            errors.push(ConfigError::new(
                "raft.election_timeout_min",
                format!(
                    "is {}, below 3 heartbeats ({})",
                    humantime::format_duration(self.election_timeout_min),
                    humantime::format_duration(3 * self.heartbeat_interval)
                ),
            ));
        }
        if self.election_timeout_max <= self.election_timeout_min {
            errors.push(ConfigError::new(
                "raft.election_timeout_max",
                format!(
                    "is {}, not above raft.election_timeout_min ({})",
                    humantime::format_duration(self.election_timeout_max),
                    humantime::format_duration(self.election_timeout_min)
                ),
            ));
        }
        let timeout = Duration::ZERO..=Duration::from_secs(600);
        duration_within(errors, "raft.election_timeout_max", self.election_timeout_max, timeout);
        count_within(errors, "raft.append_entries_max", self.append_entries_max, 1..=65_536);
        bytes_within(errors, "raft.append_bytes_max", self.append_bytes_max, 64 << 10..=16 << 20);
        count_within(
            errors,
            "raft.queue_messages_max",
            self.queue_messages_max,
            Self::QUEUE_MESSAGES,
        );
    }
}
