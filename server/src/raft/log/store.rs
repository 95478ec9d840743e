//! One region's Raft log on this node, as openraft sees it.
//!
//! An append is readable from memory as soon as it is queued and reported as flushed when
//! `writer.rs` has synced it. A bounded tail of recent entries stays in memory, where
//! replication and apply find them; RocksDB is read only for peers that are far behind, and at
//! start. A damaged or missing entry in the middle is an error, never a shorter answer.

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
    vote::RaftLeaderId,
};
use parking_lot::Mutex;
use prost::Message as _;

use super::{
    super::{
        CommandBytes, Entry, LogId, TypeConfig, Vote,
        convert::{log_id, membership_from_proto, membership_to_proto},
        term::Term,
    },
    memory::{LogMemory, hold},
    writer::LogWriter,
};
use crate::{
    ids::{PeerId, RegionId},
    storage::{
        batch::WriteBatch,
        engine::{self, Direction, Engine, Family},
        keys,
    },
};

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// First byte of a vote and of a log id.
const MARK_FORMAT: u8 = 1;

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

/// The log of one peer: what is in memory, and the way to the rest.
pub struct PeerLog {
    region: RegionId,
    engine: Arc<dyn Engine>,
    data: Arc<dyn Engine>,
    writer: LogWriter,
    bounds: LogBounds,
    tail: Mutex<Tail>,
    /// Read or written since somebody looked for memory to be given up.
    used: AtomicBool,
    /// Largest applied index whose state survives a power cut; entries above must not be purged.
    durable_applied: AtomicU64,
}

/// Invariant: `entries` are consecutive and end at `last`; every index in `(purged, last]` is
/// either in `entries` or on the disk; entries that are not flushed are never evicted.
#[derive(Default)]
struct Tail {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    last: Option<LogId>,
    purged: Option<LogId>,
    /// Where the log begins, if it has any entry. After `purged`; a log of which nothing was purged
    /// begins with whatever was appended first.
    first: u64,
    flushed_index: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Grows with each truncation and purge.
    cuts: u64,
}

impl PeerLog {
    /// Opens the region's log, empty or as it was left.
    ///
    /// # Errors
    /// When the disk cannot be read or holds something else than a log.
    pub fn open(
        region: RegionId,
        engine: Arc<dyn Engine>,
        data: Arc<dyn Engine>,
        writer: LogWriter,
        bounds: LogBounds,
    ) -> Result<Arc<Self>, engine::Error> {
        let read = |key: &[u8]| engine.get(Family::Default, key);
        let vote = read(&keys::log::vote(region))?.map(|value| decode_vote(&value)).transpose()?;
        let committed =
            read(&keys::log::committed(region))?.map(|value| decode_log_id(&value)).transpose()?;
        let purged =
            read(&keys::log::purged(region))?.map(|value| decode_log_id(&value)).transpose()?;
        let last = {
            let range = keys::log::entries(region, purged.map_or(0, |id| id.index + 1)..u64::MAX);
            let mut cursor = engine.scan(Family::Default, &range, Direction::Reverse);
            match cursor.next()? {
                Some((key, value)) => {
                    Some(decode_entry(key, &Bytes::copy_from_slice(value))?.log_id)
                }
                None => purged,
            }
        };
        let first = match purged {
            Some(purged) => purged.index + 1,
            None => first_index(engine.as_ref(), region)?,
        };
        let flushed_index = last.map_or(0, |id| id.index);
        let tail = Tail { last, purged, first, vote, committed, flushed_index, ..Tail::default() };
        let log = Arc::new(Self {
            region,
            engine,
            data,
            writer,
            bounds,
            tail: Mutex::new(tail),
            used: AtomicBool::new(false),
            durable_applied: AtomicU64::new(0),
        });
        log.bounds.memory.enter(&log);
        Ok(log)
    }

    /// Changes the tail, and counts what that took or gave back.
    fn change_tail<T>(&self, change: impl FnOnce(&mut Tail) -> T) -> T {
        let mut tail = self.tail.lock();
        let before = tail.bytes;
        let answer = change(&mut tail);
        self.bounds.memory.changed(before, tail.bytes);
        answer
    }

    /// Gives up the entries in memory that are on the disk as well, unless they were used lately.
    pub(super) fn give_up_unless_used(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            self.change_tail(|tail| tail.evict(0));
        }
    }

    /// Last log id here, flushed or not.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        self.tail.lock().last
    }

    #[must_use]
    pub fn purged(&self) -> Option<LogId> {
        self.tail.lock().purged
    }

    /// The index up to which the log is on the disk.
    #[must_use]
    pub fn flushed_index(&self) -> u64 {
        self.tail.lock().flushed_index
    }

    /// The state of `applied_index` survives a power cut from now on.
    pub fn mark_durable_applied(&self, applied_index: u64) {
        self.durable_applied.fetch_max(applied_index, Ordering::AcqRel);
    }

    /// The smallest index that may stay if at most `keep_bytes` of entries are to be kept; 0 when
    /// the entries in memory do not reach that far.
    #[must_use]
    pub fn index_within_bytes(&self, keep_bytes: usize) -> u64 {
        let tail = self.tail.lock();
        let mut bytes = 0;
        for (entry, size) in tail.entries.iter().rev() {
            bytes += size;
            if bytes > keep_bytes {
                return entry.log_id.index + 1;
            }
        }
        0
    }

    /// Size of the entries on the disk, estimated. Blocks on the disk.
    #[must_use]
    pub fn approximate_bytes(&self) -> u64 {
        let range = keys::log::entries(self.region, self.tail.lock().first..u64::MAX);
        self.engine.approximate_bytes(Family::Default, &range)
    }

    /// Called by the writer, after the sync.
    pub(super) fn mark_flushed(&self, index: u64) {
        self.change_tail(|tail| {
            tail.flushed_index = tail.flushed_index.max(index);
            tail.evict(self.bounds.tail_bytes_max);
        });
    }

    /// Entries of `[start, end)` that the log has, up to `bytes_max` but at least one. Blocks on the disk.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        loop {
            let before = self.tail.lock().cuts;
            let answer = self.read_once(start, end, bytes_max);
            // What was cut off meanwhile is not missing. Bound: cuts are rare, and each is made by
            // the one task that owns the log.
            if answer.is_ok() || self.tail.lock().cuts == before {
                return answer;
            }
        }
    }

    fn read_once(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (start, end, cached_from) = match self.find(start, end, bytes_max) {
            Found::InMemory(entries) => return Ok(entries),
            Found::OnDisk { start, end, cached_from } => (start, end, cached_from),
        };
        // Evicted entries are flushed, so the disk has them. Entries that were truncated and
        // appended anew meanwhile may be mixed with old ones: replication checks the vote after
        // reading, and apply reads what is committed, which is never truncated.
        let mut entries = self.read_disk(start, end.min(cached_from), bytes_max)?;
        let next = start + entries.len() as u64;
        let bytes: usize = entries.iter().map(entry_bytes).sum();
        if next == cached_from && next < end && bytes < bytes_max {
            let tail = self.tail.lock();
            let cached_now = tail.entries.front().map_or(u64::MAX, |(entry, _)| entry.log_id.index);
            if cached_now <= next {
                entries.extend(tail.copy(next, end, cached_now, bytes_max - bytes));
            }
        }
        Ok(entries)
    }

    fn find(&self, start: u64, end: u64, bytes_max: usize) -> Found {
        self.used.store(true, Ordering::Relaxed);
        let tail = self.tail.lock();
        let next = tail.last.map_or(0, |id| id.index + 1);
        let (start, end) = (start.max(tail.first), end.min(next));
        if start >= end {
            return Found::InMemory(Vec::new());
        }
        let cached_from = tail.entries.front().map_or(next, |(entry, _)| entry.log_id.index);
        if start < cached_from {
            return Found::OnDisk { start, end, cached_from };
        }
        Found::InMemory(tail.copy(start, end, cached_from, bytes_max))
    }

    fn read_disk(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let range = keys::log::entries(self.region, start..end);
        let mut cursor = self.engine.scan(Family::Default, &range, Direction::Forward);
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some((key, value)) = cursor.next().map_err(io::Error::other)? {
            bytes += value.len();
            if !entries.is_empty() && bytes > bytes_max {
                return Ok(entries);
            }
            let entry =
                decode_entry(key, &Bytes::copy_from_slice(value)).map_err(io::Error::other)?;
            let expected = start + entries.len() as u64;
            if entry.log_id.index != expected {
                return Err(missing(self.region, expected));
            }
            entries.push(entry);
        }
        if start + (entries.len() as u64) < end {
            return Err(missing(self.region, start + entries.len() as u64));
        }
        Ok(entries)
    }
}

impl Drop for PeerLog {
    fn drop(&mut self) {
        self.bounds.memory.changed(self.tail.get_mut().bytes, 0);
    }
}

/// Where the entries of a range are that the log has.
enum Found {
    /// Those asked for, up to the bound.
    InMemory(Vec<Entry>),
    /// From `start` on; those from `cached_from` on are in memory as well.
    OnDisk { start: u64, end: u64, cached_from: u64 },
}

/// Index of the first entry on the disk, 0 if there is none.
fn first_index(engine: &dyn Engine, region: RegionId) -> Result<u64, engine::Error> {
    let range = keys::log::entries(region, 0..u64::MAX);
    let mut cursor = engine.scan(Family::Default, &range, Direction::Forward);
    match cursor.next()? {
        Some((key, value)) => Ok(decode_entry(key, &Bytes::copy_from_slice(value))?.log_id.index),
        None => Ok(0),
    }
}

fn missing(region: RegionId, index: u64) -> io::Error {
    io::Error::other(format!("entry {index} of the log of region {region} is missing"))
}

impl Tail {
    /// Entries of `[start, end)`, of which `start >= cached_from` is the first cached index.
    fn copy(&self, start: u64, end: u64, cached_from: u64, bytes_max: usize) -> Vec<Entry> {
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
}

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

/// openraft's handle of a [`PeerLog`].
#[derive(Clone)]
pub struct LogStore(pub Arc<PeerLog>);

impl LogStore {
    /// As [`PeerLog::read`]. Nearly always the entries are in memory, and are copied here; only a follower
    /// that is behind, or a restart, asks for more, and must not hold up a thread that carries the
    /// heartbeats of all regions.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if let Found::InMemory(entries) = self.0.find(start, end, bytes_max) {
            return Ok(entries);
        }
        let log = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || log.read(start, end, bytes_max))
            .await
            .map_err(io::Error::other)?
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
        let bytes_max = log.bounds.read_bytes_max;
        let entries = match log.find(start, end, bytes_max) {
            Found::InMemory(entries) => entries,
            Found::OnDisk { .. } => {
                let taken = log.bounds.memory.catch_up(log.region, bytes_max).await;
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
                let bytes_max = log.0.bounds.read_bytes_max;
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
        self.0.writer.vote(self.0.region, *vote).await?;
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
        let entries: Vec<Entry> = entries.into_iter().collect();
        let bytes = self.0.change_tail(|tail| {
            if let Some(entry) = entries.first()
                && tail.last.is_none()
            {
                tail.first = entry.log_id.index;
            }
            let mut bytes = 0;
            for entry in &entries {
                let size = entry_bytes(entry);
                bytes += size;
                tail.last = Some(entry.log_id);
                tail.entries.push_back((entry.clone(), size));
            }
            tail.bytes += bytes;
            bytes
        });
        self.0.used.store(true, Ordering::Relaxed);
        self.0.bounds.memory.make_room();
        let log = Arc::clone(&self.0);
        self.0.writer.append(self.0.region, entries, bytes, log, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let keep = last_log_id.map_or(0, |id| id.index);
        let from_index = last_log_id.map_or(0, |id| id.index + 1);
        let is_cut = self.0.change_tail(|tail| {
            if tail.last.is_none_or(|last| last.index < from_index) {
                return false;
            }
            tail.cuts += 1;
            while tail.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= from_index) {
                if let Some((_, size)) = tail.entries.pop_back() {
                    tail.bytes -= size;
                }
            }
            tail.last = last_log_id;
            true
        });
        if !is_cut {
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
            tokio::task::spawn_blocking(move || data.sync())
                .await
                .map_err(io::Error::other)?
                .map_err(io::Error::other)?;
            self.0.mark_durable_applied(upto.index);
        }
        self.0.change_tail(|tail| {
            while tail.entries.front().is_some_and(|(entry, _)| entry.log_id.index <= upto.index) {
                if let Some((_, size)) = tail.entries.pop_front() {
                    tail.bytes -= size;
                }
            }
            tail.cuts += 1;
            tail.first = tail.first.max(upto.index + 1);
            tail.purged = tail.purged.max(Some(upto));
            // By index: what is left above may be of a lower term, which openraft then refuses.
            if tail.last.is_none_or(|last| last.index < upto.index) {
                tail.last = Some(upto);
            }
        });
        fail::fail_point!("log-before-purge");
        self.0.writer.purge(self.0.region, upto).await
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

/// `[kind: 1][term: 8 BE][payload]`; the index is in the key. Another form is another kind.
pub(super) fn put_entry(batch: &mut WriteBatch, region: RegionId, entry: &Entry) {
    let key = keys::log::entry(region, entry.log_id.index);
    let term = entry.log_id.leader_id.term.0.to_be_bytes();
    let put = |batch: &mut WriteBatch, kind: u8, payload: &[u8]| {
        batch.put_parts(Family::Default, &key, &[&[kind], &term, payload]);
    };
    match &entry.payload {
        EntryPayload::Blank => put(batch, BLANK, &[]),
        EntryPayload::Normal(command) => put(batch, COMMAND, &command.0),
        EntryPayload::Membership(membership) => {
            put(batch, MEMBERSHIP, &membership_to_proto(membership).encode_to_vec());
        }
    }
}

fn decode_entry(key: &[u8], value: &Bytes) -> Result<Entry, engine::Error> {
    let corrupt = |message: &str| engine::Error::Corrupt {
        message: format!("a raft log entry {message}, key {key:02x?}"),
    };
    let Some(keys::log::LogKey { part: keys::log::LogPart::Entry { index }, .. }) =
        keys::log::decode(key)
    else {
        return Err(corrupt("has a bad key"));
    };
    let mut rest = value.clone();
    if rest.len() < 9 {
        return Err(corrupt("is too short"));
    }
    let kind = rest.get_u8();
    let term = rest.get_u64();
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        COMMAND => EntryPayload::Normal(CommandBytes(rest)),
        MEMBERSHIP => {
            let membership = flotilla_proto::v1::Membership::decode(rest)
                .map_err(|_| corrupt("does not decode"))?;
            EntryPayload::Membership(
                membership_from_proto(&membership).map_err(|_| corrupt("has a bad membership"))?,
            )
        }
        _ => return Err(corrupt("is of a kind this version does not know")),
    };
    Ok(Entry { log_id: log_id(term, index), payload })
}

/// `[format: 1][term: 8 BE][index: 8 BE]`
pub(super) fn encode_log_id(id: &LogId) -> [u8; 17] {
    let mut bytes = [MARK_FORMAT; 17];
    let (term, index) = bytes[1..].split_at_mut(8);
    term.copy_from_slice(&id.leader_id.term.0.to_be_bytes());
    index.copy_from_slice(&id.index.to_be_bytes());
    bytes
}

fn decode_log_id(mut bytes: &[u8]) -> Result<LogId, engine::Error> {
    if bytes.len() != 17 || bytes.get_u8() != MARK_FORMAT {
        return Err(engine::Error::Corrupt {
            message: "a log id is of a form this version does not know".to_owned(),
        });
    }
    let term = bytes.get_u64();
    Ok(log_id(term, bytes.get_u64()))
}

/// `[format: 1][term: 8 BE][voted for: 8 BE][committed: 1]`
pub(super) fn encode_vote(vote: &Vote) -> Bytes {
    let mut bytes = BytesMut::with_capacity(18);
    bytes.put_u8(MARK_FORMAT);
    bytes.put_u64(vote.leader_id.term.0);
    bytes.put_u64(vote.leader_id.voted_for.0);
    bytes.put_u8(u8::from(vote.committed));
    bytes.freeze()
}

fn decode_vote(mut bytes: &[u8]) -> Result<Vote, engine::Error> {
    if bytes.len() != 18 || bytes.get_u8() != MARK_FORMAT {
        return Err(engine::Error::Corrupt {
            message: "a vote is of a form this version does not know".to_owned(),
        });
    }
    let term = bytes.get_u64();
    let voted_for = PeerId(bytes.get_u64());
    Ok(Vote { leader_id: RaftLeaderId::new(Term(term), voted_for), committed: bytes.get_u8() == 1 })
}

/// What a region's log starts with at its birth: purged up to `(term 1, index 1)`.
pub fn seed(batch: &mut WriteBatch, region: RegionId, peer: PeerId) {
    let born = log_id(1, 1);
    batch.put(Family::Default, &keys::log::purged(region), &encode_log_id(&born));
    batch.put(Family::Default, &keys::log::committed(region), &encode_log_id(&born));
    let vote = Vote { leader_id: RaftLeaderId::new(Term(1), peer), committed: false };
    batch.put(Family::Default, &keys::log::vote(region), &encode_vote(&vote));
}
