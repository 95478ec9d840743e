use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::{ConfigError, count_within, duration_within},
    human_duration::{self, HumanDuration},
};

/// The placement driver, which runs on the leader of region 1. Give all nodes the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            node_disconnected_after: Duration::from_secs(20),
            node_down_after: Duration::from_secs(600),
            lag_entries_max: 1000,
            steps_per_round_max: 64,
        }
    }
}

impl PlacementConfig {
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
