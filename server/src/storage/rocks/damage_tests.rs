//! What becomes of an instance whose files are damaged: it refuses, or fails the reads that touch
//! the damage. It never answers with less than it had.

use std::fs::{self, File, OpenOptions};

use super::{
    tests::{put, rows},
    *,
};
use crate::storage::sentinel::Sentinel;

const ROWS: usize = 300;

/// A log of [`ROWS`] rows, each synced alone, as `kill -9` leaves it: copied from an open one.
fn killed_log() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let log = RocksEngine::open(&live, Kind::Log, &StorageConfig::default()).unwrap();
    for row in 0..ROWS {
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, format!("{row:04}").as_bytes(), &[b'v'; 400]);
        log.write(&batch, Durability::Synced).unwrap();
    }
    Sentinel { log_sequence: log.sequence() }.write(dir.path()).unwrap();
    copy(&live, &dir.path().join("log"));
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn open(dir: &tempfile::TempDir) -> Result<Arc<RocksEngine>, Error> {
    RocksEngine::open(&dir.path().join("log"), Kind::Log, &StorageConfig::default())
}

/// The largest file of an instance with this extension.
fn largest(dir: &Path, extension: &str) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let fits = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    fits.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

fn wal(dir: &tempfile::TempDir) -> PathBuf {
    let wal = largest(&dir.path().join("log"), "log");
    assert!(wal.metadata().unwrap().len() > 100_000, "the rows are in the log file");
    wal
}

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn flip_bit(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn count(log: &RocksEngine) -> usize {
    rows(log, &KeyRange::default(), Direction::Forward).unwrap().len()
}

/// Whether the log ends before its sentinel.
fn is_short(dir: &tempfile::TempDir, log: &RocksEngine) -> bool {
    log.sequence() < Sentinel::read(dir.path()).unwrap().unwrap().log_sequence
}

fn assert_refused(dir: &tempfile::TempDir, why: &str) {
    let error = open(dir).expect_err(why);
    assert!(matches!(error, Error::Corrupt { .. }), "{why}: {error}");
    let words = error.to_string();
    assert!(words.starts_with("corrupt data: open log instance"), "{why}: {words}");
    // A second try is not more lenient: the first has repaired nothing.
    assert!(matches!(open(dir), Err(Error::Corrupt { .. })), "{why}: second opening");
}

#[test]
fn killed_log_has_every_synced_row() {
    let dir = killed_log();
    let log = open(&dir).unwrap();
    assert_eq!((count(&log), is_short(&dir, &log)), (ROWS, false));
    // Once more, for the recovery has moved the rows to other files.
    drop(log);
    let log = open(&dir).unwrap();
    assert_eq!((count(&log), is_short(&dir, &log)), (ROWS, false));
}

#[test]
fn torn_last_record_costs_that_record_only() {
    let dir = killed_log();
    let wal = wal(&dir);
    cut(&wal, wal.metadata().unwrap().len() - 37);
    let log = open(&dir).unwrap();
    assert_eq!((count(&log), is_short(&dir, &log)), (ROWS - 1, true));
}

#[test]
fn flipped_bit_in_the_middle_of_the_log_refuses() {
    let dir = killed_log();
    let wal = wal(&dir);
    flip_bit(&wal, wal.metadata().unwrap().len() as usize / 2);
    assert_refused(&dir, "one bit flipped");
}

/// Checksums are over neither the length of a record nor over what is made of its kind.
#[test]
fn flipped_bit_that_rocksdb_does_not_take_for_damage_refuses() {
    for (why, damage) in [
        ("the last record seems to be torn", (|bytes, last| bytes[last + 5] ^= 0x40) as Damage),
        ("the first record seems to be of an earlier file", |bytes, _| bytes[6] ^= 1),
        ("a record seems to be of an earlier file", |bytes, last| bytes[last + 6] ^= 4),
    ] {
        let dir = killed_log();
        let wal = wal(&dir);
        let mut bytes = fs::read(&wal).unwrap();
        let last = headers(&bytes).pop().unwrap();
        damage(&mut bytes, last);
        fs::write(&wal, bytes).unwrap();
        assert_refused(&dir, why);
    }
}

type Damage = fn(&mut [u8], usize);

/// Where the records of a log file begin, from its last block.
fn headers(bytes: &[u8]) -> Vec<usize> {
    let mut at = bytes.len() / (32 << 10) * (32 << 10);
    let mut headers = Vec::new();
    while at < bytes.len() {
        headers.push(at);
        at += 7 + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    headers
}

/// What was torn was not acknowledged, wherever it was torn.
#[test]
fn every_flipped_bit_of_a_log_is_damage_and_no_torn_end_is() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let log = RocksEngine::open(&live, Kind::Log, &StorageConfig::default()).unwrap();
    for row in 0..5 {
        put(&log, &format!("{row:04}"), "value");
    }
    let files = dir.path().join("log");
    copy(&live, &files);
    let manifest = fs::read_dir(&files).unwrap().map(|file| file.unwrap().path());
    let manifest = manifest.filter(|path| path.to_string_lossy().contains("MANIFEST"));
    for path in manifest.chain([largest(&files, "log")]) {
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).unwrap();
            records::check(&files, Kind::Log).expect("torn");
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                fs::write(&path, damaged).unwrap();
                let refused = records::check(&files, Kind::Log);
                let told = matches!(&refused, Err(Error::Corrupt { .. }));
                assert!(told, "{} {at}.{bit}: {refused:?}", path.display());
            }
        }
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn zeroed_tail_of_the_log_refuses() {
    let dir = killed_log();
    let wal = wal(&dir);
    let mut bytes = fs::read(&wal).unwrap();
    let from = bytes.len() - 4096;
    bytes[from..].fill(0);
    fs::write(&wal, bytes).unwrap();
    assert_refused(&dir, "last 4 KiB zeroed");
}

#[test]
fn deleted_log_file_refuses() {
    let dir = killed_log();
    fs::remove_file(wal(&dir)).unwrap();
    assert_refused(&dir, "log file deleted");
}

#[test]
fn log_cut_in_half_is_short_of_its_sentinel() {
    let dir = killed_log();
    let wal = wal(&dir);
    cut(&wal, wal.metadata().unwrap().len() / 2);
    let log = open(&dir).unwrap();
    let left = count(&log);
    assert!((ROWS / 3..ROWS).contains(&left), "{left}");
    assert!(is_short(&dir, &log));
}

#[test]
fn directory_that_lost_its_files_is_not_taken_for_a_new_one() {
    let dir = killed_log();
    fs::remove_file(dir.path().join("log/CURRENT")).unwrap();
    assert_refused(&dir, "CURRENT deleted");
    let dir = killed_log();
    let manifest = fs::read_dir(dir.path().join("log")).unwrap().map(|file| file.unwrap().path());
    let mut manifest = manifest.filter(|path| path.to_string_lossy().contains("MANIFEST"));
    fs::remove_file(manifest.next().unwrap()).unwrap();
    assert_refused(&dir, "manifest deleted");
}

/// A data instance of [`ROWS`] rows in one file.
fn flushed_data(dir: &Path) -> Arc<RocksEngine> {
    let data = RocksEngine::open(dir, Kind::Data, &StorageConfig::default()).unwrap();
    for row in 0..ROWS {
        let noise = (0..25).map(|at| crc32c::crc32c(&[row as u8, (row >> 8) as u8, at]));
        let value: String = noise.map(|word| format!("{word:08x}")).collect();
        put(&data, &format!("{row:04}"), &value);
    }
    data.flush().unwrap();
    data
}

fn open_data(dir: &tempfile::TempDir) -> Result<Arc<RocksEngine>, Error> {
    RocksEngine::open(&dir.path().join("data"), Kind::Data, &StorageConfig::default())
}

#[test]
fn flipped_bit_in_a_file_fails_reads_and_never_shortens_a_scan() {
    let dir = tempfile::tempdir().unwrap();
    let intact = {
        let data = flushed_data(&dir.path().join("data"));
        rows(data.as_ref(), &KeyRange::default(), Direction::Forward).unwrap()
    };
    assert_eq!(intact.len(), ROWS);
    let sst = largest(&dir.path().join("data"), "sst");
    flip_bit(&sst, sst.metadata().unwrap().len() as usize / 3);

    let data = open_data(&dir).unwrap();
    let view = data.view();
    for read in [data.as_ref() as &dyn Read, view.as_ref()] {
        for direction in [Direction::Forward, Direction::Reverse] {
            let mut cursor = read.scan(Family::Default, &KeyRange::default(), direction);
            let mut seen = 0;
            let error = loop {
                match cursor.next() {
                    Ok(Some(_)) => seen += 1,
                    Ok(None) => {
                        panic!("{direction:?} scan ended after {seen} rows without an error")
                    }
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            let file = sst.file_name().unwrap().to_string_lossy();
            assert!(error.to_string().contains(&*file), "it names the file: {error}");
            assert!((1..ROWS).contains(&seen), "{seen}");
            assert!(cursor.next().is_err(), "the error stays");
        }
        let mut failed = 0;
        for (key, value) in &intact {
            match read.get(Family::Default, key) {
                Ok(got) => assert_eq!(got.as_ref(), Some(value)),
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                    failed += 1;
                }
            }
        }
        assert!((1..ROWS / 2).contains(&failed), "{failed} of {ROWS} reads fail");
    }
}

/// Whoever ends of it has to say which file it is.
#[test]
fn damage_that_a_compaction_meets_is_named_by_each_write_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = flushed_data(&dir.path().join("data"));
    let sst = largest(&dir.path().join("data"), "sst");
    drop(data);
    flip_bit(&sst, sst.metadata().unwrap().len() as usize / 3);
    let data = open_data(&dir).unwrap();
    assert_eq!(data.background_errors(), 0);
    let mut options = rocksdb::CompactOptions::default();
    options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
    let rows = family(&data.db, Family::Default);
    data.db.compact_range_cf_opt(rows, None::<&[u8]>, None::<&[u8]>, &options);
    assert!(data.background_errors() > 0);
    let mut batch = WriteBatch::new();
    batch.put(Family::Default, b"later", b"value");
    let error = data.write(&batch, Durability::Buffered).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(&*sst.to_string_lossy()), "{error}");
}

#[test]
fn missing_or_cut_file_refuses_to_open() {
    for (why, damage) in [
        ("missing", (|path| fs::remove_file(path).unwrap()) as fn(&Path)),
        ("cut", |path| cut(path, path.metadata().unwrap().len() - 100)),
        ("emptied", |path| drop(File::create(path).unwrap())),
    ] {
        let dir = tempfile::tempdir().unwrap();
        drop(flushed_data(&dir.path().join("data")));
        damage(&largest(&dir.path().join("data"), "sst"));
        let error = open_data(&dir).expect_err(why);
        assert!(matches!(error, Error::Corrupt { .. }), "{why}: {error}");
    }
}

/// The data instance is not synced row by row: after a power cut it comes back to a point in time.
#[test]
fn data_with_a_damaged_log_file_comes_back_to_an_earlier_point() {
    let dir = tempfile::tempdir().unwrap();
    let live = RocksEngine::open(&dir.path().join("live"), Kind::Data, &StorageConfig::default());
    let live = live.unwrap();
    for row in 0..ROWS {
        put(&live, &format!("{row:04}"), &"v".repeat(400));
    }
    copy(&dir.path().join("live"), &dir.path().join("data"));
    let wal = largest(&dir.path().join("data"), "log");
    flip_bit(&wal, wal.metadata().unwrap().len() as usize / 2);
    let data = open_data(&dir).unwrap();
    let left = rows(data.as_ref(), &KeyRange::default(), Direction::Forward).unwrap();
    assert!((1..ROWS).contains(&left.len()), "{}", left.len());
    for (row, (key, _)) in left.iter().enumerate() {
        assert_eq!(key, format!("{row:04}").as_bytes(), "a prefix, without holes");
    }
}

/// The rows of a region are many and large, what is known of it is one small row: RocksDB by itself would have
/// files of the one only, and keep all of the write-ahead log for the other.
#[test]
fn data_comes_back_whichever_log_file_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let config = StorageConfig { data_memtable_bytes: 1 << 20, ..StorageConfig::default() };
    let open = |dir: &Path| RocksEngine::open(dir, Kind::Data, &config);
    let live = open(&dir.path().join("live")).unwrap();
    let mut row = 0;
    let mut write = || {
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, format!("{row:04}").as_bytes(), &[b'v'; 8 << 10]);
        batch.put(Family::Meta, b"row", format!("{row:04}").as_bytes());
        live.write(&batch, Durability::Buffered).unwrap();
        row += 1;
    };
    (0..400).for_each(|_| write());
    let is_behind = || {
        let full = rocksdb::properties::NUM_IMMUTABLE_MEM_TABLE;
        live.db.property_int_value(full).unwrap().unwrap() > 0
    };
    let until = crate::world::clock::monotonic() + std::time::Duration::from_secs(30);
    while is_behind() && crate::world::clock::monotonic() < until {
        std::thread::yield_now();
    }
    assert!(!is_behind(), "the memtables are flushed");
    (0..20).for_each(|_| write());
    live.freeze();
    let logs = |dir: &Path| {
        let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        let mut logs: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|found| found == "log")).collect();
        logs.sort();
        logs
    };
    assert!(!logs(&dir.path().join("live")).is_empty());
    for (number, wal) in logs(&dir.path().join("live")).iter().enumerate() {
        let copied = dir.path().join(format!("data-{number}"));
        copy(&dir.path().join("live"), &copied);
        let wal = copied.join(wal.file_name().unwrap());
        flip_bit(&wal, wal.metadata().unwrap().len() as usize / 2);
        let data = open(&copied).unwrap();
        let left = rows(data.as_ref(), &KeyRange::default(), Direction::Forward).unwrap();
        let last = left.last().map(|(key, _)| key.clone());
        assert_eq!(data.get(Family::Meta, b"row").unwrap(), last, "of one moment");
    }
}
