use std::{fs, time::Duration};

use rocksdb::properties;

use super::*;

impl RocksEngine {
    /// Ends all work in the background, so that the files stand still.
    pub(crate) fn freeze(&self) {
        self.db.cancel_all_background_work(true);
    }

    /// Merges all files.
    pub(crate) fn compact(&self) {
        self.flush().unwrap();
        for of in [Family::Default, Family::Meta] {
            self.db.compact_range_cf(family(&self.db, of), None::<&[u8]>, None::<&[u8]>);
        }
    }
}

/// All of an engine's default family, or the error it ends with.
pub(super) fn rows(
    read: &dyn Read,
    range: &KeyRange,
    direction: Direction,
) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let mut rows = Vec::new();
    let mut cursor = read.scan(Family::Default, range, direction);
    while let Some((key, value)) = cursor.next()? {
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
    }
    assert!(cursor.next()?.is_none(), "a cursor stays at its end");
    Ok(rows)
}

pub(super) fn keys(read: &dyn Read, range: &KeyRange) -> String {
    let rows = rows(read, range, Direction::Forward).unwrap();
    let keys: Vec<_> = rows.iter().map(|(key, _)| String::from_utf8_lossy(key)).collect();
    keys.join(" ")
}

pub(super) fn put(engine: &RocksEngine, keys: &str, value: &str) {
    let mut batch = WriteBatch::new();
    for key in keys.split_whitespace() {
        batch.put(Family::Default, key.as_bytes(), value.as_bytes());
    }
    engine.write(&batch, Durability::Buffered).unwrap();
}

/// The exit of a process waits for it.
#[test]
fn compaction_under_way_ends_when_the_process_is_about_to_end() {
    const FILES: usize = 3;
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig::default();
    let engine = RocksEngine::open(&dir.path().join("data"), Kind::Data, &config).unwrap();
    let value: String =
        std::iter::repeat_with(|| rand::random_range('!'..='~')).take(256 << 10).collect();
    for file in 0..FILES {
        // Each spans the others, and none has what another has: all of it is read and written.
        (0..192).for_each(|number| put(&engine, &format!("k{number:03}-{file}"), &value));
        engine.flush().unwrap();
    }
    let number = |property| engine.db.property_int_value(property).unwrap().unwrap();
    let files = || engine.db.property_int_value(properties::num_files_at_level(0)).unwrap();
    assert!(files() >= Some(FILES as u64), "all of it is still to be compacted");
    std::thread::scope(|threads| {
        let compacting = threads.spawn(|| engine.db.compact_range(None::<&[u8]>, None::<&[u8]>));
        let began = crate::world::clock::monotonic();
        while number(properties::NUM_RUNNING_COMPACTIONS) == 0 {
            assert!(!compacting.is_finished() && began.elapsed() < Duration::from_secs(30));
            std::thread::yield_now();
        }
        engine.end_background_work();
        compacting.join().unwrap();
    });
    assert!(files() >= Some(FILES as u64), "it was waited for to the end");
    assert_eq!(
        engine.get(Family::Default, b"k007-1").unwrap().map(|value| value.len()),
        Some(256 << 10)
    );
}

#[test]
fn instance_keeps_its_rows_over_clean_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig::default();
    let mut sequence = 0;
    for round in 0..4 {
        let node = RocksEngine::open_both(dir.path(), &config).unwrap();
        assert!(node.log.sequence() >= sequence, "round {round}");
        for engine in [&node.log, &node.data] {
            let before = (0..round).map(|at| at.to_string()).collect::<Vec<_>>().join(" ");
            assert_eq!(keys(engine.as_ref(), &KeyRange::default()), before);
            put(engine, &round.to_string(), "value");
            engine.sync().unwrap();
        }
        sequence = node.log.sequence();
        assert_eq!(sequence, round + 2, "one change, one number, and one of its birth");
    }
}

/// All that is promised rests on this; a process that is killed keeps what the system has in memory, so
/// no test of processes can see it.
#[test]
fn synced_writes_reach_the_disk_before_they_return() {
    for kind in [Kind::Log, Kind::Data] {
        let dir = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(&dir.path().join("it"), kind, &StorageConfig::default());
        let engine = engine.unwrap();
        let synced = || engine.options.get_ticker_count(rocksdb::statistics::Ticker::WalFileSynced);
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, b"key", b"value");
        let mut before = synced();
        let mut grew = || {
            let grown = synced() - before;
            before += grown;
            grown
        };
        engine.write(&batch, Durability::Buffered).unwrap();
        assert!(engine.write_if_quick(&batch).unwrap());
        assert_eq!(grew(), 0, "{kind}: a buffered write waits for no disk");
        engine.write(&batch, Durability::Synced).unwrap();
        assert_eq!(grew(), 1, "{kind}: a synced write");
        engine.write(&batch, Durability::Buffered).unwrap();
        engine.sync().unwrap();
        assert_eq!(grew(), 1, "{kind}: a sync");
    }
}

#[test]
fn second_opening_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig::default();
    let first = RocksEngine::open(&dir.path().join("log"), Kind::Log, &config).unwrap();
    let error = RocksEngine::open(&dir.path().join("log"), Kind::Log, &config).unwrap_err();
    assert!(is_open_elsewhere(&error), "{error}");
    drop(first);
    RocksEngine::open(&dir.path().join("log"), Kind::Log, &config).unwrap();
}

#[test]
fn crash_during_birth_leaves_nothing_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig::default();
    let nascent = dir.path().join("log.new");
    fs::create_dir(&nascent).unwrap();
    fs::write(nascent.join("MANIFEST-000001"), "half a manifest").unwrap();
    fs::create_dir(dir.path().join("log")).unwrap();
    let log = RocksEngine::open(&dir.path().join("log"), Kind::Log, &config).unwrap();
    put(&log, "a", "value");
    drop(log);
    let log = RocksEngine::open(&dir.path().join("log"), Kind::Log, &config).unwrap();
    assert_eq!(keys(log.as_ref(), &KeyRange::default()), "a");
    assert!(!nascent.exists());
}

#[test]
fn families_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let data =
        RocksEngine::open(&dir.path().join("data"), Kind::Data, &StorageConfig::default()).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(Family::Default, b"a", b"default");
    batch.put(Family::Meta, b"a", b"meta");
    batch.put(Family::Meta, b"b", b"meta");
    batch.delete_range(Family::Meta, b"b", b"c");
    data.write(&batch, Durability::Synced).unwrap();
    assert_eq!(data.get(Family::Default, b"a").unwrap().unwrap(), "default");
    assert_eq!(data.get(Family::Meta, b"a").unwrap().unwrap(), "meta");
    assert_eq!(data.view().get(Family::Meta, b"a").unwrap().unwrap(), "meta");
    assert_eq!(data.get(Family::Meta, b"b").unwrap(), None);
}

#[test]
fn view_and_cursor_do_not_see_later_writes_and_outlive_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let data =
        RocksEngine::open(&dir.path().join("data"), Kind::Data, &StorageConfig::default()).unwrap();
    put(&data, "a b c", "old");
    let view = data.view();
    let all = KeyRange::default();
    let mut cursor = data.scan(Family::Default, &all, Direction::Reverse);
    put(&data, "c d", "new");
    let mut batch = WriteBatch::new();
    batch.delete_range(Family::Default, b"", b"c");
    data.write(&batch, Durability::Buffered).unwrap();
    assert_eq!(cursor.next().unwrap(), Some((&b"c"[..], &b"old"[..])));
    drop(cursor);
    data.compact();
    assert_eq!(keys(data.as_ref(), &all), "c d");
    drop(data);
    assert_eq!(keys(view.as_ref(), &all), "a b c");
    assert_eq!(view.get(Family::Default, b"c").unwrap().unwrap(), "old");
}

#[test]
fn sizes_count_rows_in_memtables_and_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let data =
        RocksEngine::open(&dir.path().join("data"), Kind::Data, &StorageConfig::default()).unwrap();
    let bytes = |start: &str, end: &str| {
        let range = KeyRange::new(start.to_owned(), end.to_owned());
        data.approximate_bytes(Family::Default, &range)
    };
    // Compresses badly, so that sizes in files resemble sizes in memory.
    let noise: String =
        (0..20_000u32).map(|at| format!("{:08x}", crc32c::crc32c(&at.to_be_bytes()))).collect();
    put(&data, "a b c", &noise);
    let in_memory = bytes("a", "c");
    assert!((320_000..330_000).contains(&in_memory), "{in_memory}");
    assert_eq!(bytes("d", "e"), 0);
    data.flush().unwrap();
    let in_files = bytes("a", "c");
    assert!((100_000..400_000).contains(&in_files), "{in_files}");
    assert!(bytes("a", "") > in_files);
    let stats = data.stats();
    assert!(stats.live_data_bytes > 100_000 && stats.wal_bytes < 100_000, "{stats:?}");
    assert_eq!(stats.level_files.iter().sum::<u64>(), 1, "{stats:?}");
    assert!(!stats.write_stopped && stats.background_errors == 0);
    data.get(Family::Default, b"b").unwrap();
    data.get(Family::Default, b"b").unwrap();
    let stats = data.stats();
    assert!(stats.block_cache_misses > 0 && stats.block_cache_hits > 0, "{stats:?}");
    assert!(stats.block_cache_bytes > 100_000, "{stats:?}");
}

/// Memory must not grow with the data: what the two instances buffer stays within the bound.
#[test]
fn memtables_of_both_instances_stay_within_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig {
        log_memtable_bytes: 4 << 20,
        data_memtable_bytes: 4 << 20,
        memtables_bytes_max: 8 << 20,
        ..StorageConfig::default()
    };
    let node = RocksEngine::open_both(dir.path(), &config).unwrap();
    let value = "v".repeat(64 << 10);
    let mut most = 0;
    for round in 0..400 {
        put(&node.log, &format!("{round:04}"), &value);
        put(&node.data, &format!("{round:04}"), &value);
        most = most.max(node.log.stats().memtable_bytes + node.data.stats().memtable_bytes);
    }
    assert!(most > 2 << 20, "the writes do pass through memtables: {most}");
    // One memtable may be filled while another is being flushed.
    assert!(most < 24 << 20, "{most}");
    assert_eq!(keys(node.data.as_ref(), &KeyRange::new("0398", "")), "0398 0399");
}

/// Both families are flushed together.
#[test]
fn apply_states_that_overwrite_each_other_flush_no_values() {
    let dir = tempfile::tempdir().unwrap();
    let data = RocksEngine::open(dir.path(), Kind::Data, &StorageConfig::default()).unwrap();
    let state = [7; 1000];
    for number in 0..8_000_u32 {
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, &number.to_be_bytes(), b"1");
        batch.put(Family::Meta, &[(number % 100) as u8], &state);
        data.write(&batch, Durability::Buffered).unwrap();
    }
    let stats = data.stats();
    assert_eq!(stats.level_files.iter().sum::<u64>(), 0, "{stats:?}");
}

/// RocksDB stops writers when flushed files pile up, until they are merged.
#[test]
fn quick_write_is_refused_whole_while_the_engine_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig::default();
    let data = RocksEngine::open(dir.path(), Kind::Data, &config).unwrap();
    let batch = |key: &str| {
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, key.as_bytes(), b"1");
        batch.put(Family::Meta, key.as_bytes(), b"1");
        batch
    };
    assert!(data.write_if_quick(&batch("a")).unwrap());
    data.flush().unwrap();
    data.db.set_options(&[("level0_stop_writes_trigger", "1")]).unwrap();
    assert!(data.stats().write_stopped);
    assert!(!data.write_if_quick(&batch("b")).unwrap());
    assert_eq!(keys(data.as_ref(), &KeyRange::default()), "a");

    let patient = {
        let (data, batch) = (Arc::clone(&data), batch("b"));
        std::thread::spawn(move || data.write(&batch, Durability::Buffered))
    };
    data.db.set_options(&[("level0_stop_writes_trigger", "36")]).unwrap();
    patient.join().unwrap().unwrap();
    assert!(data.write_if_quick(&batch("c")).unwrap());
    assert_eq!(keys(data.as_ref(), &KeyRange::default()), "a b c");
}

#[test]
fn a_quick_read_leaves_the_disk_alone() {
    let dir = tempfile::tempdir().unwrap();
    let open = || RocksEngine::open(dir.path(), Kind::Data, &StorageConfig::default()).unwrap();
    let quick = |engine: &RocksEngine, key: &str| {
        engine.get_if_quick(Family::Default, key.as_bytes(), 5).unwrap()
    };
    let engine = open();
    put(&engine, "a c", "value");
    assert_eq!(quick(&engine, "a"), Quick::Read(Some("value".into())), "in a memtable");
    put(&engine, "large", "123456");
    assert_eq!(quick(&engine, "large"), Quick::Large { bytes: 6 }, "in a memtable");
    engine.flush().unwrap();
    drop(engine);

    let engine = open();
    assert_eq!(quick(&engine, "a"), Quick::OnDisk, "on the disk alone");
    assert_eq!(engine.get(Family::Default, b"a").unwrap(), Some("value".into()));
    assert_eq!(quick(&engine, "a"), Quick::Read(Some("value".into())), "in the cache");
    assert_eq!(quick(&engine, "b"), Quick::Read(None), "absent from a block that is in the cache");
}
