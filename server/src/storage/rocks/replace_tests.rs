use std::{fs, sync::Arc};

use super::{
    tests::{keys, put},
    *,
};

struct Fixture {
    dir: tempfile::TempDir,
    data: Arc<RocksEngine>,
    /// The one that is looked at. The other one has the same keys.
    of: Family,
}

/// The range of the tests: `d` is its neighbour's first key.
fn range() -> KeyRange {
    KeyRange::new("b", "d")
}

impl Fixture {
    /// Old rows in every place where RocksDB may have them: deep files, new files, memtable.
    fn new() -> Self {
        Self::of(Family::Default)
    }

    fn of(of: Family) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = open(&dir);
        let put = |keys: &str| {
            put(&data, keys, "old");
            let mut batch = WriteBatch::new();
            keys.split_whitespace().for_each(|key| batch.put(Family::Meta, key.as_bytes(), b"old"));
            data.write(&batch, Durability::Buffered).unwrap();
        };
        put("a1 b1 b2 c1 d d1");
        data.compact();
        put("a2 b3 c1 c2 d2");
        data.flush().unwrap();
        put("b1 b4 c3 d3");
        Self { dir, data, of }
    }

    fn stage(&self, keys: &str) {
        let mut stage = stage::RocksStage::create(&self.data.stages_dir, "install").unwrap();
        stage.cut_files_at(0);
        for key in keys.split_whitespace() {
            stage.put(key.as_bytes(), b"new").unwrap();
        }
        Box::new(stage).finish().unwrap();
    }

    fn stage_dir(&self) -> PathBuf {
        self.data.stages_dir.join("install")
    }

    fn restart(mut self) -> Self {
        let Self { dir, data, of } = self;
        drop(data);
        self = Self { data: open(&dir), dir, of };
        self
    }

    fn keys(&self) -> String {
        self.keys_of(self.of)
    }

    fn keys_of(&self, of: Family) -> String {
        let mut keys = Vec::new();
        let mut cursor = self.data.scan(of, &KeyRange::default(), Direction::Forward);
        while let Some((key, _)) = cursor.next().unwrap() {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
        }
        keys.join(" ")
    }

    fn other(&self) -> Family {
        match self.of {
            Family::Default => Family::Meta,
            Family::Meta => Family::Default,
        }
    }
}

fn open(dir: &tempfile::TempDir) -> Arc<RocksEngine> {
    RocksEngine::open(&dir.path().join("data"), Kind::Data, &StorageConfig::default()).unwrap()
}

const OLD: &str = "a1 a2 b1 b2 b3 b4 c1 c2 c3 d d1 d2 d3";

#[test]
fn view_of_an_instance_that_was_only_taken_in_keeps_rows_that_are_removed_later() {
    let dir = tempfile::tempdir().unwrap();
    let data = open(&dir);
    let mut stage = data.stage("install").unwrap();
    stage.put(b"b", b"old").unwrap();
    stage.finish().unwrap();
    data.replace_range(Family::Default, &range(), "install", Attempt::First).unwrap();
    let view = data.view();
    let mut removal = WriteBatch::new();
    removal.delete(Family::Default, b"b");
    data.write(&removal, Durability::Buffered).unwrap();
    data.compact();
    assert_eq!(keys(view.as_ref(), &KeyRange::default()), "b");
    assert_eq!(keys(data.as_ref(), &KeyRange::default()), "");
}

#[test]
fn replace_puts_exactly_the_staged_rows_into_the_range() {
    let f = Fixture::new();
    assert_eq!(f.keys(), OLD);
    f.stage("b b2 c1 cc");
    assert_eq!(f.data.stages().unwrap(), ["install"]);
    let view = f.data.view();
    f.data.replace_range(Family::Default, &range(), "install", Attempt::First).unwrap();
    let want = "a1 a2 b b2 c1 cc d d1 d2 d3";
    assert_eq!(f.keys(), want);
    assert_eq!(f.data.get(Family::Default, b"c1").unwrap().unwrap(), "new");
    assert_eq!(f.data.get(Family::Default, b"d").unwrap().unwrap(), "old");
    assert_eq!(keys(view.as_ref(), &KeyRange::default()), OLD, "a pinned state stays");
    drop(view);
    f.data.compact();
    assert_eq!(f.keys(), want, "what was replaced does not come back with compaction");
    put(&f.data, "b2", "newer");
    f.data.drop_stage("install").unwrap();
    assert_eq!(f.data.stages().unwrap(), Vec::<String>::new());
    let f = f.restart();
    f.data.compact();
    assert_eq!(f.keys(), want, "the rows outlive their stage");
    assert_eq!(f.data.get(Family::Default, b"b2").unwrap().unwrap(), "newer");
}

#[test]
fn replace_interrupted_after_any_step_is_finished_by_repeating_it() {
    for of in [Family::Default, Family::Meta] {
        for (steps, seen) in
            [(0, OLD), (1, OLD), (2, "a1 a2 d d1 d2 d3"), (3, "a1 a2 b b2 c1 cc d d1 d2 d3")]
        {
            let why = format!("{of:?} after {steps} steps");
            let f = Fixture::of(of);
            f.stage("b b2 c1 cc");
            let mut links = Vec::new();
            if steps >= 1 {
                links = replace::link_files(&range(), &f.stage_dir()).unwrap();
                assert_eq!(links.len(), 4, "the stage has several files");
            }
            if steps >= 2 {
                replace::clear(&f.data.db, of, &range(), Attempt::First).unwrap();
            }
            if steps >= 3 {
                replace::ingest(&f.data.db, of, links).unwrap();
            }
            let mut f = f.restart();
            assert_eq!(f.keys(), seen, "{why}");
            for round in 0..3 {
                f.data.replace_range(of, &range(), "install", Attempt::First).unwrap();
                let want = "a1 a2 b b2 c1 cc d d1 d2 d3";
                assert_eq!(f.keys(), want, "{why}, round {round}");
                assert_eq!(f.data.get(of, b"b2").unwrap().unwrap(), "new");
                f = f.restart();
                assert_eq!(f.keys(), want, "{why}, round {round}, restarted");
            }
            f.data.compact();
            assert_eq!(f.keys(), "a1 a2 b b2 c1 cc d d1 d2 d3", "{why}");
            assert_eq!(f.keys_of(f.other()), OLD, "{why}: nobody else's");
        }
    }
}

#[test]
fn stage_without_rows_empties_the_range() {
    let f = Fixture::new();
    f.stage("");
    f.data.replace_range(Family::Default, &range(), "install", Attempt::First).unwrap();
    f.data.compact();
    assert_eq!(f.keys(), "a1 a2 d d1 d2 d3");
    f.data
        .replace_range(Family::Default, &KeyRange::new("d1", ""), "install", Attempt::First)
        .unwrap();
    assert_eq!(f.keys(), "a1 a2 d", "an open end is the end of the map");
    assert_eq!(f.restart().keys(), "a1 a2 d");
}

#[test]
fn stage_that_does_not_fit_changes_nothing() {
    let f = Fixture::new();
    let refused = |why: &str| {
        f.data.replace_range(Family::Default, &range(), "install", Attempt::First).expect_err(why);
        assert_eq!(f.keys(), OLD, "{why}");
    };
    refused("no stage");
    let mut unfinished = f.data.stage("install").unwrap();
    unfinished.put(b"b", b"new").unwrap();
    unfinished.put(b"b", b"new").expect_err("keys must ascend");
    drop(unfinished);
    refused("unfinished stage");
    f.stage("a9 b");
    refused("a row before the range");
    f.stage("b d");
    refused("a row at the end of the range");
    f.stage("b c1");
    fs::remove_file(f.stage_dir().join("0001.sst")).unwrap();
    let error =
        f.data.replace_range(Family::Default, &range(), "install", Attempt::First).unwrap_err();
    assert!(matches!(error, Error::StageLost { .. }), "{error}");
    assert_eq!(f.keys(), OLD, "a file is missing");
}

/// Files on the top level are rewritten, and too many of them stop all writes.
#[test]
fn new_rows_land_beneath_all_others() {
    /// Files of the other family.
    const OF_OTHER: u64 = 1;
    let f = Fixture::new();
    f.data.compact();
    f.stage("b b2 c1 x y z");
    let to_the_end = KeyRange::new("b", "");
    for why in ["over old rows", "over its own rows", "once more"] {
        f.data.replace_range(Family::Default, &to_the_end, "install", Attempt::First).unwrap();
        let files = f.data.stats().level_files;
        assert_eq!((files[0], files[6]), (0, 7 + OF_OTHER), "{why}: {files:?}");
    }
    f.stage("");
    f.data.replace_range(Family::Default, &to_the_end, "install", Attempt::First).unwrap();
    f.stage("b b2");
    f.data.replace_range(Family::Default, &to_the_end, "install", Attempt::First).unwrap();
    let files = f.data.stats().level_files;
    assert_eq!((files[0], files[6]), (0, 3 + OF_OTHER), "where nothing was: {files:?}");
}

/// What RocksDB chooses to compact by itself, and meets there, is another matter.
fn compact_nothing_unasked(data: &RocksEngine) {
    for of in [Family::Default, Family::Meta] {
        let options = [("disable_auto_compactions", "true")];
        data.db.set_options_cf(family(&data.db, of), &options).unwrap();
    }
}

/// What a compaction meets ends all writes (`damage_tests.rs`), and each start would repeat it.
#[test]
fn damaged_block_beside_the_range_ends_no_writes() {
    let value = |of: &str, row: u32| -> Vec<u8> {
        let word = |at: u32| crc32c::crc32c(format!("{of} {row} {at}").as_bytes()).to_le_bytes();
        (0..256).flat_map(word).collect()
    };
    for (why, merges) in [("in a new file", false), ("in the oldest files", true)] {
        let dir = tempfile::tempdir().unwrap();
        let data = open(&dir);
        let mut batch = WriteBatch::new();
        for (of, row) in ["a", "b", "c"].iter().flat_map(|of| (0..60).map(move |row| (of, row))) {
            batch.put(Family::Default, format!("{of}{row:02}").as_bytes(), &value(of, row));
        }
        data.write(&batch, Durability::Buffered).unwrap();
        if merges {
            data.compact();
        } else {
            data.flush().unwrap();
        }
        drop(data);
        let mut flipped = 0;
        for file in fs::read_dir(dir.path().join("data")).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let part = &value("a", 20)[..32];
            if path.extension().is_some_and(|extension| extension == "sst")
                && let Some(at) = bytes.windows(32).position(|window| window == part)
            {
                bytes[at] ^= 1;
                fs::write(path, bytes).unwrap();
                flipped += 1;
            }
        }
        assert_eq!(flipped, 1, "{why}");
        let range = KeyRange::new("b", "c");
        for attempt in [Attempt::First, Attempt::Again] {
            let again = tempfile::tempdir().unwrap();
            fs::create_dir(again.path().join("data")).unwrap();
            for file in fs::read_dir(dir.path().join("data")).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), again.path().join("data").join(file.file_name())).unwrap();
            }
            let data = open(&again);
            compact_nothing_unasked(&data);
            data.get(Family::Default, b"a20").expect_err("it is damaged");
            let mut stage = data.stage("install").unwrap();
            stage.put(b"b05", b"new").unwrap();
            stage.put(b"bx", b"new").unwrap();
            stage.finish().unwrap();
            for round in 0..3 {
                data.replace_range(Family::Default, &range, "install", attempt).unwrap();
                let why = format!("{why}, {attempt:?}, round {round}");
                assert_eq!(data.background_errors(), 0, "{why}");
                assert_eq!(keys(data.as_ref(), &range), "b05 bx", "{why}");
                put(&data, "b06", "later");
                assert_eq!(keys(data.as_ref(), &range), "b05 b06 bx", "{why}");
            }
        }
    }
}

/// A block that cannot be read must not make the range look empty, nor keep what is to be replaced.
#[test]
fn replace_over_a_damaged_file_puts_the_staged_rows_there() {
    let f = Fixture::new();
    f.data.compact();
    let Fixture { dir, data, of } = f;
    drop(data);
    for file in fs::read_dir(dir.path().join("data")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = fs::read(&path).unwrap();
            bytes[10] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    let f = Fixture { data: open(&dir), dir, of };
    compact_nothing_unasked(&f.data);
    f.stage("b b2 c1 cc");
    let get = |key: &str| f.data.get(Family::Default, key.as_bytes());
    get("b2").expect_err("it is damaged");
    f.data.replace_range(Family::Default, &range(), "install", Attempt::First).unwrap();
    for key in ["b", "b2", "c1", "cc"] {
        assert_eq!(get(key).unwrap().unwrap(), "new", "{key}");
    }
    for key in ["b1", "b3", "c3"] {
        assert_eq!(get(key).unwrap(), None, "{key}");
    }
    get("d").expect_err("what is damaged beside it stays so");
    assert_eq!(f.data.background_errors(), 0);
}

#[test]
fn new_stage_drops_what_an_earlier_one_left() {
    let f = Fixture::new();
    f.stage("b1 b2 b3");
    f.stage("c");
    assert!(!f.stage_dir().join("0001.sst").exists());
    f.data.replace_range(Family::Default, &range(), "install", Attempt::First).unwrap();
    assert_eq!(f.keys(), "a1 a2 c d d1 d2 d3");
    f.data.drop_stage("install").unwrap();
    f.data.drop_stage("install").unwrap();
    f.data.drop_stage("../data").unwrap_err();
}
