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
    /// Where a peer of the region is, as far as this one knows.
    pub(super) fn node_of(&self, peer: PeerId) -> Option<NodeId> {
        let descriptor = &self.view().published().descriptor;
        let member = descriptor.peers.iter().find(|member| member.peer_id == peer.0);
        member.map(|member| NodeId(member.node_id))
    }
}

impl Peers {
    /// As long as a leader may be silent before its followers look for another, twice.
    pub(super) fn silence_max(&self) -> Duration {
        2 * self.env.config.raft.election_timeout_max
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
