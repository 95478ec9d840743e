//! What an engine reclaims cannot be noticed, whatever happens to it.
//!
//! One random log is applied twice: by a replica that keeps every row, entry by entry, and by one
//! that lets expired rows go at random moments, loses what was not synced, starts again from what
//! is left, and is looked at through views that were pinned before. Every answer and every checksum
//! must be that of the first, entry for entry.

use std::{fs, path::PathBuf, sync::Arc};

use flotilla_proto::{
    range::KeyRange,
    v1::{ApplyState, Command, CommandReply},
};
use proptest::{collection::vec, prelude::*};
use prost::Message as _;

use super::{
    apply::apply, checksum::checksum, fixture::Fixture, log_test::log, overlay::Overlay,
    region::RegionState, value::expires_at_ms,
};
use crate::storage::{
    batch::{Family, WriteBatch},
    config::StorageConfig,
    engine::{Direction, Durability, Engine, Read, View},
    memory::MemoryEngine,
    reclaim::{Claim, Claims},
    rocks::{Kind, RocksEngine},
};

/// Where the replica keeps its state, in the family and the batch that a real one does.
const STATE: &[u8] = b"state";

#[derive(Clone, Debug)]
enum Step {
    /// Applies this many entries as one batch.
    Apply(usize),
    Sync,
    /// Claims what is true now.
    Reclaim,
    /// Lets go what may go.
    Compact,
    View,
    DropViews,
    /// A power cut that keeps so much, of 256, of what was not synced.
    Crash(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..5_usize).prop_map(Step::Apply),
        1 => Just(Step::Sync),
        4 => Just(Step::Reclaim),
        3 => Just(Step::Compact),
        1 => Just(Step::View),
        1 => Just(Step::DropViews),
        2 => any::<u8>().prop_map(Step::Crash),
    ]
}

/// An engine, and how it is broken.
trait Disk {
    fn engine(&self) -> &dyn Engine;
    fn compact(&self);
    fn crash(&mut self, kept: u8);
}

impl Disk for Arc<MemoryEngine> {
    fn engine(&self) -> &dyn Engine {
        self.as_ref()
    }

    /// It drops rows when the claims are made.
    fn compact(&self) {}

    fn crash(&mut self, kept: u8) {
        *self = MemoryEngine::crash(self, self.unsynced() * usize::from(kept) / 256);
    }
}

struct OnDisk {
    dir: tempfile::TempDir,
    crashes: usize,
    engine: Option<Arc<RocksEngine>>,
}

impl OnDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Self { dir, crashes: 0, engine: None };
        disk.open();
        disk
    }

    fn instance(&self) -> PathBuf {
        self.dir.path().join(format!("data-{}", self.crashes))
    }

    fn open(&mut self) {
        let config = StorageConfig::default();
        self.engine = Some(RocksEngine::open(&self.instance(), Kind::Data, &config).unwrap());
    }

    fn rocks(&self) -> &RocksEngine {
        self.engine.as_ref().expect("open but for a moment")
    }
}

impl Disk for OnDisk {
    fn engine(&self) -> &dyn Engine {
        self.rocks()
    }

    fn compact(&self) {
        self.rocks().compact();
    }

    /// The newest write-ahead log loses its end; those before it were synced with a flush.
    fn crash(&mut self, kept: u8) {
        self.rocks().freeze();
        let before = self.instance();
        self.crashes += 1;
        let after = self.instance();
        fs::create_dir(&after).unwrap();
        let mut newest = None;
        for file in fs::read_dir(before).unwrap() {
            let file = file.unwrap();
            let copy = after.join(file.file_name());
            fs::copy(file.path(), &copy).unwrap();
            if copy.extension().is_some_and(|extension| extension == "log") {
                newest = newest.max(Some(copy));
            }
        }
        let newest = fs::File::options().write(true).open(newest.expect("there is a log")).unwrap();
        let len = newest.metadata().unwrap().len();
        newest.set_len(len * u64::from(kept) / 256).unwrap();
        self.engine = None;
        self.open();
    }
}

/// The state that `read` has; that of a newborn if it has none.
fn state(read: &(impl Read + ?Sized)) -> RegionState {
    let mut region = Fixture::new().region;
    if let Some(bytes) = read.get(Family::Meta, STATE).unwrap() {
        region.state = ApplyState::decode(bytes).unwrap();
    }
    region
}

fn range() -> KeyRange {
    KeyRange::new("a", "z")
}

fn rows(read: &dyn Read) -> usize {
    let mut rows = 0;
    let mut cursor = read.scan(Family::Default, &KeyRange::default(), Direction::Forward);
    while cursor.next().unwrap().is_some() {
        rows += 1;
    }
    rows
}

/// Answers and sums of a replica that keeps everything, after each entry.
struct Kept {
    replies: Vec<CommandReply>,
    sums: Vec<(u64, u64)>,
}

impl Kept {
    fn new(log: &[Command]) -> Self {
        let mut replica = Fixture::new();
        let sum = |replica: &Fixture| checksum(&replica.store, &replica.region).expect("reads");
        let mut kept = Self { replies: vec![], sums: vec![sum(&replica)] };
        for command in log {
            replica.region.state.applied_index += 1;
            kept.replies.push(replica.apply(command));
            kept.sums.push(sum(&replica));
        }
        kept
    }

    /// Whether `read` is the state after as many entries as it says.
    fn check(&self, read: &(impl Read + ?Sized), scans: &dyn Read) -> Result<(), TestCaseError> {
        let region = state(read);
        let at = usize::try_from(region.state.applied_index).unwrap();
        let sum = checksum(scans, &region).expect("reads");
        prop_assert_eq!(sum, self.sums[at], "after {} entries", at);
        Ok(())
    }
}

/// Applies the next `count` entries, and says how many there were.
fn apply_some(
    engine: &dyn Engine,
    log: &[Command],
    count: usize,
    kept: &Kept,
) -> Result<usize, TestCaseError> {
    let mut region = state(engine);
    let from = usize::try_from(region.state.applied_index).unwrap();
    let mut batch = WriteBatch::new();
    let cut = log.iter().zip(&kept.replies).skip(from).take(count);
    let mut applied = 0;
    let mut overlay = Overlay::new(engine, &mut batch);
    for (command, want) in cut {
        region.state.applied_index += 1;
        let (reply, _) = apply(command, &mut region, &mut overlay).expect("reads");
        prop_assert_eq!(&reply, want, "entry {}: {:?}", from + applied, command);
        applied += 1;
    }
    drop(overlay);
    batch.put(Family::Meta, STATE, &region.state.encode_to_vec());
    engine.write(&batch, Durability::Buffered).unwrap();
    Ok(applied)
}

fn run(disk: &mut impl Disk, log: &[Command], steps: &[Step]) -> Result<u64, TestCaseError> {
    let kept = Kept::new(log);
    let mut views: Vec<Arc<dyn View>> = Vec::new();
    let mut reclaimed = 0;
    for step in steps {
        match step {
            Step::Apply(count) => _ = apply_some(disk.engine(), log, *count, &kept)?,
            Step::Sync => disk.engine().sync().unwrap(),
            Step::Reclaim => {
                let engine = disk.engine();
                let mut capture = || {
                    let claim = Claim { range: range(), time_ms: state(engine).state.time_ms };
                    Claims::new(expires_at_ms, vec![claim])
                };
                engine.reclaim_expired(&mut capture).unwrap();
            }
            Step::Compact => disk.compact(),
            Step::View => views.push(disk.engine().view()),
            Step::DropViews => views.clear(),
            Step::Crash(kept) => {
                views.clear();
                reclaimed += disk.engine().stats().reclaimed_rows;
                disk.crash(*kept);
            }
        }
        kept.check(disk.engine(), disk.engine())?;
        for view in &views {
            kept.check(view.as_ref(), view.as_ref())?;
        }
    }
    while apply_some(disk.engine(), log, 3, &kept)? > 0 {}
    kept.check(disk.engine(), disk.engine())?;
    Ok(reclaimed + disk.engine().stats().reclaimed_rows)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn reclaiming_in_memory_cannot_be_noticed(log in log(), steps in vec(step(), 1..40)) {
        run(&mut MemoryEngine::new(), &log, &steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn reclaiming_on_disk_cannot_be_noticed(log in log(), steps in vec(step(), 1..40)) {
        run(&mut OnDisk::new(), &log, &steps)?;
    }
}

/// The tests above could not fail if nothing were ever reclaimed.
#[test]
fn expired_rows_do_go() {
    use super::fixture::{put, put_ttl, tick, write};
    let log = [write(5, vec![put_ttl("b", "x", 3), put_ttl("c", "x", 9), put("d", "x")]), tick(10)];
    let steps = [Step::Apply(2), Step::Reclaim, Step::Compact];
    let mut memory = MemoryEngine::new();
    assert_eq!(run(&mut memory, &log, &steps).unwrap(), 1);
    assert_eq!(rows(memory.as_ref()), 2);
    let mut disk = OnDisk::new();
    assert_eq!(run(&mut disk, &log, &steps).unwrap(), 1);
    assert_eq!(rows(disk.engine()), 2);
}
