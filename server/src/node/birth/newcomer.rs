//! What a disk knows of itself before it has an identity: a number of its own, and the birth that it was
//! promised to.
//!
//! An address does not tell one disk from the next, so a birth names disks. The row lies in `log`, with all
//! else that is promised; its number lies in `data` too, so that the two are never of two disks.

use flotilla_proto::{range::KeyRange, v1};
use prost::Message as _;

use crate::{
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Direction, Durability, Engine},
        keys,
    },
    world::clock,
};

/// First byte of the row.
const FORMAT: u8 = 1;

/// `None` on a disk that was never used.
pub(in crate::node) fn read(log: &dyn Engine) -> Result<Option<v1::Newcomer>, engine::Error> {
    let corrupt = |message: &str| engine::Error::Corrupt { message: message.to_owned() };
    let Some(row) = log.get(Family::Default, &keys::log::newcomer())? else { return Ok(None) };
    let Some((&FORMAT, newcomer)) = row.split_first() else {
        return Err(corrupt("what a disk knows before it joins is of another version's form"));
    };
    let newcomer = v1::Newcomer::decode(newcomer);
    newcomer.map(Some).map_err(|_| corrupt("what a disk knows before it joins does not decode"))
}

/// What the disk knows; its number is drawn when it has none. `data` is held against it.
///
/// Region and peer ids, and the indexes of logs, are alike in any two clusters: nothing else tells the
/// `data` of one from that of the other.
///
/// Durability: the number is on the disk before anybody hears of it, and in `data` before anything else.
///
/// # Errors
/// When the disk fails, or `data` is not this disk's.
pub(in crate::node) fn open(
    log: &dyn Engine,
    data: &dyn Engine,
) -> Result<v1::Newcomer, engine::Error> {
    let mut newcomer = match read(log)? {
        Some(newcomer) => newcomer,
        None => {
            let disk_id = clock::random_bytes().to_vec().into();
            let newcomer = v1::Newcomer { disk_id, ..v1::Newcomer::default() };
            write(log, &newcomer)?;
            newcomer
        }
    };
    if own_data(data, &newcomer)? == Named::Before && !newcomer.data_is_named {
        newcomer.data_is_named = true;
        match write(log, &newcomer) {
            // It is noted when there is room.
            Ok(()) | Err(engine::Error::Full { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(newcomer)
}

/// Since when `data` names its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// Since an earlier start: even if its write-ahead log is damaged it does not forget.
    Before,
    Now,
}

/// Sees to it that `data` names this disk. One that is empty was removed, or has lost everything; that is
/// legal, and what its peers lost is found when they are opened.
fn own_data(data: &dyn Engine, newcomer: &v1::Newcomer) -> Result<Named, engine::Error> {
    let own = [&[FORMAT][..], &newcomer.disk_id].concat();
    let named = data.get(Family::Meta, &keys::meta::disk())?;
    if named.as_deref() == Some(&own[..]) {
        return Ok(Named::Before);
    }
    let is_empty = is_empty(data, Family::Default, &KeyRange::default())?
        && is_empty(data, Family::Meta, &keys::meta::all_of_regions())?;
    let is_strange = named.is_some() || newcomer.data_is_named;
    if is_strange && !is_empty {
        let whose = match named.as_deref().map(|row| row.split_first()) {
            Some(Some((&FORMAT, disk))) => format!("of the disk {}", hex(disk)),
            Some(_) => "of another version's form".to_owned(),
            None => "of no disk that has a name".to_owned(),
        };
        return Err(engine::Error::Corrupt {
            message: format!(
                "`data` and `log` do not belong together: `data` is {whose}, `log` of the disk {}; one \
                 of them was put here from elsewhere. Put back what was here, or empty the whole data \
                 directory to join as a new node",
                hex(&newcomer.disk_id)
            ),
        });
    }
    let mut batch = WriteBatch::new();
    batch.put(Family::Meta, &keys::meta::disk(), &own);
    match data.write(&batch, Durability::Synced) {
        Ok(()) => Ok(Named::Now),
        // Made by a version that did not name it: as good as before until there is room.
        Err(engine::Error::Full { message }) if !is_empty => {
            tracing::warn!(message, "whose disk the data is on could not be noted");
            Ok(Named::Now)
        }
        Err(error) => Err(error),
    }
}

fn is_empty(data: &dyn Engine, family: Family, range: &KeyRange) -> Result<bool, engine::Error> {
    Ok(data.scan(family, range, Direction::Forward).next()?.is_none())
}

/// Durability: on the disk when it returns.
pub(in crate::node) fn write(
    log: &dyn Engine,
    newcomer: &v1::Newcomer,
) -> Result<(), engine::Error> {
    let mut batch = WriteBatch::new();
    put(&mut batch, newcomer);
    log.write(&batch, Durability::Synced)
}

pub(in crate::node) fn put(batch: &mut WriteBatch, newcomer: &v1::Newcomer) {
    let row = [&[FORMAT][..], &newcomer.encode_to_vec()].concat();
    batch.put(Family::Default, &keys::log::newcomer(), &row);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::{
        config::StorageConfig,
        memory::MemoryEngine,
        rocks::{Kind, RocksEngine},
    };

    #[test]
    fn number_and_promise_of_a_disk_survive_a_power_cut_once_they_were_told() {
        let (log, data) = (MemoryEngine::new(), MemoryEngine::new());
        let first = open(log.as_ref(), data.as_ref()).expect("a number");
        assert_eq!(first.disk_id.len(), 16);
        let log = log.crash(0);
        let again = open(log.as_ref(), data.as_ref()).expect("a number");
        assert_eq!(again.disk_id, first.disk_id);
        let birth = v1::Birth { birth_id: vec![5; 16].into(), ..v1::Birth::default() };
        let promised = v1::Newcomer { promised: Some(birth), ..again };
        write(log.as_ref(), &promised).expect("a promise");
        let log = log.crash(0);
        assert_eq!(open(log.as_ref(), data.as_ref()).expect("a promise"), promised);
        let other = open(MemoryEngine::new().as_ref(), MemoryEngine::new().as_ref());
        assert_ne!(other.expect("a number").disk_id, first.disk_id, "another disk");
    }

    fn put(engine: &dyn Engine, family: Family, key: &[u8]) {
        let mut batch = WriteBatch::new();
        batch.put(family, key, b"value");
        engine.write(&batch, Durability::Buffered).expect("a write");
    }

    fn in_memory(_: Kind) -> Arc<dyn Engine> {
        MemoryEngine::new()
    }

    /// Makes instances in directories of their own below `dir`.
    fn on_disk(dir: &std::path::Path) -> impl Fn(Kind) -> Arc<dyn Engine> {
        let made = std::cell::Cell::new(0);
        let dir = dir.to_owned();
        move |kind| {
            made.set(made.get() + 1);
            let dir = dir.join(made.get().to_string());
            RocksEngine::open(&dir, kind, &StorageConfig::default()).expect("an instance")
        }
    }

    fn refused(log: &dyn Engine, data: &dyn Engine) -> String {
        let error = open(log, data).expect_err("the data of another disk").to_string();
        assert!(error.contains("do not belong together"), "{error}");
        error
    }

    fn check_data_of_another_disk(make: &dyn Fn(Kind) -> Arc<dyn Engine>) {
        let disk = || (make(Kind::Log), make(Kind::Data));
        let (log, data) = disk();
        let (other_log, other_data) = disk();
        let own = open(log.as_ref(), data.as_ref()).expect("a new disk");
        let other = open(other_log.as_ref(), other_data.as_ref()).expect("a new disk");
        open(log.as_ref(), other_data.as_ref()).expect("nothing is in it, not even for long");
        refused(other_log.as_ref(), {
            put(other_data.as_ref(), Family::Default, b"key");
            other_data.as_ref()
        });
        // What the regions say alone is enough.
        put(data.as_ref(), Family::Meta, &keys::meta::apply_state(crate::ids::RegionId(2)));
        let words = refused(other_log.as_ref(), data.as_ref());
        assert!(
            words.contains(&hex(&own.disk_id)) && words.contains(&hex(&other.disk_id)),
            "{words}"
        );
        assert!(words.contains("empty the whole data directory"), "{words}");
        let kept = open(log.as_ref(), data.as_ref()).expect("its own, older or not");
        assert!(kept.data_is_named);
        let removed = make(Kind::Data);
        open(log.as_ref(), removed.as_ref()).expect("one that was removed is made anew");
        put(removed.as_ref(), Family::Default, b"key");
        refused(other_log.as_ref(), removed.as_ref());
        open(log.as_ref(), removed.as_ref()).expect("its own");
        let nameless = make(Kind::Data);
        put(nameless.as_ref(), Family::Default, b"key");
        refused(log.as_ref(), nameless.as_ref());
    }

    #[test]
    fn data_of_another_disk_is_refused_in_memory() {
        check_data_of_another_disk(&in_memory);
    }

    #[test]
    fn data_of_another_disk_is_refused_on_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        check_data_of_another_disk(&on_disk(dir.path()));
    }

    #[test]
    fn data_that_names_no_disk_is_taken_once() {
        let (log, data) = (MemoryEngine::new(), MemoryEngine::new());
        put(data.as_ref(), Family::Default, b"key");
        let first = open(log.as_ref(), data.as_ref()).expect("one of an earlier version");
        assert!(!first.data_is_named, "it may fall back to before");
        let data = data.crash(0);
        assert!(open(log.as_ref(), data.as_ref()).expect("it names its disk").data_is_named);
        refused(MemoryEngine::new().as_ref(), data.as_ref());
    }

    #[test]
    fn data_names_its_disk_before_anything_is_in_it() {
        let (log, data) = (MemoryEngine::new(), MemoryEngine::new());
        open(log.as_ref(), data.as_ref()).expect("a new disk");
        let data = data.crash(0);
        put(data.as_ref(), Family::Default, b"key");
        refused(MemoryEngine::new().as_ref(), data.as_ref());
        let (left_log, left_data) = (MemoryEngine::new(), data.crash(0));
        let left = open(left_log.as_ref(), left_data.as_ref()).expect("it fell back to nothing");
        assert!(!left.data_is_named, "it names another disk than a moment ago");
    }

    #[test]
    fn data_that_a_birth_left_still_names_its_disk() {
        let (log, data) = (MemoryEngine::new(), MemoryEngine::new());
        open(log.as_ref(), data.as_ref()).expect("a new disk");
        put(data.as_ref(), Family::Default, b"key");
        crate::region::lifecycle::wipe(log.as_ref(), data.as_ref()).expect("a disk");
        assert!(open(log.as_ref(), data.as_ref()).expect("its own").data_is_named);
    }
}
