//! What a log keeps in memory: its newest entries, and where it begins and ends.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openraft::EntryPayload;
use parking_lot::{Mutex, MutexGuard};

use super::{
    super::{Entry, LogId, Vote},
    memory::{Cached, LogMemory},
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

/// The tail of one log, which its peer, the writer and the node's bound of memory share.
pub(super) struct Tail {
    kept: Mutex<Kept>,
    pub(super) bounds: LogBounds,
    /// Read or written since somebody looked for memory to be given up.
    used: AtomicBool,
}

impl Tail {
    pub(super) fn new(kept: Kept, bounds: LogBounds) -> Arc<Self> {
        let tail = Arc::new(Self { kept: Mutex::new(kept), bounds, used: AtomicBool::new(false) });
        tail.bounds.memory.enter(&tail);
        tail
    }

    /// To look at, and to change what takes no memory.
    pub(super) fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }

    /// Changes what is in memory, and counts what that took or gave back.
    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.kept.lock();
        let before = kept.bytes;
        let answer = change(&mut kept);
        self.bounds.memory.changed(before, kept.bytes);
        answer
    }

    pub(super) fn note_use(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Adds entries; answers their size.
    pub(super) fn append(&self, entries: &[Entry]) -> usize {
        let bytes = self.change(|kept| kept.append(entries));
        self.note_use();
        self.bounds.memory.make_room();
        bytes
    }

    /// Forgets what is behind `last`; whether there was any.
    pub(super) fn truncate_after(&self, last: Option<LogId>) -> bool {
        self.change(|kept| kept.truncate_after(last))
    }

    /// Forgets what is not behind `upto`.
    pub(super) fn purge(&self, upto: LogId) {
        self.change(|kept| kept.purge(upto));
    }

    /// Called by the writer, after the sync.
    pub(super) fn mark_flushed(&self, index: u64) {
        self.change(|kept| {
            kept.flushed_index = kept.flushed_index.max(index);
            kept.evict(self.bounds.tail_bytes_max);
        });
    }
}

impl Cached for Tail {
    fn give_up_unless_used(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            self.change(|kept| kept.evict(0));
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.bounds.memory.changed(self.kept.get_mut().bytes, 0);
    }
}

/// What is in memory.
///
/// Invariant: `entries` are consecutive and end at `last`; every index in `(purged, last]` is
/// either in `entries` or on the disk; entries that are not flushed are never evicted.
#[derive(Default)]
pub(super) struct Kept {
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

impl Kept {
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

    fn evict(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some((entry, size)) = self.entries.front()
            && entry.log_id.index <= self.flushed_index
        {
            self.bytes -= size;
            self.entries.pop_front();
        }
    }

    fn append(&mut self, entries: &[Entry]) -> usize {
        if let Some(entry) = entries.first()
            && self.last.is_none()
        {
            self.first = entry.log_id.index;
        }
        let mut bytes = 0;
        for entry in entries {
            let size = entry_bytes(entry);
            bytes += size;
            self.last = Some(entry.log_id);
            self.entries.push_back((entry.clone(), size));
        }
        self.bytes += bytes;
        bytes
    }

    fn truncate_after(&mut self, last: Option<LogId>) -> bool {
        let from_index = last.map_or(0, |id| id.index + 1);
        if self.last.is_none_or(|last| last.index < from_index) {
            return false;
        }
        self.cuts += 1;
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= from_index) {
            if let Some((_, size)) = self.entries.pop_back() {
                self.bytes -= size;
            }
        }
        self.last = last;
        true
    }

    fn purge(&mut self, upto: LogId) {
        while self.entries.front().is_some_and(|(entry, _)| entry.log_id.index <= upto.index) {
            if let Some((_, size)) = self.entries.pop_front() {
                self.bytes -= size;
            }
        }
        self.cuts += 1;
        self.first = self.first.max(upto.index + 1);
        self.purged = self.purged.max(Some(upto));
        // By index: what is left above may be of a lower term, which openraft then refuses.
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
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
