//! What the leader of a region knows of the peers that it replicates to.

use std::{collections::BTreeSet, time::Duration};

use openraft::Instant as _;

use super::Peer;
use crate::{ids::PeerId, raft::refusal::Refusal, world::clock};

/// Another peer of the region, learner or voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    pub peer: PeerId,
    pub is_voter: bool,
    /// Last entry that it is known to have.
    pub matched: u64,
    /// Since its last answer; since the lead began when it has not answered yet.
    pub silent: Duration,
    /// It lost what it had acknowledged.
    pub reverted: bool,
    /// Its node has buried it: it never comes again.
    pub buried: bool,
    /// Its node does not take the region's state.
    pub refusal: Option<Refusal>,
}

impl Follower {
    /// As others are told it. A learner whose node refuses the region's state has nothing of the log to answer for;
    /// its node is there and says so, again and again.
    ///
    /// Of a voter it is what it is: its answers count for a quorum.
    #[must_use]
    pub fn told_silent(&self) -> Duration {
        let refuses = self.refusal.as_ref().is_some_and(|refusal| refusal.said);
        if refuses && !self.is_voter && !self.buried { Duration::ZERO } else { self.silent }
    }

    /// Whether it is of no use to the region any more, and is to be replaced.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.reverted || self.buried
    }
}

impl Peer {
    /// None while this peer does not lead.
    #[must_use]
    pub fn followers(&self) -> Vec<Follower> {
        let Some(metrics) = self.metrics() else { return Vec::new() };
        let voters: BTreeSet<PeerId> = metrics.membership_config.voter_ids().collect();
        let led = self.leading_for(metrics.current_term.0);
        let now = clock::now();
        let heard = metrics.heartbeat.unwrap_or_default();
        metrics
            .replication
            .unwrap_or_default()
            .into_iter()
            .filter(|(peer, _)| *peer != self.id)
            .map(|(peer, matched)| Follower {
                peer,
                is_voter: voters.contains(&peer),
                matched: matched.map_or(0, |id| id.index),
                refusal: self.refusals.of(metrics.current_term.0, peer, now),
                reverted: self.reversions.has_reverted(metrics.current_term.0, peer),
                buried: self.refusals.has_buried(metrics.current_term.0, peer),
                silent: heard.get(&peer).copied().flatten().map_or(led, |at| at.elapsed()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learner_whose_node_says_that_it_refuses_is_not_silent() {
        let silent = Duration::from_secs(60);
        let told = |is_voter, said: Option<bool>, buried| {
            let refusal = said.map(|said| Refusal {
                lasts: silent,
                reason: "the disk is too full".to_owned(),
                said,
            });
            let (peer, matched, reverted) = (PeerId(71), 0, false);
            Follower { peer, is_voter, matched, silent, reverted, buried, refusal }.told_silent()
        };
        assert_eq!(told(false, Some(true), false), Duration::ZERO, "its node answers");
        assert_eq!(told(false, Some(false), false), silent, "nobody is there");
        assert_eq!(told(false, None, false), silent);
        assert_eq!(told(true, Some(true), false), silent, "it would count for a quorum");
        assert_eq!(told(false, Some(true), true), silent, "it answers that the peer never comes");
    }
}
