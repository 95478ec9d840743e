//! The node table as this node last heard it, and where nodes were seen since.
//!
//! Who has moved cannot be found by the table alone: a change of it needs a leader of region 1, and that
//! one needs a majority that finds each other. So wherever a node of the cluster is seen, by what it
//! says of itself on a connection or at an address that this node was told to ask, that counts more than
//! the row of it, until the row says something new. It may have gone back since, and have no reason to show
//! itself here again: so where it does not answer at the one place, the other one is tried, in turn.
//!
//! Every table that a node goes by comes through here, from its disk or from others. So it is here that one
//! which this program may not take part in is refused, and ends the process.

use std::sync::Arc;

use flotilla_proto::v1;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;

use super::{membership::check_address, view::find};
use crate::{
    feature_level::{self, TooOld},
    ids::NodeId,
    raft::transport::Directory,
    storage::{
        batch::{Family, WriteBatch},
        engine::{self, Durability, Engine},
        keys,
    },
    world::{blocking, maps::HashMap},
};

/// First byte of the copy on the disk.
const FORMAT: u8 = 1;

/// Addresses and states of all nodes; a copy is on the disk, so that a restarted node knows whom to
/// ask. May be old; a newer version replaces it whole. It is in `log`, with the identity: a node of which `data` fell
/// back would else know whose it is and nobody whom it could tell what it lost.
pub struct NodeDirectory {
    table: RwLock<Arc<v1::NodeTable>>,
    /// Peer addresses that differ from the table's. Bound: only of nodes of the table.
    seen: RwLock<HashMap<NodeId, Seen>>,
    log: Arc<dyn Engine>,
    /// Held while the copy is written.
    keeping: Mutex<()>,
    /// Ends the process, with these words.
    end: End,
}

/// Where a node was seen.
struct Seen {
    peer_address: String,
    /// It did not answer there when it was tried last: the table's place is next.
    is_doubted: bool,
}

type End = Box<dyn Fn(String) + Send + Sync>;

/// Why a table is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(transparent)]
    TooOld(#[from] TooOld),
    #[error(transparent)]
    Storage(#[from] engine::Error),
}

impl NodeDirectory {
    /// Opens the copy on the disk, empty when there is none. `end` is called when the cluster turns out to use
    /// more than this program can do.
    ///
    /// # Errors
    /// When the disk cannot be read, or the cluster uses more than this program can do.
    pub fn open(
        log: Arc<dyn Engine>,
        end: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Self, TableError> {
        let table = match log.get(Family::Default, &keys::log::node_table())? {
            Some(row) => row
                .split_first()
                .filter(|(format, _)| **format == FORMAT)
                .and_then(|(_, table)| v1::NodeTable::decode(table).ok())
                .ok_or_else(|| engine::Error::Corrupt {
                    message: "the node table is of a form that this version does not know"
                        .to_owned(),
                })?,
            None => v1::NodeTable::default(),
        };
        feature_level::check(feature_level::OURS, table.feature_level)?;
        let (table, keeping) = (RwLock::new(Arc::new(table)), Mutex::default());
        Ok(Self { table, seen: RwLock::default(), log, keeping, end: Box::new(end) })
    }

    /// That this program can do what the cluster uses, by its table or by what a driver says. If not, the
    /// process ends.
    ///
    /// # Errors
    /// When it cannot: whatever else is said is not for this program.
    pub fn check_level(&self, needed: u32) -> Result<(), TooOld> {
        let checked = feature_level::check(feature_level::OURS, needed);
        checked.inspect_err(|error| (self.end)(error.to_string()))
    }

    #[must_use]
    pub fn table(&self) -> Arc<v1::NodeTable> {
        Arc::clone(&self.table.read())
    }

    /// Begins with a table, whatever was known before: of a birth that did not come to its end, or of
    /// another cluster, whose versions say nothing here. Blocks on the disk; the caller syncs.
    ///
    /// # Errors
    /// When the disk fails, or the cluster uses more than this program can do.
    pub fn begin(&self, table: v1::NodeTable) -> Result<(), TableError> {
        self.check_level(table.feature_level)?;
        *self.table.write() = Arc::new(table);
        self.seen.write().clear();
        Ok(self.keep()?)
    }

    /// Takes a newer table over, and answers whether it is newer. The copy on the disk is for the next
    /// start; it is written by a thread that may wait, since those of regions must not.
    ///
    /// # Errors
    /// When the cluster uses more than this program can do: the process ends, and the table is not taken over.
    pub fn update(self: &Arc<Self>, table: v1::NodeTable) -> Result<bool, TooOld> {
        self.check_level(table.feature_level)?;
        {
            let mut current = self.table.write();
            if table.version <= current.version {
                return Ok(false);
            }
            let address = |table: &v1::NodeTable, node: NodeId| {
                find(table, node).map(|record| record.peer_address.clone())
            };
            self.seen.write().retain(|node, seen| {
                let now = address(&table, *node);
                now == address(&current, *node) && now.as_ref() != Some(&seen.peer_address)
            });
            *current = Arc::new(table);
        }
        let this = Arc::clone(self);
        blocking::run(move || {
            if let Err(error) = this.keep() {
                tracing::warn!(%error, "keeping the node table");
            }
        });
        Ok(true)
    }

    /// Writes the copy. Blocks on the disk; whoever needs it there syncs after it.
    ///
    /// # Errors
    /// When the disk fails; the table counts all the same.
    pub fn keep(&self) -> Result<(), engine::Error> {
        // Ordering: the table is looked at when its turn has come, so that the newest is written last.
        let _one = self.keeping.lock();
        let mut batch = WriteBatch::new();
        let row = [&[FORMAT][..], &self.table().encode_to_vec()].concat();
        batch.put(Family::Default, &keys::log::node_table(), &row);
        self.log.write(&batch, Durability::Buffered)
    }

    /// A node's row, with the address where it is to be tried.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<v1::NodeRecord> {
        let mut record = find(&self.table.read(), node).cloned()?;
        if let Some(seen) = self.seen.read().get(&node).filter(|seen| !seen.is_doubted) {
            record.peer_address.clone_from(&seen.peer_address);
        }
        Some(record)
    }

    /// A node of this cluster was seen at this peer address.
    pub fn see(&self, node: NodeId, peer_address: &str) {
        let table = self.table.read();
        let Some(record) = find(&table, node) else { return };
        let mut seen = self.seen.write();
        if record.peer_address == peer_address {
            seen.remove(&node);
        } else if check_address("peer_address", peer_address).is_ok() {
            let now = Seen { peer_address: peer_address.to_owned(), is_doubted: false };
            let before = seen.insert(node, now);
            if before.is_none_or(|before| before.peer_address != peer_address) {
                tracing::info!(%node, peer_address, "seen at another address than the table has");
            }
        }
    }

    /// `host:port` of a node's client port; empty when it is not known.
    #[must_use]
    pub fn client_address(&self, node: NodeId) -> String {
        self.node(node).map(|record| record.client_address).unwrap_or_default()
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

    fn answers_at(&self, node: NodeId, peer_address: &str) {
        let table = self.table.read();
        if find(&table, node).is_some_and(|row| row.peer_address == peer_address) {
            self.seen.write().remove(&node);
        }
    }

    fn not_at(&self, node: NodeId, peer_address: &str) {
        let table = self.table.read();
        let is_row = find(&table, node).is_some_and(|row| row.peer_address == peer_address);
        if let Some(seen) = self.seen.write().get_mut(&node) {
            // What failed at a third place says nothing of these two.
            seen.is_doubted = seen.peer_address == peer_address || (seen.is_doubted && !is_row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        placement::fixture::{record, table as table_of},
        raft::fixture::{Probe, soon},
    };

    fn table(version: u64) -> v1::NodeTable {
        v1::NodeTable { version, ..v1::NodeTable::default() }
    }

    /// The threads that tell of the table carry the heartbeats of all regions.
    #[tokio::test]
    async fn table_is_taken_over_while_the_disk_stands_still() {
        let data = Probe::new();
        let open = || NodeDirectory::open(Arc::clone(&data) as _, |_| {}).expect("a disk");
        let directory = Arc::new(open());
        data.hold();
        for version in [2, 3] {
            assert_eq!(directory.update(table(version)), Ok(true));
        }
        assert_eq!(directory.update(table(3)), Ok(false), "not newer");
        assert_eq!(directory.table().version, 3);
        data.release();
        soon("the newest on the disk", async {
            while open().table().version != 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn copy_on_the_disk_is_read_back_and_another_form_is_refused() {
        let data = Probe::new();
        let open = || NodeDirectory::open(Arc::clone(&data) as _, |_| {});
        let kept = table_of(3, vec![record(1, v1::NodeState::Up)]);
        let directory = Arc::new(open().expect("empty"));
        directory.update(kept.clone()).expect("of our level");
        directory.keep().expect("kept");
        assert_eq!(*open().expect("a copy").table(), kept);
        // Nothing is written later that would hide the next.
        let keeping = directory.keeping.lock();
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, &keys::log::node_table(), &kept.encode_to_vec());
        data.write(&batch, Durability::Synced).expect("a write");
        assert!(open().is_err(), "without the byte that names its form");
        drop(keeping);
    }

    #[tokio::test]
    async fn table_beyond_this_program_ends_it_wherever_it_comes_from() {
        let data = Probe::new();
        let ended = Arc::new(Mutex::new(Vec::new()));
        let open = || {
            let ended = Arc::clone(&ended);
            NodeDirectory::open(Arc::clone(&data) as _, move |words| ended.lock().push(words))
        };
        let words = || std::mem::take(&mut *ended.lock());
        let directory = Arc::new(open().expect("empty"));
        let before = table_of(3, vec![record(1, v1::NodeState::Up)]);
        directory.update(before.clone()).expect("of our level");
        assert_eq!(words(), [""; 0]);
        let needed = feature_level::OURS + 1;
        let beyond = v1::NodeTable { version: 11, feature_level: needed, ..before.clone() };
        let too_old = TooOld { has: feature_level::OURS, needed };
        assert_eq!(directory.update(beyond.clone()), Err(too_old));
        assert_eq!(*directory.table(), before, "nothing of it counts");
        assert_eq!(words(), [too_old.to_string()], "from another node");
        let begun = directory.begin(beyond.clone());
        assert!(matches!(begun, Err(TableError::TooOld(_))), "{begun:?}");
        assert_eq!(words(), [too_old.to_string()], "of a birth, or of a cluster that takes it in");
        let older = v1::NodeTable { version: 1, ..beyond.clone() };
        assert_eq!(directory.update(older), Err(too_old), "a level never falls");
        assert_eq!(words(), [too_old.to_string()]);
        let keeping = directory.keeping.lock();
        let mut batch = WriteBatch::new();
        let row = [&[FORMAT][..], &beyond.encode_to_vec()].concat();
        batch.put(Family::Default, &keys::log::node_table(), &row);
        data.write(&batch, Durability::Synced).expect("a write");
        let opened = open().map(|_| ());
        assert!(matches!(opened, Err(TableError::TooOld(_))), "on the disk: {opened:?}");
        drop(keeping);
    }

    #[tokio::test]
    async fn where_a_node_was_seen_counts_until_its_row_says_something_new() {
        let directory = Arc::new(NodeDirectory::open(Probe::new(), |_| {}).expect("empty"));
        let up = v1::NodeState::Up;
        let told = |version: u64, address: &str| {
            let moved = v1::NodeRecord { peer_address: address.to_owned(), ..record(2, up) };
            let table = v1::NodeTable { version, ..table_of(3, vec![record(1, up), moved]) };
            assert_eq!(directory.update(table), Ok(true), "version {version} is newer");
        };
        let at = || directory.peer_address(NodeId(2)).expect("an address");
        told(11, "n2:7421");
        assert_eq!(at(), "n2:7421");
        directory.see(NodeId(2), "m2:7421");
        assert_eq!(at(), "m2:7421");
        assert_eq!(directory.node(NodeId(2)).expect("known").peer_address, "m2:7421");
        told(12, "n2:7421");
        assert_eq!(at(), "m2:7421", "a change of something else");
        told(13, "k2:7421");
        assert_eq!(at(), "k2:7421", "it has told its address since");
        directory.see(NodeId(2), "m2:7421");
        directory.see(NodeId(2), "k2:7421");
        assert_eq!(at(), "k2:7421", "back where the table has it");
        directory.see(NodeId(2), "nowhere");
        assert_eq!(at(), "k2:7421", "no address");
        directory.see(NodeId(2), "m2:7421");
        for (why, failed, next) in [
            ("it went back", "m2:7421", "k2:7421"),
            ("the same attempt on another lane", "m2:7421", "k2:7421"),
            ("somewhere else", "x2:7421", "k2:7421"),
            ("it only was down", "k2:7421", "m2:7421"),
            ("still", "m2:7421", "k2:7421"),
        ] {
            directory.not_at(NodeId(2), failed);
            assert_eq!(at(), next, "{why}");
        }
        directory.see(NodeId(2), "m2:7421");
        assert_eq!(at(), "m2:7421", "it has shown itself");
        directory.answers_at(NodeId(2), "m2:7421");
        assert_eq!(at(), "m2:7421", "it is there");
        directory.answers_at(NodeId(2), "k2:7421");
        assert_eq!(at(), "k2:7421", "it is where the table has it");
        directory.not_at(NodeId(2), "k2:7421");
        assert_eq!(at(), "k2:7421", "and nowhere else");
        directory.see(NodeId(9), "m9:7421");
        assert_eq!(directory.peer_address(NodeId(9)), None, "not of this cluster");
    }
}
