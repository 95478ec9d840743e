use futures::FutureExt as _;
use openraft::type_config::TypeConfigExt as _;

use super::{
    super::super::fixture::{Failing, Probe, Writing, blank, heavy, id, open_log, soon},
    *,
};
use crate::{
    raft::log::store::LogStore,
    storage::{engine::Read as _, keys::Owner, memory::MemoryEngine},
    world::{blocking, clock},
};

type Flushed = openraft::alias::OneshotReceiverOf<TypeConfig, io::Result<()>>;

fn region(number: u64) -> RegionId {
    RegionId(number)
}

fn vote(term: u64) -> Vote {
    Vote {
        leader_id: openraft::vote::RaftLeaderId::new(term.into(), crate::ids::PeerId(1)),
        committed: false,
    }
}

/// A writer whose disk stands still in its first write, with logs for `regions`.
struct Held {
    probe: Arc<Probe>,
    writing: Writing,
    first: tokio::task::JoinHandle<io::Result<()>>,
}

impl Held {
    fn new() -> Self {
        let probe = Probe::new();
        probe.hold();
        let writing = Writing::start(Arc::clone(&probe) as Arc<dyn Engine>);
        let writer = writing.writer.clone();
        let first = tokio::spawn(async move { writer.vote(region(99), vote(1)).await });
        let held = Self { probe, writing, first };
        let probe = Arc::clone(&held.probe);
        thread::spawn(move || probe.wait_writes(1)).join().unwrap();
        held
    }

    fn log(&self, number: u64) -> LogStore {
        let log = Arc::clone(&self.probe) as Arc<dyn Engine>;
        let data = MemoryEngine::new() as Arc<dyn Engine>;
        open_log(region(number), &log, &data, &self.writing.writer, 1 << 20)
    }

    async fn append(&self, number: u64, entry: Entry) -> Flushed {
        let (callback, flushed) = TypeConfig::oneshot();
        let log = Arc::clone(&self.log(number).0.tail);
        let writer = &self.writing.writer;
        let callback = IOFlushed::signal(callback);
        writer.append(region(number), vec![entry], 64, log, callback).await.unwrap();
        flushed
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_of_all_regions_that_wait_share_one_write() {
    let held = Held::new();
    let mut flushed = Vec::new();
    for number in 1..=20 {
        flushed.push(held.append(number, blank(1, 1)).await);
    }
    held.probe.release();
    for flushed in flushed {
        soon("a flush", flushed).await.unwrap().unwrap();
    }
    soon("the vote", held.first).await.unwrap().unwrap();
    let writes = held.probe.writes();
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert_eq!(writes[1].len(), 20);
    assert_eq!(held.probe.inner.unsynced(), 0);
}

/// An entry must not be on the disk before the vote of its term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_region_are_written_in_their_order() {
    let held = Held::new();
    let writer = held.writing.writer.clone();
    let mut voting = Box::pin(writer.vote(region(1), vote(2)));
    assert!(futures::poll!(&mut voting).is_pending());
    let one = held.append(1, blank(2, 5)).await;
    let mut cutting = Box::pin(writer.truncate(region(1), 4));
    assert!(futures::poll!(&mut cutting).is_pending());
    let two = held.append(1, blank(2, 4)).await;
    held.writing.writer.committed(region(1), id(2, 4));
    held.probe.release();
    soon("the vote", voting).await.unwrap();
    soon("the truncation", cutting).await.unwrap();
    soon("the first append", one).await.unwrap().unwrap();
    soon("the second append", two).await.unwrap().unwrap();
    let writes = held.probe.writes();
    let want = ["1 committed", "1 vote", "1 entry 5", "cut 1 entry 4", "1 entry 4"];
    assert_eq!(writes[1], want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_acknowledges_nothing_and_is_told_once() {
    for how in [Failing::Before, Failing::After] {
        let mut held = Held::new();
        let mut flushed = Vec::new();
        for number in 1..=3 {
            flushed.push(held.append(number, blank(1, 1)).await);
        }
        let mut voting = {
            let writer = held.writing.writer.clone();
            Box::pin(async move { writer.vote(region(1), vote(2)).await })
        };
        assert!(futures::poll!(&mut voting).is_pending());
        held.probe.fail(1, how); // the second write: the first is the one that is held
        held.probe.release();
        soon("the first vote", &mut held.first).await.unwrap().unwrap();
        for flushed in flushed {
            let outcome = soon("an end", flushed).await;
            assert!(!matches!(outcome, Ok(Ok(()))), "{how:?}: acknowledged what failed");
        }
        assert!(soon("the vote", voting).await.is_err(), "{how:?}");
        held.writing.join();
        let told = held.writing.failures.lock().clone();
        assert_eq!(told.len(), 1, "{how:?}: {told:?}");

        let log = held.log(7);
        let (callback, _flushed) = TypeConfig::oneshot();
        let peer = Arc::clone(&log.0.tail);
        let writer = &held.writing.writer;
        let callback = IOFlushed::signal(callback);
        let late = writer.append(region(7), vec![blank(1, 1)], 64, peer, callback);
        assert!(soon("a late append", late).await.is_err(), "{how:?}");
        assert!(soon("a late vote", writer.vote(region(7), vote(9))).await.is_err(), "{how:?}");
        assert!(soon("a late purge", writer.purge(region(7), id(1, 1))).await.is_err(), "{how:?}");
        assert_eq!(held.writing.failures.lock().len(), 1, "{how:?}");
    }
}

/// What came in while the write was failing is not left waiting for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_when_the_writer_fails_is_told() {
    let held = Held::new();
    held.probe.fail(0, Failing::Before);
    let writer = held.writing.writer.clone();
    let mut voting = Box::pin(writer.vote(region(1), vote(2)));
    assert!(futures::poll!(&mut voting).is_pending());
    held.probe.release();
    assert!(soon("the second vote", voting).await.is_err());
    assert!(soon("the first vote", held.first).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_appends_wait_and_lets_them_in_later() {
    let probe = Probe::new();
    let config =
        LogWriterConfig { queue_bytes_max: 1_000, sentinel_dir: None, sentinel_sequence: 0 };
    let writing = Writing::with(Arc::clone(&probe) as Arc<dyn Engine>, config);
    let engine = Arc::clone(&probe) as Arc<dyn Engine>;
    let data = MemoryEngine::new() as Arc<dyn Engine>;
    let log = open_log(region(1), &engine, &data, &writing.writer, 1 << 20);
    let append = |index, bytes| {
        let (callback, flushed) = TypeConfig::oneshot();
        let (peer, writer) = (Arc::clone(&log.0.tail), writing.writer.clone());
        let queued = async move {
            let entries = vec![heavy(1, index, bytes)];
            writer.append(region(1), entries, bytes, peer, IOFlushed::signal(callback)).await
        };
        (Box::pin(queued), flushed)
    };
    probe.hold();
    let (first, first_flushed) = append(1, 5_000);
    first.now_or_never().expect("an empty queue takes any entry").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| probe.wait_writes(1));
    });
    let (second, second_flushed) = append(2, 900);
    second.now_or_never().expect("there is room").unwrap();
    let (mut third, third_flushed) = append(3, 900);
    assert!(futures::poll!(&mut third).is_pending(), "there is no room");
    let (mut fourth, fourth_flushed) = append(4, 50);
    fourth.as_mut().now_or_never().expect("there is room for a small one").unwrap();
    probe.release();
    soon("room", third).await.unwrap();
    for flushed in [first_flushed, second_flushed, third_flushed, fourth_flushed] {
        soon("a flush", flushed).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_writes_what_waits_and_refuses_what_comes() {
    let mut held = Held::new();
    let flushed = held.append(1, blank(1, 1)).await;
    held.writing.writer.stop();
    let writer = held.writing.writer.clone();
    assert!(soon("a late vote", writer.vote(region(1), vote(2))).await.is_err());
    held.probe.release();
    soon("the flush", flushed).await.unwrap().unwrap();
    held.writing.join();
    assert!(held.writing.failures.lock().is_empty());
}

fn with_sentinel(
    engine: &Arc<MemoryEngine>,
    dir: &std::path::Path,
    sentinel_sequence: u64,
) -> Writing {
    let config = LogWriterConfig {
        queue_bytes_max: 1 << 20,
        sentinel_dir: Some(dir.to_owned()),
        sentinel_sequence,
    };
    Writing::with(Arc::clone(engine) as Arc<dyn Engine>, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_leaves_a_sentinel_at_the_end_of_what_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let engine = MemoryEngine::new();
    let mut writing = with_sentinel(&engine, dir.path(), 0);
    soon("a vote", writing.writer.vote(region(1), vote(1))).await.unwrap();
    soon("a purge", writing.writer.purge(region(1), id(1, 1))).await.unwrap();
    assert!(engine.unsynced() > 0, "a purge alone is not worth a sync");
    writing.stop();
    assert_eq!(engine.unsynced(), 0);
    let sentinel = Sentinel::read(dir.path()).unwrap().expect("a sentinel");
    assert_eq!(sentinel.log_sequence, engine.sequence());
    assert_eq!(engine.crash(0).sequence(), sentinel.log_sequence, "never ahead of a power cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_is_renewed_while_the_log_grows() {
    let dir = tempfile::tempdir().unwrap();
    let engine = MemoryEngine::new();
    let writing = with_sentinel(&engine, dir.path(), 0);
    soon("a vote", writing.writer.vote(region(1), vote(1))).await.unwrap();
    let sequence = engine.sequence();
    let path = dir.path().to_owned();
    let written = blocking::run(move || {
        let begin = clock::monotonic();
        loop {
            if let Some(sentinel) = Sentinel::read(&path).unwrap() {
                return sentinel.log_sequence;
            }
            assert!(begin.elapsed() < super::super::super::fixture::WAIT, "no sentinel is written");
            thread::yield_now();
        }
    });
    assert_eq!(written.await.unwrap(), sequence);
}

/// Else a log that lost its end would look whole at the second start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_is_never_set_back() {
    let dir = tempfile::tempdir().unwrap();
    Sentinel { log_sequence: 1_000 }.write(dir.path()).unwrap();
    let engine = MemoryEngine::new();
    let mut writing = with_sentinel(&engine, dir.path(), 1_000);
    soon("a vote", writing.writer.vote(region(1), vote(1))).await.unwrap();
    writing.stop();
    assert_eq!(Sentinel::read(dir.path()).unwrap(), Some(Sentinel { log_sequence: 1_000 }));
}

/// Else it would condemn peers that have begun since, at every start until the log has grown past it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_told_of_a_loss_is_restated() {
    let dir = tempfile::tempdir().unwrap();
    Sentinel { log_sequence: 1_000 }.write(dir.path()).unwrap();
    let engine = MemoryEngine::new();
    let mut writing = with_sentinel(&engine, dir.path(), 1_000);
    soon("a vote", writing.writer.vote(region(1), vote(1))).await.unwrap();
    soon("the sentinel", writing.writer.restate_sentinel()).await.unwrap();
    let sentinel = Sentinel { log_sequence: engine.sequence() };
    assert_eq!(Sentinel::read(dir.path()).unwrap(), Some(sentinel));
    soon("a vote", writing.writer.vote(region(1), vote(2))).await.unwrap();
    writing.stop();
    let sentinel = Sentinel { log_sequence: engine.sequence() };
    assert_eq!(Sentinel::read(dir.path()).unwrap(), Some(sentinel), "and goes on from there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn votes_appends_and_promises_survive_a_power_cut_once_they_are_done() {
    let engine = MemoryEngine::new();
    let writing = Writing::start(Arc::clone(&engine) as Arc<dyn Engine>);
    soon("a vote", writing.writer.vote(region(1), vote(1))).await.unwrap();
    let key = keys::log::own_peer(region(1));
    soon("a promise", writing.writer.promise(key, b"mine".to_vec())).await.unwrap();
    soon("a truncation", writing.writer.truncate(region(1), 5)).await.unwrap();
    assert_eq!(engine.unsynced(), 0);
    let after = engine.crash(0);
    let vote_key = keys::log::vote(region(1));
    assert!(after.get(Family::Default, &vote_key).unwrap().is_some());
    assert_eq!(after.get(Family::Default, &key).unwrap().as_deref(), Some(&b"mine"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleared_region_leaves_its_tombstone_and_its_neighbours_everything() {
    let engine = MemoryEngine::new();
    let writing = Writing::start(Arc::clone(&engine) as Arc<dyn Engine>);
    let writer = &writing.writer;
    for number in 1..=3 {
        soon("a vote", writer.vote(region(number), vote(1))).await.unwrap();
        writer.committed(region(number), id(1, 1));
    }
    for key in [keys::log::own_peer(region(2)), keys::log::quarantine(region(2))] {
        soon("a promise", writer.promise(key, b"mine".to_vec())).await.unwrap();
    }
    let tombstone = keys::log::tombstone(region(2));
    soon("a tombstone", writer.promise(tombstone, b"gone".to_vec())).await.unwrap();
    soon("the end", writer.clear(region(2))).await.unwrap();
    let left: Vec<_> = super::super::super::fixture::all_rows(engine.as_ref(), Family::Default)
        .iter()
        .filter_map(|(key, _)| keys::log::decode(key))
        .map(|key| key.region.0)
        .collect();
    assert_eq!(left, [1, 1, 2, 3, 3]);
    assert!(engine.get(Family::Default, &tombstone).unwrap().is_some(), "it outlives all else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_with_a_cleared_region_is_its_peers_and_nothing_else() {
    let engine = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    let mut kept = Vec::new();
    for (number, kind) in (0..4).flat_map(|number| (0..=u8::MAX).map(move |kind| (number, kind))) {
        for more in [&[][..], &[0; 8]] {
            let bytes = [&region(number).0.to_be_bytes()[..], &[kind], more].concat();
            let Some(key) = keys::log::decode(&bytes) else { continue };
            batch.put(Family::Default, &bytes, b"a row");
            if key.region != region(2) || key.part.owner() != Owner::Peer {
                kept.push(bytes);
            }
        }
    }
    engine.write(&batch, Durability::Synced).unwrap();
    let writing = Writing::start(Arc::clone(&engine) as Arc<dyn Engine>);
    soon("the end", writing.writer.clear(region(2))).await.unwrap();
    let rows = super::super::super::fixture::all_rows(engine.as_ref(), Family::Default);
    let left: Vec<_> = rows.into_iter().map(|(key, _)| key.to_vec()).collect();
    assert_eq!(left, kept);
}
