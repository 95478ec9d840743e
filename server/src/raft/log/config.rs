use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::{
    check::{ConfigError, bytes_within, count_within},
    human_bytes::{self, HumanBytes},
};

/// The Raft logs of this node: one writer for all regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Appended entries that may wait for the writer, over all regions. More is back-pressure on
    /// proposals.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub queue_bytes_max: u64,
    /// Recent entries that a peer keeps in memory, for replication and apply. Older ones are read
    /// from disk.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub tail_cache_bytes: u64,
    /// What all peers of the node keep in memory together. Beyond it those that were not used lately give
    /// theirs up.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub tail_caches_bytes_max: u64,
    /// A region's log is compacted when it has grown by this many entries.
    pub compact_entries: u64,
    /// A region's log is compacted when it has grown by this much.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub compact_bytes: u64,
    /// Entries that compaction leaves in any case, of no more than `compact_bytes`.
    pub keep_entries: u64,
    /// What a leader keeps of a region's log, beyond that, for followers that lack it: that are
    /// slow, wait for the end of a snapshot, or were heard within the last minute. Who is further behind
    /// gets a snapshot. Nothing while the disk is too full for writes. It should hold what is written
    /// to a region while a snapshot of it is transferred, or a node restarts.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub catch_up_bytes: u64,
    /// What is kept so of all regions together. With many followers that lack much, each region keeps an
    /// equal share.
    #[serde(with = "human_bytes")]
    #[schemars(with = "HumanBytes")]
    pub catch_up_bytes_max: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            tail_cache_bytes: 4 << 20,
            tail_caches_bytes_max: 64 << 20,
            compact_entries: 10_000,
            compact_bytes: 32 << 20,
            keep_entries: 5_000,
            catch_up_bytes: 1 << 30,
            catch_up_bytes_max: 4 << 30,
        }
    }
}

impl LogConfig {
    /// Collects every violated constraint.
    pub fn check(&self, request_bytes_max: u64, errors: &mut Vec<ConfigError>) {
        // The largest request must fit the queue, or it would wait for ever.
        let queue = request_bytes_max..=16 << 30;
        bytes_within(errors, "log.queue_bytes_max", self.queue_bytes_max, queue);
        bytes_within(errors, "log.tail_cache_bytes", self.tail_cache_bytes, 64 << 10..=4 << 30);
        let tails = self.tail_caches_bytes_max;
        bytes_within(errors, "log.tail_caches_bytes_max", tails, 64 << 10..=1 << 40);
        count_within(errors, "log.compact_entries", self.compact_entries, 10..=100_000_000);
        bytes_within(errors, "log.compact_bytes", self.compact_bytes, 64 << 10..=64 << 30);
        count_within(errors, "log.keep_entries", self.keep_entries, 0..=100_000_000);
        bytes_within(errors, "log.catch_up_bytes", self.catch_up_bytes, 0..=1 << 40);
        bytes_within(errors, "log.catch_up_bytes_max", self.catch_up_bytes_max, 0..=1 << 40);
    }
}
