//! Which other nodes are heard, as far as this node has a reason to hear them.
//!
//! Two signs tell. A leader here is answered by the peers of its region, so their silence is their node's.
//! Otherwise it is the connections that a node has made to this one: a process that ends takes them
//! along, and one that is cut off loses them to the pings. A node that owes no answer and has no connection
//! is neither heard nor missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_proto::v1;
use openraft::{Instant as _, ServerState, async_runtime::WatchReceiver as _};

use super::{Peer, peers::Peers};
use crate::ids::{NodeId, PeerId};

/// What there is of a node at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Since the newest answer to a leader here.
    pub(super) answered: Option<Duration>,
    /// The same, where one that never answered counts from when its leader began to lead.
    pub(super) silent: Option<Duration>,
    /// Whether all its connections are closed, if it had any.
    pub(super) gone: Option<bool>,
}

impl Signs {
    /// `None`: nothing can be said.
    fn is_heard(self, silence_max: Duration) -> Option<bool> {
        match (self.answered, self.silent, self.gone) {
            (Some(answered), ..) if answered <= silence_max => Some(true),
            (_, _, Some(true)) => Some(false),
            (_, Some(silent), _) if silent > silence_max => Some(false),
            // Its leader is too young to miss it.
            (_, Some(_), _) => None,
            (_, None, gone) => gone.map(|gone| !gone),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Lost,
    Again,
}

/// The nodes that were heard, and those of them that are lost.
#[derive(Debug, Default)]
pub(super) struct Company {
    heard: BTreeSet<NodeId>,
    lost: BTreeSet<NodeId>,
}

impl Company {
    /// What has changed. Nodes without signs are not in the cluster any more, and forgotten.
    pub(super) fn look(
        &mut self,
        signs: &BTreeMap<NodeId, Signs>,
        silence_max: Duration,
    ) -> Vec<(NodeId, Change)> {
        self.heard.retain(|node| signs.contains_key(node));
        self.lost.retain(|node| signs.contains_key(node));
        let mut changes = Vec::new();
        for (node, signs) in signs {
            match signs.is_heard(silence_max) {
                Some(true) => {
                    self.heard.insert(*node);
                    if self.lost.remove(node) {
                        changes.push((*node, Change::Again));
                    }
                }
                Some(false) if self.heard.remove(node) => {
                    self.lost.insert(*node);
                    changes.push((*node, Change::Lost));
                }
                Some(false) | None => {}
            }
        }
        changes
    }
}

impl Peer {
    /// Whether most voters of the region are on nodes that are `missed`.
    #[must_use]
    pub fn most_are_missed(&self, missed: &BTreeSet<NodeId>) -> bool {
        is_most_missed(&self.view().published().descriptor, missed)
    }

    /// Where a peer of the region is, as far as this one knows.
    pub(super) fn node_of(&self, peer: PeerId) -> Option<NodeId> {
        let descriptor = &self.view().published().descriptor;
        let member = descriptor.peers.iter().find(|member| member.peer_id == peer.0);
        member.map(|member| NodeId(member.node_id))
    }
}

fn is_most_missed(region: &v1::Region, missed: &BTreeSet<NodeId>) -> bool {
    let voters = region.peers.iter().filter(|peer| peer.role() == v1::PeerRole::Voter);
    let (mut away, mut all) = (0, 0);
    for voter in voters {
        all += 1;
        away += usize::from(missed.contains(&NodeId(voter.node_id)));
    }
    all > 0 && (all - away) <= all / 2
}

impl Peers {
    /// As long as a leader may be silent before its followers look for another, twice.
    pub(super) fn silence_max(&self) -> Duration {
        2 * self.env.config.raft.election_timeout_max
    }

    /// Whether a request may be passed on to another node: unless each of them is missed.
    #[must_use]
    pub fn may_reach_others(&self) -> bool {
        let bound = self.silence_max();
        self.signs_of_nodes().values().any(|signs| signs.is_heard(bound) != Some(false))
    }

    /// The nodes that this one would hear, or reach, were they there, and does not.
    #[must_use]
    pub fn missed(&self) -> BTreeSet<NodeId> {
        let bound = self.silence_max();
        let is_missed = |(node, signs): &(NodeId, Signs)| match signs.is_heard(bound) {
            Some(is_heard) => !is_heard,
            // Nobody who has a quorum to ask for leaves a node alone.
            None => signs.gone.is_none() && self.env.transport.is_unreached(*node),
        };
        self.signs_of_nodes().into_iter().filter(is_missed).map(|(node, _)| node).collect()
    }

    /// Of every other node that is in the table and was not removed.
    pub(super) fn signs_of_nodes(&self) -> BTreeMap<NodeId, Signs> {
        let mut signs: BTreeMap<NodeId, Signs> = self
            .others()
            .into_iter()
            .map(|node| (node, Signs { gone: self.is_gone(node), ..Signs::default() }))
            .collect();
        let sooner = |old: &mut Option<Duration>, new: Duration| {
            *old = Some(old.map_or(new, |old| old.min(new)));
        };
        for peer in self.all().into_iter().filter(|peer| peer.runs()) {
            // Without a copy of it: there may be ten thousand.
            let metrics = peer.raft().metrics();
            let metrics = metrics.borrow_watched();
            let (ServerState::Leader, Some(heard)) = (metrics.state, &metrics.heartbeat) else {
                continue;
            };
            let led = peer.leading_for(metrics.current_term);
            for member in &peer.view().published().descriptor.peers {
                let Some(signs) = signs.get_mut(&NodeId(member.node_id)) else { continue };
                let Some(at) = heard.get(&PeerId(member.peer_id)) else { continue };
                if let Some(at) = at {
                    sooner(&mut signs.answered, at.elapsed());
                }
                sooner(&mut signs.silent, at.map_or(led, |at| at.elapsed()));
            }
        }
        signs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);
    const NODE: NodeId = NodeId(3);

    #[test]
    fn node_is_heard_by_its_answers_and_by_its_connections() {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        for (why, answered, silent, gone, want) in [
            ("nothing is known", None, None, None, None),
            ("it answers", Some(1), Some(1), None, Some(true)),
            (
                "it answers by our connection, its own are closed",
                Some(1),
                Some(1),
                Some(true),
                Some(true),
            ),
            ("it does not answer", Some(11), Some(11), None, Some(false)),
            (
                "it is silent, and paused with open connections",
                Some(11),
                Some(11),
                Some(false),
                Some(false),
            ),
            ("it never answered an old leader", None, Some(11), Some(false), Some(false)),
            ("it never answered a young leader", None, Some(1), Some(false), None),
            ("it is dead, and its new leader is young", None, Some(1), Some(true), Some(false)),
            ("it led, and is dead", None, None, Some(true), Some(false)),
            ("it leads", None, None, Some(false), Some(true)),
        ] {
            let signs = Signs { answered: seconds(answered), silent: seconds(silent), gone };
            assert_eq!(signs.is_heard(MAX), want, "{why}");
        }
    }

    #[test]
    fn quorum_is_lost_with_half_of_the_voters_or_more() {
        let region = |voters: &[u64], learners: &[u64]| {
            let peer = |role: v1::PeerRole| {
                move |node: &u64| v1::Peer { peer_id: *node, node_id: *node, role: role.into() }
            };
            let voters = voters.iter().map(peer(v1::PeerRole::Voter));
            let peers = voters.chain(learners.iter().map(peer(v1::PeerRole::Learner))).collect();
            v1::Region { peers, ..v1::Region::default() }
        };
        for (why, voters, learners, missed, want) in [
            ("all are there", &[1, 2, 3][..], &[][..], &[][..], false),
            ("one of three", &[1, 2, 3], &[], &[2], false),
            ("two of three", &[1, 2, 3], &[], &[2, 3], true),
            ("two of four", &[1, 2, 3, 4], &[], &[2, 3], true),
            ("two of five", &[1, 2, 3, 4, 5], &[], &[2, 3], false),
            ("learners do not count", &[1, 2, 3], &[4, 5], &[4, 5, 2], false),
            ("a node that has no peer of it", &[1, 2], &[], &[3], false),
            ("nothing is known of it yet", &[], &[], &[2, 3], false),
        ] {
            let missed = missed.iter().copied().map(NodeId).collect();
            assert_eq!(is_most_missed(&region(voters, learners), &missed), want, "{why}");
        }
    }

    #[test]
    fn change_is_told_once() {
        let mut company = Company::default();
        let mut look = |gone| {
            let signs = Signs { gone, ..Signs::default() };
            company.look(&BTreeMap::from([(NODE, signs)]), MAX)
        };
        assert_eq!(look(Some(true)), [], "it was never heard");
        assert_eq!(look(Some(false)), []);
        assert_eq!(look(Some(true)), [(NODE, Change::Lost)]);
        assert_eq!(look(Some(true)), [], "once");
        assert_eq!(look(None), [], "no sign is no change");
        assert_eq!(look(Some(false)), [(NODE, Change::Again)]);
        assert_eq!(look(Some(false)), [], "once");
        assert_eq!(look(Some(true)), [(NODE, Change::Lost)]);
        assert_eq!(company.look(&BTreeMap::new(), MAX), [], "it was removed from the cluster");
        let signs = Signs { gone: Some(false), ..Signs::default() };
        assert_eq!(company.look(&BTreeMap::from([(NODE, signs)]), MAX), []);
    }
}
