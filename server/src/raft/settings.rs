//! Openraft's settings from ours.

use crate::raft::config::RaftConfig;
use std::time::Duration;

/// Length of the queues in which a peer hears of its own work: from its disk, its timer, its followers, and what
/// it has to apply. It waits to put into them what it alone takes out, or what waits for a disk that stands
/// still, so a full one would be the end of it, or of its heartbeats. They take memory for what is in them only.
///
/// Bound: a peer that does nothing for more than ten minutes meets it, and then holds up whoever tells it.
const OWN_MESSAGES_MAX: u64 = 65_536;

/// Settings of every peer of a cluster's node, to be validated.
#[must_use]
pub fn openraft(cluster_name: String, raft: &RaftConfig) -> openraft::Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name,
        heartbeat_interval: millis(raft.heartbeat_interval),
        // Openraft campaigns after its lease, which is its longest timeout, and then a random one of
        // its timeouts. So these two make a follower campaign not before `raft.election_timeout_min`
        // nor before three quarters of `raft.election_timeout_max`, and not after the whole of it.
        election_timeout_min: millis(raft.election_timeout_min)
            .saturating_sub(millis(raft.election_timeout_max / 2))
            .max(millis(raft.election_timeout_max / 4))
            .max(millis(raft.heartbeat_interval) * 3 / 2),
        election_timeout_max: millis(raft.election_timeout_max / 2),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        max_payload_entries: raft.append_entries_max,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        api_channel_size: Some(raft.queue_messages_max),
        notification_channel_size: Some(OWN_MESSAGES_MAX),
        state_machine_channel_size: Some(OWN_MESSAGES_MAX),
        // Ours decides (`region/compact.rs`).
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
}
