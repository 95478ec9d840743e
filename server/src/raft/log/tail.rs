//! What a log keeps in memory: its newest entries, and where it begins and ends.

use std::{collections::VecDeque, sync::Arc};

use openraft::EntryPayload;

use super::{
    super::{Entry, LogId, Vote},
    memory::LogMemory,
};

/// Bounds of one peer's log in memory.
#[derive(Clone, Debug)]
pub struct LogBounds {
    /// Bytes of recent entries that stay in memory.
    pub tail_bytes_max: usize,
    /// Most bytes of entries in one answer to a replication read, so that one message stays small.
    /// One entry is always given, however large.
    pub read_bytes_max: usize,
    /// What it shares with all other logs of the node.
    pub memory: Arc<LogMemory>,
}

/// Invariant: `entries` are consecutive and end at `last`; every index in `(purged, last]` is
/// either in `entries` or on the disk; entries that are not flushed are never evicted.
#[derive(Default)]
pub(super) struct Tail {
    pub(super) entries: VecDeque<(Entry, usize)>,
    pub(super) bytes: usize,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// Where the log begins, if it has any entry. After `purged`; a log of which nothing was purged
    /// begins with whatever was appended first.
    pub(super) first: u64,
    pub(super) flushed_index: u64,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// Grows with each truncation and purge.
    pub(super) cuts: u64,
}

impl Tail {
    /// Entries of `[start, end)`, of which `start >= cached_from` is the first cached index.
    pub(super) fn copy(
        &self,
        start: u64,
        end: u64,
        cached_from: u64,
        bytes_max: usize,
    ) -> Vec<Entry> {
        let skip = usize::try_from(start - cached_from).unwrap_or(usize::MAX);
        let take = usize::try_from(end - start).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut entries = Vec::with_capacity(take.min(self.entries.len()));
        for (entry, size) in self.entries.iter().skip(skip).take(take) {
            bytes += size;
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }

    pub(super) fn evict(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some((entry, size)) = self.entries.front()
            && entry.log_id.index <= self.flushed_index
        {
            self.bytes -= size;
            self.entries.pop_front();
        }
    }
}

pub(in crate::raft) fn entry_bytes(entry: &Entry) -> usize {
    /// Key, term and the entry's own memory.
    const OVERHEAD: usize = 64;
    match &entry.payload {
        EntryPayload::Normal(command) => command.0.len() + OVERHEAD,
        EntryPayload::Blank => OVERHEAD,
        EntryPayload::Membership(_) => 8 * OVERHEAD,
    }
}
