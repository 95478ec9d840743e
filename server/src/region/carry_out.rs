//! Carries out the placement driver's steps on the leader of a region, as the answers to its node's heartbeats bring them
//! (`node/heartbeat.rs`): they change the members of the region. Which nodes may have any is the node table's
//! (`placement/membership.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flotilla_proto::{
    region::Epoch,
    v1::{self, step::Action},
};
use openraft::{
    ChangeMembers,
    errors::{ClientWriteError, RaftError},
    raft::Precondition,
};

use super::Peer;
use crate::{
    ids::{NodeId, PeerId},
    raft::{LogId, Membership, PeerAddress},
    world::linger,
};

impl Peer {
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
        let _only = match &step.action {
            // The driver orders a step again until it sees it done. Openraft refuses a change beside another,
            // and logs that as an error of its own.
            Some(Action::AddLearner(_) | Action::Change(_)) => {
                let only = self.changing_members.try_lock();
                Some(only.map_err(|_| "a change of its membership is under way".to_owned())?)
            }
            // Holds it for as long as somebody is told.
            Some(Action::Transfer(_)) | None => None,
        };
        let published = self.view.published();
        let planned_on = step.epoch.unwrap_or_default().conf_ver;
        if !Epoch::of(&published.descriptor).members_verdict(planned_on).fits() {
            return Err(moved_on());
        }
        linger("step-fits").await;
        match &step.action {
            Some(Action::AddLearner(add)) => {
                let address = PeerAddress { node: NodeId(add.node_id) };
                let learner =
                    ChangeMembers::AddNodes(BTreeMap::from([(PeerId(add.peer_id), address)]));
                self.change_members(learner, true, published.members_entry).await.map(drop)
            }
            Some(Action::Change(change)) => {
                self.change_peers(change, published.members_entry).await
            }
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

    async fn change_peers(
        &self,
        change: &v1::ChangePeers,
        mut planned_on: Option<LogId>,
    ) -> Result<(), String> {
        let metrics = self.server().ok_or_else(|| self.has_stopped().to_string())?;
        let members = &metrics.membership_config;
        if *members.log_id() != planned_on {
            return Err(moved_on());
        }
        let Goal { voters, learners } = goal(members.membership(), change, self.id)?;
        if let Some(voters) = voters {
            planned_on = Some(self.change_members(voters, false, planned_on).await?);
        }
        if !learners.is_empty() {
            let learners = ChangeMembers::RemoveNodes(learners);
            self.change_members(learners, false, planned_on).await?;
        }
        Ok(())
    }

    /// Changes the members if they are those of this entry. It is openraft that compares, where it proposes: this peer may
    /// have lost the lead and won it back since they were looked at, and be told to add who was removed meanwhile.
    async fn change_members(
        &self,
        to: impl Into<ChangeMembers<PeerId, PeerAddress>>,
        retain: bool,
        planned_on: Option<LogId>,
    ) -> Result<LogId, String> {
        let still = Precondition::LastMembershipLogId { last_membership_log_id: planned_on };
        let changed = self.raft.change_membership_if(to, retain, [still]).await;
        changed.map(|response| response.log_id).map_err(explain)
    }
}

fn moved_on() -> String {
    "the region's membership has moved on".to_owned()
}

/// What a change of peers asks of openraft.
#[derive(Debug, PartialEq)]
pub(crate) struct Goal {
    /// The voters to come to, through both sets at once; `None` when they are these.
    pub(crate) voters: Option<BTreeSet<PeerId>>,
    /// Learners that leave.
    pub(crate) learners: BTreeSet<PeerId>,
}

/// What `change` makes of `membership`, by its leader.
///
/// # Errors
/// In words, when it is none that a leader may carry out.
pub(crate) fn goal(
    membership: &Membership,
    change: &v1::ChangePeers,
    leader: PeerId,
) -> Result<Goal, String> {
    // The newest of the configurations: a joint change that was left half done ends there.
    let mut voters = membership.get_joint_config().last().cloned().unwrap_or_default();
    voters.extend(change.promote.iter().copied().map(PeerId));
    let leaving: BTreeSet<PeerId> = change.remove.iter().copied().map(PeerId).collect();
    if leaving.contains(&leader) {
        return Err("the leader does not remove itself".to_owned());
    }
    voters.retain(|peer| !leaving.contains(peer));
    if voters.is_empty() {
        return Err("no voter would remain".to_owned());
    }
    let joint = membership.get_joint_config().len() > 1;
    let present: BTreeSet<PeerId> = membership.voter_ids().collect();
    let learners = membership.learner_ids().filter(|peer| leaving.contains(peer)).collect();
    Ok(Goal { voters: (joint || voters != present).then_some(voters), learners })
}

fn explain(
    error: RaftError<crate::raft::TypeConfig, ClientWriteError<crate::raft::TypeConfig>>,
) -> String {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            "this peer leads no more, is handing its lead over, or has not been heard by a quorum"
                .to_owned()
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => moved_on(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::fixture::{Fixture, add_learner, until};

    /// The driver orders a step until it sees it done.
    #[tokio::test]
    async fn step_that_is_ordered_again_while_it_is_carried_out_is_refused() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let step = add_learner(&peer);
        fixture.log.hold();
        let before = fixture.log.writes().len();
        let first = tokio::spawn({
            let (peer, step) = (Arc::clone(&peer), step.clone());
            async move { peer.carry_out(&step).await }
        });
        until("its entry to be written", || fixture.log.writes().len() > before).await;
        let again = peer.carry_out(&step).await.expect_err("it is under way");
        assert!(again.contains("is under way"), "{again}");
        fixture.log.release();
        first.await.expect("it runs").expect("done");
        let again = peer.carry_out(&step).await.expect_err("it is done");
        assert!(again.contains("moved on"), "{again}");
    }

    /// Its leader may have lost the lead, and won it back, since it looked at the members.
    #[tokio::test]
    async fn change_that_was_planned_on_earlier_members_is_refused_where_it_is_proposed() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let earlier = peer.view().published().members_entry;
        peer.carry_out(&add_learner(&peer)).await.expect("done");
        let now = peer.view().published().members_entry;
        assert_ne!(earlier, now);
        let removal = || ChangeMembers::RemoveNodes(BTreeSet::from([PeerId(71)]));
        let late = peer.change_members(removal(), false, earlier).await.expect_err("it is late");
        assert!(late.contains("moved on"), "{late}");
        let change = v1::ChangePeers { remove: vec![71], ..v1::ChangePeers::default() };
        let late = peer.change_peers(&change, earlier).await.expect_err("it is late");
        assert!(late.contains("moved on"), "{late}");
        peer.change_peers(&change, now).await.expect("planned on what is");
    }
}
