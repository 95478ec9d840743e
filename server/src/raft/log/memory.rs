//! Memory that the logs of all regions of a node share.
//!
//! Each log keeps its recent entries in memory, up to a bound of its own. With many regions that is too
//! much, and most of them were not asked for a long time. So there is a bound over all of them: whoever
//! appends beyond it makes those give up theirs that were neither read nor written since they were last
//! looked at. And what is read from the disk for followers that are behind is counted until it was
//! sent, for each of their nodes by itself: one that takes nothing must not keep the others waiting.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use openraft::EntryPayload;
use parking_lot::Mutex;
use prometheus::IntGauge;

use super::super::{
    CommandBytes, Entry,
    transport::budget::{Budget, Taken},
};
use crate::{
    ids::{NodeId, RegionId},
    metrics::RaftMetrics,
    world::maps::HashMap,
};

/// Bound: entries that were read from the disk for followers on one node and are not sent yet, over all
/// regions. More reads wait, and so do those of a region that has its share. There is one such bound for each
/// node that a region's peers are on.
const CATCH_UP_BYTES_MAX: usize = 32 << 20;
/// Bound: logs that one append looks at for entries to give up.
const LOOKS_MAX: usize = 64;

/// What a log has in memory and on the disk as well.
pub(super) trait Cached: Send + Sync + 'static {
    /// Gives it up, unless it was read or written since this was last called.
    fn give_up_unless_used(&self);
}

/// See the module.
#[derive(Debug)]
pub struct LogMemory {
    tail_bytes_max: usize,
    tail_bytes: AtomicUsize,
    gauge: IntGauge,
    /// The one that was looked at longest ago is first.
    logs: Mutex<VecDeque<Weak<dyn Cached>>>,
    catch_up_bytes_max: usize,
    catch_up_gauge: IntGauge,
    /// By the node that is read for. Bound: as many as there ever were nodes.
    catch_up: Mutex<HashMap<NodeId, Arc<Budget>>>,
}

tokio::task_local! {
    /// Whom a log is read for. Openraft's log readers are not told.
    static FOLLOWER: NodeId;
}

/// Polls something that may read from a log for followers on that node.
pub(in crate::raft) fn reading_for<T>(node: NodeId, poll: impl FnOnce() -> T) -> T {
    FOLLOWER.sync_scope(node, poll)
}

impl LogMemory {
    #[must_use]
    pub fn new(tail_bytes_max: usize, metrics: &RaftMetrics) -> Arc<Self> {
        Self::with_bounds(tail_bytes_max, CATCH_UP_BYTES_MAX, metrics)
    }

    pub(in crate::raft) fn with_bounds(
        tail_bytes_max: usize,
        catch_up_bytes_max: usize,
        metrics: &RaftMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            tail_bytes_max,
            tail_bytes: AtomicUsize::new(0),
            gauge: metrics.log_tail_bytes.clone(),
            logs: Mutex::default(),
            catch_up_bytes_max,
            catch_up_gauge: metrics.log_catch_up_bytes.clone(),
            catch_up: Mutex::default(),
        })
    }

    pub(super) fn enter<L: Cached>(&self, log: &Arc<L>) {
        let log: Weak<L> = Arc::downgrade(log);
        self.logs.lock().push_back(log);
    }

    /// A tail has grown or shrunk.
    pub(super) fn changed(&self, before: usize, after: usize) {
        if after >= before {
            self.tail_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.tail_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.gauge.add(signed(after) - signed(before));
    }

    /// Makes room, if there is too much. To be called without the lock of any tail.
    pub(super) fn make_room(&self) {
        let is_full = || self.tail_bytes.load(Ordering::Relaxed) > self.tail_bytes_max;
        if !is_full() {
            return;
        }
        let mut logs = self.logs.lock();
        for _ in 0..LOOKS_MAX.min(2 * logs.len()) {
            if !is_full() {
                return;
            }
            let Some(log) = logs.pop_front() else { return };
            // Of a log that is gone nothing is left.
            if let Some(found) = log.upgrade() {
                found.give_up_unless_used();
                logs.push_back(log);
            }
        }
    }

    /// Waits for the right to read so much of a region's log for a follower: that of [`reading_for`].
    pub(super) async fn catch_up(&self, region: RegionId, bytes: usize) -> Taken {
        let node = FOLLOWER.try_with(|node| *node).unwrap_or(NodeId(0));
        let budget = {
            let mut budgets = self.catch_up.lock();
            let of_node = budgets.entry(node).or_insert_with(|| {
                Budget::new(self.catch_up_bytes_max, self.catch_up_gauge.clone())
            });
            Arc::clone(of_node)
        };
        budget.take(region, bytes).await
    }
}

/// Makes entries keep what was taken for them, until the last copy of the last of them is gone.
pub(super) fn hold(entries: &mut [Entry], mut taken: Taken, bytes: usize) {
    taken.correct(bytes);
    let taken = Arc::new(taken);
    for entry in entries {
        if let EntryPayload::Normal(CommandBytes(command)) = &mut entry.payload {
            let held = Held { command: std::mem::take(command), _taken: Arc::clone(&taken) };
            *command = Bytes::from_owner(held);
        }
    }
}

struct Held {
    command: Bytes,
    _taken: Arc<Taken>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.command
    }
}
