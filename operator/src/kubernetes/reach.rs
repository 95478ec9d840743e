//! Whether entries reach each peer from its region's leader.
//!
//! A node that was restarted is ready as soon as it has what it knows of, and its leader may not have
//! found the way back to it: attempts to reach a node that was away lie some time apart. Taking
//! another node away in that time leaves the leader without a quorum, and every write waits. What a
//! peer's log ends with tells: it comes to hold what the leader had committed a moment before, or
//! nothing reaches it. In a look at a busy region the logs of others always end a little earlier, so
//! they are asked again before that counts.

use std::{collections::BTreeMap, time::Duration};

use crate::seen::{Joined, Node, Pod};

/// A peer that lags by more than their sum counts as not reached.
pub(super) const PAUSES: [Duration; 3] = [Duration::from_millis(100); 3];

/// What the leaders have committed, by region.
pub(super) struct Committed(BTreeMap<u64, u64>);

impl Committed {
    pub(super) fn of(pods: &BTreeMap<i32, Pod>) -> Self {
        let mut committed = BTreeMap::new();
        for node in pods.values().filter_map(joined) {
            // Of two that claim to lead the one that does has committed more, or as much.
            for peer in node.peers.iter().filter(|peer| peer.leads) {
                let index = committed.entry(peer.region_id).or_insert(0);
                *index = peer.committed_index.max(*index);
            }
        }
        Self(committed)
    }

    /// Notes at each voter whether its log ends before that. Answers the pods in which one's does.
    pub(super) fn mark(&self, pods: &mut BTreeMap<i32, Pod>) -> Vec<i32> {
        let mut behind = Vec::new();
        for (ordinal, pod) in pods {
            let Node::Joined(Joined { node_id, peers, .. }) = &mut pod.node else { continue };
            for peer in peers.iter_mut().filter(|peer| peer.voters.contains(node_id)) {
                let committed = self.0.get(&peer.region_id);
                peer.behind = committed.is_some_and(|committed| peer.last_index < *committed);
            }
            if peers.iter().any(|peer| peer.behind) {
                behind.push(*ordinal);
            }
        }
        behind
    }
}

fn joined(pod: &Pod) -> Option<&Joined> {
    match &pod.node {
        Node::Joined(joined) => Some(joined),
        Node::Silent(_) | Node::Unjoined { .. } | Node::Removed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::Peer;

    fn pod(node_id: u64, peers: Vec<Peer>) -> Pod {
        Pod {
            name: String::new(),
            uid: String::new(),
            ready: true,
            terminating: false,
            ours: true,
            running: true,
            template_hash: None,
            configs: Default::default(),
            ip: None,
            place: BTreeMap::new(),
            restarts: 0,
            problem: None,
            problem_is_of_another: false,
            last_exit: None,
            not_ready_since: None,
            disk_elsewhere: None,
            ready_since: None,
            running_since: None,
            node: Node::Joined(Joined::sample(node_id, peers)),
        }
    }

    fn peer(leads: bool, voters: &[u64], last_index: u64, committed_index: u64) -> Peer {
        let voters = voters.iter().copied().collect();
        Peer { region_id: 1, voters, leads, last_index, committed_index, ..Peer::default() }
    }

    #[test]
    fn voter_whose_log_ends_before_what_its_leader_has_committed_is_behind() {
        let leader = || (0, pod(1, vec![peer(true, &[1, 2], 90, 80)]));
        let other = |peer| (1, pod(2, vec![peer]));
        for (why, pods, behind) in [
            (
                "it has all that is committed",
                [leader(), other(peer(false, &[1, 2], 80, 7))],
                vec![],
            ),
            ("it lacks the last", [leader(), other(peer(false, &[1, 2], 79, 79))], vec![1]),
            ("a learner may take its time", [leader(), other(peer(false, &[1], 3, 3))], vec![]),
            (
                "it led until now, and does not know yet",
                [leader(), other(peer(true, &[1, 2], 70, 70))],
                vec![1],
            ),
            (
                "nobody leads: that is said elsewhere",
                [(0, pod(1, vec![peer(false, &[1, 2], 9, 9)])), other(peer(false, &[1, 2], 3, 3))],
                vec![],
            ),
        ] {
            let mut pods = BTreeMap::from(pods);
            let committed = Committed::of(&pods);
            assert_eq!(committed.mark(&mut pods), behind, "{why}");
            // Entries arrived meanwhile: it is what was committed before that counts.
            for pod in pods.values_mut() {
                let Node::Joined(node) = &mut pod.node else { unreachable!("all are joined") };
                for peer in &mut node.peers {
                    peer.last_index = peer.last_index.max(80);
                    peer.committed_index += 1_000;
                }
            }
            assert_eq!(committed.mark(&mut pods), Vec::<i32>::new(), "{why}: asked again");
        }
    }
}
