//! Changes of leaders, told or counted.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::ids::{NodeId, PeerId, RegionId};

/// Bound: lines of their own that changes of leaders have between two turns; more are counted.
pub(super) const LINES_MAX: u32 = 10;

/// Changes of leaders since the last turn.
#[derive(Debug, Default)]
pub(in crate::region) struct News {
    lines: AtomicU32,
    untold: AtomicU64,
}

impl News {
    /// Tells that `leader` leads a region, or counts it.
    pub(in crate::region) fn leader(
        &self,
        region: RegionId,
        term: u64,
        leader: PeerId,
        node: Option<NodeId>,
    ) {
        if self.lines.fetch_add(1, Relaxed) >= LINES_MAX {
            self.untold.fetch_add(1, Relaxed);
            return;
        }
        // A peer that was moved here a moment ago may not know yet where the others are.
        let node = node.map_or_else(|| "unknown".to_owned(), |node| node.to_string());
        tracing::info!(%region, term, peer = %leader, node, "a region has another leader");
    }

    /// Begins anew; tells and answers how many changes had no line of their own.
    pub(super) fn turn(&self) -> u64 {
        self.lines.store(0, Relaxed);
        let untold = self.untold.swap(0, Relaxed);
        if untold > 0 {
            tracing::info!(changes = untold, "more regions have another leader");
        }
        untold
    }
}
