//! What the leader of a region knows of the peers that it replicates to.

use std::{collections::BTreeSet, time::Duration};

use openraft::Instant as _;

use super::Peer;
use crate::{clock, ids::PeerId, raft::refusal::Refusal};

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
    /// Its node does not take the region's state.
    pub refusal: Option<Refusal>,
}

impl Peer {
    /// None while this peer does not lead.
    #[must_use]
    pub fn followers(&self) -> Vec<Follower> {
        let Some(metrics) = self.metrics() else { return Vec::new() };
        let voters: BTreeSet<PeerId> = metrics.membership_config.voter_ids().collect();
        let led = self.leading_for(metrics.current_term);
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
                refusal: self.refusals.of(metrics.current_term, peer, now),
                reverted: self.reversions.has_reverted(metrics.current_term, peer),
                silent: heard.get(&peer).copied().flatten().map_or(led, |at| at.elapsed()),
            })
            .collect()
    }
}
