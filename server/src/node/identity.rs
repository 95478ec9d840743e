//! Who this disk belongs to. Ids are never reused: an empty disk never becomes its old self.

use flotilla_proto::v1;
use prost::Message as _;

use crate::{
    clock,
    ids::{ClusterId, NodeId},
    region::incarnations::incarnation,
    storage::{
        batch::WriteBatch,
        engine::{self, Durability, Engine, Family},
        keys,
    },
};

/// The identity on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) removed: bool,
}

/// The stored form; `None` on a disk that never joined.
pub(super) fn read_stored(data: &dyn Engine) -> Result<Option<v1::NodeIdentity>, engine::Error> {
    let corrupt =
        |_| engine::Error::Corrupt { message: "the node's identity does not decode".to_owned() };
    data.get(Family::Meta, &keys::meta::identity())?
        .map(|bytes| v1::NodeIdentity::decode(bytes).map_err(corrupt))
        .transpose()
}

pub(super) fn read(data: &dyn Engine) -> Result<Option<Identity>, engine::Error> {
    let Some(stored) = read_stored(data)? else { return Ok(None) };
    let cluster = ClusterId::from_bytes(&stored.cluster_id).ok_or_else(|| {
        engine::Error::Corrupt { message: "the cluster id is not 16 bytes".to_owned() }
    })?;
    Ok(Some(Identity { cluster, node: NodeId(stored.node_id), removed: stored.removed }))
}

pub(super) fn put(batch: &mut WriteBatch, identity: &v1::NodeIdentity) {
    batch.put(Family::Meta, &keys::meta::identity(), &identity.encode_to_vec());
}

/// Counts a start of this disk, and draws the incarnation of the process.
///
/// Durability: on the disk before anybody hears of it, so that no two starts have the same count.
pub(super) fn begin(data: &dyn Engine) -> Result<u64, engine::Error> {
    let Some(mut stored) = read_stored(data)? else {
        return Ok(incarnation(0, clock::random()));
    };
    stored.starts = stored.starts.saturating_add(1);
    let mut batch = WriteBatch::new();
    put(&mut batch, &stored);
    match data.write(&batch, Durability::Synced) {
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
pub(super) fn mark_removed(data: &dyn Engine) -> Result<(), engine::Error> {
    let Some(mut stored) = read_stored(data)? else { return Ok(()) };
    stored.removed = true;
    let mut batch = WriteBatch::new();
    put(&mut batch, &stored);
    data.write(&batch, Durability::Synced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryEngine;

    #[test]
    fn every_start_of_a_disk_is_a_later_one() {
        let data = MemoryEngine::new();
        assert_eq!(begin(data.as_ref()).expect("a start") >> 32, 0, "of an empty disk");
        let mut batch = WriteBatch::new();
        let stored = v1::NodeIdentity { node_id: 3, ..v1::NodeIdentity::default() };
        put(&mut batch, &stored);
        data.write(&batch, Durability::Synced).expect("a write");
        for count in 1..4 {
            assert_eq!(begin(data.as_ref()).expect("a start") >> 32, count);
        }
        let kept = read_stored(data.as_ref()).expect("a read").expect("an identity");
        assert_eq!(kept, v1::NodeIdentity { starts: 3, ..stored });
    }
}
