//! Which other nodes are heard, as far as this node has a reason to hear them.
//!
//! That a node is there is shown by what it answered: to a leader here, to this node's heartbeat when it is the
//! driver, or on a stream that is still open. A node that calls, by a connection that is open, is there too. That it
//! is not is shown by a leader here to which it owes answers, or by two signs together: every connection
//! that it ever made is closed, and it cannot be reached either. The first of them alone shows nothing: a node that
//! was started again calls nobody as long as it leads nothing. So whoever is in doubt is greeted, once a second
//! (`news.rs`), and what comes of it decides. A node that owes no answer, never called and was never in doubt is
//! neither heard nor missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flotilla_proto::v1;
use openraft::{Instant as _, ServerState, async_runtime::WatchReceiver as _};

use super::{Peer, peers::Peers};
use crate::ids::{NodeId, PeerId};

/// What there is of a node at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Since the newest answer, to a leader here or as the driver.
    pub(super) answered: Option<Duration>,
    /// Since the newest answer to a leader here, where one that never answered counts from when its leader began
    /// to lead.
    pub(super) silent: Option<Duration>,
    /// Whether all its connections are closed, if it had any.
    pub(super) gone: Option<bool>,
    /// Whether it has answered on a stream of ours that is open.
    pub(super) answering: bool,
    /// Whether the newest attempt to reach it failed.
    pub(super) unreached: bool,
}

impl Signs {
    /// `None`: nothing can be said.
    fn is_heard(self, silence_max: Duration) -> Option<bool> {
        let has_answered = self.answered.is_some_and(|answered| answered <= silence_max);
        match (self.silent, self.gone) {
            // A stream that is open is answered by pings: a region whose peer there is silent says less.
            _ if has_answered || self.answering => Some(true),
            (Some(silent), _) if silent > silence_max => Some(false),
            (_, Some(true)) => self.unreached.then_some(false),
            // Its leader is too young to miss it.
            (Some(_), _) => None,
            (None, gone) => gone.map(|gone| !gone),
        }
    }

    fn is_missed(self, silence_max: Duration) -> bool {
        match self.is_heard(silence_max) {
            Some(is_heard) => !is_heard,
            // Nobody who has a quorum to ask for leaves a node alone.
            None => self.gone.is_none() && self.unreached,
        }
    }

    /// Whether only a word to it shows whether it is there: nothing shows that it is, and it has no reason to
    /// call, or could not be reached some time ago.
    fn is_in_doubt(self, silence_max: Duration) -> bool {
        self.is_heard(silence_max) != Some(true) && (self.gone == Some(true) || self.unreached)
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
    /// Of whom only a word to them shows whether they are there.
    pub(super) fn in_doubt(signs: &BTreeMap<NodeId, Signs>, silence_max: Duration) -> Vec<NodeId> {
        let in_doubt = signs.iter().filter(|(_, signs)| signs.is_in_doubt(silence_max));
        in_doubt.map(|(node, _)| *node).collect()
    }

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
        let signs = self.signs_of_nodes(&self.all());
        signs.values().any(|signs| signs.is_heard(bound) != Some(false))
    }

    /// The nodes that this one would hear, or reach, were they there, and does not.
    #[must_use]
    pub fn missed(&self) -> BTreeSet<NodeId> {
        let bound = self.silence_max();
        let signs = self.signs_of_nodes(&self.all()).into_iter();
        signs.filter(|(_, signs)| signs.is_missed(bound)).map(|(node, _)| node).collect()
    }

    /// Of every other node that is in the table and was not removed; `peers` are those that are here.
    pub(super) fn signs_of_nodes(&self, peers: &[Arc<Peer>]) -> BTreeMap<NodeId, Signs> {
        let transport = &self.env.transport;
        let of = |node: NodeId| Signs {
            answered: self.answered_as_driver(node),
            silent: None,
            gone: self.is_gone(node),
            answering: transport.is_answering(node),
            unreached: transport.is_unreached(node),
        };
        let mut signs: BTreeMap<NodeId, Signs> =
            self.others().into_iter().map(|node| (node, of(node))).collect();
        let sooner = |old: &mut Option<Duration>, new: Duration| {
            *old = Some(old.map_or(new, |old| old.min(new)));
        };
        for peer in peers.iter().filter(|peer| peer.runs()) {
            // Without a copy of it: there may be ten thousand.
            let metrics = peer.raft().metrics();
            let metrics = metrics.borrow_watched();
            let (ServerState::Leader, Some(heard)) = (metrics.state, &metrics.heartbeat) else {
                continue;
            };
            let led = peer.leading_for(metrics.current_term.0);
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
    use crate::{
        region::{fixture::Fixture, incarnations::incarnation},
        world::presence::pretend,
    };

    const MAX: Duration = Duration::from_secs(10);
    const NODE: NodeId = NodeId(3);

    #[test]
    fn node_is_heard_by_its_answers_and_by_its_connections() {
        /// What this node's own connections to it show.
        #[derive(Clone, Copy, Debug)]
        enum Ours {
            Untried,
            Answering,
            Unreached,
        }
        use Ours::{Answering, Unreached, Untried};
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        type Row = (
            &'static str,
            Option<u64>,
            Option<u64>,
            Option<bool>,
            Ours,
            (Option<bool>, bool, bool),
        );
        let (heard, unknown) = ((Some(true), false, false), (None, false, false));
        let missed = (Some(false), true, false);
        // To be heard, missed, and in doubt.
        let lost = (Some(false), true, true);
        let rows: [Row; 20] = [
            ("nothing is known", None, None, None, Untried, unknown),
            ("it answers", Some(1), Some(1), None, Untried, heard),
            ("it answers, its own are closed", Some(1), Some(1), Some(true), Untried, heard),
            ("it does not answer", Some(11), Some(11), None, Untried, missed),
            (
                "it is paused with open connections",
                Some(11),
                Some(11),
                Some(false),
                Untried,
                missed,
            ),
            ("it never answered an old leader", None, Some(11), Some(false), Untried, missed),
            ("it never answered a young leader", None, Some(1), Some(false), Untried, unknown),
            ("it is dead, its leader is young", None, Some(1), Some(true), Unreached, lost),
            ("it led, and is dead", None, None, Some(true), Unreached, lost),
            ("it leads", None, None, Some(false), Untried, heard),
            ("it leads, and was away before", None, None, Some(false), Unreached, heard),
            ("it restarted and has no reason to call", None, None, Some(true), Answering, heard),
            (
                "it restarted a moment ago, and was not greeted yet",
                None,
                None,
                Some(true),
                Untried,
                (None, false, true),
            ),
            ("the driver answered a moment ago", Some(1), None, Some(true), Untried, heard),
            ("it answered as the driver", Some(1), None, None, Unreached, heard),
            ("it was the driver once", Some(11), None, Some(true), Untried, (None, false, true)),
            ("the driver died", Some(11), None, Some(true), Unreached, lost),
            ("its one peer is in quarantine", None, Some(99), Some(true), Answering, heard),
            ("it is silent, and is greeted", None, Some(99), Some(true), Untried, lost),
            ("it never called, and is away", None, None, None, Unreached, (None, true, true)),
        ];
        for (why, answered, silent, gone, ours, want) in rows {
            let signs = Signs {
                answered: seconds(answered),
                silent: seconds(silent),
                gone,
                answering: matches!(ours, Answering),
                unreached: matches!(ours, Unreached),
            };
            let got = (signs.is_heard(MAX), signs.is_missed(MAX), signs.is_in_doubt(MAX));
            assert_eq!(got, want, "{why}");
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

    /// The fixture's transport reaches nobody.
    #[tokio::test]
    async fn node_whose_connections_are_closed_is_missed_once_it_cannot_be_reached_either() {
        let fixture = Fixture::new(|_| {});
        let peers = Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers");
        let nodes = [NODE, NodeId(4)]
            .map(|node| v1::NodeRecord { node_id: node.0, ..v1::NodeRecord::default() });
        let table = v1::NodeTable { nodes: nodes.into(), ..v1::NodeTable::default() };
        peers.set_nodes(&table);
        let (connection, presence) = pretend();
        peers.recognize(NODE, incarnation(1, 1), &presence).expect("it is the only one");
        let doubted = || Company::in_doubt(&peers.signs_of_nodes(&peers.all()), MAX);
        assert_eq!(peers.missed(), BTreeSet::new());
        assert_eq!(doubted(), [], "it calls");

        drop(connection);
        assert_eq!(peers.missed(), BTreeSet::new(), "it may have no reason to call");
        assert_eq!(doubted(), [NODE]);
        fixture.env.transport.greet(NODE).await;
        assert_eq!(peers.missed(), BTreeSet::from([NODE]));
        assert!(peers.may_reach_others(), "of the other nothing is known");
        fixture.env.transport.greet(NodeId(4)).await;
        assert_eq!(doubted(), [NODE, NodeId(4)]);

        peers.note_driver(NODE);
        assert_eq!(peers.missed(), BTreeSet::from([NodeId(4)]), "it answers as the driver");
        peers.set_nodes(&v1::NodeTable::default());
        assert_eq!(peers.answered_as_driver(NODE), None, "it is forgotten with its node");
    }

    #[test]
    fn change_is_told_once() {
        let mut company = Company::default();
        let mut look = |gone| {
            let signs = Signs { gone, unreached: gone == Some(true), ..Signs::default() };
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
