//! Which nodes have no room on their disks, as they said last.
//!
//! Each answer of a node says it, whatever it answers. Whoever leads a region with a peer there hears it once in a
//! Raft heartbeat. Whom this node has nothing to say to any more it greets (`region/news.rs`), as long as that one was
//! low: what it said would else stand until a region is led from here again, and count then. A node that does not
//! answer stays as it was, and one that never answered has room.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{ids::NodeId, storage::disk::Level, world::clock};

/// A node that is low, and has answered nothing for so long, is asked again. Longer than any Raft heartbeat: whom a
/// leader here asks is not greeted as well.
const RENEWED_AFTER: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub struct Room {
    /// Those that have room are not here.
    low: Mutex<BTreeMap<NodeId, Low>>,
    /// How many they are, for those who ask with every frame and every write.
    count: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Low {
    level: Level,
    heard: Instant,
}

impl Room {
    /// Whether any node has said that it has none.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    #[must_use]
    pub fn of(&self, node: NodeId) -> Level {
        self.low.lock().get(&node).map_or(Level::Normal, |low| low.level)
    }

    /// Nodes that were low and have not said since whether they still are.
    #[must_use]
    pub fn outdated(&self, now: Instant) -> Vec<NodeId> {
        if !self.is_scarce() {
            return Vec::new();
        }
        let is_old = |low: &Low| now.saturating_duration_since(low.heard) >= RENEWED_AFTER;
        let low = self.low.lock();
        low.iter().filter(|(_, low)| is_old(low)).map(|(node, _)| *node).collect()
    }

    pub(crate) fn heard(&self, node: NodeId, level: Level) {
        self.heard_at(node, level, clock::now());
    }

    fn heard_at(&self, node: NodeId, level: Level, now: Instant) {
        if level.has_room() && !self.is_scarce() {
            return;
        }
        let mut low = self.low.lock();
        let before = if level.has_room() {
            low.remove(&node)
        } else {
            low.insert(node, Low { level, heard: now })
        };
        self.count.store(low.len(), Ordering::Relaxed);
        let before = before.map_or(Level::Normal, |low| low.level);
        if before != level {
            tracing::info!(%node, ?before, now = ?level, "the disk of another node has another level");
        }
    }

    pub(super) fn forget(&self, node: NodeId) {
        self.heard(node, Level::Normal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_was_low_is_asked_again_when_it_has_said_nothing_since() {
        let (room, begin) = (Room::default(), clock::now());
        let [asked, alone, roomy] = [1, 2, 3].map(NodeId);
        for (node, level) in [(asked, Level::Low), (alone, Level::Critical), (roomy, Level::Normal)]
        {
            room.heard_at(node, level, begin);
        }
        let (soon, later) = (begin + RENEWED_AFTER / 2, begin + RENEWED_AFTER);
        room.heard_at(asked, Level::Low, soon);
        assert_eq!(room.outdated(soon), [], "they said so a moment ago");
        assert_eq!(room.outdated(later), [alone]);
        assert_eq!(room.of(alone), Level::Critical, "as it said last");
        room.heard_at(alone, Level::Normal, later);
        assert_eq!((room.of(alone), room.outdated(later)), (Level::Normal, vec![]));
    }
}
