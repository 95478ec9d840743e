//! How patient the placement driver is, and how much it does at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the placement driver. Read at start; they act on the node that leads region 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// How often nodes send heartbeats and the driver plans.
    #[serde(with = "duration_text")]
    pub interval: Duration,
    /// Silence after which a node is `DISCONNECTED`: it gets no new peers and does not count for
    /// a quorum.
    #[serde(with = "duration_text")]
    pub node_disconnected_after: Duration,
    /// Silence after which a node is `DOWN`: its peers are rebuilt elsewhere.
    #[serde(with = "duration_text")]
    pub node_down_after: Duration,
    /// A peer that has not answered its leader for this long does not count for a quorum and is
    /// neither promoted nor made leader. At least a few Raft heartbeats.
    #[serde(with = "duration_text")]
    pub peer_silent_after: Duration,
    /// A joint change that lasts this long has lost the leader that began it; it is finished.
    #[serde(with = "duration_text")]
    pub joint_patience: Duration,
    /// A step without effect for this long is forgotten and the region planned anew.
    #[serde(with = "duration_text")]
    pub step_timeout: Duration,
    /// A region's leader stays at least this long before balance moves it again.
    #[serde(with = "duration_text")]
    pub leader_cool_down: Duration,
    /// A peer that lags its leader by at most this many entries may be promoted or lead.
    pub lag_entries_max: u64,
    /// Bound: steps of one planning round; the rest waits for the next.
    pub steps_per_round_max: usize,
    /// Bound: learners that are being initialized on one node, over all regions. A node at the
    /// bound gets no further peers until one has caught up. How many snapshots are sent at a time is
    /// bounded apart from this, by `snapshot.concurrent_max`.
    pub learners_per_node_max: usize,
    /// Difference in the number of leaders of two nodes that balance leaves alone.
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

    /// Every violated constraint as (key, what it must be), so that one failed start shows all.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        [
            (self.interval.is_zero(), "interval", "must be above zero"),
            (
                self.node_disconnected_after < 3 * self.interval,
                "node_disconnected_after",
                "must be at least 3 times placement.interval",
            ),
            (
                self.node_down_after < self.node_disconnected_after,
                "node_down_after",
                "must not be below placement.node_disconnected_after",
            ),
            (self.peer_silent_after.is_zero(), "peer_silent_after", "must be above zero"),
            (
                self.step_timeout < 2 * self.interval,
                "step_timeout",
                "must be at least twice placement.interval",
            ),
            (self.steps_per_round_max == 0, "steps_per_round_max", "must be at least 1"),
            (self.learners_per_node_max == 0, "learners_per_node_max", "must be at least 1"),
            (self.leader_difference_max == 0, "leader_difference_max", "must be at least 1"),
        ]
        .into_iter()
        .filter_map(|(violated, key, message)| violated.then_some((key, message)))
        .collect()
    }
}

/// Durations as people write them: `20s`, `10m`.
mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(D::Error::custom)
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
    fn defaults_are_valid_and_survive_yaml() {
        let config = PlacementConfig::default();
        assert_eq!(config.problems(), []);
        let text = serde_yaml::to_string(&config).expect("serializes");
        assert!(text.contains("node_down_after: 10m"), "{text}");
        assert_eq!(serde_yaml::from_str::<PlacementConfig>(&text).expect("parses"), config);
    }

    #[test]
    fn misspelt_key_is_an_error() {
        assert!(serde_yaml::from_str::<PlacementConfig>("node_down: 10m").is_err());
        assert!(serde_yaml::from_str::<PlacementConfig>("node_down_after: soon").is_err());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let config = PlacementConfig {
            node_disconnected_after: Duration::from_secs(2),
            node_down_after: Duration::from_secs(1),
            leader_difference_max: 0,
            ..PlacementConfig::default()
        };
        let keys: Vec<_> = config.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["node_disconnected_after", "node_down_after", "leader_difference_max"]);
    }
}
