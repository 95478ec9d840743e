use std::collections::BTreeMap;

use flotilla_proto::range::KeyRange;

use super::{
    super::{
        fixture::{
            Probe, WAIT, Writing, all_rows, append, blank, entry_of, id, metrics, open_log, put,
            region_state, soon,
        },
        log::store::LogStore,
    },
    *,
};
use crate::{
    feature_level,
    raft::{
        CommandBytes,
        region_view::{CHECKSUMS_MAX, Checksum, Unreadable},
    },
    region::{
        checks::{AT_ONCE_MAX, Checks, PINNED_MAX, Place},
        effects::RegionEffects,
    },
    storage::memory::{Fault, MemoryEngine},
    world::{blocking, clock},
};

const REGION: RegionId = RegionId(2);
const PEER: PeerId = PeerId(20);

/// A peer's log and state, of a region that was just born with the range `[a, z)`.
struct Bench {
    data: Arc<MemoryEngine>,
    log: LogStore,
    checks: Checks,
    _writing: Writing,
}

impl Bench {
    fn new() -> Self {
        let data = MemoryEngine::new();
        let mut batch = WriteBatch::new();
        put_state(&mut batch, &region_state(REGION, PEER, ("a", "z"), id(1, 1)), true);
        data.write(&batch, Durability::Synced).unwrap();
        Self::over(data)
    }

    fn over(data: Arc<MemoryEngine>) -> Self {
        let log = MemoryEngine::new() as Arc<dyn Engine>;
        let writing = Writing::start(Arc::clone(&log));
        let any = Arc::clone(&data) as Arc<dyn Engine>;
        let log = open_log(REGION, &log, &any, &writing.writer, 1 << 20);
        Self { data, log, checks: Checks::default(), _writing: writing }
    }

    fn open(&self) -> StateMachine {
        self.open_on(Arc::clone(&self.data) as Arc<dyn Engine>)
    }

    /// With a disk that can be held.
    fn open_probed(&self) -> (StateMachine, Arc<Probe>) {
        let data = Probe::over(Arc::clone(&self.data));
        (self.open_on(Arc::clone(&data) as Arc<dyn Engine>), data)
    }

    fn open_on(&self, data: Arc<dyn Engine>) -> StateMachine {
        StateMachine::open(
            REGION,
            PEER,
            data,
            Arc::clone(&self.log.0),
            metrics(),
            Arc::new(RegionEffects::new(self.checks.clone(), Arc::default())),
        )
        .unwrap()
    }
}

async fn apply(
    machine: &mut StateMachine,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<(), io::Error> {
    let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
    machine.apply(futures::stream::iter(entries)).await
}

/// Entry `index` puts key `k-index`, and every entry changes `last`.
fn entry(index: u64) -> Entry {
    put(3, index, &format!("k-{index:03}"), &index.to_string())
}

fn keys_of(data: &MemoryEngine) -> Vec<String> {
    let rows = all_rows(data, Family::Default);
    rows.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

async fn applied_index(machine: &mut StateMachine) -> u64 {
    machine.applied_state().await.unwrap().0.map_or(0, |id| id.index)
}

/// A snapshot of it is for no program below that.
#[tokio::test]
async fn state_tells_the_highest_feature_level_that_it_was_made_by() {
    let bench = Bench::new();
    let mut machine = bench.open();
    for (level, want) in
        [(0, 0), (feature_level::OURS, feature_level::OURS), (0, feature_level::OURS)]
    {
        let index = applied_index(&mut machine).await + 1;
        let mut entry = entry(index);
        if let EntryPayload::Normal(bytes) = &mut entry.payload {
            let command = command::decode(bytes.0.clone()).unwrap();
            bytes.0 = command::encode(&v1::Command { feature_level: level, ..command });
        }
        apply(&mut machine, [entry]).await.unwrap();
        let stored = read_state(bench.data.as_ref(), REGION).unwrap().unwrap();
        assert_eq!(stored.state.feature_level, want);
    }
}

/// Wherever a power cut falls, the rows are exactly those of the entries up to `applied`; and
/// applying the rest again gives what was there before.
#[tokio::test]
async fn rows_and_applied_index_survive_together_or_not_at_all() {
    let bench = Bench::new();
    let mut machine = bench.open();
    let mut index = 2;
    for size in [1, 3, 1, 7, 2] {
        apply(&mut machine, (index..index + size).map(entry)).await.unwrap();
        index += size;
    }
    let all = keys_of(&bench.data);
    assert_eq!(all.len(), 14);
    let mut cuts = BTreeMap::new();
    for kept in 0..=bench.data.unsynced() {
        let after = Bench::over(bench.data.crash(kept));
        let mut machine = after.open();
        let applied = applied_index(&mut machine).await;
        let want: Vec<_> = (2..=applied).map(|index| format!("k-{index:03}")).collect();
        assert_eq!(keys_of(&after.data), want, "applied up to {applied}");
        assert_eq!(machine.view().published().applied.map(|id| id.index), Some(applied));
        apply(&mut machine, (applied + 1..index).map(entry)).await.unwrap();
        assert_eq!(
            all_rows(after.data.as_ref(), Family::Default),
            all_rows(bench.data.as_ref(), Family::Default)
        );
        cuts.insert(applied, kept);
    }
    assert_eq!(cuts.into_keys().collect::<Vec<_>>(), [1, 2, 5, 6, 13, 15]);
}

#[tokio::test]
async fn a_restarted_state_is_the_state_that_was() {
    let bench = Bench::new();
    let mut machine = bench.open();
    let membership = openraft::Membership::new_with_defaults(
        vec![[PEER, PeerId(21)].into(), [PEER, PeerId(22)].into()],
        [],
    );
    let member = Entry { log_id: id(3, 3), payload: EntryPayload::Membership(membership) };
    apply(&mut machine, [entry(2), member, blank(4, 4), entry(5)]).await.unwrap();
    let mut again = bench.open();
    assert_eq!(again.applied_state().await.unwrap(), machine.applied_state().await.unwrap());
    assert_eq!(again.applied_state().await.unwrap().1.log_id(), &Some(id(3, 3)));
    assert_eq!(again.region, machine.region);
    let (mut before, mut after) = (machine.view().published(), again.view().published());
    // What passed while it was down is nobody's.
    assert!(before.time_since.take() <= after.time_since.take());
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert!(after.joint);
    assert_eq!(after.descriptor.epoch.unwrap().conf_ver, 2);
    assert_eq!(after.descriptor.peers.len(), 3);
}

/// What a command grants at a time that was told before lives from when it is applied.
#[tokio::test]
async fn a_command_that_tells_the_same_time_tells_it_anew() {
    let bench = Bench::new();
    let mut machine = bench.open();
    let at = |time_ms, index| {
        let tick = Some(v1::command::Body::Tick(v1::TickCommand {}));
        let command =
            v1::Command { epoch_version: 1, time_ms, body: tick, ..v1::Command::default() };
        let payload = EntryPayload::Normal(CommandBytes(command::encode(&command)));
        Entry { log_id: id(3, index), payload }
    };
    let since = |machine: &StateMachine| machine.view().published().time_since.expect("a time");
    let mut before = since(&machine);
    for (why, entry, is_anew) in [
        ("the first", at(9, 2), true),
        ("the same time", at(9, 3), true),
        ("an earlier one", at(8, 4), true),
        ("no command", blank(4, 5), false),
    ] {
        apply(&mut machine, [entry]).await.unwrap();
        let now = since(&machine);
        assert_eq!(now > before, is_anew, "{why}");
        before = now;
    }
    assert_eq!(machine.view().published().time_ms, 9);
}

async fn outcome(view: &RegionView, index: u64) -> Checksum {
    let begin = clock::monotonic();
    loop {
        match view.checksum(index) {
            Some(checksum) if checksum.outcome.is_some() => return checksum,
            _ => assert!(begin.elapsed() < WAIT, "the checksum is never done"),
        }
        tokio::task::yield_now().await;
    }
}

/// However entries are cut into batches.
#[tokio::test]
async fn a_checksum_is_of_the_state_after_exactly_its_entry() {
    let check = |index, check_id| {
        entry_of(3, index, v1::command::Body::Checksum(v1::ChecksumCommand { check_id }))
    };
    let entries = || {
        vec![entry(2), entry(3), check(4, 70), entry(5), put(3, 6, "k-002", "new"), check(7, 71)]
    };
    let mut sums = Vec::new();
    for size in [1, 2, 6] {
        let bench = Bench::new();
        let mut machine = bench.open();
        let all = entries();
        for batch in all.chunks(size) {
            apply(&mut machine, batch.to_vec()).await.unwrap();
        }
        let view = machine.view();
        let (first, second) = (outcome(&view, 4).await, outcome(&view, 7).await);
        assert_eq!((first.applied_index, second.applied_index), (4, 7));
        let sum = |checksum: Checksum| checksum.outcome.unwrap().unwrap();
        let (first, second) = (sum(first), sum(second));
        assert_eq!((first.1, second.1), (2, 3), "keys at that time");
        sums.push((first, second));
    }
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert_ne!(sums[0].0, sums[0].1);
}

/// They take threads that apply and the reads of clients need, and all regions may be checked at once.
#[tokio::test]
async fn a_checksum_waits_for_its_turn_and_apply_does_not() {
    let bench = Bench::new();
    let mut machine = bench.open();
    let busy: Vec<_> = (0..AT_ONCE_MAX).map(|_| bench.checks.pin().unwrap()).collect();
    let turns = futures::future::join_all(busy.iter().map(Place::turn)).await;
    let body = v1::command::Body::Checksum(v1::ChecksumCommand { check_id: 70 });
    apply(&mut machine, [entry_of(3, 2, body), entry(3)]).await.unwrap();
    for _ in 0..100 {
        blocking::run(|| {}).await.unwrap();
    }
    let view = machine.view();
    assert_eq!((applied_index(&mut machine).await, view.checksum_under_way()), (3, Some(2)));
    drop(turns);
    assert_eq!(outcome(&view, 2).await.outcome.unwrap().unwrap().1, 0, "keys at that time");
}

/// What they keep pinned keeps the disk from freeing space.
#[tokio::test]
async fn no_more_checksums_wait_than_the_bound_and_one_more_says_why_there_is_none() {
    let bench = Bench::new();
    let mut machine = bench.open();
    let mut places: Vec<_> = (0..PINNED_MAX).map(|_| bench.checks.pin().unwrap()).collect();
    let check = |index| {
        let body = v1::command::Body::Checksum(v1::ChecksumCommand { check_id: 70 });
        entry_of(3, index, body)
    };
    apply(&mut machine, [check(2), entry(3)]).await.unwrap();
    let view = machine.view();
    let refused = view.checksum(2).unwrap().outcome.unwrap().unwrap_err();
    assert!(refused.contains("16 checksums"), "{refused}");
    assert_eq!(view.checksum_under_way(), None);
    assert!(!bench.checks.may_begin());
    places.truncate(PINNED_MAX / 2);
    assert!(!bench.checks.may_begin(), "half of them are for those of others");
    places.pop();
    assert!(bench.checks.may_begin());
    apply(&mut machine, [check(4)]).await.unwrap();
    assert_eq!(outcome(&view, 4).await.outcome.unwrap().unwrap().1, 1, "keys at that time");
}

#[tokio::test]
async fn only_the_newest_checksums_are_kept() {
    let bench = Bench::new();
    let mut machine = bench.open();
    for index in 2..40 {
        let body = v1::command::Body::Checksum(v1::ChecksumCommand { check_id: 99 - index });
        apply(&mut machine, [entry_of(3, index, body)]).await.unwrap();
    }
    let view = machine.view();
    let kept: Vec<_> = (2..40).filter(|id| view.checksum(*id).is_some()).collect();
    assert_eq!(kept, (40 - CHECKSUMS_MAX as u64..40).collect::<Vec<_>>());
}

/// Never skipped: the entry and all after it have no effect, and the peer stops.
#[tokio::test]
async fn a_command_that_this_version_does_not_know_stops_the_peer() {
    let bench = Bench::new();
    let mut machine = bench.open();
    let strange = super::super::fixture::heavy(3, 3, 10);
    assert!(apply(&mut machine, [entry(2), strange, entry(4)]).await.is_err());
    let mut again = bench.open();
    assert_eq!(applied_index(&mut again).await, 1);
    assert!(keys_of(&bench.data).is_empty());
}

#[tokio::test]
async fn a_failed_write_shows_nothing_to_readers() {
    let bench = Bench::new();
    let mut machine = bench.open();
    bench.data.inject(Fault::WriteLost);
    assert!(apply(&mut machine, [entry(2)]).await.is_err());
    assert_eq!(machine.view().published().applied, Some(id(1, 1)));
    assert!(keys_of(&bench.data).is_empty());
}

/// A quorum of others may commit what this disk does not have yet. After a crash the log then ends
/// before `applied` although nothing was lost.
#[tokio::test]
async fn the_state_notes_how_far_the_log_surely_was() {
    let mut bench = Bench::new();
    let mut machine = bench.open();
    let reached = |bench: &Bench| read_reached(bench.data.as_ref(), REGION).unwrap();
    apply(&mut machine, [entry(2), entry(3)]).await.unwrap();
    assert_eq!(reached(&bench), 0, "nothing of it is in the log");
    append(&mut bench.log, [entry(2), entry(3), entry(4)]).await;
    apply(&mut machine, [entry(4), entry(5)]).await.unwrap();
    assert_eq!(reached(&bench), 4);
    append(&mut bench.log, [entry(5), entry(6), entry(7)]).await;
    apply(&mut machine, [entry(6)]).await.unwrap();
    assert_eq!(reached(&bench), 6, "never beyond what is applied");
    let mut machine = bench.open();
    apply(&mut machine, [entry(7)]).await.unwrap();
    assert_eq!(reached(&bench), 7);
}

#[tokio::test]
async fn a_closed_peer_writes_nothing_more() {
    let bench = Bench::new();
    let mut machine = bench.open();
    apply(&mut machine, [entry(2)]).await.unwrap();
    let view = machine.view();
    assert_eq!(view.read_consistently(|| 1), Ok(1));
    let during = view.read_consistently(|| view.close());
    assert_eq!(during, Err(Unreadable), "what follows may have removed rows meanwhile");
    assert_eq!(view.read_consistently(|| ()), Err(Unreadable));
    let before = all_rows(bench.data.as_ref(), Family::Meta);
    assert!(apply(&mut machine, [entry(3)]).await.is_err());
    let region = region_state(REGION, PEER, ("a", "z"), id(5, 50));
    let meta = SnapshotMeta { last_log_id: Some(id(5, 50)), ..SnapshotMeta::default() };
    let stage = "late".to_owned();
    bench.data.stage(&stage).unwrap().finish().unwrap();
    let received = super::super::snapshot::Received { stage, others: vec![], region };
    assert!(
        machine.install_snapshot(&meta, SnapshotData::Received(Box::new(received))).await.is_err()
    );
    assert_eq!(all_rows(bench.data.as_ref(), Family::Meta), before);
    assert_eq!(keys_of(&bench.data), ["k-002"]);
}

#[tokio::test]
async fn an_installed_snapshot_is_the_state_and_failed_reads_say_so() {
    let bench = Bench::new();
    let mut machine = bench.open();
    apply(&mut machine, [entry(2)]).await.unwrap();
    let view = machine.view();
    let region = region_state(REGION, PEER, ("a", "m"), id(5, 50));
    let meta = SnapshotMeta { last_log_id: Some(id(5, 50)), ..SnapshotMeta::default() };
    let stage = "whole".to_owned();
    let mut rows = bench.data.stage(&stage).unwrap();
    rows.put(b"b", b"x").unwrap();
    rows.finish().unwrap();
    let waiting = tokio::spawn({
        let view = Arc::clone(&view);
        async move { view.wait_applied(50).await }
    });
    let received = super::super::snapshot::Received { stage, others: vec![], region };
    machine.install_snapshot(&meta, SnapshotData::Received(Box::new(received))).await.unwrap();
    soon("the reader", waiting).await.unwrap();
    assert_eq!(view.read_consistently(|| keys_of(&bench.data)), Ok(vec!["b".to_owned()]));
    assert_eq!(view.range(), KeyRange::new("a", "m"));
    assert_eq!(applied_index(&mut machine).await, 50);

    let region = region_state(REGION, PEER, ("a", "m"), id(5, 60));
    let received =
        super::super::snapshot::Received { stage: "none".to_owned(), others: vec![], region };
    let failed = machine.install_snapshot(&meta, SnapshotData::Received(Box::new(received))).await;
    assert!(failed.is_err());
    assert_eq!(view.read_consistently(|| ()), Err(Unreadable), "the rows may be half of each");
}

/// Applies while the disk stands still, which must not hold this thread up. Then the disk goes on.
async fn apply_held(machine: &mut StateMachine, data: &Probe, why: &str, entries: Vec<Entry>) {
    let mut applying = std::pin::pin!(apply(machine, entries));
    // Free to run the timer.
    let early = tokio::time::timeout(Duration::from_millis(20), &mut applying).await;
    assert!(early.is_err(), "{why}: {early:?}");
    data.release();
    soon("an apply", applying).await.unwrap();
}

/// All regions share few threads: where one waits for its disk, the heartbeats of others go on.
#[tokio::test]
async fn write_that_stalls_holds_up_nobody_else() {
    let bench = Bench::new();
    let (mut machine, data) = bench.open_probed();
    let huge = put(3, 4, "k-004", &"x".repeat(WRITE_HERE_BYTES_MAX));
    for (why, entry) in [("a write", entry(2)), ("another", entry(3)), ("a huge one", huge)] {
        let index = entry.log_id.index;
        data.hold();
        apply_held(&mut machine, &data, why, vec![entry]).await;
        assert_eq!(applied_index(&mut machine).await, index, "{why}");
    }
    apply(&mut machine, [entry(5)]).await.unwrap();
    assert_eq!(keys_of(&bench.data), ["k-002", "k-003", "k-004", "k-005"]);
}

/// Nor where there is much to read, though all of it is in memory; however often a batch is cut.
#[tokio::test]
async fn reads_of_much_leave_the_thread_of_all_regions() {
    const VALUE_BYTES: usize = 600 << 10;
    let present = |_| v1::Compare {
        key: "k-large".into(),
        condition: Some(v1::compare::Condition::Present(true)),
    };
    let append = |_| v1::Op {
        op: Some(v1::op::Op::Append(v1::AppendOp { key: "k-large".into(), value: "x".into() })),
    };
    let bench = Bench::new();
    let (mut machine, data) = bench.open_probed();
    apply(&mut machine, [put(3, 2, "k-large", &"x".repeat(VALUE_BYTES))]).await.unwrap();
    let entry = |index| {
        let write = v1::WriteCommand {
            compare: (0..50).map(present).collect(),
            // Enough to end the batch.
            success: (0..8).map(append).collect(),
            ..v1::WriteCommand::default()
        };
        entry_of(3, index, v1::command::Body::Write(write))
    };
    let (before, _) = data.read_bytes();
    apply(&mut machine, (3..9).map(entry)).await.unwrap();
    assert_eq!(applied_index(&mut machine).await, 8);
    let (here, elsewhere) = data.read_bytes();
    assert!(here - before <= READ_HERE_BYTES_MAX, "{}", here - before);
    assert!(elsewhere >= 6 * 50 * VALUE_BYTES);
}

/// Nor where it has to read first. The state is the same wherever it was made.
#[tokio::test]
async fn read_that_stalls_holds_up_nobody_else() {
    use v1::op::Op;
    let bench = Bench::new();
    let (mut machine, data) = bench.open_probed();
    apply(&mut machine, (2..6).map(entry)).await.unwrap();
    let write = |index, op| {
        let success = vec![v1::Op { op: Some(op) }];
        let write = v1::WriteCommand { success, ..v1::WriteCommand::default() };
        entry_of(3, index, v1::command::Body::Write(write))
    };
    let delete = v1::DeleteOp { key: "k-002".into(), ..v1::DeleteOp::default() };
    let append = v1::AppendOp { key: "k-003".into(), value: "x".into() };
    let range = v1::DeleteRangeOp {
        start_key: "k-004".into(),
        end_key: "k-005".into(),
        ..v1::DeleteRangeOp::default()
    };
    for (why, entries) in [
        ("a delete among puts", vec![entry(6), write(7, Op::Delete(delete)), entry(8)]),
        ("an append", vec![write(9, Op::Append(append))]),
        ("a range", vec![write(10, Op::DeleteRange(range))]),
    ] {
        let index = entries.last().map_or(0, |entry| entry.log_id.index);
        data.hold_reads();
        apply_held(&mut machine, &data, why, entries).await;
        assert_eq!(applied_index(&mut machine).await, index, "{why}");
        assert_eq!(bench.open().region, machine.region, "{why}");
    }
    assert_eq!(keys_of(&bench.data), ["k-003", "k-005", "k-006", "k-008"]);

    // What needs no read does not wait for a disk that stands still.
    data.hold_reads();
    soon("a blind put", apply(&mut machine, [entry(11), blank(3, 12)])).await.unwrap();
    data.release();
}
