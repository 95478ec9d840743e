//! Gives the lead of a region to another voter, and sees to it that the lead is taken.
//!
//! Asked to hand over, openraft tells the successor once; from then on it takes no proposals and
//! sends no heartbeats, and there is no way back. A successor that has just died or hangs, or whose
//! connection broke with that one message, takes nothing: nobody would lead until an election timeout
//! has passed. So a named successor that has been silent is refused before anything is begun, and
//! else the silent come last; the successor is told again until somebody else leads, and when it
//! stays silent the others have their turn.

use std::{sync::Arc, time::Duration};

use openraft::async_runtime::WatchReceiver as _;
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{Peer, followers::Follower};
use crate::{
    error::Error,
    ids::{NodeId, PeerId},
    world::{Mark, clock, sometimes},
};

/// First pause before a successor is told again, about a round trip; doubled each time.
const AGAIN_MIN: Duration = Duration::from_millis(5);
/// Longest pause before a successor is told again.
const AGAIN_MAX: Duration = Duration::from_millis(100);
/// A successor that was told so often in vain (for about 200 ms) makes room for the next.
const TOLD_MAX: usize = 6;
/// Bound: wait for the time to be told before the lead is given away.
const TICK_MAX: Duration = Duration::from_millis(100);
/// Bound: wait of a node that stops for a change of members that is under way.
const CHANGE_MAX: Duration = Duration::from_millis(500);
/// Bound: nobody took the lead by then, so an election will settle it.
const TRANSFER_MAX: Duration = Duration::from_secs(5);

impl Peer {
    /// Hands the lead to whoever is furthest, and returns when somebody else leads, or at the
    /// deadline.
    ///
    /// # Cancel safety
    /// Once begun it goes on.
    pub async fn hand_over(self: &Arc<Self>, deadline: Instant) {
        let changing = Arc::clone(&self.changing_members).lock_owned();
        let waited = deadline.min(clock::now() + CHANGE_MAX);
        // A change that takes longer is left half done, for the next leader; this node ends.
        let unchanged = tokio::time::timeout_at(waited, changing).await.ok();
        let order = by_fitness(self.candidates(), self.env.config.lease());
        if !self.hand_to(order, unchanged, deadline).await {
            // Nobody could take it, or nobody is known yet: not again before something may have changed.
            tokio::time::sleep_until(deadline.min(clock::now() + AGAIN_MAX)).await;
        }
    }

    /// Hands the lead to the peer on `node`, and returns when that one leads.
    ///
    /// # Errors
    /// `NotFound` when the node has no voter of the region; `NotLeader`, `NoLeader`; `NotReady` while a change of
    /// the members is under way; `FailedPrecondition` when the peer has not answered for a lease; `OutcomeUnknown` when it was asked, and another one leads
    /// or nobody does: it may yet hear of it.
    ///
    /// # Cancel safety
    /// Once begun it goes on.
    pub async fn transfer_to(self: &Arc<Self>, node: NodeId) -> Result<(), Error> {
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        let metrics = self.server().ok_or_else(|| self.has_stopped())?;
        let membership = metrics.membership_config.membership();
        let target = membership
            .voter_ids()
            .find(|peer| membership.get_node(peer).is_some_and(|address| address.node == node))
            .ok_or_else(|| Error::NotFound {
                message: format!("node {node} has no voter of region {}", self.region),
            })?;
        if target == self.id {
            // Who is cut off from the others believes it for as long as that lasts.
            return self.prove_lead().await;
        }
        self.hand_to_peer(target).await
    }

    /// As [`Peer::transfer_to`], by the peer's id.
    pub(super) async fn hand_to_peer(self: &Arc<Self>, target: PeerId) -> Result<(), Error> {
        let unchanged = Arc::clone(&self.changing_members).try_lock_owned().map_err(|_| {
            let message = format!("a change of the members of region {} is under way", self.region);
            Error::NotReady { message }
        })?;
        let candidates = self.candidates();
        let lease = self.env.config.lease();
        let refused = |message: String| Error::FailedPrecondition { message };
        let target_name = self.name(target);
        match candidates.iter().find(|candidate| candidate.peer == target) {
            None => {
                let message = format!("{target_name} is no voter of region {}", self.region);
                return Err(refused(message));
            }
            Some(Follower { silent, .. }) if *silent > lease => {
                let message = format!("{target_name} has not answered for {silent:?}");
                return Err(refused(message));
            }
            Some(_) => {}
        }
        let mut order = by_fitness(candidates, lease);
        order.retain(|peer| *peer != target);
        order.insert(0, target);
        let deadline = clock::now() + TRANSFER_MAX;
        let region = self.region;
        let leader = if self.hand_to(order, Some(unchanged), deadline).await {
            self.next_leader(deadline).await
        } else {
            None
        };
        // Whoever was told and did not take it may still have the message before it.
        let message = match leader {
            Some((leader, _)) if leader == target => return Ok(()),
            Some((leader, node)) => format!(
                "node {node} (peer {leader}) leads region {region} now, not {target_name}, which may yet take the lead"
            ),
            None => format!("nobody took the lead of region {region}; {target_name} may yet"),
        };
        Err(Error::OutcomeUnknown { message })
    }

    /// A peer of the region for people, who know nodes.
    fn name(&self, peer: PeerId) -> String {
        let peers = self.view.with(|now| Arc::clone(&now.descriptor));
        match peers.peers.iter().find(|other| other.peer_id == peer.0) {
            Some(other) => format!("node {} (peer {peer})", other.node_id),
            None => format!("peer {peer}"),
        }
    }

    /// Who leads after this peer, as soon as it knows; `None` at the deadline.
    async fn next_leader(&self, deadline: Instant) -> Option<(PeerId, NodeId)> {
        let mut changes = self.raft.server_metrics();
        let known = async {
            loop {
                if let Some(leader) = self.leader() {
                    return Some(leader);
                }
                if !self.runs() || changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout_at(deadline, known).await.ok().flatten()
    }

    /// Tells `order`, by turns, to take the lead, while `unchanged` keeps the members as they are. Answers whether
    /// this peer leads no more.
    async fn hand_to(
        self: &Arc<Self>,
        order: Vec<PeerId>,
        unchanged: Option<OwnedMutexGuard<()>>,
        deadline: Instant,
    ) -> bool {
        if order.is_empty() {
            return false;
        }
        let peer = Arc::clone(self);
        let telling = async move {
            let _unchanged = unchanged;
            peer.tell_time(deadline).await;
            let telling = peer.tell_until_followed(&order, deadline);
            // A peer that has stopped leads nothing.
            peer.unless_stopped(telling).await.unwrap_or(true)
        };
        // Ordering: to its end, whoever waits for it. Left half way, nobody would lead.
        self.env.runtime.spawn(telling).await.unwrap_or(false)
    }

    /// So that the successor begins with the time as it is, not as it was at the last tick or at the last write: of
    /// what this peer proposed it has the last entry, but may not have applied it.
    async fn tell_time(&self, deadline: Instant) {
        if self.needs_tick() {
            // One that fails costs what it would have told.
            let _ = self.propose_tick(deadline.min(clock::now() + TICK_MAX)).await;
        }
    }

    async fn tell_until_followed(&self, order: &[PeerId], deadline: Instant) -> bool {
        let mut changes = self.raft.server_metrics();
        for successor in order.iter().cycle() {
            let mut pause = AGAIN_MIN;
            for _ in 0..TOLD_MAX {
                if !self.is_leader() {
                    return true;
                }
                if clock::now() >= deadline {
                    return false;
                }
                if self.raft.trigger().transfer_leader(*successor).await.is_err() {
                    return true; // openraft has ended
                }
                let until = deadline.min(clock::now() + pause);
                let followed = async {
                    while self.is_leader() {
                        if changes.changed().await.is_err() {
                            return;
                        }
                    }
                };
                // That the pause is over shows at the top.
                let _ = tokio::time::timeout_at(until, followed).await;
                pause = (pause * 2).min(AGAIN_MAX);
            }
            sometimes(Mark::SUCCESSOR_SILENT);
        }
        false
    }

    fn candidates(&self) -> Vec<Follower> {
        let fit = |follower: &Follower| follower.is_voter && !follower.is_lost();
        self.followers().into_iter().filter(fit).collect()
    }
}

/// Who is asked first: those that answered within `silence_max`, of them who is furthest.
fn by_fitness(mut candidates: Vec<Follower>, silence_max: Duration) -> Vec<PeerId> {
    candidates.sort_by_key(|candidate| {
        let silent = (candidate.silent > silence_max).then_some(candidate.silent);
        (silent, u64::MAX - candidate.matched, candidate.peer)
    });
    candidates.into_iter().map(|candidate| candidate.peer).collect()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1;

    use super::*;
    use crate::region::fixture::{Fixture, add_learner, put, until};

    #[tokio::test]
    async fn time_is_told_before_the_lead_is_given_away_if_it_matters() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let late = || clock::now() + Duration::from_secs(60);
        peer.propose_write(put("a", "1"), 1, late()).await.expect("a write");
        let applied = |peer: &Peer| peer.view.with(|now| (now.time_ms, now.applied));
        let before = applied(&peer);
        peer.tell_time(late()).await;
        assert_eq!(applied(&peer), before, "nothing is to expire");

        let mut expiring = put("a", "1");
        if let Some(v1::op::Op::Put(put)) = &mut expiring.success[0].op {
            put.ttl_ms = 60_000;
        }
        let begun = clock::now();
        peer.propose_write(expiring, 1, late()).await.expect("a write");
        let before = applied(&peer).0;
        tokio::time::sleep(Duration::from_millis(20)).await;
        peer.tell_time(late()).await;
        let told = u128::from(applied(&peer).0 - before);
        assert!((19..=begun.elapsed().as_millis() + 1).contains(&told), "{told}");
    }

    #[tokio::test]
    async fn lead_is_not_given_away_while_the_members_change() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        fixture.log.hold();
        let before = fixture.log.writes().len();
        let changing = tokio::spawn({
            let (peer, step) = (Arc::clone(&peer), add_learner(&peer));
            async move { peer.carry_out(&step).await }
        });
        until("its entry to be written", || fixture.log.writes().len() > before).await;
        let refused = peer.hand_to_peer(PeerId(2)).await.expect_err("a change is under way");
        assert!(
            matches!(&refused, Error::NotReady { message } if message.contains("under way")),
            "{refused:?}"
        );
        fixture.log.release();
        changing.await.expect("it runs").expect("done");
        let refused = peer.hand_to_peer(PeerId(2)).await.expect_err("nobody of that name");
        assert!(matches!(&refused, Error::FailedPrecondition { .. }), "{refused:?}");
    }

    /// The successor could be the one that is removed.
    #[tokio::test]
    async fn members_do_not_change_while_the_lead_is_given_away() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let unchanged =
            Arc::clone(&peer.changing_members).try_lock_owned().expect("nobody changes them");
        let deadline = clock::now() + Duration::from_secs(60);
        let telling = {
            let peer = Arc::clone(&peer);
            async move { peer.hand_to(vec![PeerId(2)], Some(unchanged), deadline).await }
        };
        // Whoever waits for it may go.
        assert!(tokio::time::timeout(Duration::from_millis(1), telling).await.is_err());
        let refused =
            peer.carry_out(&add_learner(&peer)).await.expect_err("somebody is told to lead");
        assert!(refused.contains("is under way"), "{refused}");
    }

    #[test]
    fn successors_are_asked_by_fitness() {
        let candidate = |peer, matched, silent_ms| Follower {
            peer: PeerId(peer),
            is_voter: true,
            matched,
            silent: Duration::from_millis(silent_ms),
            reverted: false,
            buried: false,
            refusal: None,
        };
        let check = |why: &str, candidates: &[Follower], want: &[u64]| {
            let order = by_fitness(candidates.to_vec(), Duration::from_secs(3));
            let want: Vec<PeerId> = want.iter().copied().map(PeerId).collect();
            assert_eq!(order, want, "{why}");
        };
        check("nobody else", &[], &[]);
        check("furthest first", &[candidate(1, 5, 10), candidate(2, 9, 900)], &[2, 1]);
        check("as far: by id", &[candidate(2, 5, 10), candidate(1, 5, 20)], &[1, 2]);
        check(
            "a dead one is asked last, however far it was",
            &[candidate(1, 9, 3_001), candidate(2, 5, 3_000)],
            &[2, 1],
        );
        check(
            "all are silent: who was heard last",
            &[candidate(1, 9, 9_000), candidate(2, 5, 4_000)],
            &[2, 1],
        );
    }
}
