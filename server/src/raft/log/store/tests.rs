use std::collections::BTreeMap;

use openraft::{EntryPayload, vote::RaftLeaderId};
use proptest::prelude::*;

use super::{
    super::super::fixture::{
        Probe, READ_BYTES_MAX, Writing, append, blank, heavy, id, log_bounds, metrics, open_log,
        soon,
    },
    super::{
        memory::{LogMemory, reading_for},
        tail::LogBounds,
    },
    *,
};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    region::fixture::until,
    storage::{
        batch::{Family, WriteBatch},
        engine::{Durability, Engine},
        keys,
        memory::{Fault, MemoryEngine},
    },
};

const REGION: RegionId = RegionId(7);

/// A log over engines in memory, which can be opened again.
struct Bench {
    log: Arc<dyn Engine>,
    data: Arc<MemoryEngine>,
    writing: Writing,
    tail_bytes_max: usize,
}

impl Bench {
    fn new(tail_bytes_max: usize) -> Self {
        Self::over(MemoryEngine::new(), tail_bytes_max)
    }

    fn over(log: Arc<dyn Engine>, tail_bytes_max: usize) -> Self {
        let writing = Writing::start(Arc::clone(&log));
        Self { log, data: MemoryEngine::new(), writing, tail_bytes_max }
    }

    fn open(&self) -> LogStore {
        self.open_region(REGION)
    }

    fn open_region(&self, region: RegionId) -> LogStore {
        let data = Arc::clone(&self.data) as Arc<dyn Engine>;
        open_log(region, &self.log, &data, &self.writing.writer, self.tail_bytes_max)
    }
}

/// A log of a node whose logs share `memory`.
fn open_within(bench: &Bench, region: u64, memory: &Arc<LogMemory>) -> LogStore {
    let bounds = LogBounds {
        tail_bytes_max: bench.tail_bytes_max,
        memory: Arc::clone(memory),
        ..log_bounds()
    };
    let data = Arc::clone(&bench.data) as Arc<dyn Engine>;
    let (log, writer) = (Arc::clone(&bench.log), bench.writing.writer.clone());
    LogStore(PeerLog::open(RegionId(region), log, data, writer, bounds).unwrap())
}

fn in_memory(log: &LogStore) -> usize {
    log.0.tail.lock().entries.len()
}

#[tokio::test]
async fn logs_share_their_memory_and_those_that_are_not_used_give_theirs_up() {
    let bench = Bench::new(1 << 20);
    let metrics = metrics();
    let memory = LogMemory::new(20_000, &metrics.raft);
    let bytes = || usize::try_from(metrics.raft.log_tail_bytes.get()).unwrap();
    let mut logs: Vec<_> = (1..=3).map(|region| open_within(&bench, region, &memory)).collect();
    for log in &mut logs {
        append(log, (1..=5).map(|index| heavy(1, index, 1000))).await;
    }
    assert_eq!(logs.iter().map(in_memory).sum::<usize>(), 15, "there is room for all");
    let all: usize = logs.iter().map(|log| log.0.tail.lock().bytes).sum();
    assert_eq!(bytes(), all, "all is counted");
    // The first is used again and again, the third is what grows.
    for index in 6..=30 {
        assert_eq!(indexes(&mut logs[0], 1..).await, [1, 2, 3, 4, 5]);
        append(&mut logs[2], [heavy(1, index, 1000)]).await;
        let unflushed = 2000;
        assert!(bytes() <= 20_000 + unflushed, "{} bytes", bytes());
    }
    assert_eq!(in_memory(&logs[1]), 0, "nobody used it");
    assert_eq!(indexes(&mut logs[1], 1..).await, [1, 2, 3, 4, 5], "they are on the disk");
    logs[0].truncate_after(Some(id(1, 2))).await.unwrap();
    logs[2].purge(id(1, 28)).await.unwrap();
    let all: usize = logs.iter().map(|log| log.0.tail.lock().bytes).sum();
    assert_eq!(bytes(), all, "what was cut off is given back");
    drop(logs);
    // The writer may still have a hand on one of them.
    drop(bench);
    until("all of it to be given back", || bytes() == 0).await;
}

#[tokio::test]
async fn what_is_read_for_followers_waits_for_room_and_gives_it_back_when_it_is_sent() {
    let bench = Bench::new(0);
    let metrics = metrics();
    let memory = LogMemory::with_bounds(1 << 20, READ_BYTES_MAX + 1, &metrics.raft);
    let mut log = open_within(&bench, 1, &memory);
    append(&mut log, (1..=9).map(|index| heavy(1, index, 100_000))).await;
    assert_eq!(in_memory(&log), 0);
    let bytes = || metrics.raft.log_catch_up_bytes.get();

    let first = log.limited_get_log_entries(1, 10).await.unwrap();
    assert_eq!(first.len(), 2);
    assert!((200_000..201_000).contains(&bytes()), "what is read counts: {}", bytes());
    let second = log.limited_get_log_entries(3, 10).await.unwrap();
    assert!((400_000..402_000).contains(&bytes()));
    let mut other = log.clone();
    let third = other.limited_get_log_entries(5, 10);
    let mut third = std::pin::pin!(third);
    let early = tokio::time::timeout(std::time::Duration::from_millis(20), &mut third).await;
    assert!(early.is_err(), "there is no room");
    // Apply does not wait: it would hold up what makes room.
    assert_eq!(indexes(&mut log, 1..).await.len(), 9);
    // A copy of a single entry is all that is left.
    let copy = first[1].clone();
    drop(first);
    assert!(bytes() > 400_000);
    drop((copy, second));
    let third = soon("the third", third).await.unwrap();
    assert_eq!(third[0].log_id.index, 5);
    drop(third);
    assert_eq!(bytes(), 0);
}

#[tokio::test]
async fn follower_that_takes_nothing_keeps_nobody_on_another_node_waiting() {
    let bench = Bench::new(0);
    let memory = LogMemory::with_bounds(1 << 20, 200_000, &metrics().raft);
    let mut log = open_within(&bench, 1, &memory);
    append(&mut log, (1..=9).map(|index| heavy(1, index, 100_000))).await;
    let read = async |node: u64, start: u64| {
        let mut log = log.clone();
        let mut entries = std::pin::pin!(log.limited_get_log_entries(start, 10));
        std::future::poll_fn(|cx| reading_for(NodeId(node), || entries.as_mut().poll(cx))).await
    };
    let of_dead = read(1, 1).await.unwrap();
    let mut more = std::pin::pin!(read(1, 3));
    let early = tokio::time::timeout(std::time::Duration::from_millis(20), &mut more).await;
    assert!(early.is_err(), "there is no room for more");
    let of_other = soon("the other node's", read(2, 1)).await.unwrap();
    assert_eq!((of_dead.len(), of_other.len()), (2, 2));
    drop(of_dead);
    assert_eq!(soon("the rest", more).await.unwrap()[0].log_id.index, 3);
}

#[tokio::test]
async fn read_for_a_follower_from_before_the_log_begins_gives_nothing() {
    for tail_bytes_max in [0, 1 << 20] {
        let bench = Bench::new(tail_bytes_max);
        let mut log = bench.open();
        append(&mut log, (1..=10).map(|index| blank(1, index))).await;
        log.purge(id(1, 6)).await.unwrap();
        assert!(log.limited_get_log_entries(5, 9).await.unwrap().is_empty());
        assert_eq!(log.limited_get_log_entries(7, 9).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn read_that_waited_while_its_entries_were_purged_leaves_no_hole() {
    let bench = Bench::new(0);
    let memory = LogMemory::with_bounds(1 << 20, 200_000, &metrics().raft);
    let mut log = open_within(&bench, 1, &memory);
    append(&mut log, (1..=9).map(|index| heavy(1, index, 100_000))).await;
    let first = log.limited_get_log_entries(1, 10).await.unwrap();
    let mut other = log.clone();
    let mut late = std::pin::pin!(other.limited_get_log_entries(3, 10));
    let early = tokio::time::timeout(std::time::Duration::from_millis(20), &mut late).await;
    assert!(early.is_err(), "there is no room");
    log.purge(id(1, 5)).await.unwrap();
    drop(first);
    assert!(soon("the late", late).await.unwrap().is_empty());
}

#[tokio::test]
async fn apply_gets_all_entries_a_part_at_a_time() {
    for tail_bytes_max in [0, 450_000, 1 << 30] {
        let bench = Bench::new(tail_bytes_max);
        let mut log = bench.open();
        append(&mut log, (1..=12).map(|index| heavy(1, index, 100_000))).await;
        for (range, want) in [(1..13, 1..13), (3..9, 3..9), (12..13, 12..13), (13..20, 0..0)] {
            let entries = log.entries_stream(range).await;
            let found: Vec<u64> = entries.map(|entry| entry.unwrap().log_id.index).collect().await;
            assert_eq!(found, want.collect::<Vec<_>>(), "cache of {tail_bytes_max} bytes");
        }
    }
}

async fn indexes(
    log: &mut LogStore,
    range: impl RangeBounds<u64> + Clone + Debug + Send,
) -> Vec<u64> {
    let entries = log.try_get_log_entries(range).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// With no cache at all, what is not on the disk yet must be in memory nevertheless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_are_not_flushed_are_readable_and_never_evicted() {
    let probe = Probe::new();
    let bench = Bench::over(Arc::clone(&probe) as Arc<dyn Engine>, 0);
    let mut log = bench.open();
    append(&mut log, [heavy(1, 1, 500), heavy(1, 2, 500)]).await;
    assert_eq!(log.0.tail.lock().entries.len(), 0, "flushed, and there is no room");
    probe.hold();
    for index in 3..=5 {
        log.append([heavy(1, index, 500)], IOFlushed::noop()).await.unwrap();
    }
    assert_eq!(indexes(&mut log, 1..).await, [1, 2, 3, 4, 5]);
    assert_eq!(log.0.flushed_index(), 2);
    assert_eq!(log.0.tail.lock().entries.len(), 3);
    probe.release();
    append(&mut log, [heavy(1, 6, 500)]).await;
    assert_eq!(log.0.flushed_index(), 6);
    assert_eq!(log.0.tail.lock().entries.len(), 0);
    assert_eq!(indexes(&mut log, 1..).await, [1, 2, 3, 4, 5, 6]);
}

/// All regions share few threads: where one waits for its disk, the heartbeats of others go on.
#[tokio::test]
async fn entries_on_a_disk_that_stalls_hold_up_nobody_else() {
    let probe = Probe::new();
    let bench = Bench::over(Arc::clone(&probe) as Arc<dyn Engine>, 600);
    let mut log = bench.open();
    append(&mut log, (1..=3).map(|index| heavy(1, index, 500))).await;
    assert_eq!(log.0.tail.lock().entries.len(), 1, "the others are on the disk alone");
    probe.hold_reads();
    assert_eq!(indexes(&mut log, 3..).await, [3]);
    {
        let mut reading = std::pin::pin!(indexes(&mut log, 1..));
        // This thread is free to run the timer.
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), &mut reading).await;
        assert!(early.is_err(), "{early:?}");
        probe.release();
        assert_eq!(soon("the entries", reading).await, [1, 2, 3]);
    }
}

#[tokio::test]
async fn what_replaces_truncated_entries_is_what_is_read() {
    for tail_bytes_max in [0, 1 << 20] {
        let bench = Bench::new(tail_bytes_max);
        let mut log = bench.open();
        append(&mut log, (1..=10).map(|index| blank(1, index))).await;
        log.truncate_after(Some(id(1, 4))).await.unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(1, 4)));
        assert_eq!(indexes(&mut log, 1..).await, [1, 2, 3, 4]);
        append(&mut log, [blank(3, 5), blank(3, 6)]).await;
        for mut log in [log, bench.open()] {
            let entries = log.try_get_log_entries(4..).await.unwrap();
            let ids: Vec<_> = entries.iter().map(|entry| entry.log_id).collect();
            assert_eq!(ids, [id(1, 4), id(3, 5), id(3, 6)], "cache of {tail_bytes_max} bytes");
        }
    }
}

/// The flush of a truncated entry must not count for the one that took its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncation_takes_back_what_was_flushed() {
    let probe = Probe::new();
    let bench = Bench::over(Arc::clone(&probe) as Arc<dyn Engine>, 0);
    let mut log = bench.open();
    append(&mut log, (1..=10).map(|index| blank(1, index))).await;
    log.truncate_after(Some(id(1, 4))).await.unwrap();
    assert_eq!(log.0.flushed_index(), 4);
    probe.hold();
    log.append([blank(2, 5)], IOFlushed::noop()).await.unwrap();
    assert_eq!(log.0.flushed_index(), 4);
    assert_eq!(log.try_get_log_entries(5..).await.unwrap()[0].log_id, id(2, 5));
    probe.release();
}

#[tokio::test]
async fn truncating_beyond_the_end_changes_nothing() {
    let bench = Bench::new(0);
    let mut log = bench.open();
    append(&mut log, [blank(1, 1), blank(1, 2)]).await;
    log.truncate_after(Some(id(1, 9))).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(1, 2)));
    assert_eq!(log.0.flushed_index(), 2);
}

#[tokio::test]
async fn purged_entries_are_gone_also_after_a_restart() {
    for tail_bytes_max in [0, 1 << 20] {
        let bench = Bench::new(tail_bytes_max);
        let mut log = bench.open();
        append(&mut log, (1..=10).map(|index| blank(1, index))).await;
        log.purge(id(1, 6)).await.unwrap();
        for mut log in [log, bench.open()] {
            let state = log.get_log_state().await.unwrap();
            assert_eq!(state.last_purged_log_id, Some(id(1, 6)));
            assert_eq!(state.last_log_id, Some(id(1, 10)));
            assert_eq!(indexes(&mut log, 0..).await, [7, 8, 9, 10]);
            assert_eq!(indexes(&mut log, 0..=3).await, [0; 0]);
        }
    }
}

#[tokio::test]
async fn a_log_that_was_purged_whole_ends_at_the_mark() {
    let bench = Bench::new(0);
    let mut log = bench.open();
    append(&mut log, [blank(1, 1), blank(1, 2)]).await;
    log.purge(id(4, 30)).await.unwrap();
    for mut log in [log, bench.open()] {
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(4, 30)));
        append(&mut log, [blank(4, 31)]).await;
        assert_eq!(indexes(&mut log, 0..).await, [31]);
        log.truncate_after(Some(id(4, 30))).await.unwrap();
    }
}

#[tokio::test]
async fn vote_commit_and_entries_of_any_kind_are_there_after_a_restart() {
    let bench = Bench::new(0);
    let mut log = bench.open();
    let membership = openraft::Membership::new_with_defaults(
        vec![[PeerId(3), PeerId(5)].into(), [PeerId(3), PeerId(9)].into()],
        [PeerId(11)],
    );
    let member = Entry { log_id: id(2, 3), payload: EntryPayload::Membership(membership) };
    let entries = vec![blank(1, 1), heavy(2, 2, 10_000), member];
    append(&mut log, entries.clone()).await;
    let vote = Vote { leader_id: RaftLeaderId::new(8.into(), PeerId(3)), committed: true };
    log.save_vote(&vote).await.unwrap();
    log.save_committed(Some(id(2, 2))).await.unwrap();
    append(&mut log, [blank(2, 4)]).await; // takes the mark along
    let mut log = bench.open();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(2, 2)));
    let found = log.try_get_log_entries(1..4).await.unwrap();
    assert_eq!(format!("{found:?}"), format!("{entries:?}"));
    assert_eq!(found[1].payload, entries[1].payload);
}

#[tokio::test]
async fn a_vote_that_could_not_be_saved_is_not_read() {
    let memory = MemoryEngine::new();
    let bench = Bench::over(Arc::clone(&memory) as Arc<dyn Engine>, 0);
    let mut log = bench.open();
    memory.inject(Fault::WriteLost);
    let vote = Vote { leader_id: RaftLeaderId::new(8.into(), PeerId(3)), committed: false };
    assert!(soon("an end", log.save_vote(&vote)).await.is_err());
    assert_eq!(log.read_vote().await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_or_damaged_entry_in_the_middle_is_an_error() {
    let good = MemoryEngine::new();
    let bench = Bench::over(Arc::clone(&good) as Arc<dyn Engine>, 0);
    let mut log = bench.open();
    append(&mut log, (1..=6).map(|index| blank(1, index))).await;
    let key = keys::log::entry(REGION, 3);
    let mut hole = WriteBatch::new();
    hole.delete(Family::Default, &key);
    let mut short = WriteBatch::new();
    short.put(Family::Default, &key, &[0, 0]);
    let mut unknown = WriteBatch::new();
    unknown.put(Family::Default, &key, &[77, 0, 0, 0, 0, 0, 0, 0, 1]);
    for damage in [hole, short, unknown] {
        good.write(&damage, Durability::Synced).unwrap();
        for range in [1..7, 1..4, 3..4, 3..7] {
            let answer = log.try_get_log_entries(range.clone()).await;
            assert!(answer.is_err(), "{range:?}: {answer:?}");
        }
        assert_eq!(indexes(&mut log, 1..3).await, [1, 2]);
        assert_eq!(indexes(&mut log, 4..).await, [4, 5, 6]);
    }
}

/// The end may be lost to damage too: an answer that stops early would look like the whole log.
#[tokio::test]
async fn a_missing_entry_at_the_end_is_an_error() {
    let memory = MemoryEngine::new();
    let bench = Bench::over(Arc::clone(&memory) as Arc<dyn Engine>, 0);
    let mut log = bench.open();
    append(&mut log, (1..=6).map(|index| blank(1, index))).await;
    let mut hole = WriteBatch::new();
    hole.delete(Family::Default, &keys::log::entry(REGION, 6));
    memory.write(&hole, Durability::Synced).unwrap();
    assert!(log.try_get_log_entries(1..7).await.is_err());
    assert!(log.limited_get_log_entries(6, 7).await.is_err());
}

#[tokio::test]
async fn a_limited_read_gives_at_least_one_entry_and_no_message_that_is_too_large() {
    for tail_bytes_max in [0, 4 << 20, 64 << 20] {
        let bench = Bench::new(tail_bytes_max);
        let mut log = bench.open();
        for index in 1..=8 {
            let bytes = if index == 1 { 3 * READ_BYTES_MAX } else { READ_BYTES_MAX / 3 };
            append(&mut log, [heavy(1, index, bytes)]).await;
        }
        let mut next = 1;
        while next < 9 {
            let entries = log.limited_get_log_entries(next, 9).await.unwrap();
            let bytes: usize = entries.iter().map(entry_bytes).sum();
            assert!(entries.len() == 1 || bytes <= READ_BYTES_MAX + 1024, "{bytes} bytes");
            for entry in entries {
                assert_eq!(entry.log_id.index, next);
                next += 1;
            }
        }
    }
}

#[tokio::test]
async fn entries_go_only_after_their_state_is_synced() {
    let mut bench = Bench::new(0);
    let mut log = bench.open();
    append(&mut log, (1..=10).map(|index| blank(1, index))).await;
    let mut state = WriteBatch::new();
    state.put(Family::Meta, b"state", b"of index 5");
    bench.data.write(&state, Durability::Buffered).unwrap();

    bench.data.inject(Fault::Sync);
    assert!(log.purge(id(1, 5)).await.is_err());
    assert_eq!(indexes(&mut bench.open(), 0..).await.len(), 10, "nothing went");

    // With that its node has ended, and the next process finds what was written.
    bench.data = bench.data.reopened();
    let mut log = bench.open();
    assert_eq!(bench.data.unsynced(), 1);
    log.purge(id(1, 5)).await.unwrap();
    assert_eq!(bench.data.unsynced(), 0);

    log.0.mark_durable_applied(8);
    bench.data.inject(Fault::Sync);
    log.purge(id(1, 8)).await.unwrap(); // somebody else has synced for all
    assert!(log.purge(id(1, 9)).await.is_err());
}

#[tokio::test]
async fn regions_in_one_engine_do_not_see_each_other() {
    let bench = Bench::new(0);
    let mut logs: Vec<_> = (1..=3).map(|number| bench.open_region(RegionId(number))).collect();
    for (number, log) in logs.iter_mut().enumerate() {
        append(log, (1..=3 + number as u64).map(|index| blank(1, index))).await;
    }
    logs[1].truncate_after(Some(id(1, 1))).await.unwrap();
    logs[0].purge(id(1, 2)).await.unwrap();
    bench.writing.writer.clear(RegionId(3)).await.unwrap();
    let mut found = Vec::new();
    for number in 1..=3 {
        found.push(indexes(&mut bench.open_region(RegionId(number)), 0..).await);
    }
    assert_eq!(found, [vec![3], vec![1], vec![]]);
}

#[tokio::test]
async fn a_byte_bound_says_where_to_purge() {
    let bench = Bench::new(1 << 20);
    let mut log = bench.open();
    append(&mut log, (1..=10).map(|index| heavy(1, index, 936))).await;
    for (keep_bytes, want) in [(0, 11), (1_000, 10), (3_500, 8), (10_000, 0), (1 << 20, 0)] {
        assert_eq!(log.0.index_within_bytes(keep_bytes), want, "{keep_bytes}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u16>),
    /// Keeps this share of the entries that are not purged.
    Truncate(u8),
    Purge(u8),
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0..400u16, 1..6).prop_map(Step::Append),
        1 => any::<u8>().prop_map(Step::Truncate),
        1 => any::<u8>().prop_map(Step::Purge),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against a map: any history of appends, truncations, purges, restarts and power cuts.
    #[test]
    fn a_log_is_a_list(
        steps in prop::collection::vec(step(), 1..25),
        tail in prop_oneof![Just(0usize), Just(700), Just(1 << 20)],
    ) {
        run(async move {
            let mut memory = MemoryEngine::new();
            let mut bench = Bench::over(Arc::clone(&memory) as Arc<dyn Engine>, tail);
            let mut log = bench.open();
            let mut model = BTreeMap::new();
            let (mut purged, mut term) = (0, 1);
            for step in steps {
                let last = model.keys().next_back().copied().unwrap_or(purged);
                let some = |share: u8| purged + (last - purged) * u64::from(share) / 255;
                match step {
                    Step::Append(sizes) => {
                        let entries: Vec<_> = (last + 1..)
                            .zip(sizes)
                            .map(|(index, size)| heavy(term, index, size.into()))
                            .collect();
                        for entry in &entries {
                            model.insert(entry.log_id.index, entry.clone());
                        }
                        append(&mut log, entries).await;
                    }
                    Step::Truncate(share) => {
                        let keep = some(share);
                        let keep_id = model.get(&keep).map(|entry: &Entry| entry.log_id);
                        let keep_id = keep_id.or_else(|| log.0.purged());
                        log.truncate_after(keep_id).await.unwrap();
                        model.retain(|index, _| *index <= keep);
                        term += 1;
                    }
                    Step::Purge(share) => {
                        let upto = some(share);
                        if let Some(entry) = model.get(&upto) {
                            log.purge(entry.log_id).await.unwrap();
                            model.retain(|index, _| *index > upto);
                            purged = upto;
                        }
                    }
                    Step::Reopen => log = bench.open(),
                    Step::Crash => {
                        // The mark of a purge may be lost, which only brings entries back.
                        let lost = memory.crash(0);
                        memory = MemoryEngine::crash(&memory, usize::MAX);
                        let bare = Bench::over(lost as Arc<dyn Engine>, tail);
                        let mut found = BTreeMap::new();
                        for entry in bare.open().try_get_log_entries(0..).await.unwrap() {
                            found.insert(entry.log_id.index, entry);
                        }
                        for (index, entry) in &model {
                            assert_eq!(found.get(index), Some(entry), "flushed, and lost");
                        }
                        bench = Bench::over(Arc::clone(&memory) as Arc<dyn Engine>, tail);
                        log = bench.open();
                    }
                }
                let found = log.try_get_log_entries(0..).await.unwrap();
                let want: Vec<_> = model.values().cloned().collect();
                assert_eq!(found, want);
                let next = model.keys().next_back().map_or(purged, |last| *last);
                assert_eq!(log.0.last().map_or(0, |id| id.index), next);
                assert_eq!(log.0.flushed_index().max(purged), next);
            }
        });
    }
}
