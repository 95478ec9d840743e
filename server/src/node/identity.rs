//! Who this disk belongs to. Ids are never reused: an empty disk never becomes its old self.

use flotilla_proto::v1;
use prost::Message as _;

use crate::{
    ids::{ClusterId, NodeId},
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

/// Durability: on the disk when it returns.
pub(super) fn mark_removed(data: &dyn Engine) -> Result<(), engine::Error> {
    let Some(mut stored) = read_stored(data)? else { return Ok(()) };
    stored.removed = true;
    let mut batch = WriteBatch::new();
    put(&mut batch, &stored);
    data.write(&batch, Durability::Synced)
}
