use super::*;

fn put(key: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(Family::Default, key.as_bytes(), b"value");
    batch
}

fn keys(engine: &MemoryEngine) -> String {
    let mut keys = String::new();
    let mut cursor = engine.scan(Family::Default, &KeyRange::default(), Direction::Forward);
    while let Some((key, _)) = cursor.next().unwrap() {
        keys.push_str(std::str::from_utf8(key).unwrap());
    }
    keys
}

#[test]
fn crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
    let engine = MemoryEngine::new();
    engine.write(&put("a"), Durability::Buffered).unwrap();
    engine.write(&put("b"), Durability::Synced).unwrap();
    engine.write(&put("c"), Durability::Buffered).unwrap();
    engine.write(&put("d"), Durability::Buffered).unwrap();
    assert_eq!((engine.unsynced(), keys(&engine)), (2, "abcd".to_owned()));
    for (kept, want) in [(0, "ab"), (1, "abc"), (2, "abcd"), (9, "abcd")] {
        let after = engine.crash(kept);
        assert_eq!((keys(&after).as_str(), after.unsynced()), (want, 0), "kept {kept}");
        assert_eq!(after.sequence(), want.len() as u64, "sequence falls with what is lost");
    }
    engine.sync().unwrap();
    assert_eq!(keys(&engine.crash(0)), "abcd");
}

#[test]
fn each_fault_hits_once_and_leaves_what_it_says() {
    for (fault, durability, visible, durable) in [
        (Fault::WriteLost, Durability::Synced, "", ""),
        (Fault::WriteKept, Durability::Synced, "a", ""),
        (Fault::Sync, Durability::Synced, "a", ""),
    ] {
        let engine = MemoryEngine::new();
        engine.inject(fault);
        assert!(!engine.take_failure(), "{fault:?}: it is yet to come");
        let error = engine.write(&put("a"), durability).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{fault:?}");
        assert_eq!([engine.take_failure(), engine.take_failure()], [true, false], "{fault:?}");
        assert_eq!(keys(&engine), visible, "{fault:?}");
        assert_eq!(keys(&engine.crash(0)), durable, "{fault:?}");
        engine.write(&put("b"), durability).unwrap();
    }
    let engine = MemoryEngine::new();
    engine.inject(Fault::Sync);
    engine.write(&put("a"), Durability::Buffered).unwrap();
    engine.sync().unwrap_err();
    assert_eq!(keys(&engine.crash(0)), "");
}

#[test]
fn what_a_sync_failed_for_is_kept_by_no_later_one_but_by_the_next_process() {
    let engine = MemoryEngine::new();
    engine.write(&put("a"), Durability::Synced).unwrap();
    engine.write(&put("b"), Durability::Buffered).unwrap();
    engine.inject(Fault::Sync);
    engine.sync().unwrap_err();
    engine.write(&put("c"), Durability::Synced).unwrap();
    assert_eq!(keys(&engine), "abc", "it is read all the same");
    let after = engine.crash(usize::MAX);
    assert_eq!((keys(&after).as_str(), after.sequence()), ("ac", 2));

    let next = engine.reopened();
    assert_eq!((keys(&next).as_str(), next.sequence()), ("abc", 3));
    assert_eq!(keys(&next.crash(0)), "ac", "nor by being read");
    next.sync().unwrap();
    assert_eq!(keys(&next.crash(0)), "abc", "it was written anew");
}

#[test]
fn a_process_that_ends_keeps_and_syncs_nothing() {
    let engine = MemoryEngine::new();
    engine.write(&put("a"), Durability::Synced).unwrap();
    engine.write(&put("b"), Durability::Buffered).unwrap();
    let next = engine.reopened();
    assert_eq!((keys(&next), keys(&next.crash(0))), ("ab".to_owned(), "a".to_owned()));
}

#[test]
fn interrupted_replace_is_finished_by_repeating_it() {
    let engine = MemoryEngine::new();
    engine.write(&put("a"), Durability::Synced).unwrap();
    let mut stage = engine.stage("one").unwrap();
    stage.put(b"b", b"value").unwrap();
    stage.finish().unwrap();
    drop(engine.stage("unfinished").unwrap());
    engine.inject(Fault::Replace);
    engine.replace_range(Family::Default, &KeyRange::default(), "one", Attempt::First).unwrap_err();
    assert_eq!(keys(&engine), "");
    let after = engine.crash(0);
    let stages = vec!["one".to_owned(), "unfinished".to_owned()];
    assert_eq!((keys(&after).as_str(), after.stages().unwrap()), ("a", stages));
    assert!(!after.is_staged("unfinished").unwrap(), "a torn one is there, and is none");
    after.replace_range(Family::Default, &KeyRange::default(), "one", Attempt::First).unwrap();
    assert_eq!(keys(&after), "b");
    after
        .replace_range(Family::Default, &KeyRange::default(), "unfinished", Attempt::First)
        .unwrap_err();
    after.drop_stage("one").unwrap();
    after.replace_range(Family::Default, &KeyRange::default(), "one", Attempt::First).unwrap_err();
}

#[test]
fn view_does_not_see_later_writes() {
    let engine = MemoryEngine::new();
    engine.write(&put("a"), Durability::Buffered).unwrap();
    let view = engine.view();
    let mut cursor = engine.scan(Family::Default, &KeyRange::default(), Direction::Forward);
    engine.write(&put("b"), Durability::Buffered).unwrap();
    assert_eq!(view.get(Family::Default, b"b").unwrap(), None);
    assert!(cursor.next().unwrap().is_some() && cursor.next().unwrap().is_none());
    assert!(engine.get(Family::Default, b"b").unwrap().is_some());
}

#[test]
fn tail_is_bounded() {
    let engine = MemoryEngine::new();
    let value = vec![7; TAIL_BYTES_MAX / 4];
    for key in 0..8u8 {
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, &[key], &value);
        engine.write(&batch, Durability::Buffered).unwrap();
    }
    assert!(engine.unsynced() < 4, "{}", engine.unsynced());
    assert!(engine.crash(0).get(Family::Default, &[0]).unwrap().is_some());
}

/// As with RocksDB, whose files are on the disk before what was written to its log.
#[test]
fn replaced_range_may_survive_a_power_cut_that_takes_what_was_written_before_it() {
    let engine = MemoryEngine::new();
    engine.write(&put("a"), Durability::Synced).unwrap();
    engine.write(&put("b"), Durability::Buffered).unwrap();
    let mut stage = engine.stage("one").unwrap();
    stage.put(b"x", b"1").unwrap();
    stage.finish().unwrap();
    let all_from_x = KeyRange::new(&b"x"[..], &b""[..]);
    engine.replace_range(Family::Default, &all_from_x, "one", Attempt::First).unwrap();
    assert_eq!(keys(&engine.crash(0)), "a");
    assert_eq!(keys(&engine.crash_keeping(0, || true)), "ax");
    assert_eq!(keys(&engine.crash_keeping(1, || true)), "abx");
    assert_eq!(keys(&engine.crash(3)), "abx");
}

#[test]
fn damaged_rows_read_as_corruption_until_they_are_written_over() {
    let engine = MemoryEngine::new();
    assert!(!engine.damage(Family::Default, 2, |_| 0), "nothing is there");
    for key in ["a", "b", "c", "d"] {
        engine.write(&put(key), Durability::Synced).unwrap();
    }
    let before = engine.view();
    // Hidden by what a power cut takes.
    let mut hidden = WriteBatch::new();
    hidden.put(Family::Default, b"c", b"newer");
    engine.write(&hidden, Durability::Buffered).unwrap();
    assert!(engine.damage(Family::Default, 2, |of| of - 3));
    let reads = |engine: &dyn Read, key: &str| match engine.get(Family::Default, key.as_bytes()) {
        Ok(found) => found.is_some(),
        Err(error) => {
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            false
        }
    };
    let all = |engine: &dyn Read| ["a", "b", "c", "d"].map(|key| reads(engine, key));
    assert_eq!(all(engine.as_ref()), [true, false, true, true]);
    assert_eq!(all(engine.crash(0).as_ref()), [true, false, false, true]);
    assert_eq!(all(before.as_ref()), [true; 4], "it was read before");
    let scanned = |direction| {
        let mut cursor = engine.scan(Family::Default, &KeyRange::default(), direction);
        let mut count = 0;
        while let Ok(Some(_)) = cursor.next() {
            count += 1;
        }
        assert!(cursor.next().is_err() && cursor.next().is_err(), "it is no end");
        count
    };
    assert_eq!([Direction::Forward, Direction::Reverse].map(scanned), [1, 2]);

    engine.write(&put("b"), Durability::Buffered).unwrap();
    assert_eq!(all(engine.as_ref()), [true; 4], "written over");
    assert!(engine.is_damaged(), "a power cut brings it back");
    engine.sync().unwrap();
    assert!(!engine.is_damaged());
    assert_eq!(all(engine.crash(0).as_ref()), [true; 4]);

    engine.damage(Family::Default, 9, |_| 0);
    engine.mend();
    assert_eq!(all(engine.as_ref()), [true; 4], "as it was");
}
