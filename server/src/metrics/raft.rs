//! The Raft layer: proposals, the log, messages, snapshots.

use std::time::Duration;

use flotilla_proto::v1::{self, message::Body};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};

use super::{Counters, Gauges, Histograms, Label as _, RequestMetrics, SlowLog, add, label::label};

label! {
    /// How a proposal ended.
    ProposeOutcome, "outcome" {
        /// It was applied; its answer may still say that a condition did not hold.
        Applied = "applied",
        /// Certainly not applied.
        Rejected = "rejected",
        /// Leadership or the deadline was lost after it was handed over.
        Unknown = "unknown",
    }
}

label! {
    /// How a campaign of a peer of this node ended.
    ElectionResult, "result" {
        Won = "won",
        Lost = "lost",
    }
}

label! {
    /// Which way a snapshot goes.
    Direction, "direction" {
        Send = "send",
        Receive = "receive",
    }
}

label! {
    /// How a snapshot ended.
    SnapshotResult, "result" {
        Done = "done",
        Failed = "failed",
        /// The node that was to send it could not read it from its own disk.
        Unread = "unread",
    }
}

label! {
    /// One stream of messages to another node.
    LinkLane, "lane" {
        /// Votes, Raft heartbeats, read indexes.
        Fast = "fast",
        /// Log entries.
        Bulk = "bulk",
        /// Requests of clients that are passed on.
        Forward = "forward",
    }
}

label! {
    /// What a peer asks of a peer on another node.
    MessageKind, "kind" {
        Append = "append",
        Vote = "vote",
        Transfer = "transfer",
        ReadIndex = "read_index",
        Forward = "forward",
    }
}

impl MessageKind {
    /// The kind of a request; `None` for an answer.
    #[must_use]
    pub fn of(message: &v1::Message) -> Option<Self> {
        match message.body.as_ref()? {
            Body::Append(_) => Some(Self::Append),
            Body::Vote(_) => Some(Self::Vote),
            Body::Transfer(_) => Some(Self::Transfer),
            Body::ReadIndex(_) => Some(Self::ReadIndex),
            Body::Forward(_) => Some(Self::Forward),
            Body::AppendResult(_)
            | Body::VoteResult(_)
            | Body::TransferResult(_)
            | Body::ReadIndexResult(_)
            | Body::ForwardResult(_)
            | Body::Refused(_) => None,
        }
    }
}

/// Raft on this node, over all regions.
#[derive(Clone, Debug)]
pub struct RaftMetrics {
    /// Receipt of a proposal to its apply on this node, or to its failure.
    pub propose_seconds: Histograms<ProposeOutcome>,
    /// An entry handed to the log writer, to its flush.
    pub append_seconds: Histogram,
    /// One synced write of the log.
    pub fsync_seconds: Histogram,
    /// Entries, of all regions, that one synced write carried.
    pub group_commit_entries: Histogram,
    /// Applying one batch of committed entries.
    pub apply_seconds: Histogram,
    /// Committed and not applied, in the region where that is most.
    pub apply_lag_entries: IntGauge,
    /// Changes of leader that peers of this node have seen.
    pub leader_changes_total: IntCounter,
    pub elections_total: Counters<ElectionResult>,
    /// One round that proves a read is not old, shared by the reads that wait for it.
    pub read_index_seconds: Histogram,
    /// Size of the rows of snapshots that were sent.
    pub snapshot_bytes_total: IntCounter,
    /// Requests sent to peers on other nodes.
    pub messages_total: Counters<MessageKind>,
    /// Size of requests to other nodes that are queued or not answered.
    pub link_bytes: Gauges<LinkLane>,
    /// Requests to other nodes that were not sent: too much was under way, or they were too large.
    pub link_refused_total: Counters<LinkLane>,
    /// Nodes that answer, but not on this lane.
    pub lanes_cut: Gauges<LinkLane>,
    /// Log entries in memory, of all regions.
    pub log_tail_bytes: IntGauge,
    /// Log entries that were read from the disk for followers, and are not sent yet.
    pub log_catch_up_bytes: IntGauge,
    snapshots_total: [Box<[IntCounter]>; Direction::VALUES.len()],
    requests: RequestMetrics,
    slow: SlowLog,
}

impl RaftMetrics {
    /// The layer counts refused and forwarded requests in `requests`, and tells `slow` of syncs.
    ///
    /// # Errors
    /// A name that is registered already.
    pub fn register(
        registry: &Registry,
        requests: RequestMetrics,
        slow: SlowLog,
    ) -> prometheus::Result<Self> {
        let seconds = |name: &str, help: &str, least: f64| -> prometheus::Result<_> {
            // 15 doublings: 25 µs to 0.4 s for the disk, 0.1 ms to 1.6 s for rounds.
            let buckets = exponential_buckets(least, 2.0, 15)?;
            Ok(HistogramOpts::new(name, help).buckets(buckets))
        };
        let histogram = |opts: HistogramOpts| add(registry, Histogram::with_opts(opts)?);
        let snapshots = IntCounterVec::new(
            Opts::new("flotilla_raft_snapshots_total", "Snapshots that ended"),
            &["direction", "result"],
        )?;
        let snapshots = add(registry, snapshots)?;
        let by_result = |direction: Direction| {
            let direction = Direction::VALUES[direction.index()];
            let child = |result: &&str| snapshots.with_label_values(&[direction, *result]);
            SnapshotResult::VALUES.iter().map(child).collect()
        };
        Ok(Self {
            propose_seconds: Histograms::register(
                registry,
                HistogramOpts::new("flotilla_raft_propose_seconds", "Proposal to apply or failure")
                    .buckets(exponential_buckets(0.000_2, 2.0, 16)?), // 0.2 ms to 6.5 s
            )?,
            append_seconds: histogram(seconds(
                "flotilla_raft_append_seconds",
                "Entry handed to the log writer, to its flush",
                0.000_1,
            )?)?,
            fsync_seconds: histogram(seconds(
                "flotilla_raft_fsync_seconds",
                "One synced write of the log",
                0.000_025,
            )?)?,
            group_commit_entries: histogram(
                HistogramOpts::new(
                    "flotilla_raft_group_commit_entries",
                    "Entries of all regions in one synced write",
                )
                .buckets(exponential_buckets(1.0, 2.0, 13)?), // 1 to 4096
            )?,
            apply_seconds: histogram(seconds(
                "flotilla_raft_apply_seconds",
                "Applying one batch of committed entries",
                0.000_025,
            )?)?,
            apply_lag_entries: add(
                registry,
                IntGauge::new(
                    "flotilla_raft_apply_lag_entries",
                    "Entries committed and not applied, in the region where that is most",
                )?,
            )?,
            leader_changes_total: add(
                registry,
                IntCounter::new(
                    "flotilla_raft_leader_changes_total",
                    "Changes of leader that peers of this node have seen",
                )?,
            )?,
            elections_total: Counters::register(
                registry,
                "flotilla_raft_elections_total",
                "Campaigns of peers of this node that ended",
            )?,
            read_index_seconds: histogram(seconds(
                "flotilla_raft_read_index_seconds",
                "One shared round that proves reads are not old",
                0.000_1,
            )?)?,
            snapshot_bytes_total: add(
                registry,
                IntCounter::new(
                    "flotilla_raft_snapshot_bytes_total",
                    "Size of the rows of snapshots that were sent",
                )?,
            )?,
            messages_total: Counters::register(
                registry,
                "flotilla_raft_messages_total",
                "Requests sent to peers on other nodes",
            )?,
            link_bytes: Gauges::register(
                registry,
                "flotilla_raft_link_bytes",
                "Size of requests to other nodes that are queued or not answered",
            )?,
            link_refused_total: Counters::register(
                registry,
                "flotilla_raft_link_refused_total",
                "Requests to other nodes that were not sent: too much under way, or too large",
            )?,
            lanes_cut: Gauges::register(
                registry,
                "flotilla_raft_lanes_cut",
                "Other nodes that answer, but not what was last sent to them on this lane",
            )?,
            log_tail_bytes: add(
                registry,
                IntGauge::new(
                    "flotilla_raft_log_tail_bytes",
                    "Log entries of all regions that are kept in memory",
                )?,
            )?,
            log_catch_up_bytes: add(
                registry,
                IntGauge::new(
                    "flotilla_raft_log_catch_up_bytes",
                    "Log entries read from the disk for followers and not sent yet",
                )?,
            )?,
            snapshots_total: [by_result(Direction::Send), by_result(Direction::Receive)],
            requests,
            slow,
        })
    }

    /// One synced write of the log took `elapsed` and carried `entries` of all regions.
    pub fn observe_log_write(&self, elapsed: Duration, entries: usize) {
        self.fsync_seconds.observe(elapsed.as_secs_f64());
        self.slow.synced(elapsed);
        self.group_commit_entries.observe(entries as f64);
    }

    /// Entries of one region were flushed `elapsed` after they were handed to the log writer.
    pub fn observe_append(&self, elapsed: Duration) {
        self.append_seconds.observe(elapsed.as_secs_f64());
    }

    /// A batch of committed entries was applied.
    pub fn observe_apply(&self, elapsed: Duration) {
        self.apply_seconds.observe(elapsed.as_secs_f64());
    }

    /// A shared round proved that reads are not old.
    pub fn observe_read_index(&self, elapsed: Duration) {
        self.read_index_seconds.observe(elapsed.as_secs_f64());
    }

    /// Rows of a snapshot were sent.
    pub fn add_snapshot_bytes(&self, bytes: u64) {
        self.snapshot_bytes_total.inc_by(bytes);
    }

    /// Messages were handed to the stream to another node.
    pub fn add_messages(&self, messages: &[v1::Message]) {
        for kind in messages.iter().filter_map(MessageKind::of) {
            self.messages_total.get(kind).inc();
        }
    }

    /// A request was refused because `queue` was full.
    pub fn busy(&self, queue: &str) {
        self.requests.busy(queue);
    }

    /// A request was sent on to the leader of its region.
    pub fn forwarded(&self) {
        self.requests.forwarded_total.inc();
    }

    #[cfg(test)]
    pub(crate) fn snapshots_ended(&self, direction: Direction, result: SnapshotResult) -> u64 {
        self.snapshots_total[direction.index()][result.index()].get()
    }

    /// Counts a snapshot that is on its way from here on; as failed when the guard is dropped
    /// before it was told that it is done.
    #[must_use]
    pub fn snapshot(&self, direction: Direction) -> SnapshotUnderWay {
        let count = |result: SnapshotResult| {
            self.snapshots_total[direction.index()][result.index()].clone()
        };
        SnapshotUnderWay {
            done: count(SnapshotResult::Done),
            failed: Some(count(SnapshotResult::Failed)),
            unread: count(SnapshotResult::Unread),
        }
    }
}

/// A snapshot that has not ended.
#[derive(Debug)]
pub struct SnapshotUnderWay {
    done: IntCounter,
    failed: Option<IntCounter>,
    unread: IntCounter,
}

impl SnapshotUnderWay {
    /// The receiver has installed it.
    pub fn done(mut self) {
        self.failed = None;
        self.done.inc();
    }

    /// This node cannot read it from its disk; the receiver has done nothing wrong.
    pub fn unread(mut self) {
        self.failed = None;
        self.unread.inc();
    }
}

impl Drop for SnapshotUnderWay {
    fn drop(&mut self) {
        if let Some(failed) = &self.failed {
            failed.inc();
        }
    }
}
