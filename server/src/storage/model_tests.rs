//! The two engines behave as one: any list of steps leaves both with the same answers.

use std::{fs, path::Path, sync::Arc};

use flotilla_proto::range::KeyRange;
use proptest::prelude::*;

use super::{
    batch::{Family, WriteBatch},
    config::StorageConfig,
    engine::{Attempt, Direction, Durability, Engine, Read, View},
    memory::MemoryEngine,
    rocks::{Kind, RocksEngine},
};

type Key = Vec<u8>;

#[derive(Clone, Debug)]
enum Edit {
    Put(Family, Key, u16),
    Delete(Family, Key),
    DeleteRange(Family, Key, Key),
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Edit>, bool),
    Scan(Family, Key, Key),
    Replace(Family, Key, Key, Vec<(Key, u16)>),
    /// Pins both states, to be compared at the end.
    View,
    Flush,
    Compact,
    Restart,
    /// As `kill -9`: what was written is there, synced or not.
    Kill,
}

fn key() -> impl Strategy<Value = Key> {
    let byte = prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xFE), Just(0xFF)];
    prop::collection::vec(byte, 0..4)
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![3 => Just(Family::Default), 1 => Just(Family::Meta)]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => (family(), key(), any::<u16>()).prop_map(|(of, key, value)| Edit::Put(of, key, value)),
        2 => (family(), key()).prop_map(|(of, key)| Edit::Delete(of, key)),
        1 => (family(), key(), key()).prop_map(|(of, from, to)| Edit::DeleteRange(of, from, to)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let staged = prop::collection::vec((key(), any::<u16>()), 0..8);
    prop_oneof![
        8 => (prop::collection::vec(edit(), 0..10), any::<bool>())
            .prop_map(|(edits, synced)| Step::Write(edits, synced)),
        4 => (family(), key(), key()).prop_map(|(of, from, to)| Step::Scan(of, from, to)),
        2 => (family(), key(), key(), staged)
            .prop_map(|(of, from, to, rows)| Step::Replace(of, from, to, rows)),
        1 => Just(Step::View),
        1 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

fn batch(edits: &[Edit]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for edit in edits {
        match edit {
            Edit::Put(of, key, value) => {
                let [a, b] = value.to_be_bytes();
                batch.put_parts(*of, key, &[&[a], &[b]]);
            }
            Edit::Delete(of, key) => batch.delete(*of, key),
            Edit::DeleteRange(of, from, to) => batch.delete_range(*of, from, to),
        }
    }
    batch
}

fn rows(read: &dyn Read, of: Family, range: &KeyRange, direction: Direction) -> Vec<(Key, Key)> {
    let mut rows = Vec::new();
    let mut cursor = read.scan(of, range, direction);
    while let Some((key, value)) = cursor.next().unwrap() {
        rows.push((key.to_vec(), value.to_vec()));
    }
    rows
}

/// Both directions and every key of both families.
fn compare(rocks: &dyn Read, memory: &dyn Read) {
    for of in [Family::Default, Family::Meta] {
        compare_range(rocks, memory, of, &KeyRange::default());
        for (key, value) in rows(memory, of, &KeyRange::default(), Direction::Forward) {
            assert_eq!(rocks.get(of, &key).unwrap().unwrap(), value, "{of:?} {key:?}");
            assert_eq!(memory.get(of, &key).unwrap().unwrap(), value, "{of:?} {key:?}");
        }
    }
}

fn compare_range(rocks: &dyn Read, memory: &dyn Read, of: Family, range: &KeyRange) {
    let forward = rows(memory, of, range, Direction::Forward);
    assert!(forward.iter().all(|(key, _)| range.contains(key)), "{range:?}");
    assert_eq!(rows(rocks, of, range, Direction::Forward), forward, "{of:?} {range:?}");
    let mut reverse = rows(memory, of, range, Direction::Reverse);
    assert_eq!(rows(rocks, of, range, Direction::Reverse), reverse, "{of:?} {range:?}");
    reverse.reverse();
    assert_eq!(forward, reverse, "{of:?} {range:?}");
}

fn replace(engine: &dyn Engine, of: Family, range: &KeyRange, rows: &[(Key, u16)]) {
    let mut stage = engine.stage("model").unwrap();
    for (key, value) in rows {
        stage.put(key, &value.to_be_bytes()).unwrap();
    }
    stage.finish().unwrap();
    engine.replace_range(of, range, "model", Attempt::First).unwrap();
    engine.drop_stage("model").unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn run(kind: Kind, steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = dir.path().join("instance-0");
    let mut kills = 0;
    let config = StorageConfig::default();
    let open = |instance: &Path| RocksEngine::open(instance, kind, &config).unwrap();
    let mut rocks = open(&instance);
    let memory = MemoryEngine::new();
    let mut views: Vec<(Arc<dyn View>, Arc<dyn View>)> = Vec::new();
    for step in steps {
        match step {
            Step::Write(edits, synced) => {
                let durability = if *synced { Durability::Synced } else { Durability::Buffered };
                let batch = batch(edits);
                let before = rocks.sequence();
                rocks.write(&batch, durability).unwrap();
                memory.write(&batch, durability).unwrap();
                assert_eq!(rocks.sequence() - before, batch.len() as u64);
            }
            Step::Scan(of, from, to) => {
                let range = KeyRange::new(from.clone(), to.clone());
                compare_range(rocks.as_ref(), memory.as_ref(), *of, &range);
            }
            Step::Replace(of, from, to, rows) => {
                let range = KeyRange::new(from.clone(), to.clone());
                let mut rows = rows.clone();
                rows.retain(|(key, _)| range.contains(key));
                rows.sort();
                rows.dedup_by(|a, b| a.0 == b.0);
                replace(rocks.as_ref(), *of, &range, &rows);
                replace(memory.as_ref(), *of, &range, &rows);
                compare_range(rocks.as_ref(), memory.as_ref(), *of, &range);
            }
            Step::View => views.push((rocks.view(), memory.view())),
            Step::Flush => rocks.flush().unwrap(),
            Step::Compact => rocks.compact(),
            Step::Restart | Step::Kill => {
                // A view keeps the instance open.
                for (rocks, memory) in views.drain(..) {
                    compare(rocks.as_ref(), memory.as_ref());
                }
                if let Step::Kill = step {
                    kills += 1;
                    let copied = dir.path().join(format!("instance-{kills}"));
                    rocks.freeze();
                    copy(&instance, &copied);
                    instance = copied;
                }
                drop(rocks);
                rocks = open(&instance);
                compare(rocks.as_ref(), memory.as_ref());
            }
        }
    }
    compare(rocks.as_ref(), memory.as_ref());
    for (rocks, memory) in &views {
        compare(rocks.as_ref(), memory.as_ref());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn engines_agree_after_any_steps(
        kind in prop_oneof![Just(Kind::Log), Just(Kind::Data)],
        steps in prop::collection::vec(step(), 1..40),
    ) {
        run(kind, &steps);
    }
}
