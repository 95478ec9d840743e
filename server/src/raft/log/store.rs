//! One region's Raft log on this node, as openraft sees it.
//!
//! An append is readable from memory as soon as it is queued and reported as flushed when
//! `writer.rs` has synced it.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, atomic::Ordering},
};

use futures::{Stream, StreamExt as _, stream};
use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};

use crate::world::blocking;

use super::{
    super::{Entry, LogId, Membership, TypeConfig, Vote},
    codec::encode_vote,
    memory::hold,
    peer_log::{Located, PeerLog},
    tail::entry_bytes,
};
use crate::{
    storage::{
        batch::{Family, WriteBatch},
        engine::Durability,
        keys,
    },
    world::known_bad::{self, Fault},
};

fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index + 1,
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// Makes a joint change one that has the voters of before alone: a known fault.
fn forget_new_voters(entry: &mut Entry) {
    if let EntryPayload::Membership(membership) = &mut entry.payload
        && let [before, _, ..] = &membership.get_joint_config()[..]
    {
        let nodes: BTreeMap<_, _> = membership.nodes().map(|(peer, at)| (*peer, *at)).collect();
        *membership = Membership::new(vec![before.clone()], nodes).unwrap_or_default();
    }
}

/// openraft's handle of a [`PeerLog`].
#[derive(Clone)]
pub struct LogStore(pub Arc<PeerLog>);

impl LogStore {
    /// As [`PeerLog::read`]. Nearly always the entries are in memory, and are copied here; only a follower
    /// that is behind, or a restart, asks for more, and must not hold up a thread that carries the
    /// heartbeats of all regions.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if let Located::InMemory(entries) = self.0.find(start, end, bytes_max) {
            return Ok(entries);
        }
        let log = Arc::clone(&self.0);
        blocking::run(move || log.read(start, end, bytes_max)).await.map_err(io::Error::other)?
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        self.read(start, end, usize::MAX).await
    }

    /// For followers. What has to be read from the disk waits for room, and takes it until it is sent.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let log = &self.0;
        let bytes_max = log.tail.bounds.read_bytes_max;
        let entries = match log.find(start, end, bytes_max) {
            Located::InMemory(entries) => entries,
            Located::OnDisk { .. } => {
                let taken = log.tail.bounds.memory.catch_up(log.region, bytes_max).await;
                let mut entries = self.read(start, end, bytes_max).await?;
                let bytes = entries.iter().map(entry_bytes).sum();
                hold(&mut entries, taken, bytes);
                entries
            }
        };
        let begins = entries.first().map(|entry| entry.log_id.index);
        // Entries that begin later would be a hole in the follower's log. No leader purges what it has yet to
        // send, so this is a stream from before a later leader's snapshot came here, perhaps while it
        // waited. An error would end the region's core; of nothing, the stream sees that its leader is over.
        Ok(if begins == Some(start) { entries } else { Vec::new() })
    }

    /// For apply, which after a restart may have much before it: a part at a time.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        let part = (self.clone(), start, Vec::new().into_iter());
        let parts = stream::try_unfold(part, move |(log, mut next, mut part)| async move {
            loop {
                if let Some(entry) = part.next() {
                    return Ok(Some((entry, (log, next, part))));
                }
                let bytes_max = log.0.tail.bounds.read_bytes_max;
                let entries = log.read(next, end, bytes_max).await?;
                let Some(last) = entries.last() else { return Ok(None) };
                next = last.log_id.index + 1;
                part = entries.into_iter();
            }
        });
        parts.boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.tail.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.0.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    /// Durability: returns after the sync, and readers see the vote only then.
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if known_bad::is(Fault::VotesInData) {
            let mut batch = WriteBatch::new();
            batch.put(Family::Meta, &keys::log::vote(self.0.region), &encode_vote(vote));
            self.0.data.write(&batch, Durability::Buffered).map_err(io::Error::other)?;
        } else {
            self.0.writer.vote(self.0.region, *vote).await?;
        }
        self.0.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.0.tail.lock().committed = committed;
        if let Some(committed) = committed {
            self.0.writer.committed(self.0.region, committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.tail.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        if known_bad::is(Fault::OldQuorum) {
            entries.iter_mut().for_each(forget_new_voters);
        }
        let bytes = self.0.tail.append(&entries);
        let tail = Arc::clone(&self.0.tail);
        self.0.writer.append(self.0.region, entries, bytes, tail, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let keep = last_log_id.map_or(0, |id| id.index);
        let from_index = last_log_id.map_or(0, |id| id.index + 1);
        if !self.0.tail.truncate_after(last_log_id) {
            return Ok(());
        }
        self.0.writer.truncate(self.0.region, from_index).await?;
        // Ordering: after the truncation, which is behind every earlier append in the queue; one of
        // those may have raised it meanwhile.
        let mut tail = self.0.tail.lock();
        tail.flushed_index = tail.flushed_index.min(keep);
        Ok(())
    }

    /// Durability: the state that contains the purged entries is synced first.
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        if self.0.durable_applied.load(Ordering::Acquire) < upto.index {
            let data = Arc::clone(&self.0.data);
            blocking::run(move || data.sync())
                .await
                .map_err(io::Error::other)?
                .map_err(io::Error::other)?;
            self.0.mark_durable_applied(upto.index);
        }
        self.0.tail.purge(upto);
        crate::crash_point!("log-before-purge");
        self.0.writer.purge(self.0.region, upto).await
    }
}
