//! Which nodes have no room on their disks, as they said last.
//!
//! Each answer of a node says it, whatever it answers. Whoever leads a region with a peer there hears it once in a
//! Raft heartbeat; a node that does not answer stays as it was, and one that never answered has room.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use crate::{ids::NodeId, storage::disk::Level};

/// See the module.
#[derive(Debug, Default)]
pub struct Room {
    /// Those that have room are not here.
    low: Mutex<BTreeMap<NodeId, Level>>,
    /// How many they are, for those who ask with every frame and every write.
    count: AtomicUsize,
}

impl Room {
    /// Whether any node has said that it has none.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    #[must_use]
    pub fn of(&self, node: NodeId) -> Level {
        self.low.lock().get(&node).copied().unwrap_or(Level::Normal)
    }

    pub(crate) fn heard(&self, node: NodeId, level: Level) {
        if level.has_room() && !self.is_scarce() {
            return;
        }
        let mut low = self.low.lock();
        let before = if level.has_room() { low.remove(&node) } else { low.insert(node, level) };
        self.count.store(low.len(), Ordering::Relaxed);
        let before = before.unwrap_or(Level::Normal);
        if before != level {
            tracing::info!(%node, ?before, now = ?level, "the disk of another node has another level");
        }
    }

    pub(super) fn forget(&self, node: NodeId) {
        self.heard(node, Level::Normal);
    }
}
