use std::collections::BTreeMap;

use proptest::prelude::*;

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
        engine::Read as _,
        keys::{
            Owner,
            meta::{self, MetaKey},
        },
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

fn own_key(region: RegionId, row: &[u8]) -> Vec<u8> {
    [&meta::own_rows(region).start[..], row].concat()
}

fn put_own_rows(engine: &dyn Engine, region: RegionId, rows: usize, what: &str) {
    let mut batch = WriteBatch::new();
    for row in 0..rows {
        let row = format!("{what}-{row:03}");
        batch.put(Family::Meta, &own_key(region, row.as_bytes()), row.as_bytes());
    }
    engine.write(&batch, Durability::Synced).unwrap();
}

/// As [`fill`], with own rows as well.
fn fill_all_spans(engine: &dyn Engine, applied: LogId, rows: usize, what: &str) {
    fill(engine, applied, rows, what);
    put_own_rows(engine, REGION, rows / 2, what);
}

/// An engine that has the region `[b, y)` as of `applied`, with `rows` keys, and two neighbours.
fn fill(engine: &dyn Engine, applied: LogId, rows: usize, what: &str) {
    let region = region_state(REGION, PEER, ("b", "y"), applied);
    let mut batch = WriteBatch::new();
    put_state(&mut batch, &region, true);
    engine.write(&batch, Durability::Synced).unwrap();
    put_rows(engine, (0..rows).map(|row| (format!("m-{what}-{row:03}"), format!("{what}{row}"))));
    put_rows(engine, [("az", "left"), ("y", "right")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    for neighbour in [REGION.0 - 1, REGION.0 + 1] {
        put_own_rows(engine, RegionId(neighbour), 1, "neighbour");
    }
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
        match Message::of(Some(chunk(body)))? {
            Message::Rows { span, rows, crc32c } => receiver.rows(engine, span, rows, crc32c)?,
            Message::End(end) => return receiver.finish(&end),
        }
    }
    Err(Error::Truncated)
}

/// Rows and states, but not what an install keeps for itself.
fn content(engine: &dyn Engine) -> (Rows, Rows) {
    let mut meta = all_rows(engine, Family::Meta);
    meta.retain(|(key, _)| !matches!(meta::decode(key), Some(MetaKey::Install(_))));
    (all_rows(engine, Family::Default), meta)
}

fn records(engine: &dyn Engine) -> usize {
    let mut cursor = engine.scan(Family::Meta, &meta::all_installs(), Direction::Forward);
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
        fill_all_spans(from.as_ref(), id(3, 900), 50, "new");
        fill_all_spans(to.as_ref(), id(2, 30), 70, "old");
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
    fill_all_spans(to.as_ref(), id(2, 30), 70, "old");
    transfer(from.as_ref(), to.as_ref());
    assert_eq!(content(to.as_ref()), content(from.as_ref()));
    assert_eq!(all_rows(to.as_ref(), Family::Default).len(), 2, "the neighbours stay");
    let own = all_rows(to.as_ref(), Family::Meta);
    let own = own.iter().filter(|(key, _)| matches!(meta::decode(key), Some(MetaKey::Own(..))));
    assert_eq!(own.count(), 2, "the neighbours stay");
}

/// Versions that know of no own rows take what is sent of a region without any.
#[test]
fn region_without_own_rows_is_sent_in_chunks_of_keys_alone() {
    let from = MemoryEngine::new();
    fill(from.as_ref(), id(3, 900), 50, "new");
    let mut bodies = messages(sender(from.as_ref()));
    assert!(matches!(bodies.pop(), Some(Body::End(_))));
    assert!(bodies.iter().all(|body| matches!(body, Body::Rows(rows) if !rows.rows.is_empty())));
}

#[test]
fn chunk_that_says_nothing_that_this_version_knows_ends_the_transfer_and_says_why() {
    let of = |body| Message::of(Some(v1::SnapshotChunk { body }));
    assert!(matches!(of(None), Err(Error::UnknownChunk)));
    let header = v1::SnapshotHeader::default();
    assert!(matches!(of(Some(Body::Header(header))), Err(Error::SecondHeader)));
    assert!(matches!(Message::of(None), Err(Error::Truncated)));
    let span = v1::SnapshotSpanRows { span: 7, ..v1::SnapshotSpanRows::default() };
    let unknown = Message::of(Some(chunk(Body::SpanRows(span))));
    assert!(matches!(unknown, Err(Error::UnknownSpan { span: 7 })));
}

/// Programs before spans sent one behind a last row that filled its chunk.
#[test]
fn one_chunk_without_rows_is_taken_wherever_it_comes_and_no_second_one() {
    let from = MemoryEngine::new();
    fill(from.as_ref(), id(3, 900), 50, "new");
    let empty = || Body::Rows(v1::SnapshotRows::default());
    for (why, at, count, is_taken) in
        [("first", 0, 1, true), ("last", 1, 1, true), ("two of them", 1, 2, false)]
    {
        let to = MemoryEngine::new();
        let sender = sender(from.as_ref());
        let header = header(&sender);
        let mut bodies = messages(sender);
        let at = at * (bodies.len() - 1);
        bodies.splice(at..at, std::iter::repeat_with(empty).take(count));
        let received = receive(to.as_ref(), &header, bodies);
        if is_taken {
            install(to.as_ref(), received.expect(why)).expect(why);
            fill(to.as_ref(), id(3, 900), 0, "neighbours");
            assert_eq!(content(to.as_ref()), content(from.as_ref()), "{why}");
        } else {
            assert!(matches!(received, Err(Error::Nothing)), "{why}");
        }
    }
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
    /// The first chunk of own rows.
    fn own(bodies: &mut [Body]) -> &mut v1::SnapshotSpanRows {
        let mut own = bodies.iter_mut().filter_map(|body| match body {
            Body::SpanRows(rows) => Some(rows),
            _ => None,
        });
        own.next().expect("there are own rows")
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
        ("an own row with a flipped bit", |_, b| own(b).crc32c ^= 1),
        ("own rows twice", |_, b| {
            let again = Body::SpanRows(own(b).clone());
            b.insert(b.len() - 1, again);
        }),
        ("own rows of another region", |_, b| {
            let own = own(b);
            let mut bytes = own.rows.to_vec();
            bytes[4 + 8] ^= 1;
            (own.crc32c, own.rows) = (crc32c::crc32c(&bytes), bytes.into());
        }),
        ("own rows for keys", |_, b| {
            let v1::SnapshotSpanRows { rows, crc32c, .. } = own(b).clone();
            b.insert(0, Body::Rows(v1::SnapshotRows { rows, crc32c }));
        }),
        ("keys for own rows", |_, b| {
            let v1::SnapshotRows { rows, crc32c } = rows(b, 1).clone();
            b[1] = Body::SpanRows(v1::SnapshotSpanRows { span: 1, rows, crc32c });
        }),
        ("rows of a span that nobody knows", |_, b| own(b).span = 2),
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
    fill_all_spans(from.as_ref(), id(3, 900), 50, "new");
    for (why, damage) in damages {
        let to = MemoryEngine::new();
        fill_all_spans(to.as_ref(), id(2, 30), 70, "old");
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

/// What power cuts may leave: any number of the changes that were not synced, and of the ranges that were replaced behind
/// those, the rows or not.
fn crashes(engine: &MemoryEngine) -> Vec<(String, Arc<MemoryEngine>)> {
    let mut found = Vec::new();
    for kept in 0..=engine.unsynced() {
        let (mut answers, mut asked) = (0_u32, 0);
        while answers == 0 || answers >> asked == 0 {
            asked = 0;
            let after = engine.crash_keeping(kept, || {
                asked += 1;
                answers >> (asked - 1) & 1 == 1
            });
            found.push((format!("{kept} kept, rows {answers:b}"), after));
            answers += 1;
        }
    }
    found
}

/// An install makes five changes, and two more for each further span that has rows; the disk fails, or the power does,
/// before or after each of them, and takes what it likes of what was not synced. The same again while it is resumed.
#[test]
fn an_install_that_is_interrupted_anywhere_is_finished_by_the_next_start() {
    type Fill = fn(&dyn Engine, LogId, usize, &str);
    let one: Fill = |engine, applied, rows, what| fill(engine, applied, rows, what);
    let all: Fill = |engine, applied, rows, what| fill_all_spans(engine, applied, rows, what);
    let kinds: [(&str, Fill, Fill, usize); 4] = [
        ("keys over keys", one, one, 5),
        ("keys over all spans", one, all, 5),
        ("all spans over keys", all, one, 7),
        ("all spans over all", all, all, 7),
    ];
    let mut interrupted = 0;
    for (what, fill_new, fill_old, changes) in kinds {
        let from = MemoryEngine::new();
        fill_new(from.as_ref(), id(3, 900), 20, "new");
        let new = content(from.as_ref());
        for (call, how) in
            (0..changes).flat_map(|call| [(call, Failing::Before), (call, Failing::After)])
        {
            let to = MemoryEngine::new();
            fill_old(to.as_ref(), id(2, 30), 30, "old");
            let old = content(to.as_ref());
            let sender = sender(from.as_ref());
            let header = header(&sender);
            let probe = Probe::over(Arc::clone(&to));
            let received = receive(probe.as_ref(), &header, messages(sender)).unwrap();
            probe.fail(call, how);
            assert!(install(probe.as_ref(), received).is_err(), "call {call} does not exist");
            // The last but the drops of the stages.
            let state_written = changes.div_ceil(2);
            for (kept, after) in crashes(&to) {
                interrupted += 1;
                let why = format!("{what}: {how:?} call {call}, {kept}");
                let begun = !(call == 0 && how == Failing::Before);
                assert_eq!(records(after.as_ref()) == 1 || call >= state_written, begun, "{why}");
                for again in 0..changes {
                    for how in [Failing::Before, Failing::After] {
                        let probe = Probe::over(after.crash(usize::MAX));
                        probe.fail(again, how);
                        let _ = resume(probe.as_ref());
                        for (kept, third) in crashes(&probe.inner) {
                            let why = format!("{why}; {how:?} call {again}, {kept}");
                            resume(third.as_ref()).unwrap();
                            let found = content(third.as_ref());
                            let want = if begun { &new } else { &old };
                            assert_eq!(&found, want, "{why}");
                            assert_eq!(records(third.as_ref()), 0, "{why}");
                            assert_eq!(third.stages().unwrap(), [""; 0], "{why}");
                        }
                    }
                }
            }
        }
        let to = Probe::over(MemoryEngine::new());
        let sender = sender(from.as_ref());
        let header = header(&sender);
        let received = receive(to.as_ref(), &header, messages(sender)).unwrap();
        to.fail(changes, Failing::Before);
        install(to.as_ref(), received).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    assert!(interrupted > 60, "{interrupted} ways to be interrupted");
}

/// As above, where files are taken in: the process ends before the first span, between two, and behind the last.
#[test]
fn on_disk_an_install_that_ended_between_two_spans_is_finished_by_the_next_start() {
    let from = MemoryEngine::new();
    fill_all_spans(from.as_ref(), id(3, 900), 50, "new");
    for replaced in 0..=SpanKind::ALL.len() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let config = StorageConfig::default();
            RocksEngine::open(&dir.path().join("data"), Kind::Data, &config).unwrap()
        };
        let to = open();
        fill_all_spans(to.as_ref(), id(2, 30), 70, "old");
        let received = begin(from.as_ref(), to.as_ref());
        for span in spans_of(&received.region.descriptor).iter().take(replaced) {
            let stage = stage_of(&received.stage, span.kind);
            to.replace_range(span.family(), &span.range, &stage, Attempt::First).unwrap();
        }
        drop(to);
        for round in 0..2 {
            let to = open();
            let resumed = if round == 0 { vec![REGION] } else { vec![] };
            assert_eq!(resume(to.as_ref()).unwrap(), resumed, "{replaced} replaced");
            assert_eq!(content(to.as_ref()), content(from.as_ref()), "{replaced} replaced");
            assert_eq!(to.stages().unwrap(), [""; 0], "{replaced} replaced");
        }
    }
}

/// What is damaged is about to be replaced, and all of what replaces it lies beside it.
#[test]
fn on_disk_an_install_over_a_damaged_block_is_finished_by_the_next_start() {
    const ROWS: u32 = 12;
    let from = MemoryEngine::new();
    fill_all_spans(from.as_ref(), id(3, 900), 50, "new");
    let [keys, own] = spans_of(&region_state(REGION, PEER, ("b", "y"), id(3, 900)).descriptor);
    let rows_of = |engine: &dyn Engine, span: &Span| {
        let mut rows = Vec::new();
        let mut cursor = engine.scan(span.family(), &span.range, Direction::Forward);
        while let Some((key, value)) = cursor.next().unwrap() {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        }
        rows
    };
    // Of which no two are in one block, nor one of them with a neighbour's.
    let large = |row: u32| -> Vec<u8> {
        (0..2_500)
            .flat_map(|at: u32| {
                crc32c::crc32c(&[row, at].map(u32::to_le_bytes).concat()).to_le_bytes()
            })
            .collect()
    };
    for (why, merges) in [("new files", false), ("the oldest files", true)] {
        for damaged in [0, ROWS / 2, ROWS - 1] {
            let why = format!("{why}, row {damaged}");
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("data");
            let open = || RocksEngine::open(&path, Kind::Data, &StorageConfig::default()).unwrap();
            let to = open();
            fill(to.as_ref(), id(2, 30), 0, "old");
            let mut batch = WriteBatch::new();
            for row in 0..ROWS {
                batch.put(Family::Default, format!("m-{row:03}").as_bytes(), &large(row));
            }
            batch.put(Family::Default, b"az", &large(ROWS));
            to.write(&batch, Durability::Synced).unwrap();
            begin(from.as_ref(), to.as_ref());
            if merges {
                to.compact();
            }
            // What is in no file yet comes into one.
            drop(to);
            drop(open());
            flip_a_bit_of(&path, &large(damaged));
            let to = open();
            let row = format!("m-{damaged:03}");
            to.get(Family::Default, row.as_bytes()).expect_err("a damaged row");

            for resumed in [vec![REGION], vec![]] {
                assert_eq!(resume(to.as_ref()).unwrap(), resumed, "{why}");
                for span in [&keys, &own] {
                    let new = rows_of(from.as_ref(), span);
                    assert_eq!(rows_of(to.as_ref(), span), new, "{why}: {:?}", span.kind);
                }
                let state = read_state(to.as_ref(), REGION).unwrap();
                assert_eq!(state, read_state(from.as_ref(), REGION).unwrap(), "{why}");
                for neighbour in [&b"az"[..], b"y"] {
                    assert!(to.get(Family::Default, neighbour).unwrap().is_some(), "{why}");
                }
                assert_eq!((records(to.as_ref()), to.stages().unwrap().len()), (0, 0), "{why}");
                put_rows(to.as_ref(), [("y".to_owned(), "it takes writes".to_owned())]);
            }
        }
    }
}

/// In the file of an instance that has these bytes of a value.
fn flip_a_bit_of(dir: &std::path::Path, value: &[u8]) {
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let is_file = path.extension().is_some_and(|extension| extension == "sst");
        if is_file && let Some(at) = bytes.windows(64).position(|window| window == &value[..64]) {
            bytes[at] ^= 1;
            std::fs::write(path, bytes).unwrap();
            return;
        }
    }
    panic!("it is in no file");
}

/// Files that were taken in stay, and the log of writes before them may be damaged: who then erases the region has to
/// know that they are there.
#[test]
fn on_disk_no_row_of_an_install_is_left_to_nobody_when_what_was_written_before_it_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let path = dir.path().join(name).join("data");
        RocksEngine::open(&path, Kind::Data, &StorageConfig::default()).unwrap()
    };
    let from = MemoryEngine::new();
    fill_all_spans(from.as_ref(), id(3, 900), 50, "new");
    let to = open("live");
    put_rows(to.as_ref(), [("az".to_owned(), "left".to_owned())]);
    transfer(from.as_ref(), to.as_ref());
    std::fs::create_dir_all(dir.path().join("copy/data")).unwrap();
    for file in std::fs::read_dir(dir.path().join("live/data")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "log") && bytes.len() > 12 {
            bytes[12] ^= 1;
        }
        std::fs::write(dir.path().join("copy/data").join(path.file_name().unwrap()), bytes)
            .unwrap();
    }
    let fell_back = open("copy");
    resume(fell_back.as_ref()).unwrap();
    erase(fell_back.as_ref(), REGION).unwrap();
    for family in [Family::Default, Family::Meta] {
        let mut rows = all_rows(fell_back.as_ref(), family);
        rows.retain(|(key, _)| key != "az");
        assert_eq!(rows, [], "{family:?}");
    }
}

/// Records are on disks, of versions before and after this one.
#[test]
fn install_record_of_keys_alone_is_what_it_was_and_one_of_an_unknown_span_is_refused() {
    let region = region_state(REGION, PEER, ("b", "y"), id(3, 900));
    let received =
        |others| Received { stage: "region-2".to_owned(), others, region: region.clone() };
    let descriptor = region.descriptor.encode_to_vec();
    let mut before = vec![8];
    before.extend_from_slice(b"region-2");
    before.put_u32(u32::try_from(descriptor.len()).unwrap());
    before.extend_from_slice(&descriptor);
    before.extend_from_slice(&region.state.encode_to_vec());
    assert_eq!(encode_record(&received(vec![])), before);

    for others in [vec![], vec![SpanKind::Own]] {
        let record = encode_record(&received(others.clone()));
        let decoded = decode_record(REGION, record.into()).unwrap();
        assert_eq!((decoded.stage.as_str(), decoded.others), ("region-2", others));
        assert_eq!(decoded.region, region);
    }
    let mut unknown = encode_record(&received(vec![SpanKind::Own]));
    assert_eq!(unknown[..3], [0, 1, 1]);
    unknown[2] = 2;
    let error = decode_record(REGION, unknown.into()).expect_err("a span of a later version");
    assert!(matches!(error, engine::Error::TooNew { .. }), "{error}");
}

/// Of a node that does not start, or erases a region, somebody has to find out which it is.
#[test]
fn install_record_that_does_not_decode_is_named_with_its_region_and_is_erased_with_it() {
    let from = MemoryEngine::new();
    fill_all_spans(from.as_ref(), id(3, 900), 5, "new");
    let whole = encode_record(&begin(from.as_ref(), MemoryEngine::new().as_ref()));
    let records = (0..whole.len()).step_by(7).map(|len| whole[..len].to_vec());
    let others = [[&whole[..], &[0xff]].concat(), whole.iter().map(|byte| byte ^ 0x40).collect()];
    for record in records.chain(others) {
        let Err(error) = decode_record(REGION, record.clone().into()) else { continue };
        let data = MemoryEngine::new();
        fill_all_spans(data.as_ref(), id(2, 30), 5, "old");
        let mut batch = WriteBatch::new();
        batch.put(Family::Meta, &meta::install(REGION), &record);
        data.write(&batch, Durability::Synced).unwrap();
        for told in [error, resume(data.as_ref()).expect_err("a record that does not decode")] {
            assert!(told.to_string().contains("region 2 "), "{told}");
        }
        erase(data.as_ref(), REGION).unwrap();
        assert_erased(data.as_ref());
    }
}

/// The state that [`fill`] gives, on its way into `to`, whose install has begun.
fn begin(from: &dyn Engine, to: &dyn Engine) -> Received {
    let sender = sender(from);
    let header = header(&sender);
    let received = receive(to, &header, messages(sender)).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, &meta::install(REGION), &encode_record(&received));
    to.write(&batch, Durability::Synced).unwrap();
    received
}

/// What is left when a region's state was lost: its neighbours.
fn assert_erased(engine: &dyn Engine) {
    assert_eq!(all_rows(engine, Family::Default).len(), 2, "the neighbours stay");
    let left = all_rows(engine, Family::Meta);
    let left: Vec<_> = left.iter().filter_map(|(key, _)| meta::decode(key)?.region()).collect();
    assert_eq!(left, [RegionId(1), RegionId(3)], "the neighbours stay");
    assert_eq!((records(engine), engine.stages().unwrap().len()), (0, 0));
}

/// The data fell back to the middle of an install that was finished long ago, when a later snapshot had just arrived
/// as a whole.
#[test]
fn install_is_never_finished_with_the_rows_of_another_snapshot() {
    let (from, to) = (MemoryEngine::new(), MemoryEngine::new());
    fill_all_spans(to.as_ref(), id(2, 30), 70, "old");
    fill_all_spans(from.as_ref(), id(3, 900), 50, "new");
    let first = begin(from.as_ref(), to.as_ref());
    to.drop_stage(&first.stage).unwrap();
    fill_all_spans(from.as_ref(), id(3, 1_000), 60, "newer");
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
    let damages: [(&str, &str, Damage); 5] = [
        ("", "a flipped bit in a file's end", |stage| {
            let file = stage.join("0000.sst");
            let mut bytes = std::fs::read(&file).unwrap();
            let at = bytes.len() - 10;
            bytes[at] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
        ("", "a missing file", |stage| std::fs::remove_file(stage.join("0000.sst")).unwrap()),
        ("", "a missing seal", |stage| std::fs::remove_file(stage.join("done")).unwrap()),
        ("-own", "a missing file", |stage| std::fs::remove_file(stage.join("0000.sst")).unwrap()),
        ("-own", "a missing stage", |stage| std::fs::remove_dir_all(stage).unwrap()),
    ];
    let from = MemoryEngine::new();
    fill_all_spans(from.as_ref(), id(3, 900), 50, "new");
    for (of, why, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let to = RocksEngine::open(&path, Kind::Data, &StorageConfig::default()).unwrap();
        fill_all_spans(to.as_ref(), id(2, 30), 70, "old");
        let received = begin(from.as_ref(), to.as_ref());
        damage(&dir.path().join("snapshots").join(format!("{}{of}", received.stage)));
        let resumed = resume(to.as_ref());
        assert_eq!(resumed.unwrap_or_else(|error| panic!("{why}{of}: {error}")), [], "{why}");
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

/// What a value is, beside its bytes.
type Value = (u64, u64, Vec<u8>);

/// Rows of a region in all spans: of its keys, and its own.
#[derive(Clone, Debug)]
struct Spans {
    keys: BTreeMap<String, Value>,
    own: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn spans() -> impl Strategy<Value = Spans> {
    let bytes = || prop::collection::vec(prop_oneof![Just(0), Just(0xFF), any::<u8>()], 0..12);
    let value = (1..1_000_u64, prop_oneof![Just(0), 1..100_u64], bytes());
    let keys = prop::collection::btree_map("[b-x][a-c]{0,3}", value, 0..24);
    let own = prop::collection::btree_map(bytes(), bytes(), 0..24);
    (keys, own).prop_map(|(keys, own)| Spans { keys, own })
}

/// Writes a region's head and rows, and what the node and the peer here have beside them.
fn write_region(engine: &dyn Engine, region: &command::RegionState, rows: &Spans) {
    let id = RegionId(region.descriptor.region_id);
    let mut batch = WriteBatch::new();
    put_state(&mut batch, region, true);
    batch.put(Family::Meta, &meta::reached(id), &[7; 8]);
    batch.put(Family::Meta, &meta::disk(), b"the node's");
    for (key, (revision, expires_at_ms, payload)) in &rows.keys {
        let head = command::ValueHead::new(*revision, *expires_at_ms);
        let key = [&region.descriptor.start_key[..], key.as_bytes()].concat();
        batch.put_parts(Family::Default, &key, &[head.as_bytes(), payload]);
    }
    for (row, value) in &rows.own {
        batch.put(Family::Meta, &own_key(id, row), value);
    }
    engine.write(&batch, Durability::Synced).unwrap();
}

/// All rows there are, but for those that `leaves_out` names among the rows of nodes, peers and regions.
fn rows_but(engine: &dyn Engine, leaves_out: impl Fn(MetaKey<'_>) -> bool) -> (Rows, Rows) {
    let mut meta = all_rows(engine, Family::Meta);
    meta.retain(|(key, _)| !leaves_out(meta::decode(key).expect("nothing else is there")));
    (all_rows(engine, Family::Default), meta)
}

fn sum(engine: &dyn Engine) -> (u64, u64) {
    let view = engine.view();
    let region = read_state(view.as_ref(), REGION).unwrap().expect("a state");
    command::checksum(view.as_ref(), &region).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nothing_of_a_region_is_outside_of_its_snapshot_and_nothing_is_left_when_it_is_erased(
        new in spans(), old in spans(), others in spans(), chunk_bytes in 1..200_usize,
    ) {
        let region = region_state(REGION, PEER, ("m", "n"), id(3, 900));
        let from = MemoryEngine::new();
        write_region(from.as_ref(), &region, &new);
        let send = |to: &dyn Engine| {
            let sender = Sender::open(from.as_ref(), REGION, chunk_bytes).unwrap();
            let header = header(&sender);
            install(to, receive(to, &header, messages(sender)).unwrap()).unwrap();
        };

        let fresh = MemoryEngine::new();
        send(fresh.as_ref());
        let regions = rows_but(from.as_ref(), |key| key.owner() != Owner::Region);
        prop_assert_eq!(rows_but(fresh.as_ref(), |_| false), regions);
        prop_assert_eq!(sum(fresh.as_ref()), sum(from.as_ref()));
        prop_assert_eq!(fresh.unsynced(), 0);

        // Between neighbours, over what was there.
        let used = MemoryEngine::new();
        for (id_of, range) in [(1, ("l", "m")), (3, ("n", "")), (REGION.0 << 8, ("k", "l"))] {
            let neighbour = region_state(RegionId(id_of), PEER, range, id(3, 9));
            write_region(used.as_ref(), &neighbour, &others);
        }
        let untouched = rows_but(used.as_ref(), |_| false);
        write_region(used.as_ref(), &region_state(REGION, PEER, ("m", "n"), id(2, 30)), &old);
        send(used.as_ref());
        prop_assert_eq!(sum(used.as_ref()), sum(from.as_ref()));
        erase(used.as_ref(), REGION).unwrap();
        prop_assert_eq!(rows_but(used.as_ref(), |_| false), untouched);
    }

    #[test]
    fn a_row_more_or_less_in_any_span_changes_the_checksum(rows in spans(), at in any::<prop::sample::Index>()) {
        let region = region_state(REGION, PEER, ("m", "n"), id(3, 900));
        let whole = MemoryEngine::new();
        write_region(whole.as_ref(), &region, &rows);
        let before = sum(whole.as_ref()).0;
        for span in spans_of(&region.descriptor) {
            let mut rows = all_rows(whole.as_ref(), span.family());
            // What has expired counts nothing.
            rows.retain(|(key, value)| {
                span.range.contains(key)
                    && (span.kind != SpanKind::Keys
                        || command::StoredRef::decode(value).unwrap().is_live(region.state.time_ms))
            });
            if rows.is_empty() {
                continue;
            }
            let (gone, _) = at.get(&rows);
            let lacks = whole.crash(usize::MAX);
            let mut batch = WriteBatch::new();
            batch.delete(span.family(), gone);
            lacks.write(&batch, Durability::Synced).unwrap();
            prop_assert_ne!(sum(lacks.as_ref()).0, before, "{:?}", span.kind);
        }
    }
}
