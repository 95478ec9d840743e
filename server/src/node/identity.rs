//! Who this disk belongs to. Ids are never reused: an empty disk never becomes its old self.
//!
//! It lies in `log`, with all else that the disk promises, and its first byte is the form of everything
//! on the disk. A disk without an identity has promised nothing to anybody; what an interrupted birth
//! left on it goes before it is given one.

use bytes::{Buf, Bytes};
use flotilla_proto::{range::KeyRange, v1};
use prost::Message as _;

use crate::{
    ids::{ClusterId, NodeId},
    region::{
        incarnations::incarnation,
        promises::{self, Promises},
    },
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Direction, Durability, Engine},
        keys,
    },
    world::clock,
};

/// First byte of the row: the form of all that lies on the disk.
const FORMAT: u8 = 1;

/// Whose a disk is. What a process calls itself to others (`transport::Identity`) says, too, which start of it that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskIdentity {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) removed: bool,
}

/// The stored form; `None` on a disk that never joined.
pub(super) fn read_stored(log: &dyn Engine) -> Result<Option<v1::NodeIdentity>, engine::Error> {
    let corrupt = |message: &str| engine::Error::Corrupt { message: message.to_owned() };
    let Some(mut row) = log.get(Family::Default, &keys::log::identity())? else { return Ok(None) };
    if row.is_empty() || row.get_u8() != FORMAT {
        return Err(corrupt(
            "the disk was written by another version, whose form this one does not know",
        ));
    }
    let stored = v1::NodeIdentity::decode(row);
    stored.map(Some).map_err(|_| corrupt("the node's identity does not decode"))
}

pub(super) fn read(log: &dyn Engine) -> Result<Option<DiskIdentity>, engine::Error> {
    let Some(stored) = read_stored(log)? else { return Ok(None) };
    let cluster = ClusterId::from_bytes(&stored.cluster_id).ok_or_else(|| {
        engine::Error::Corrupt { message: "the cluster id is not 16 bytes".to_owned() }
    })?;
    Ok(Some(DiskIdentity { cluster, node: NodeId(stored.node_id), removed: stored.removed }))
}

/// Refuses a disk that has lost its identity: whoever went on would take it for a new one, and it may
/// have made promises. What an interrupted birth leaves is no promise yet: seeds of logs, and a state.
/// `is_cut` tells whether the log was found to lack its end.
pub(super) fn check_whole(
    log: &dyn Engine,
    data: &dyn Engine,
    is_cut: bool,
) -> Result<(), engine::Error> {
    if read_stored(log)?.is_some() {
        return Ok(());
    }
    let promised = promises::read_all(log)?;
    let is_seed = |promises: &Promises| {
        promises.own.is_some() && promises.buried.is_none() && promises.quarantined.is_none()
    };
    let mut is_birth = promised.values().all(is_seed);
    for region in promised.keys() {
        let entries = keys::log::all_entries(*region);
        let mut cursor = log.scan(Family::Default, &entries, Direction::Forward);
        is_birth &= cursor.next()?.is_none();
    }
    let has_values = {
        let mut cursor = data.scan(Family::Default, &KeyRange::default(), Direction::Forward);
        cursor.next()?.is_some()
    };
    if is_cut || !is_birth || (promised.is_empty() && has_values) {
        return Err(engine::Error::Corrupt {
            message:
                "the disk does not say whose it is, but has been used: its log is lost, or it was \
                      written by another version. Empty the whole data directory to join as a new \
                      node"
                    .to_owned(),
        });
    }
    Ok(())
}

/// Makes the disk `identity`'s.
///
/// Durability: on the disk when it returns.
pub(super) fn write(log: &dyn Engine, identity: &v1::NodeIdentity) -> Result<(), engine::Error> {
    let mut row = vec![FORMAT];
    identity.encode(&mut row).expect("a vector has room");
    let mut batch = WriteBatch::new();
    batch.put(Family::Default, &keys::log::identity(), &Bytes::from(row));
    log.write(&batch, Durability::Synced)
}

/// Counts a start of this disk, and draws the incarnation of the process.
///
/// Durability: on the disk before anybody hears of it, so that no two starts have the same count.
pub(super) fn begin(log: &dyn Engine) -> Result<u64, engine::Error> {
    let Some(mut stored) = read_stored(log)? else {
        return Ok(incarnation(0, clock::random()));
    };
    stored.starts = stored.starts.saturating_add(1);
    match write(log, &stored) {
        Ok(()) => {}
        // It is then believed later, once the process before it has been silent.
        Err(engine::Error::Full { message }) => {
            tracing::warn!(message, "this start could not be counted");
            stored.starts -= 1;
        }
        Err(error) => return Err(error),
    }
    Ok(incarnation(stored.starts, clock::random()))
}

/// Durability: on the disk when it returns.
pub(super) fn mark_removed(log: &dyn Engine) -> Result<(), engine::Error> {
    let Some(mut stored) = read_stored(log)? else { return Ok(()) };
    stored.removed = true;
    write(log, &stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryEngine;

    #[test]
    fn every_start_of_a_disk_is_a_later_one() {
        let log = MemoryEngine::new();
        assert_eq!(begin(log.as_ref()).expect("a start") >> 32, 0, "of an empty disk");
        let stored = v1::NodeIdentity { node_id: 3, ..v1::NodeIdentity::default() };
        write(log.as_ref(), &stored).expect("a write");
        for count in 1..4 {
            assert_eq!(begin(log.as_ref()).expect("a start") >> 32, count);
        }
        let kept = read_stored(log.as_ref()).expect("a read").expect("an identity");
        assert_eq!(kept, v1::NodeIdentity { starts: 3, ..stored });
    }

    #[test]
    fn identity_survives_a_power_cut_once_it_was_told() {
        let log = MemoryEngine::new();
        let stored = v1::NodeIdentity {
            cluster_id: vec![7; 16].into(),
            node_id: 3,
            ..v1::NodeIdentity::default()
        };
        write(log.as_ref(), &stored).expect("a write");
        let log = log.crash(0);
        assert_eq!(read_stored(log.as_ref()).expect("a read"), Some(stored));
        begin(log.as_ref()).expect("a start");
        let log = log.crash(0);
        assert_eq!(begin(log.as_ref()).expect("a start") >> 32, 2, "the start before is counted");
        mark_removed(log.as_ref()).expect("a write");
        assert!(read(log.crash(0).as_ref()).expect("a read").expect("an identity").removed);
    }

    #[test]
    fn disk_of_another_form_is_refused() {
        let log = MemoryEngine::new();
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, &keys::log::identity(), b"\x02later");
        log.write(&batch, Durability::Synced).expect("a write");
        let error = read(log.as_ref()).expect_err("another form").to_string();
        assert!(error.contains("another version"), "{error}");
    }

    #[test]
    fn disk_that_lost_its_identity_is_refused() {
        let (log, data) = (MemoryEngine::new(), MemoryEngine::new());
        let check = |is_cut| check_whole(log.as_ref(), data.as_ref(), is_cut);
        let lost = |is_cut| {
            let error = check(is_cut).expect_err("nobody's disk").to_string();
            assert!(error.contains("does not say whose it is"), "{error}");
        };
        let put = |engine: &MemoryEngine, key: &[u8], value: &[u8]| {
            let mut batch = WriteBatch::new();
            batch.put(Family::Default, key, value);
            engine.write(&batch, Durability::Synced).expect("a write");
        };
        check(false).expect("an empty disk");
        lost(true);
        put(&data, b"key", b"value");
        lost(false);
        let region = crate::ids::RegionId(1);
        let own = promises::encode(crate::ids::PeerId(1), "");
        put(&log, &keys::log::own_peer(region), &own);
        put(&log, &keys::log::purged(region), b"a mark");
        check(false).expect("a birth that did not come to its end");
        put(&log, &keys::log::entry(region, 2), b"an entry");
        lost(false);
        write(log.as_ref(), &v1::NodeIdentity::default()).expect("a write");
        check(true).expect("a joined disk, whose peers are judged one by one");
    }
}
