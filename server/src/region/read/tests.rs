use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use openraft::{EntryPayload, storage::RaftStateMachine as _};
use prometheus::Registry;

use super::*;
use crate::{
    metrics::Metrics,
    raft::{
        CommandBytes, Entry,
        convert::log_id,
        fixture::{effects, log_bounds},
        log::{
            peer_log::PeerLog,
            writer::{LogWriter, LogWriterConfig},
        },
        region_state::put_state,
        state_machine::StateMachine,
    },
    region::{
        fixture::{Fixture, put, until},
        lifecycle::newborn,
    },
    storage::{
        batch::WriteBatch,
        config::StorageConfig,
        engine::{Durability, Engine},
        keys,
        memory::MemoryEngine,
        rocks::{Kind, RocksEngine},
    },
    world::{blocking, clock},
};

const REGION: RegionId = RegionId(2);
const PEER: PeerId = PeerId(20);
/// So many at least; more while the reader has not seen enough of them, on a busy machine.
const TRANSACTIONS: u64 = 4000;
/// States that have to be read, or nothing was shown.
const STATES: usize = 20;
const BOUND: Duration = Duration::from_secs(60);

/// A leader is heard before it has shown what it has in the place of what was applied.
#[test]
fn follower_that_has_applied_none_of_the_leaders_term_answers_nothing_by_its_index() {
    for (why, applied, want) in [
        ("all of it", Some(log_id(4, 9)), true),
        ("and more", Some(log_id(4, 11)), true),
        ("a later leader's, which has all of it", Some(log_id(5, 11)), true),
        ("as much of another log", Some(log_id(3, 9)), false),
        ("more of another log", Some(log_id(3, 11)), false),
        ("nothing", None, false),
    ] {
        assert_eq!(is_of_its_log(applied.as_ref(), &log_id(4, 9)), want, "{why}");
    }
}

/// The state of a region `[a, z)` over `data`, and a log that nobody writes to.
fn open(data: Arc<dyn Engine>) -> StateMachine {
    let state = newborn(REGION, "a".into(), "z".into(), &[(PEER, NodeId(1))]);
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &state, true);
    data.write(&batch, Durability::Synced).unwrap();
    let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
    let engine = MemoryEngine::new() as Arc<dyn Engine>;
    let config =
        LogWriterConfig { queue_bytes_max: 1 << 20, sentinel_dir: None, sentinel_sequence: 0 };
    let on_failure = Box::new(|reason| panic!("{reason}"));
    let (writer, _) =
        LogWriter::start(Arc::clone(&engine), config, Arc::clone(&metrics), on_failure).unwrap();
    let bounds = log_bounds();
    let log = PeerLog::open(REGION, engine, Arc::clone(&data), writer.clone(), bounds).unwrap();
    writer.stop();
    StateMachine::open(REGION, PEER, data, log, metrics, effects()).unwrap()
}

/// Entry `index`, at time `index`, gives all three keys a new value. That of `c` expires a
/// millisecond later, which is when the next entry comes.
fn entry(index: u64) -> Entry {
    let put = |key: &'static str, ttl_ms| v1::Op {
        op: Some(v1::op::Op::Put(v1::PutOp {
            key: key.into(),
            value: index.to_string().into(),
            ttl_ms,
            ..v1::PutOp::default()
        })),
    };
    let success = vec![put("a", 0), put("b", 0), put("c", 1)];
    let write = v1::WriteCommand { success, ..v1::WriteCommand::default() };
    let command = v1::Command {
        epoch_version: 1,
        time_ms: index,
        body: Some(v1::command::Body::Write(write)),
        ..v1::Command::default()
    };
    let payload = EntryPayload::Normal(CommandBytes(command::encode(&command)));
    Entry { log_id: log_id(1, index), payload }
}

fn points(keys: &[&'static str]) -> v1::ReadCommand {
    let keys = keys.iter().map(|key| Bytes::from(*key)).collect();
    let body = Some(read_command::Body::Points(v1::PointReads { keys }));
    routed(body)
}

/// As the router sends it: by the epoch of the newborn.
fn routed(body: Option<read_command::Body>) -> v1::ReadCommand {
    v1::ReadCommand { body, epoch_version: 1, ..v1::ReadCommand::default() }
}

fn range() -> v1::ReadCommand {
    let range =
        v1::RangeRead { start_key: "a".into(), end_key: "z".into(), ..v1::RangeRead::default() };
    routed(Some(read_command::Body::Range(range)))
}

/// Calls `check` with answers to `read`, over and over, while transactions are applied.
async fn while_applying(
    data: Arc<dyn Engine>,
    read: v1::ReadCommand,
    mut check: impl FnMut(v1::ReadReply) + Send + 'static,
) {
    let mut machine = open(data);
    let view = machine.view();
    machine.apply(futures::stream::iter([Ok((entry(2), None))])).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(AtomicUsize::new(0));
    let reading = {
        let (done, seen) = (Arc::clone(&done), Arc::clone(&seen));
        blocking::run(move || {
            let mut revisions = std::collections::BTreeSet::new();
            while !done.load(Ordering::Acquire) {
                let reply = match read_in_memory(&view, &read).unwrap() {
                    InMemory::Read(reply) => reply,
                    InMemory::Large { .. } | InMemory::Unknown => read_rows(&view, &read).unwrap(),
                };
                revisions.insert(reply.applied_revision);
                check(reply);
                seen.store(revisions.len(), Ordering::Release);
            }
        })
    };
    let began = clock::now();
    for index in 3.. {
        let enough = seen.load(Ordering::Acquire) > STATES;
        if (index > TRANSACTIONS && enough) || began.elapsed() > BOUND {
            break;
        }
        machine.apply(futures::stream::iter([Ok((entry(index), None))])).await.unwrap();
        if reading.is_finished() {
            break;
        }
    }
    done.store(true, Ordering::Release);
    reading.await.unwrap();
    let seen = seen.load(Ordering::Acquire);
    assert!(seen > STATES, "only {seen} states were read: nothing was shown");
}

/// Each state has all three keys from one transaction, of which the region's revision and time are
/// as well, so that `c` has one millisecond left.
fn check_whole(reply: v1::ReadReply) {
    let seen: Vec<_> = reply
        .items
        .iter()
        .map(|item| {
            let kv = item.kv.clone().unwrap_or_default();
            (item.present, kv.revision, String::from_utf8(kv.value.to_vec()).unwrap(), kv.ttl_ms)
        })
        .collect();
    let revision = reply.applied_revision;
    // The newborn has revision 1 and applied index 1, and each entry raises both.
    let row = |ttl_ms| (true, revision, revision.to_string(), ttl_ms);
    assert_eq!(seen, [row(None), row(None), row(Some(1))], "at revision {revision}");
}

fn rocks(dir: &tempfile::TempDir) -> Arc<dyn Engine> {
    RocksEngine::open(&dir.path().join("data"), Kind::Data, &StorageConfig::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_are_read_as_of_one_state() {
    let dir = tempfile::tempdir().unwrap();
    for data in [MemoryEngine::new() as Arc<dyn Engine>, rocks(&dir)] {
        while_applying(data, points(&["a", "b", "c"]), check_whole).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_read_as_of_one_state() {
    let dir = tempfile::tempdir().unwrap();
    for data in [MemoryEngine::new() as Arc<dyn Engine>, rocks(&dir)] {
        while_applying(data, range(), check_whole).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_never_newer_than_the_revision_that_is_told() {
    let mut last = 0;
    while_applying(MemoryEngine::new(), points(&["a"]), move |reply| {
        let revision = reply.items[0].kv.as_ref().unwrap().revision;
        assert!(revision <= reply.applied_revision, "{reply:?}");
        assert!(last <= revision, "{revision} after {last}");
        last = revision;
    })
    .await;
}

#[tokio::test]
async fn a_region_without_a_state_is_not_read() {
    let machine = {
        let data = MemoryEngine::new() as Arc<dyn Engine>;
        let machine = open(Arc::clone(&data));
        let mut batch = WriteBatch::new();
        batch.delete(Family::Meta, &keys::meta::apply_state(REGION));
        data.write(&batch, Durability::Synced).unwrap();
        machine
    };
    for read in [points(&["a", "b"]), range()] {
        let error = read_rows(&machine.view(), &read).unwrap_err();
        assert!(matches!(error, Error::DataLoss { .. }), "{error}");
    }
}

#[tokio::test]
async fn reads_that_wait_for_the_disk_hold_up_nobody_else() {
    let fixture = Fixture::new(|_| {});
    let peer = fixture.leader().await;
    let late = || clock::now() + BOUND;
    peer.propose_write(put("a", "1"), 1, late()).await.expect("a write");
    fixture.data.hold_reads();
    let reads = [points(&["a"]), points(&["a", "b"]), range()];
    let answers = futures::future::join_all(reads.iter().map(|read| peer.read(read, late())));
    let meanwhile = async {
        peer.propose_write(put("b", "2"), 1, late()).await.expect("a write on the same thread");
        let soon = clock::now() + Duration::from_millis(50);
        let error = peer.read(&reads[0], soon).await.expect_err("the disk stands still");
        assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
        fixture.data.release();
    };
    let (answers, ()) = futures::future::join(answers, meanwhile).await;
    for answer in answers {
        let items = answer.expect("an answer once the disk goes on").items;
        assert_eq!(items[0].kv.as_ref().expect("a row").value, "1");
    }
}

/// A read that was routed by a descriptor which has changed since: the keys may be another region's.
#[tokio::test]
async fn a_read_is_of_the_epoch_that_it_was_routed_by() {
    let mut machine = open(MemoryEngine::new());
    machine.apply(futures::stream::iter([Ok((entry(2), None))])).await.unwrap();
    let view = machine.view();
    let txn = read_command::Body::Txn(v1::WriteCommand {
        success: vec![v1::Op { op: Some(v1::op::Op::Get(v1::GetOp { key: "a".into() })) }],
        ..v1::WriteCommand::default()
    });
    for (why, read) in [
        ("a key in memory", points(&["a"])),
        ("several keys", points(&["a", "b"])),
        ("a range", range()),
        ("a transaction", routed(Some(txn))),
    ] {
        let answer = |read: &v1::ReadCommand| match read_in_memory(&view, read)? {
            InMemory::Read(reply) => Ok(reply),
            InMemory::Large { .. } | InMemory::Unknown => read_rows(&view, read),
        };
        answer(&read).expect(why);
        for version in [0, 2] {
            let read = v1::ReadCommand { epoch_version: version, ..read.clone() };
            let error = answer(&read).expect_err(why);
            let Error::EpochNotMatch { regions } = &error else { panic!("{why}: {error:?}") };
            assert_eq!(regions[0].region_id, REGION.0, "{why}");
        }
    }
}

/// The state that is pinned decides, not what was published when the read came.
#[tokio::test]
async fn a_read_is_refused_by_the_view_that_it_is_served_from() {
    let data = MemoryEngine::new() as Arc<dyn Engine>;
    let machine = open(Arc::clone(&data));
    let mut changed = newborn(REGION, "a".into(), "b".into(), &[(PEER, NodeId(1))]);
    changed.descriptor.epoch = Some(v1::RegionEpoch { conf_ver: 1, version: 2 });
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &changed, true);
    data.write(&batch, Durability::Synced).unwrap();
    for read in [points(&["a", "c"]), range()] {
        let error = read_rows(&machine.view(), &read).expect_err("the region was cut meanwhile");
        let want = Error::EpochNotMatch { regions: vec![changed.descriptor.clone()] };
        assert_eq!(error, want);
    }
}

/// What is committed is not applied yet; a read that has its proof waits for it.
#[tokio::test]
async fn a_linearizable_read_waits_for_what_was_committed_before_it() {
    let fixture = Fixture::new(|_| {});
    let peer = fixture.leader().await;
    let (deadline, before) = (clock::now() + BOUND, fixture.data.writes().len());
    fixture.data.hold();
    let writing = tokio::spawn({
        let peer = Arc::clone(&peer);
        async move { peer.propose_write(put("a", "1"), 1, deadline).await }
    });
    until("it to be committed", || fixture.data.writes().len() > before).await;
    let read = v1::ReadCommand { read_mode: v1::ReadMode::Linearizable.into(), ..points(&["a"]) };
    let reading = tokio::spawn({
        let peer = Arc::clone(&peer);
        async move { peer.read(&read, deadline).await }
    });
    let rounds = &fixture.env.metrics.raft.read_index_seconds;
    until("its proof", || rounds.get_sample_count() == 1).await;
    // Whoever waited for the round has gone on since.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let waits = !reading.is_finished();
    // First, so that a test which fails ends.
    fixture.data.release();
    assert!(waits, "it is served before what was committed");
    writing.await.expect("it runs").expect("applied");
    let reply = reading.await.expect("it runs").expect("an answer");
    assert_eq!(reply.items[0].kv.as_ref().expect("a row").value, "1");
}

/// A round tells of what was committed before it began, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_waits_for_a_round_that_began_after_it() {
    let fixture = Fixture::new(|_| {});
    let peer = fixture.leader().await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let is_held = Arc::new(AtomicBool::new(false));
    let holding = tokio::spawn({
        let (peer, is_held) = (Arc::clone(&peer), Arc::clone(&is_held));
        // Openraft asks nobody meanwhile.
        let hold = move |_: &_| {
            is_held.store(true, Ordering::Release);
            released.recv().is_ok()
        };
        async move { peer.raft().with_raft_state(hold).await }
    });
    until("openraft to be held", || is_held.load(Ordering::Acquire)).await;
    let read = || {
        let peer = Arc::clone(&peer);
        tokio::spawn(async move { peer.read_index().await })
    };
    let waiting = |count: usize| {
        let state = peer.reads.state.lock();
        state.running && state.waiting.len() == count
    };
    let first = read();
    until("a round to begin", || waiting(0)).await;
    let second = read();
    until("the next read to wait", || waiting(1)).await;
    release.send(()).expect("it is held");
    assert!(holding.await.expect("it runs").expect("it is asked"));
    for read in [first, second] {
        read.await.expect("it runs").expect("a proof");
    }
    let rounds = &fixture.env.metrics.raft.read_index_seconds;
    assert_eq!(rounds.get_sample_count(), 2, "they share a round that began before the second");
}

/// Reads whose callers have left must not fill the pool that apply and the log read by.
#[tokio::test]
async fn reads_that_nobody_waits_for_leave_nothing_in_the_pool() {
    let fixture = Fixture::new(|_| {});
    let peer = fixture.leader().await;
    peer.propose_write(put("a", "1"), 1, clock::now() + BOUND).await.expect("a write");
    fixture.data.hold_reads();
    let read = points(&["a", "b"]);
    let soon = clock::now() + Duration::from_millis(200);
    let reads = (0..4 * DISK_READS_MAX).map(|_| peer.read(&read, soon));
    for answer in futures::future::join_all(reads).await {
        let error = answer.expect_err("the disk stands still");
        assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    }
    let threads = fixture.data.readers();
    assert!((1..=DISK_READS_MAX).contains(&threads), "{threads} threads wait for the disk");
    // Others have threads that may block meanwhile.
    blocking::run(|| {}).await.expect("a thread");
    let late = || clock::now() + BOUND;
    peer.propose_write(put("b", "2"), 1, late()).await.expect("a write");
    fixture.data.release();
    peer.read(&read, late()).await.expect("turns are given back");
}

#[tokio::test]
async fn a_transaction_that_only_reads_takes_no_entry() {
    let fixture = Fixture::new(|_| {});
    let peer = fixture.leader().await;
    let late = || clock::now() + BOUND;
    peer.propose_write(put("a", "1"), 1, late()).await.expect("a write");
    let before = peer.view().published();
    let txn = v1::WriteCommand {
        success: vec![v1::Op { op: Some(v1::op::Op::Get(v1::GetOp { key: "a".into() })) }],
        ..v1::WriteCommand::default()
    };
    let error = peer.propose_write(txn.clone(), 1, late()).await.expect_err("it is a read");
    assert!(!error.maybe_applied(), "{error}");
    let reply = peer.read(&routed(Some(read_command::Body::Txn(txn))), late()).await.expect("it");
    let reply = reply.txn.expect("the answer to a transaction");
    assert_eq!((reply.succeeded, reply.revision, reply.results.len()), (true, before.revision, 1));
    assert_eq!(peer.view().published().applied, before.applied);
    let error = peer
        .read(&routed(Some(read_command::Body::Txn(put("a", "2")))), late())
        .await
        .expect_err("it writes");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

/// A large value in memory takes long to copy: elsewhere, and few at a time.
#[tokio::test]
async fn a_large_value_is_copied_where_nobody_waits() {
    let fixture = Fixture::new(|_| {});
    let peer = fixture.leader().await;
    let late = || clock::now() + BOUND;
    let large = "x".repeat(3 * TURN_BYTES);
    for (key, value) in [("a", "1"), ("b", &large)] {
        peer.propose_write(put(key, value), 1, late()).await.expect("a write");
    }
    let (before, _) = fixture.data.read_bytes();
    let reply = peer.read(&points(&["b"]), late()).await.expect("the large one");
    let kv = reply.items.into_iter().next().and_then(|item| item.kv).expect("it is there");
    assert_eq!(kv.value.len(), large.len());
    assert_eq!(fixture.data.read_bytes().0, before, "this thread has copied nothing of it");
    let turns = &fixture.env.disk_reads;
    let others = turns.acquire_many(DISK_READS_MAX as u32 - 2).await.expect("turns");
    let soon = clock::now() + Duration::from_millis(20);
    let error = peer.read(&points(&["b"]), soon).await.expect_err("two turns are too few");
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    peer.read(&points(&["a"]), late()).await.expect("a small one waits for nobody");
    drop(others);
    peer.read(&points(&["b"]), late()).await.expect("turns are given back");
}

/// Its leader holds the lease, and applies nothing any more: its disk hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_read_ends_with_its_deadline_also_where_nothing_is_applied() {
    let fixture = Fixture::new(|config| config.reads.lease_enabled = true);
    let peer = fixture.leader().await;
    let late = || clock::now() + BOUND;
    peer.propose_write(put("a", "1"), 1, late()).await.expect("a write");
    fixture.data.hold_reads();
    // What the first one reads is not in memory, and the second one waits behind it.
    let add = v1::WriteCommand {
        success: vec![v1::Op { op: Some(v1::op::Op::Get(v1::GetOp { key: "a".into() })) }]
            .into_iter()
            .chain(put("b", "2").success)
            .collect(),
        ..v1::WriteCommand::default()
    };
    let (writer, write) = (Arc::clone(&peer), add);
    let writing =
        tokio::spawn(async move { writer.propose_write(write, 1, clock::now() + BOUND).await });
    until("a commit that is not applied", || {
        let status = peer.status();
        status.committed_index > status.applied_index && fixture.data.readers() > 0
    })
    .await;
    let read = v1::ReadCommand { read_mode: v1::ReadMode::Lease.into(), ..points(&["a"]) };
    let soon = clock::now() + Duration::from_millis(100);
    let answer = tokio::time::timeout(BOUND / 6, peer.read(&read, soon)).await;
    fixture.data.release();
    let error = answer.expect("it ends with its deadline").expect_err("nothing is applied");
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    writing.await.expect("no panic").expect("the write");
    peer.read(&read, late()).await.expect("a lease read");
}
