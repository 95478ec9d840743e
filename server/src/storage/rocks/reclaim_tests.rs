use std::{fs, time::Duration};

use super::{
    tests::{keys, put},
    *,
};
use crate::storage::reclaim::{Claim, ExpiresAt};

/// A value of these tests is its expiry; what is no number never expires.
const EXPIRES_AT: ExpiresAt = |stored| std::str::from_utf8(stored).ok()?.parse().ok();

fn open(dir: &tempfile::TempDir) -> Arc<RocksEngine> {
    open_with(dir, &StorageConfig::default())
}

fn open_with(dir: &tempfile::TempDir, config: &StorageConfig) -> Arc<RocksEngine> {
    RocksEngine::open(&dir.path().join("data"), Kind::Data, config).unwrap()
}

/// Claims that `[b, y)` has reached `time_ms`.
fn claim(data: &RocksEngine, time_ms: u64) {
    let claim = Claim { range: KeyRange::new("b", "y"), time_ms };
    data.reclaim_expired(&mut || Claims::new(EXPIRES_AT, vec![claim.clone()])).unwrap();
}

fn all(data: &dyn Read) -> String {
    keys(data, &KeyRange::default())
}

#[test]
fn compaction_removes_what_has_expired_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(&dir);
    put(&data, "a b1 y", "10");
    put(&data, "b2", "11");
    put(&data, "b3", "never");
    put(&data, "b4", "");
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, b"b1", b"10");
    data.write(&batch, Durability::Buffered).unwrap();
    data.compact();
    assert_eq!(all(data.as_ref()), "a b1 b2 b3 b4 y", "nothing was claimed");
    claim(&data, 10);
    assert_eq!(all(data.as_ref()), "a b1 b2 b3 b4 y", "nothing was compacted");
    data.compact();
    assert_eq!(all(data.as_ref()), "a b2 b3 b4 y", "keys outside of the region stay");
    assert_eq!(data.get(Family::Meta, b"b1").unwrap().unwrap(), "10");
    assert_eq!(data.stats().reclaimed_rows, 1);
    claim(&data, 11);
    data.compact();
    assert_eq!(all(data.as_ref()), "a b3 b4 y");
    drop(data);
    assert_eq!(all(open(&dir).as_ref()), "a b3 b4 y");
}

#[test]
fn removed_row_shows_no_older_one_and_hides_no_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(&dir);
    put(&data, "c d", "never");
    data.compact();
    put(&data, "c", "5");
    put(&data, "e", "5");
    data.flush().unwrap();
    put(&data, "e", "never");
    claim(&data, 10);
    data.compact();
    assert_eq!(all(data.as_ref()), "d e");
    assert_eq!(data.get(Family::Default, b"e").unwrap().unwrap(), "never");
}

#[test]
fn rows_that_a_view_may_find_alive_stay_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(&dir);
    put(&data, "b1", "10");
    put(&data, "b2", "20");
    claim(&data, 10);
    // The region is at 15, say: `b1` has expired for this view, `b2` has not.
    let views = [data.view(), data.read_view()];
    claim(&data, 30);
    for view in views {
        data.compact();
        assert_eq!(all(view.as_ref()), "b2", "the first claim is older than the view");
        assert_eq!(view.get(Family::Default, b"b2").unwrap().unwrap(), "20");
        assert_eq!(data.stats().reclaimed_rows, 1);
    }
    data.compact();
    assert_eq!(all(data.as_ref()), "", "the views are gone");
}

/// Why views hold claims back: remove the hold, and this is what a snapshot sender sees.
#[test]
fn snapshot_of_rocksdb_alone_keeps_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(&dir);
    put(&data, "b", "20");
    let snapshot = data.db.snapshot();
    claim(&data, 30);
    data.compact();
    assert_eq!(snapshot.get(b"b").unwrap(), None);
}

#[test]
fn cursor_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(&dir);
    put(&data, "b c d", "20");
    let whole = KeyRange::default();
    let mut cursor = data.scan(Family::Default, &whole, Direction::Forward);
    assert!(cursor.next().unwrap().is_some());
    claim(&data, 30);
    data.compact();
    assert_eq!(all(data.as_ref()), "");
    assert_eq!(cursor.next().unwrap(), Some((&b"c"[..], &b"20"[..])));
    assert_eq!(cursor.next().unwrap(), Some((&b"d"[..], &b"20"[..])));
}

#[test]
fn rows_of_a_successor_stay() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(&dir);
    put(&data, "b", "10");
    claim(&data, 30);
    data.withdraw_claims(&KeyRange::new("b", "m"));
    put(&data, "c", "20");
    data.compact();
    assert_eq!(all(data.as_ref()), "b c");
}

/// A row that is gone must be gone in whatever comes back.
#[test]
fn states_that_claims_are_made_of_need_no_write_ahead_log() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(&dir);
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, b"time", b"10");
    data.write(&batch, Durability::Buffered).unwrap();
    put(&data, "b", "never");
    claim(&data, 10);
    put(&data, "c", "later");
    drop(data);
    let mut cut = 0;
    for file in fs::read_dir(dir.path().join("data")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            fs::File::create(&path).unwrap();
            cut += 1;
        }
    }
    assert!(cut > 0);
    let data = open(&dir);
    assert_eq!(all(data.as_ref()), "b");
    assert_eq!(data.get(Family::Meta, b"time").unwrap().unwrap(), "10");
}

/// Without writes no compaction comes for their sake.
#[test]
fn old_files_are_visited_though_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        StorageConfig { reclaim_after: Duration::from_secs(1), ..StorageConfig::default() };
    let data = open_with(&dir, &config);
    put(&data, "b1 b2 b3", "10");
    data.compact();
    claim(&data, 10);
    let started = crate::world::clock::monotonic();
    while !all(data.as_ref()).is_empty() {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(60), "still there");
    }
    assert_eq!(data.stats().reclaimed_rows, 3);
}
