//! How the regions are, from what the nodes say of their peers.
//!
//! Asked of the nodes and not of the placement driver, because the question matters most when the
//! driver has no quorum. A region counts as lost only by what is seen: a majority of its voters is on
//! nodes that do not answer. Where nobody answers for a stretch of the key space there is a gap, and
//! nothing may be given up while there is one.

use std::collections::{BTreeMap, BTreeSet};

use crate::seen::{Joined, Peer};

/// The regions in one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    regions: BTreeMap<u64, Region>,
    answering: BTreeSet<u64>,
    /// Nodes with a peer that lacks what its leader has committed.
    behind: BTreeSet<u64>,
    /// A stretch of the key space of which no node that answers has a peer.
    pub has_gap: bool,
    /// Peers a region should have.
    wanted: usize,
}

/// The regions by how they are, for alerts. Each counts once, and as what it is whatever is not seen: a node that others hear
/// and that does not answer hides nothing that holds without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All their peers answer, and a leader does.
    pub healthy: usize,
    /// They lack peers, and may be served all the same.
    pub under_replicated: usize,
    /// Nobody serves them: a majority is away, or follows nobody.
    pub leaderless: usize,
    /// Only nodes that do not answer could say.
    pub unseen: usize,
}

impl Tally {
    /// Values of the label `health`, and how many there are of each.
    #[must_use]
    pub const fn figures(self) -> [(&'static str, usize); 4] {
        [
            ("healthy", self.healthy),
            ("under_replicated", self.under_replicated),
            ("leaderless", self.leaderless),
            ("unseen", self.unseen),
        ]
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Region {
    epoch: (u64, u64),
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    start_key: Vec<u8>,
    end_key: Vec<u8>,
    has_leader: bool,
    /// Nodes that peers which answer take for the one that leads.
    leaders: BTreeSet<u64>,
    /// Nodes whose peer takes no part. Nobody elects or commits with them.
    quarantined: BTreeSet<u64>,
    /// Nodes whose peer lacks what the leader has committed: it may be that nothing reaches them.
    behind: BTreeSet<u64>,
}

impl Regions {
    /// `wanted`: peers that each region should have.
    #[must_use]
    pub fn of<'a>(nodes: impl Iterator<Item = &'a Joined> + Clone, wanted: usize) -> Self {
        let answering: BTreeSet<u64> = nodes.clone().map(|node| node.node_id).collect();
        let is_behind = |node: &&Joined| node.peers.iter().any(|peer| peer.behind);
        let behind = nodes.clone().filter(is_behind).map(|node| node.node_id).collect();
        let mut regions: BTreeMap<u64, Region> = BTreeMap::new();
        let peers = nodes.flat_map(|node| node.peers.iter().map(|peer| (node.node_id, peer)));
        for (node_id, peer) in peers {
            let region = regions.entry(peer.region_id).or_default();
            if peer.quarantined {
                region.quarantined.insert(node_id);
                continue;
            }
            if peer.behind {
                region.behind.insert(node_id);
            }
            region.leaders.extend(peer.leader_node);
            region.has_leader |=
                peer.leads || peer.leader_node.is_some_and(|leader| answering.contains(&leader));
            region.describe(peer);
        }
        let has_gap = has_gap(&regions);
        Self { regions, answering, behind, has_gap, wanted }
    }

    #[must_use]
    pub fn total(&self) -> usize {
        self.regions.len()
    }

    /// Regions of whose voters no majority answers.
    #[must_use]
    pub fn quorum_lost(&self) -> Vec<u64> {
        self.lost_without(None)
    }

    /// Regions that would lack a majority even if these nodes answered as well.
    #[must_use]
    pub fn lost_even_with(&self, others: &BTreeSet<u64>) -> usize {
        self.regions.values().filter(|region| self.is_lost_even_with(region, others)).count()
    }

    fn is_lost_even_with(&self, region: &Region, others: &BTreeSet<u64>) -> bool {
        if region.voters.is_empty() {
            // Known by peers that take no part and do not say of whom it is: the others are on nodes that do not answer.
            return self.are_no_majority(others.len());
        }
        region.lacks_majority(|voter| self.answering.contains(&voter) || others.contains(&voter))
    }

    /// A region all of whose voters are among so few has lost its quorum.
    #[must_use]
    pub fn are_no_majority(&self, nodes: usize) -> bool {
        nodes * 2 <= self.wanted
    }

    /// What they are. `others`: nodes that live, as others know, and do not answer.
    #[must_use]
    pub fn tally(&self, others: &BTreeSet<u64>) -> Tally {
        let mut tally = Tally::default();
        let lives = |voter| self.answering.contains(&voter) || others.contains(&voter);
        for region in self.regions.values() {
            let is_short = self.is_short(region);
            let is_lost = self.is_lost_even_with(region, others);
            let count = if is_lost || !region.may_be_led(others) {
                &mut tally.leaderless
            } else if is_short || !region.voters.iter().all(|voter| lives(*voter)) {
                &mut tally.under_replicated
            } else if region.has_leader && region.voters.is_subset(&self.answering) {
                &mut tally.healthy
            } else {
                &mut tally.unseen
            };
            *count += 1;
        }
        // All voters of what is there are among those that do not answer.
        if self.has_gap && self.are_no_majority(others.len()) {
            tally.leaderless += 1;
        } else if self.has_gap {
            tally.unseen += 1;
        }
        tally
    }

    /// Regions that would have no majority if a node were given up. Empty, and no gap: it can be.
    #[must_use]
    pub fn lost_without(&self, node: Option<u64>) -> Vec<u64> {
        let lost = |region: &Region| {
            region.lacks_majority(|voter| Some(voter) != node && self.answering.contains(&voter))
        };
        self.regions.iter().filter(|(_, region)| lost(region)).map(|(id, _)| *id).collect()
    }

    /// Regions that are led, as far as their peers know, and would not be without a node. With one peer each none is
    /// restarted but so, nor with two while the one is moved; with more, as long as fewer are asked for and they are
    /// not dropped yet, it can be.
    #[must_use]
    pub fn would_stop_without(&self, node: u64) -> usize {
        let stops = |region: &&Region| {
            let is_led = region.has_leader || region.leaders.contains(&node);
            let stays = |voter| {
                voter != node && self.answering.contains(&voter) && !region.behind.contains(&voter)
            };
            let may_spare = self.wanted > 1 || region.voters.len() > 2;
            is_led && may_spare && region.lacks_majority(stays)
        };
        self.regions.values().filter(stops).count()
    }

    #[must_use]
    pub fn leaderless(&self) -> usize {
        let gap = usize::from(self.has_gap);
        self.regions.values().filter(|region| !region.has_leader).count() + gap
    }

    /// There are some, and none of them has a leader. A stretch of keys of which nobody answers says nothing of those.
    #[must_use]
    pub fn elect_nobody(&self) -> bool {
        !self.regions.is_empty() && self.regions.values().all(|region| !region.has_leader)
    }

    /// With fewer peers that answer than there should be.
    #[must_use]
    pub fn under_replicated(&self) -> usize {
        self.regions.values().filter(|region| self.is_under_replicated(region)).count()
    }

    /// With all their peers, and a leader.
    #[must_use]
    pub fn healthy(&self) -> usize {
        let healthy = |region: &&Region| region.has_leader && !self.is_under_replicated(region);
        self.regions.values().filter(healthy).count()
    }

    /// Every stretch of the key space has a region with a leader, and none has lost its quorum.
    #[must_use]
    pub fn all_serve(&self) -> bool {
        !self.regions.is_empty()
            && !self.has_gap
            && self.leaderless() == 0
            && self.quorum_lost().is_empty()
    }

    /// A node but this one that would be missed: what is written does not reach all its peers.
    #[must_use]
    pub fn other_behind(&self, node: u64) -> Option<u64> {
        self.behind.iter().copied().find(|other| *other != node)
    }

    /// All serve and are whole, and what is written reaches every peer: one node more may go.
    #[must_use]
    pub fn all_healthy(&self) -> bool {
        self.all_serve() && self.healthy() == self.total() && self.behind.is_empty()
    }

    fn is_under_replicated(&self, region: &Region) -> bool {
        self.is_short(region) || !region.voters.is_subset(&self.answering)
    }

    /// Too few of its peers take part, whoever answers.
    fn is_short(&self, region: &Region) -> bool {
        !region.quarantined.is_empty() || region.voters.len() < self.wanted
    }
}

impl Region {
    /// A leader is followed by a majority. Whoever answers says whom it follows; those who do not may follow one of
    /// themselves.
    fn may_be_led(&self, others: &BTreeSet<u64>) -> bool {
        self.has_leader
            || !self.leaders.is_disjoint(others)
            || self.voters.is_empty()
            || !self.lacks_majority(|voter| others.contains(&voter))
    }

    /// Of its voters those that take part and count are no majority.
    fn lacks_majority(&self, counts: impl Fn(u64) -> bool) -> bool {
        let live = self.voters.difference(&self.quarantined).filter(|voter| counts(**voter));
        live.count() * 2 <= self.voters.len()
    }

    fn describe(&mut self, peer: &Peer) {
        if peer.epoch < self.epoch || (peer.voters.is_empty() && peer.learners.is_empty()) {
            return;
        }
        self.epoch = peer.epoch;
        self.voters.clone_from(&peer.voters);
        self.learners.clone_from(&peer.learners);
        self.start_key.clone_from(&peer.start_key);
        self.end_key.clone_from(&peer.end_key);
    }
}

/// Whether the ranges leave a stretch of the key space out. They may overlap: after a split one peer
/// may still describe the whole.
fn has_gap(regions: &BTreeMap<u64, Region>) -> bool {
    let mut ranges: Vec<_> = regions
        .values()
        .filter(|region| !region.voters.is_empty())
        .map(|region| (&region.start_key, &region.end_key))
        .collect();
    ranges.sort();
    let mut covered: &[u8] = &[];
    for (start, end) in ranges {
        if start.as_slice() > covered {
            return true;
        }
        if end.is_empty() {
            return false;
        }
        covered = covered.max(end);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(region_id: u64, range: (&str, &str), voters: &[u64], leader: Option<u64>) -> Peer {
        Peer {
            region_id,
            epoch: (1, voters.len() as u64),
            start_key: range.0.into(),
            end_key: range.1.into(),
            voters: voters.iter().copied().collect(),
            leader_node: leader,
            ..Peer::default()
        }
    }

    #[test]
    fn quorum_is_judged_by_the_nodes_that_answer() {
        let one = |answering: &[u64], leader: Option<u64>| {
            let nodes: Vec<_> = answering
                .iter()
                .map(|id| Joined::sample(*id, vec![peer(1, ("", ""), &[1, 2, 3], leader)]))
                .collect();
            Regions::of(nodes.iter(), 3)
        };
        for (why, seen, lost, leaderless, under) in [
            ("all answer", one(&[1, 2, 3], Some(1)), vec![], 0, 0),
            ("one is silent", one(&[1, 2], Some(1)), vec![], 0, 1),
            ("the leader is silent", one(&[2, 3], Some(1)), vec![], 1, 1),
            ("two are silent", one(&[3], Some(3)), vec![1], 0, 1),
        ] {
            assert_eq!(seen.quorum_lost(), lost, "{why}");
            assert_eq!(seen.leaderless(), leaderless, "{why}");
            assert_eq!(seen.under_replicated(), under, "{why}");
            assert_eq!(seen.all_healthy(), why == "all answer", "{why}");
        }
        assert_eq!(one(&[1, 2, 3], Some(1)).lost_without(Some(3)), Vec::<u64>::new());
        assert_eq!(one(&[1, 2], Some(1)).lost_without(Some(2)), vec![1]);
    }

    /// What a person is told of all the while one node does not answer the operator.
    #[test]
    fn region_counts_once_and_as_what_it_is_whatever_is_not_seen() {
        let tally = |answering: &[u64], others: &[u64], voters: &[u64], leader: Option<u64>| {
            let nodes: Vec<_> = answering
                .iter()
                .map(|id| Joined::sample(*id, vec![peer(1, ("", ""), voters, leader)]))
                .collect();
            let figures = Regions::of(nodes.iter(), 3).tally(&others.iter().copied().collect());
            figures.figures().map(|(_, count)| count)
        };
        let three = &[1, 2, 3][..];
        let five = &[1, 2, 3, 4, 5][..];
        let [healthy, under_replicated, leaderless, unseen] =
            [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];
        for (why, answering, others, voters, leader, want) in [
            ("all answer", three, &[][..], three, Some(1), healthy),
            ("one is down", &[1, 2], &[], three, Some(1), under_replicated),
            ("its leader is down", &[2, 3], &[], three, Some(1), leaderless),
            ("two are down, and who is left leads", &[3], &[], three, Some(3), leaderless),
            ("two are down, and nobody leads", &[3], &[], three, None, leaderless),
            ("all are down", &[], &[], three, None, leaderless),
            ("one is not reached", &[1, 2], &[3], three, Some(1), unseen),
            ("its leader is not reached", &[1, 2], &[3], three, Some(3), unseen),
            (
                "two follow nobody, and the third cannot lead",
                &[1, 2],
                &[3],
                three,
                None,
                leaderless,
            ),
            ("the two that are not reached may lead", &[3], &[1, 2], three, None, unseen),
            ("none is reached", &[], three, three, None, unseen),
            ("one of three lives at most", &[], &[1], three, None, leaderless),
            ("one is down, one is not reached", &[1, 2, 3], &[4], five, Some(1), under_replicated),
            ("two are down, one is not reached", &[1, 2], &[3], five, Some(1), under_replicated),
            ("two are down, and nobody leads", &[1, 2], &[3], five, None, leaderless),
            ("there never was a third", &[1, 2], &[], &[1, 2], Some(1), under_replicated),
            ("and one is not reached", &[1], &[2], &[1, 2], Some(1), under_replicated),
        ] {
            assert_eq!(tally(answering, others, voters, leader), want, "{why}");
        }
    }

    #[test]
    fn no_node_more_may_go_while_nothing_reaches_a_peer() {
        let whole = || peer(1, ("", ""), &[1, 2, 3], Some(1));
        let unreached = Peer { behind: true, ..whole() };
        let nodes = [
            Joined::sample(1, vec![whole()]),
            Joined::sample(2, vec![whole()]),
            Joined::sample(3, vec![unreached]),
        ];
        let seen = Regions::of(nodes.iter(), 3);
        assert_eq!((seen.healthy(), seen.under_replicated()), (1, 0), "it has all its peers");
        assert!(seen.all_serve() && !seen.all_healthy());
    }

    #[test]
    fn nothing_is_well_while_nobody_answers_for_a_stretch_of_keys() {
        for (why, peers, gap) in [
            ("nothing is seen", vec![], true),
            ("the whole", vec![peer(1, ("", ""), &[1], Some(1))], false),
            (
                "two halves",
                vec![peer(1, ("", "m"), &[1], Some(1)), peer(2, ("m", ""), &[1], Some(1))],
                false,
            ),
            ("no beginning", vec![peer(2, ("m", ""), &[1], Some(1))], true),
            ("no end", vec![peer(1, ("", "m"), &[1], Some(1))], true),
            (
                "no middle",
                vec![peer(1, ("", "f"), &[1], Some(1)), peer(2, ("m", ""), &[1], Some(1))],
                true,
            ),
            (
                "one peer has not split yet",
                vec![peer(1, ("", ""), &[1], Some(1)), peer(2, ("m", ""), &[1], Some(1))],
                false,
            ),
        ] {
            let nodes = [Joined::sample(1, peers)];
            let seen = Regions::of(nodes.iter(), 1);
            assert_eq!(seen.has_gap, gap, "{why}");
            assert_eq!(seen.all_serve(), !gap, "{why}");
        }
    }

    #[test]
    fn newest_description_of_a_region_counts() {
        let old = peer(1, ("", ""), &[1], Some(1));
        let new = Peer { epoch: (1, 9), ..peer(1, ("", ""), &[1, 2, 3], Some(1)) };
        let nodes = [
            Joined::sample(1, vec![new.clone()]),
            Joined::sample(2, vec![old]),
            Joined::sample(3, vec![new]),
        ];
        let seen = Regions::of(nodes.iter(), 3);
        assert_eq!((seen.total(), seen.healthy()), (1, 1));
    }

    #[test]
    fn quarantined_peer_is_no_peer() {
        let bad = Peer { region_id: 1, quarantined: true, ..Peer::default() };
        let whole = || peer(1, ("", ""), &[1, 2, 3], Some(1));
        let nodes = [
            Joined::sample(1, vec![whole()]),
            Joined::sample(2, vec![whole()]),
            Joined::sample(3, vec![bad]),
        ];
        let seen = Regions::of(nodes.iter(), 3);
        assert_eq!((seen.under_replicated(), seen.quorum_lost()), (1, vec![]));
        assert_eq!(seen.lost_without(Some(2)), [1], "the third takes no part");
        // Of a region nothing else answers.
        let bad = Peer { region_id: 1, quarantined: true, ..Peer::default() };
        let nodes = [Joined::sample(3, vec![bad])];
        let seen = Regions::of(nodes.iter(), 3);
        for (why, others, lost) in [
            ("the others are down", &[][..], 1),
            ("one of them lives", &[1], 1),
            ("two may well serve it", &[1, 2], 0),
        ] {
            let others = others.iter().copied().collect();
            assert_eq!(seen.lost_even_with(&others), lost, "{why}");
            let tally = seen.tally(&others);
            // The keys of whose regions nothing is known are one more.
            assert_eq!((tally.leaderless, tally.under_replicated), (2 * lost, 1 - lost), "{why}");
        }
    }
}
