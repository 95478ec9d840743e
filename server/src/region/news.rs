//! What the log tells of leaders and of other nodes.
//!
//! A line for each change of a region's leader, as this node sees it; one for each region that has lost its
//! leader or its quorum for longer than an election takes, or has it again; and one for each node that is lost or
//! heard again. The death of a node that led ten thousand regions is one event to who reads the log: beyond
//! a few lines a second changes of leaders are counted, and their number is a line. Nodes are few, and have
//! a line each.

pub(super) mod leaders;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use self::leaders::LINES_MAX;
use super::{
    company::{Change, Company},
    peers::Peers,
    rates,
};
use crate::{
    ids::{NodeId, RegionId},
    world::{blocking, clock},
};

/// Between two turns.
const INTERVAL: Duration = Duration::from_secs(1);

/// Which regions are served, as far as this node can tell: those that were, and whether they are.
#[derive(Debug, Default)]
struct Touch {
    /// Changed in place: there may be ten thousand.
    regions: BTreeMap<RegionId, Served>,
    looks: u64,
}

#[derive(Debug)]
struct Served {
    is_in_touch: bool,
    /// The newest look that saw a peer of it.
    look: u64,
}

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
        self.looks += 1;
        let look = self.looks;
        for (region, leads, is_in_touch) in now {
            let Some(served) = self.regions.get_mut(&region) else {
                if is_in_touch {
                    self.regions.insert(region, Served { is_in_touch, look });
                }
                continue;
            };
            match (served.is_in_touch, is_in_touch, leads) {
                (true, false, true) => touched.without_quorum.push(region),
                (true, false, false) => touched.without_leader.push(region),
                (false, true, _) => touched.again.push(region),
                _ => {}
            }
            *served = Served { is_in_touch, look };
        }
        // Those of which there is no peer here any more.
        self.regions.retain(|_, served| served.look == look);
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

/// What a turn goes on from.
#[derive(Default)]
struct Known {
    company: Company,
    touch: Touch,
}

impl Known {
    /// Looks at every region, and answers which nodes are to be greeted: of whom only that shows whether they are there,
    /// or still without room.
    fn turn(&mut self, peers: &Peers, elapsed: Duration) -> BTreeSet<NodeId> {
        peers.news.turn();
        let here = peers.all();
        let turn = rates::Turn::after(elapsed);
        here.iter().for_each(|peer| peer.rates.turn(turn));
        let now = here.iter().filter(|peer| peer.runs());
        self.touch.look(now.map(|peer| (peer.region, peer.is_leader(), peer.is_in_touch()))).tell();
        let (signs, bound) = (peers.signs_of_nodes(&here), peers.silence_max());
        for (node, change) in self.company.look(&signs, bound) {
            match change {
                Change::Lost => tracing::warn!(%node, "a node is not heard any more"),
                Change::Again => tracing::info!(%node, "a node is heard again"),
            }
        }
        let outdated = peers.env.transport.room().outdated(clock::now());
        Company::in_doubt(&signs, bound).into_iter().chain(outdated).collect()
    }
}

/// Runs until the node stops.
pub async fn run(peers: Arc<Peers>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = Known::default();
    let mut last = clock::now();
    loop {
        interval.tick().await;
        let now = clock::now();
        let elapsed = now.saturating_duration_since(last);
        last = now;
        // On a thread that may take its time: on this one regions wait for each other.
        let looking = Arc::clone(&peers);
        let turn = blocking::run(move || {
            let to_greet = known.turn(&looking, elapsed);
            (known, to_greet)
        });
        // Else the process ends.
        let Ok((next, to_greet)) = turn.await else { return };
        known = next;
        // Bound: one for each node and turn, and none waits for longer than two turns.
        for node in to_greet {
            let transport = peers.env.transport.clone();
            tokio::spawn(async move { transport.greet(node).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{leaders::News, *};
    use crate::ids::PeerId;

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
