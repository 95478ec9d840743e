//! What the log tells of leaders and of other nodes.
//!
//! A line for each change of a region's leader, as this node sees it, one for each region that has lost its leader or
//! its quorum for longer than an election takes, or has it again, and one for each node that is lost or heard again. The death of a node that led ten thousand regions is one event to who reads the log: beyond
//! a few lines a second changes of leaders are counted, and their number is a line. Nodes are few, and have
//! a line each.

use std::{
    collections::BTreeMap,
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
use crate::{
    clock,
    ids::{NodeId, PeerId, RegionId},
};

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

/// Which regions are served, as far as this node can tell: those that were, and whether they are.
#[derive(Debug, Default)]
struct Touch(BTreeMap<RegionId, bool>);

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Touched {
    /// Led here, and no quorum answers.
    without_quorum: Vec<RegionId>,
    /// Led elsewhere, and the leader is not heard.
    without_leader: Vec<RegionId>,
    again: Vec<RegionId>,
}

impl Touch {
    /// `now`: of each peer here its region, whether it leads, and whether it is in touch with the others. What was
    /// never in touch is no news.
    fn look(&mut self, now: impl Iterator<Item = (RegionId, bool, bool)>) -> Touched {
        let mut touched = Touched::default();
        let mut seen = BTreeMap::new();
        for (region, leads, is_in_touch) in now {
            let was = self.0.get(&region).copied();
            match (was, is_in_touch, leads) {
                (Some(true), false, true) => touched.without_quorum.push(region),
                (Some(true), false, false) => touched.without_leader.push(region),
                (Some(false), true, _) => touched.again.push(region),
                _ => {}
            }
            if was.is_some() || is_in_touch {
                seen.insert(region, is_in_touch);
            }
        }
        self.0 = seen;
        touched
    }
}

impl Touched {
    fn tell(&self) {
        for (regions, what) in [
            (&self.without_quorum, "leads a region and no quorum answers: it is not served"),
            (&self.without_leader, "the leader of a region is not heard any more"),
            (&self.again, "a region has a leader again that is heard"),
        ] {
            for region in regions.iter().take(LINES_MAX as usize) {
                tracing::info!(%region, "{what}");
            }
            if let more @ 1.. = regions.len().saturating_sub(LINES_MAX as usize) {
                tracing::info!(regions = more, "more regions: {what}");
            }
        }
    }
}

/// Runs until the node stops.
pub async fn run(peers: Arc<Peers>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut company = Company::default();
    let mut touch = Touch::default();
    let mut last = clock::now();
    loop {
        interval.tick().await;
        peers.news.turn();
        let elapsed = last.elapsed();
        last = clock::now();
        peers.all().iter().for_each(|peer| peer.rates.turn(elapsed));
        let now = peers.all().into_iter().filter(|peer| peer.runs());
        touch.look(now.map(|peer| (peer.region, peer.is_leader(), peer.is_in_touch()))).tell();
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
    fn loss_of_leader_and_of_quorum_is_told_once_and_so_is_its_end() {
        let mut touch = Touch::default();
        let mut look = |now: &[(u64, bool, bool)]| {
            let of =
                |(region, leads, heard): &(u64, bool, bool)| (RegionId(*region), *leads, *heard);
            touch.look(now.iter().map(of))
        };
        let ids = |ids: &[u64]| ids.iter().copied().map(RegionId).collect::<Vec<_>>();
        let nothing = Touched::default();
        assert_eq!(look(&[(1, true, true), (2, false, true), (3, false, false)]), nothing);
        let lost = look(&[(1, true, false), (2, false, false), (3, false, false)]);
        let want = Touched { without_quorum: ids(&[1]), without_leader: ids(&[2]), again: vec![] };
        assert_eq!(lost, want, "and nothing of the third, which was never heard");
        assert_eq!(
            look(&[(1, false, false), (2, false, false), (3, false, false)]),
            nothing,
            "once"
        );
        let found = look(&[(1, false, true), (3, false, true)]);
        assert_eq!(found, Touched { again: ids(&[1]), ..Touched::default() });
        assert_eq!(look(&[(1, false, true), (2, true, true), (3, false, true)]), nothing, "anew");
    }

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
