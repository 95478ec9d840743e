//! How patient the placement driver is, and how much it does at once.

use std::time::Duration;

use crate::{
    raft::config::RaftConfig,
    settings::{
        check::{ConfigError, count_within, duration_within},
        human_duration::{self, HumanDuration},
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A leader hears a live peer at each Raft heartbeat; this many missed ones make it silent.
const SILENT_HEARTBEATS: u32 = 10;

/// The placement driver, which runs on the leader of region 1. Give all nodes the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// How often a node reports and the driver plans.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub interval: Duration,
    /// A node that was silent for this long receives no new peers.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub node_disconnected_after: Duration,
    /// The peers of a node that was silent for this long are replaced by others elsewhere. Longer
    /// than a restart takes, or every restart copies data about.
    #[serde(with = "human_duration")]
    #[schemars(with = "HumanDuration")]
    pub node_down_after: Duration,
    /// A learner may lag by this many entries when it is promoted.
    pub lag_entries_max: u64,
    /// Steps that one round of planning may order.
    pub steps_per_round_max: usize,

    // What follows is no setting: it follows from others, or nobody had a reason to change it.
    /// A peer that has not answered its leader for this long does not count for a quorum and is
    /// neither promoted nor made leader. See [`PlacementConfig::under`].
    #[serde(skip)]
    pub peer_silent_after: Duration,
    /// A joint change that lasts this long has lost the leader that began it; it is finished.
    #[serde(skip)]
    pub joint_patience: Duration,
    /// A step without effect for this long is forgotten and the region planned anew.
    #[serde(skip)]
    pub step_timeout: Duration,
    /// A region's leader stays at least this long before balance moves it again.
    #[serde(skip)]
    pub leader_cool_down: Duration,
    /// A learner whose node does not take the region's state for this long is given up for one elsewhere.
    #[serde(skip)]
    pub refusal_patience: Duration,
    /// For this long a node gets no peer of a region again that was given up there as refused, or as without room.
    #[serde(skip)]
    pub refusal_memory: Duration,
    /// Bound: learners that are being initialized on one node, over all regions. A node at the
    /// bound gets no further peers until one has caught up. How many snapshots are sent at a time is
    /// bounded apart from this, by `snapshot.concurrent_max`.
    #[serde(skip)]
    pub learners_per_node_max: usize,
    /// Difference in the number of leaders of two nodes that balance leaves alone.
    #[serde(skip)]
    pub leader_difference_max: usize,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            node_disconnected_after: Duration::from_secs(20),
            node_down_after: Duration::from_secs(600),
            peer_silent_after: Duration::from_secs(5),
            joint_patience: Duration::from_secs(10),
            step_timeout: Duration::from_secs(10),
            leader_cool_down: Duration::from_secs(30),
            refusal_patience: Duration::from_secs(30),
            refusal_memory: Duration::from_secs(300),
            lag_entries_max: 1_000,
            steps_per_round_max: 64,
            learners_per_node_max: 32,
            leader_difference_max: 1,
        }
    }
}

impl PlacementConfig {
    /// Silence after which a node is `SUSPECT`: two heartbeats are missed, and time for one to be late.
    #[must_use]
    pub fn node_suspect_after(&self) -> Duration {
        self.interval * 5 / 2
    }

    /// With what follows from the timing of Raft.
    #[must_use]
    pub fn under(self, raft: &RaftConfig) -> Self {
        let silent = raft.heartbeat_interval * SILENT_HEARTBEATS;
        Self { peer_silent_after: silent.max(Duration::from_secs(1)), ..self }
    }

    /// Collects every violated constraint.
    pub fn check(&self, errors: &mut Vec<ConfigError>) {
        let interval = Duration::from_millis(10)..=Duration::from_secs(60);
        duration_within(errors, "placement.interval", self.interval, interval);
        for (key, value, least, what) in [
            (
                "placement.node_disconnected_after",
                self.node_disconnected_after,
                3 * self.interval,
                "3 x placement.interval",
            ),
            (
                "placement.node_down_after",
                self.node_down_after,
                self.node_disconnected_after,
                "placement.node_disconnected_after",
            ),
        ] {
            if value < least {
                let [value, least] = [value, least].map(humantime::format_duration);
                errors.push(ConfigError::new(key, format!("is {value}, below {what} ({least})")));
            }
        }
        count_within(errors, "placement.lag_entries_max", self.lag_entries_max, 1..=1_000_000);
        let steps = self.steps_per_round_max as u64;
        count_within(errors, "placement.steps_per_round_max", steps, 1..=10_000);
    }
}

/// `duration` in milliseconds; centuries are the most it says.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_setting_can_not_be_set_and_is_not_shown() {
        let text = serde_yaml::to_string(&PlacementConfig::default()).expect("serializes");
        assert!(text.contains("node_down_after") && !text.contains("step_timeout"), "{text}");
        let read = serde_yaml::from_str::<PlacementConfig>("node_down_after: 1h").expect("parses");
        assert_eq!(read.step_timeout, PlacementConfig::default().step_timeout);
        for text in ["step_timeout: 1s", "node_down: 10m", "node_down_after: soon"] {
            assert!(serde_yaml::from_str::<PlacementConfig>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn peer_is_silent_after_heartbeats_that_it_missed() {
        for (heartbeat_ms, want_ms) in [(500, 5000), (10, 1000)] {
            let heartbeat_interval = Duration::from_millis(heartbeat_ms);
            let raft = RaftConfig { heartbeat_interval, ..RaftConfig::default() };
            let silent = PlacementConfig::default().under(&raft).peer_silent_after;
            assert_eq!(silent, Duration::from_millis(want_ms));
        }
    }
}
