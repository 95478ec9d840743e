use flotilla_proto::v1::snapshot_chunk::Body;

use super::{
    super::{
        LogId,
        fixture::{Failing, Probe, all_rows, id, region_state},
    },
    *,
};
use crate::{
    ids::PeerId,
    storage::{
        config::StorageConfig,
        memory::MemoryEngine,
        rocks::{Kind, RocksEngine},
    },
};

const REGION: RegionId = RegionId(2);
const PEER: PeerId = PeerId(20);
const CHUNK_BYTES: usize = 64;

type Rows = Vec<(Bytes, Bytes)>;

fn put_rows(engine: &dyn Engine, rows: impl IntoIterator<Item = (String, String)>) {
    let mut batch = WriteBatch::new();
    for (key, value) in rows {
        batch.put(Family::Default, key.as_bytes(), value.as_bytes());
    }
    engine.write(&batch, Durability::Synced).unwrap();
}

/// An engine that has the region `[b, y)` as of `applied`, with `rows` rows, and two neighbours.
fn fill(engine: &dyn Engine, applied: LogId, rows: usize, what: &str) {
    let region = region_state(REGION, PEER, ("b", "y"), applied);
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &region, true);
    engine.write(&batch, Durability::Synced).unwrap();
    put_rows(engine, (0..rows).map(|row| (format!("m-{what}-{row:03}"), format!("{what}{row}"))));
    put_rows(engine, [("az", "left"), ("y", "right")].map(|(k, v)| (k.to_owned(), v.to_owned())));
}

fn sender(engine: &dyn Engine) -> Sender {
    Sender::open(engine, REGION, CHUNK_BYTES).unwrap()
}

fn header(sender: &Sender) -> v1::SnapshotHeader {
    v1::SnapshotHeader {
        region_id: REGION.0,
        to_peer: PEER.0,
        descriptor: sender.region().descriptor.encode_to_vec().into(),
        state: Some(sender.region().state.clone()),
        ..v1::SnapshotHeader::default()
    }
}

/// All messages of a transfer.
fn messages(mut sender: Sender) -> Vec<Body> {
    let mut bodies = Vec::new();
    while let Some(chunk) = sender.next_chunk().unwrap() {
        bodies.push(chunk.body.expect("a chunk says something"));
    }
    bodies
}

/// What a receiver makes of a transfer.
fn receive(
    engine: &dyn Engine,
    header: &v1::SnapshotHeader,
    bodies: Vec<Body>,
) -> Result<Received, Error> {
    let mut receiver = Receiver::open(engine, header)?;
    for body in bodies {
        match body {
            Body::Rows(rows) => receiver.rows(&rows)?,
            Body::End(end) => return receiver.finish(&end),
            Body::Header(_) => panic!("a sender does not begin twice"),
        }
    }
    Err(Error::Truncated)
}

/// Rows and states, but not what an install keeps for itself.
fn content(engine: &dyn Engine) -> (Rows, Rows) {
    let mut meta = all_rows(engine, Family::Meta);
    meta.retain(|(key, _)| {
        !matches!(keys::meta::decode(key), Some(keys::meta::MetaKey::Install(_)))
    });
    (all_rows(engine, Family::Default), meta)
}

fn records(engine: &dyn Engine) -> usize {
    let mut cursor = engine.scan(Family::Meta, &keys::meta::all_installs(), Direction::Forward);
    let mut records = 0;
    while cursor.next().unwrap().is_some() {
        records += 1;
    }
    records
}

fn transfer(from: &dyn Engine, to: &dyn Engine) -> command::RegionState {
    let sender = sender(from);
    let header = header(&sender);
    let received = receive(to, &header, messages(sender)).unwrap();
    install(to, received).unwrap()
}

#[test]
fn a_received_region_equals_the_sent_one_and_its_old_keys_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let rocks = |name: &str| {
        let config = StorageConfig::default();
        RocksEngine::open(&dir.path().join(name).join("data"), Kind::Data, &config).unwrap()
    };
    let engines: [(Arc<dyn Engine>, Arc<dyn Engine>); 3] = [
        (MemoryEngine::new(), MemoryEngine::new()),
        (rocks("a"), rocks("b")),
        (MemoryEngine::new(), rocks("c")),
    ];
    for (from, to) in engines {
        fill(from.as_ref(), id(3, 900), 50, "new");
        fill(to.as_ref(), id(2, 30), 70, "old");
        assert!(messages(sender(from.as_ref())).len() > 5, "one chunk would show little");
        let installed = transfer(from.as_ref(), to.as_ref());
        assert_eq!(installed, read_state(from.as_ref(), REGION).unwrap().unwrap());
        assert_eq!(content(to.as_ref()), content(from.as_ref()), "{to:?}");
        assert_eq!((records(to.as_ref()), to.stages().unwrap().len()), (0, 0));
    }
}

#[test]
fn an_empty_region_empties_the_receiver() {
    let (from, to) = (MemoryEngine::new(), MemoryEngine::new());
    fill(from.as_ref(), id(3, 900), 0, "new");
    fill(to.as_ref(), id(2, 30), 70, "old");
    transfer(from.as_ref(), to.as_ref());
    assert_eq!(content(to.as_ref()), content(from.as_ref()));
    assert_eq!(all_rows(to.as_ref(), Family::Default).len(), 2, "the neighbours stay");
}

#[test]
fn a_region_without_an_end_is_sent_whole() {
    let (from, to) = (MemoryEngine::new(), MemoryEngine::new());
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &region_state(REGION, PEER, ("b", ""), id(3, 9)), true);
    from.write(&batch, Durability::Synced).unwrap();
    let keys = ["a", "b", "zz", "\u{7f}"];
    put_rows(from.as_ref(), keys.map(|key| (key.to_owned(), "v".to_owned())));
    transfer(from.as_ref(), to.as_ref());
    assert_eq!(
        all_rows(to.as_ref(), Family::Default),
        all_rows(from.as_ref(), Family::Default)[1..]
    );
}

/// The state is of one moment, however long the transfer takes.
#[test]
fn writes_during_a_transfer_do_not_show_in_it() {
    let (from, to) = (MemoryEngine::new(), MemoryEngine::new());
    fill(from.as_ref(), id(3, 900), 50, "new");
    let want = content(from.as_ref());
    let mut sender = sender(from.as_ref());
    let header = header(&sender);
    let first = sender.next_chunk().unwrap().and_then(|chunk| chunk.body).unwrap();
    fill(from.as_ref(), id(4, 1_000), 60, "new");
    let mut bodies = vec![first];
    bodies.extend(messages(sender));
    install(to.as_ref(), receive(to.as_ref(), &header, bodies).unwrap()).unwrap();
    fill(to.as_ref(), id(3, 900), 0, "neighbours");
    assert_eq!(content(to.as_ref()), want);
}

#[test]
fn a_damaged_transfer_is_refused_and_leaves_the_receiver_as_it_was() {
    type Damage = fn(&mut v1::SnapshotHeader, &mut Vec<Body>);
    fn rows(bodies: &mut [Body], at: usize) -> &mut v1::SnapshotRows {
        match &mut bodies[at] {
            Body::Rows(rows) => rows,
            other => panic!("{other:?}"),
        }
    }
    fn end(bodies: &mut [Body]) -> &mut v1::SnapshotEnd {
        match bodies.last_mut() {
            Some(Body::End(end)) => end,
            other => panic!("{other:?}"),
        }
    }
    fn edit(rows: &mut v1::SnapshotRows, act: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = rows.rows.to_vec();
        act(&mut bytes);
        rows.rows = bytes.into();
    }
    /// Damage that the chunk's own sum does not show.
    fn forge(rows: &mut v1::SnapshotRows, act: impl FnOnce(&mut Vec<u8>)) {
        edit(rows, act);
        rows.crc32c = crc32c::crc32c(&rows.rows);
    }
    let damages: &[(&str, Damage)] = &[
        ("a flipped bit", |_, b| edit(rows(b, 1), |bytes| bytes[9] ^= 1)),
        ("a wrong sum of a chunk", |_, b| rows(b, 1).crc32c ^= 1),
        ("a chunk cut short", |_, b| edit(rows(b, 1), |bytes| bytes.truncate(9))),
        ("a row cut short", |_, b| forge(rows(b, 1), |bytes| bytes.truncate(9))),
        ("a length cut short", |_, b| forge(rows(b, 1), |bytes| bytes.truncate(2))),
        ("a length beyond the chunk", |_, b| forge(rows(b, 1), |bytes| bytes[0] = 0xff)),
        ("a forged value", |_, b| forge(rows(b, 1), |bytes| *bytes.last_mut().unwrap() ^= 1)),
        ("a missing chunk", |_, b| drop(b.remove(1))),
        ("a missing first chunk", |_, b| drop(b.remove(0))),
        ("a chunk twice", |_, b| b.insert(1, b[1].clone())),
        ("chunks out of order", |_, b| b.swap(1, 2)),
        ("no end", |_, b| drop(b.pop())),
        ("nothing at all", |_, b| b.clear()),
        ("an end too early", |_, b| {
            let end = b.pop().unwrap();
            b.insert(1, end);
        }),
        ("a row too few in the end", |_, b| end(b).rows -= 1),
        ("a wrong sum of all", |_, b| end(b).crc32c ^= 1),
        ("a key outside of the range", |header, _| {
            let mut region = v1::Region::decode(header.descriptor.clone()).unwrap();
            region.end_key = "m-new-040".into();
            header.descriptor = region.encode_to_vec().into();
        }),
        ("another region's descriptor", |header, _| header.region_id += 1),
        ("a descriptor that does not decode", |header, _| header.descriptor = "\u{7f}".into()),
        ("no state", |header, _| header.state = None),
        ("a state that was never initialized", |header, _| {
            header.state.as_mut().unwrap().applied_index = 0;
        }),
        ("a voter that is no peer", |header, _| {
            header.state.as_mut().unwrap().membership.as_mut().unwrap().peers.clear();
        }),
    ];
    let from = MemoryEngine::new();
    fill(from.as_ref(), id(3, 900), 50, "new");
    for (why, damage) in damages {
        let to = MemoryEngine::new();
        fill(to.as_ref(), id(2, 30), 70, "old");
        let before = content(to.as_ref());
        let sender = sender(from.as_ref());
        let mut header = header(&sender);
        let mut bodies = messages(sender);
        damage(&mut header, &mut bodies);
        let outcome = receive(to.as_ref(), &header, bodies);
        assert!(outcome.is_err(), "{why} was taken");
        assert_eq!(content(to.as_ref()), before, "{why}");
        let after = to.crash(usize::MAX);
        assert_eq!(resume(after.as_ref()).unwrap(), [], "{why}");
        assert_eq!(content(after.as_ref()), before, "{why}");
        assert_eq!(after.stages().unwrap(), [""; 0], "{why}");
        // And the next attempt is none the worse for it.
        transfer(from.as_ref(), to.as_ref());
        assert_eq!(content(to.as_ref()), content(from.as_ref()), "{why}");
    }
}

/// An install makes four changes; the disk fails, or the power does, before or after each of them,
/// and takes any number of the changes that were not synced. The same again while it is resumed.
#[test]
fn an_install_that_is_interrupted_anywhere_is_finished_by_the_next_start() {
    let from = MemoryEngine::new();
    fill(from.as_ref(), id(3, 900), 20, "new");
    let new = content(from.as_ref());
    let mut interrupted = 0;
    for call in 0..4 {
        for how in [Failing::Before, Failing::After] {
            let to = MemoryEngine::new();
            fill(to.as_ref(), id(2, 30), 30, "old");
            let old = content(to.as_ref());
            let sender = sender(from.as_ref());
            let header = header(&sender);
            let probe = Probe::over(Arc::clone(&to));
            let received = receive(probe.as_ref(), &header, messages(sender)).unwrap();
            probe.fail(call, how);
            assert!(install(probe.as_ref(), received).is_err(), "call {call} does not exist");
            for kept in 0..=to.unsynced() {
                interrupted += 1;
                let why = format!("{how:?} call {call}, {kept} kept");
                let after = to.crash(kept);
                let begun = !(call == 0 && how == Failing::Before);
                assert_eq!(records(after.as_ref()) == 1 || call >= 2, begun, "{why}");
                for again in 0..4 {
                    for how in [Failing::Before, Failing::After] {
                        let probe = Probe::over(after.crash(usize::MAX));
                        probe.fail(again, how);
                        let _ = resume(probe.as_ref());
                        for kept in 0..=probe.inner.unsynced() {
                            let third = probe.inner.crash(kept);
                            resume(third.as_ref()).unwrap();
                            let found = content(third.as_ref());
                            assert_eq!(
                                found,
                                if begun { new.clone() } else { old.clone() },
                                "{why}"
                            );
                            assert_eq!(records(third.as_ref()), 0, "{why}");
                            assert_eq!(third.stages().unwrap(), [""; 0], "{why}");
                        }
                    }
                }
            }
        }
    }
    assert!(interrupted > 10, "{interrupted} ways to be interrupted");
}

/// The state that [`fill`] gives, on its way into `to`, whose install has begun.
fn begin(from: &dyn Engine, to: &dyn Engine) -> Received {
    let sender = sender(from);
    let header = header(&sender);
    let received = receive(to, &header, messages(sender)).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, &keys::meta::install(REGION), &encode_record(&received));
    to.write(&batch, Durability::Synced).unwrap();
    received
}

/// What is left when a region's state was lost: its neighbours.
fn assert_erased(engine: &dyn Engine) {
    assert_eq!(all_rows(engine, Family::Default).len(), 2, "the neighbours stay");
    assert_eq!(read_state(engine, REGION).unwrap(), None);
    assert_eq!((records(engine), engine.stages().unwrap().len()), (0, 0));
}

/// The data fell back to the middle of an install that was finished long ago, when a later snapshot had just arrived
/// as a whole.
#[test]
fn install_is_never_finished_with_the_rows_of_another_snapshot() {
    let (from, to) = (MemoryEngine::new(), MemoryEngine::new());
    fill(to.as_ref(), id(2, 30), 70, "old");
    fill(from.as_ref(), id(3, 900), 50, "new");
    let first = begin(from.as_ref(), to.as_ref());
    to.drop_stage(&first.stage).unwrap();
    fill(from.as_ref(), id(3, 1_000), 60, "newer");
    let later = sender(from.as_ref());
    let later_header = header(&later);
    receive(to.as_ref(), &later_header, messages(later)).unwrap();
    assert_eq!(resume(to.as_ref()).unwrap(), []);
    assert_erased(to.as_ref());
}

/// The regions of a node have nothing to do with each other's snapshots.
#[test]
fn install_whose_rows_are_damaged_costs_its_region_only() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 3] = [
        ("a flipped bit in a file's end", |stage| {
            let file = stage.join("0000.sst");
            let mut bytes = std::fs::read(&file).unwrap();
            let at = bytes.len() - 10;
            bytes[at] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
        ("a missing file", |stage| std::fs::remove_file(stage.join("0000.sst")).unwrap()),
        ("a missing seal", |stage| std::fs::remove_file(stage.join("done")).unwrap()),
    ];
    let from = MemoryEngine::new();
    fill(from.as_ref(), id(3, 900), 50, "new");
    for (why, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let to = RocksEngine::open(&path, Kind::Data, &StorageConfig::default()).unwrap();
        fill(to.as_ref(), id(2, 30), 70, "old");
        let received = begin(from.as_ref(), to.as_ref());
        damage(&dir.path().join("snapshots").join(&received.stage));
        let resumed = resume(to.as_ref());
        assert_eq!(resumed.unwrap_or_else(|error| panic!("{why}: {error}")), [], "{why}");
        assert_erased(to.as_ref());
    }
}

#[test]
fn a_region_that_is_not_here_cannot_be_sent() {
    let engine = MemoryEngine::new();
    assert!(matches!(
        Sender::open(engine.as_ref(), REGION, 64),
        Err(Error::Empty { region: REGION })
    ));
}
