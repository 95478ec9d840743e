//! The node table as this node last heard it.

use std::sync::Arc;

use flotilla_proto::v1;
use parking_lot::RwLock;
use prost::Message as _;

use crate::{
    ids::NodeId,
    raft::transport::Directory,
    storage::{
        batch::WriteBatch,
        engine::{self, Durability, Engine, Family},
        keys,
    },
};

/// Addresses and states of all nodes; a copy is on the disk, so that a restarted node knows whom to
/// ask. May be old; a newer version replaces it whole.
pub struct NodeDirectory {
    table: RwLock<Arc<v1::NodeTable>>,
    data: Arc<dyn Engine>,
}

impl NodeDirectory {
    /// Opens the copy on the disk, empty when there is none.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn open(data: Arc<dyn Engine>) -> Result<Self, engine::Error> {
        let table = match data.get(Family::Meta, &keys::meta::node_table())? {
            Some(bytes) => v1::NodeTable::decode(bytes).map_err(|_| engine::Error::Corrupt {
                message: "the node table does not decode".to_owned(),
            })?,
            None => v1::NodeTable::default(),
        };
        Ok(Self { table: RwLock::new(Arc::new(table)), data })
    }

    #[must_use]
    pub fn table(&self) -> Arc<v1::NodeTable> {
        Arc::clone(&self.table.read())
    }

    /// Takes a newer table over. The copy on the disk is for the next start, so it is not synced.
    ///
    /// # Errors
    /// When the disk fails; the table counts all the same.
    pub fn update(&self, table: v1::NodeTable) -> Result<bool, engine::Error> {
        {
            let mut current = self.table.write();
            if table.version <= current.version {
                return Ok(false);
            }
            *current = Arc::new(table.clone());
        }
        let mut batch = WriteBatch::new();
        batch.put(Family::Meta, &keys::meta::node_table(), &table.encode_to_vec());
        self.data.write(&batch, Durability::Buffered)?;
        Ok(true)
    }

    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<v1::NodeRecord> {
        self.table.read().nodes.iter().find(|record| record.node_id == node.0).cloned()
    }

    /// `host:port` of a node's client port; empty when it is not known.
    #[must_use]
    pub fn client_address(&self, node: NodeId) -> String {
        self.node(node).map(|record| record.client_address).unwrap_or_default()
    }

    #[must_use]
    pub fn removed(&self) -> Vec<NodeId> {
        self.table
            .read()
            .nodes
            .iter()
            .filter(|record| record.state() == v1::NodeState::Removed)
            .map(|record| NodeId(record.node_id))
            .collect()
    }

    /// Nodes that may be asked for something, this one not among them.
    #[must_use]
    pub fn others(&self, own: NodeId) -> Vec<NodeId> {
        self.table
            .read()
            .nodes
            .iter()
            .filter(|record| record.state() != v1::NodeState::Removed && record.node_id != own.0)
            .map(|record| NodeId(record.node_id))
            .collect()
    }
}

impl Directory for NodeDirectory {
    fn peer_address(&self, node: NodeId) -> Option<String> {
        self.node(node)
            .filter(|record| record.state() != v1::NodeState::Removed)
            .map(|record| record.peer_address)
            .filter(|address| !address.is_empty())
    }
}
