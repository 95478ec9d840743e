//! What the log tells of leaders and of other nodes.
//!
//! A line for each change of a region's leader, as this node sees it, and one for each node that is lost or
//! heard again. The death of a node that led ten thousand regions is one event to who reads the log: beyond
//! a few lines a second changes of leaders are counted, and their number is a line. Nodes are few, and have
//! a line each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    company::{Change, Company},
    peers::Peers,
};
use crate::ids::{NodeId, PeerId, RegionId};

/// Bound: lines of their own that changes of leaders have between two turns; more are counted.
const LINES_MAX: u32 = 10;
/// Between two turns.
const INTERVAL: Duration = Duration::from_secs(1);

/// Changes of leaders since the last turn.
#[derive(Debug, Default)]
pub(super) struct News {
    lines: AtomicU32,
    untold: AtomicU64,
}

impl News {
    /// Tells that `leader` leads a region, or counts it.
    pub(super) fn leader(&self, region: RegionId, term: u64, leader: PeerId, node: Option<NodeId>) {
        if self.lines.fetch_add(1, Relaxed) >= LINES_MAX {
            self.untold.fetch_add(1, Relaxed);
            return;
        }
        // A peer that was moved here a moment ago may not know yet where the others are.
        let node = node.map_or_else(|| "unknown".to_owned(), |node| node.to_string());
        tracing::info!(%region, term, peer = %leader, node, "a region has another leader");
    }

    /// Begins anew; tells and answers how many changes had no line of their own.
    fn turn(&self) -> u64 {
        self.lines.store(0, Relaxed);
        let untold = self.untold.swap(0, Relaxed);
        if untold > 0 {
            tracing::info!(changes = untold, "more regions have another leader");
        }
        untold
    }
}

/// Runs until the node stops.
pub async fn run(peers: Arc<Peers>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut company = Company::default();
    loop {
        interval.tick().await;
        peers.news.turn();
        for (node, change) in company.look(&peers.signs_of_nodes(), peers.silence_max()) {
            match change {
                Change::Lost => tracing::warn!(%node, "a node is not heard any more"),
                Change::Again => tracing::info!(%node, "a node is heard again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_led_thousands_of_regions_is_few_lines() {
        let news = News::default();
        for region in 0..10_000 {
            news.leader(RegionId(region), 2, PeerId(region), Some(NodeId(1)));
        }
        assert_eq!(news.turn(), 10_000 - u64::from(LINES_MAX), "each is told or counted");
        assert_eq!(news.turn(), 0, "once");
        news.leader(RegionId(1), 3, PeerId(1), None);
        assert_eq!(news.turn(), 0, "it has a line again");
    }
}
