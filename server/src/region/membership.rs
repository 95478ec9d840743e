//! Carries out the placement driver's steps on the leader of a region.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flotilla_proto::v1::{self, step::Action};
use openraft::{
    ChangeMembers, Instant as _, ServerState,
    errors::{ClientWriteError, RaftError},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Peer;
use crate::{
    clock,
    ids::{NodeId, PeerId},
    raft::PeerAddress,
};
use openraft::async_runtime::WatchReceiver as _;

/// When a peer last heard of a leader.
pub(super) struct Silence {
    opened: Instant,
    /// `None`: not since the peer was opened.
    heard: Mutex<Option<Instant>>,
}

impl Default for Silence {
    fn default() -> Self {
        Self { opened: clock::now(), heard: Mutex::default() }
    }
}

impl Silence {
    pub(super) fn heard(&self) {
        *self.heard.lock() = Some(clock::now());
    }

    fn since(&self, instant: Option<Instant>) -> Duration {
        clock::now().saturating_duration_since(instant.unwrap_or(self.opened))
    }
}

impl Peer {
    /// How long no leader has been heard of; zero on a leader.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        if self.is_leader() {
            self.silence.heard();
        }
        self.silence.since(*self.silence.heard.lock())
    }

    /// Whether a leader was heard of lately, and since the peer was opened: whom the disk names as the
    /// leader may be gone, or not reach this node. A leader must have been heard by a quorum.
    #[must_use]
    pub fn is_in_touch(&self) -> bool {
        let bound = 2 * self.env.config.election_timeout_max;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            let alone = metrics.membership_config.voter_ids().all(|voter| voter == self.id);
            return alone || metrics.last_quorum_acked.is_some_and(|at| at.elapsed() <= bound);
        }
        let heard = *self.silence.heard.lock();
        metrics.current_leader.is_some() && heard.is_some() && self.silence.since(heard) <= bound
    }

    /// Carries out one step. A step that was planned on another membership is dropped; one that is
    /// done already succeeds.
    ///
    /// # Errors
    /// Why it was not done, as text: the driver plans anew from what it sees next.
    pub async fn carry_out(self: &Arc<Self>, step: &v1::Step) -> Result<(), String> {
        self.unless_stopped(self.carry_out_running(step))
            .await
            .unwrap_or_else(|| Err("the peer has stopped".to_owned()))
    }

    async fn carry_out_running(self: &Arc<Self>, step: &v1::Step) -> Result<(), String> {
        let descriptor = self.view.published().descriptor;
        if step.epoch.as_ref().map(|epoch| epoch.conf_ver)
            != descriptor.epoch.as_ref().map(|epoch| epoch.conf_ver)
        {
            return Err("the region's membership has moved on".to_owned());
        }
        match &step.action {
            Some(Action::AddLearner(add)) => {
                let address = PeerAddress { node: NodeId(add.node_id) };
                self.raft
                    .add_learner(PeerId(add.peer_id), address, false)
                    .await
                    .map(drop)
                    .map_err(explain)
            }
            Some(Action::Change(change)) => self.change_peers(change).await,
            Some(Action::Transfer(transfer)) => {
                if transfer.peer_id == self.id.0 {
                    return Ok(());
                }
                let taken = self.hand_to_peer(PeerId(transfer.peer_id)).await;
                taken.map_err(|error| error.to_string())
            }
            None => Err("a step of a kind this version does not know".to_owned()),
        }
    }

    async fn change_peers(&self, change: &v1::ChangePeers) -> Result<(), String> {
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        // The newest of the configurations: a joint change that was left half done ends there.
        let mut voters: BTreeSet<PeerId> =
            membership.get_joint_config().last().cloned().unwrap_or_default();
        voters.extend(change.promote.iter().copied().map(PeerId));
        let leaving: BTreeSet<PeerId> = change.remove.iter().copied().map(PeerId).collect();
        if leaving.contains(&self.id) {
            return Err("the leader does not remove itself".to_owned());
        }
        voters.retain(|peer| !leaving.contains(peer));
        if voters.is_empty() {
            return Err("no voter would remain".to_owned());
        }
        let joint = membership.get_joint_config().len() > 1;
        let present: BTreeSet<PeerId> = membership.voter_ids().collect();
        if joint || voters != present {
            self.raft.change_membership(voters, false).await.map_err(explain)?;
        }
        let learners: BTreeSet<PeerId> =
            membership.learner_ids().filter(|peer| leaving.contains(peer)).collect();
        if !learners.is_empty() {
            self.raft
                .change_membership(ChangeMembers::RemoveNodes(learners), false)
                .await
                .map_err(explain)?;
        }
        Ok(())
    }
}

fn explain(
    error: RaftError<crate::raft::TypeConfig, ClientWriteError<crate::raft::TypeConfig>>,
) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::message::Body;

    use super::*;
    use crate::region::fixture::{Fixture, PEER, until};

    #[tokio::test]
    async fn leader_that_only_the_disk_names_is_not_in_touch() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let follower = fixture.open().await;
        assert!(!follower.is_in_touch(), "nobody leads");
        // Or it would say by itself that it knows of no leader any more.
        follower.raft().runtime_config().elect(false);
        let heartbeat = || v1::AppendEntries {
            vote: Some(v1::VoteState { term: 5, voted_for: 71, committed: true }),
            ..v1::AppendEntries::default()
        };
        let hear = async |peer: &Arc<Peer>| {
            let heard = Arc::clone(peer).serve(Body::Append(heartbeat())).await;
            heard.expect("an answer");
        };
        hear(&follower).await;
        until("the leader to be known", || follower.leader().is_some()).await;
        assert!(follower.is_in_touch());
        let bound = 2 * fixture.env.config.election_timeout_max;
        until("silence", || !follower.is_in_touch()).await;
        assert!(follower.silent_for() >= bound);
        follower.raft().shutdown().await.expect("a stop");
        follower.view().close();

        let again = fixture.open().await;
        until("the leader to be read from the disk", || again.leader().is_some()).await;
        assert!(!again.is_in_touch());
        hear(&again).await;
        assert!(again.is_in_touch());
    }

    #[tokio::test]
    async fn leader_is_in_touch_while_a_quorum_hears_it() {
        let fixture = Fixture::new(|_| {});
        let alone = fixture.leader().await;
        until("its own quorum to be seen", || alone.is_in_touch()).await;
    }
}
