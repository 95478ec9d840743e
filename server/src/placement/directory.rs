//! The node table as this node last heard it.

use std::sync::Arc;

use flotilla_proto::v1;
use parking_lot::{Mutex, RwLock};
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
    /// Held while the copy is written.
    keeping: Mutex<()>,
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
        Ok(Self { table: RwLock::new(Arc::new(table)), data, keeping: Mutex::default() })
    }

    #[must_use]
    pub fn table(&self) -> Arc<v1::NodeTable> {
        Arc::clone(&self.table.read())
    }

    /// Takes a newer table over, and answers whether it is newer. The copy on the disk is for the next
    /// start; it is written by a thread that may wait, since those of regions must not.
    pub fn update(self: &Arc<Self>, table: v1::NodeTable) -> bool {
        {
            let mut current = self.table.write();
            if table.version <= current.version {
                return false;
            }
            *current = Arc::new(table);
        }
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = this.keep() {
                tracing::warn!(%error, "keeping the node table");
            }
        });
        true
    }

    /// Writes the copy. Blocks on the disk; whoever needs it there syncs after it.
    ///
    /// # Errors
    /// When the disk fails; the table counts all the same.
    pub fn keep(&self) -> Result<(), engine::Error> {
        // Ordering: the table is looked at when its turn has come, so that the newest is written last.
        let _one = self.keeping.lock();
        let mut batch = WriteBatch::new();
        batch.put(Family::Meta, &keys::meta::node_table(), &self.table().encode_to_vec());
        self.data.write(&batch, Durability::Buffered)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::fixture::{Probe, soon};

    fn table(version: u64) -> v1::NodeTable {
        v1::NodeTable { version, ..v1::NodeTable::default() }
    }

    /// The threads that tell of the table carry the heartbeats of all regions.
    #[tokio::test]
    async fn table_is_taken_over_while_the_disk_stands_still() {
        let data = Probe::new();
        let open = || NodeDirectory::open(Arc::clone(&data) as Arc<dyn Engine>).expect("a disk");
        let directory = Arc::new(open());
        data.hold();
        assert!(directory.update(table(2)) && directory.update(table(3)));
        assert!(!directory.update(table(3)), "not newer");
        assert_eq!(directory.table().version, 3);
        data.release();
        soon("the newest on the disk", async {
            while open().table().version != 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
