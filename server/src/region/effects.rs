//! What follows from what was applied, met in one place.
//!
//! Applying is a function of the log: it changes state and answers, and what else is to happen it returns
//! ([`Effect`]). Two moments are here. [`Effects::meet`] is called while the state is exactly that of the entry, on
//! the way of apply, so that it may only look and note: a checksum pins the state and is computed beside. What takes
//! time, or the lock of other peers, is noted in [`Unmet`] and done by [`Peers::run_effects`]: a peer that has applied
//! its own removal is destroyed. Nobody looks at descriptors to find out.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use flotilla_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Peer,
    checks::{Checks, PINNED_MAX},
    peers::Peers,
};
use crate::{
    command::{self, Effect, RegionState},
    ids::{PeerId, RegionId},
    panics,
    raft::{region_state::read_state, region_view::RegionView, state_machine::Effects},
    storage::engine::View,
    world::blocking,
};

/// Effects of all regions that wait for [`Peers::run_effects`].
///
/// Bound: each peer is here once.
#[derive(Debug, Default)]
pub struct Unmet {
    leavers: Mutex<BTreeSet<(RegionId, PeerId)>>,
    more: Notify,
}

impl Unmet {
    /// By its state, a peer was removed from its region.
    fn note_leaver(&self, region: RegionId, peer: PeerId) {
        self.leavers.lock().insert((region, peer));
        self.more.notify_one();
    }

    async fn next(&self) -> (RegionId, PeerId) {
        loop {
            let more = self.more.notified();
            if let Some(leaver) = self.leavers.lock().pop_first() {
                return leaver;
            }
            more.await;
        }
    }
}

/// See the module.
pub struct RegionEffects {
    checks: Checks,
    unmet: Arc<Unmet>,
}

impl RegionEffects {
    #[must_use]
    pub fn new(checks: Checks, unmet: Arc<Unmet>) -> Self {
        Self { checks, unmet }
    }

    /// Computes over a pinned view, beside the apply of later entries.
    fn start_checksum(&self, region: &RegionState, view: &Arc<RegionView>) {
        let index = region.state.applied_index;
        view.checksum_begins(index);
        let Some(place) = self.checks.pin() else {
            let full = format!("{PINNED_MAX} checksums are under way on this node: check again");
            return view.checksum_ends(index, Err(full));
        };
        let pinned = view.data().view();
        let region = region.clone();
        let view: Weak<RegionView> = Arc::downgrade(view);
        tokio::spawn(async move {
            let turn = place.turn().await;
            // Of a peer that is no more nobody asks, nor of one of which there are enough that are newer.
            if view.upgrade().is_none_or(|view| view.checksum(index).is_none()) {
                return;
            }
            blocking::run(move || {
                let _under_way = (turn, place);
                let outcome = match panics::outlive(|| sum(pinned.as_ref(), &region)) {
                    Ok(outcome) => outcome,
                    Err(payload) => {
                        Err(format!("it panicked: {}", panics::words(payload.as_ref())))
                    }
                };
                if let Some(view) = view.upgrade() {
                    view.checksum_ends(index, outcome);
                }
            });
        });
    }
}

/// The sum of the state that is on the disk, which has to be the one that is in memory: of two that differ only one is
/// what the log made, and nobody would find out until the next start.
fn sum(pinned: &dyn View, region: &RegionState) -> Result<(u64, u64), String> {
    let id = RegionId(region.descriptor.region_id);
    let stored = read_state(pinned, id).map_err(|error| error.to_string())?;
    if stored.as_ref() != Some(region) {
        let RegionState { descriptor, state } = region;
        return Err(format!(
            "the descriptor or the apply state on the disk is not the one in memory, as of index {}: {stored:?}, not \
             {descriptor:?} with {state:?}",
            state.applied_index
        ));
    }
    command::checksum(pinned, region).map_err(|error| error.to_string())
}

impl Effects for RegionEffects {
    fn meet(&self, effect: Effect, region: &RegionState, view: &Arc<RegionView>) {
        match effect {
            Effect::None => {}
            Effect::Checksum { check_id: _ } => self.start_checksum(region, view),
            Effect::Members => {
                if has_left(&region.descriptor, is_joint(region), view.peer) {
                    self.unmet.note_leaver(view.region, view.peer);
                }
            }
        }
    }
}

fn is_joint(region: &RegionState) -> bool {
    region.state.membership.as_ref().is_some_and(|membership| membership.voters.len() > 1)
}

/// Whether a region whose membership is applied up to here no longer has `peer`. Not before a joint change has ended: it
/// may still be needed for it.
fn has_left(descriptor: &v1::Region, is_joint: bool, peer: PeerId) -> bool {
    !is_joint && descriptor.peers.iter().all(|member| member.peer_id != peer.0)
}

impl Peer {
    /// Whether this peer was removed from its region, and knows it.
    ///
    /// What is applied may be older than the peer: its first state was taken before the entry that added it
    /// was applied. So the newest membership that is in its log counts as well.
    #[must_use]
    pub fn has_left(&self) -> bool {
        let by_state = self
            .view
            .with(|now| now.applied.is_some() && has_left(&now.descriptor, now.joint, self.id));
        by_state && self.is_named() == Some(false)
    }
}

impl Peers {
    /// Meets what apply could only note; runs until the node stops.
    ///
    /// A peer that its log names again is left alone: with that entry the question comes anew. Should the entry be
    /// taken back, the peer is silent from then on, of which the placement driver is told.
    pub async fn run_effects(self: Arc<Self>) {
        // What was applied before the start, and not done.
        for peer in self.all().into_iter().filter(|peer| peer.has_left()) {
            self.env.unmet.note_leaver(peer.region, peer.id);
        }
        loop {
            let (region, peer) = self.env.unmet.next().await;
            let here = self.get(region).filter(|here| here.id == peer);
            if here.is_some_and(|here| here.is_named() == Some(false)) {
                self.give_up(region, peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::message::Body;

    use super::*;
    use crate::region::fixture::{Fixture, PEER, REGION, until, until_applied};
    use crate::{
        raft::{
            fixture::{id, region_state},
            region_state::put_state,
        },
        storage::{
            batch::WriteBatch,
            engine::{Durability, Engine as _},
            memory::MemoryEngine,
        },
    };

    const OTHER: u64 = 71;

    /// A membership of one voter, and of learners.
    fn membership(term: u64, index: u64, voter: u64, learners: &[u64]) -> v1::LogEntry {
        let members = [&[voter], learners].concat();
        let peers = members.iter().map(|id| v1::MemberPeer { peer_id: *id, node_id: *id });
        let voters = vec![v1::VoterSet { peer_ids: vec![voter] }];
        let membership = v1::Membership { voters, peers: peers.collect() };
        let payload = Some(v1::log_entry::Payload::Membership(membership));
        v1::LogEntry { term, index, payload }
    }

    fn append(entries: Vec<v1::LogEntry>, commit: u64) -> Body {
        let id = |term, index| v1::LogId { term, index };
        Body::Append(v1::AppendEntries {
            vote: Some(v1::VoteState { term: 5, voted_for: OTHER, committed: true }),
            prev: Some(id(1, 1)),
            entries,
            leader_commit: Some(id(5, commit)),
            ..v1::AppendEntries::default()
        })
    }

    /// A write that went to the wrong place, or nowhere, shows at the next start alone, when the log may be cut.
    #[test]
    fn state_on_the_disk_that_is_not_the_one_in_memory_has_no_sum() {
        type Change = fn(&mut RegionState);
        let region = region_state(REGION, PEER, ("b", "y"), id(3, 9));
        let changes: [(&str, Change); 3] = [
            ("the range", |it| it.descriptor.end_key = "z".into()),
            ("the epoch", |it| it.descriptor.epoch.as_mut().expect("one").version += 1),
            ("what is applied", |it| it.state.applied_index -= 1),
        ];
        let sum_beside = |stored: Option<&RegionState>| {
            let data = MemoryEngine::new();
            let mut batch = WriteBatch::new();
            stored.into_iter().for_each(|stored| put_state(&mut batch, stored, true));
            data.write(&batch, Durability::Buffered).expect("a write");
            sum(data.view().as_ref(), &region)
        };
        for (why, change) in changes {
            let mut stored = region.clone();
            change(&mut stored);
            let error = sum_beside(Some(&stored)).expect_err(why);
            assert!(error.contains("is not the one in memory"), "{why}: {error}");
        }
        sum_beside(None).expect_err("there is none");
        sum_beside(Some(&region)).expect("the same");
    }

    #[tokio::test]
    async fn peer_that_applies_its_own_removal_is_destroyed_and_one_that_its_log_names_is_not() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(OTHER)]);
        let peers = Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers");
        let tasks = [
            tokio::spawn(Arc::clone(&peers).run_destroyer()),
            tokio::spawn(Arc::clone(&peers).run_effects()),
        ];
        let peer = peers.get(REGION).expect("the peer");
        peer.raft().runtime_config().elect(false);
        let gone = membership(5, 2, OTHER, &[]);
        let back = membership(5, 3, OTHER, &[PEER.0]);
        let both = append(vec![gone, back], 2);
        Arc::clone(&peer).serve(both).await.expect("taken");
        until_applied(&peer, 2).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(peers.get(REGION).is_some_and(|peer| !peer.has_left()), "its log names it");

        let again = membership(5, 4, OTHER, &[]);
        let entries = vec![membership(5, 2, OTHER, &[]), membership(5, 3, OTHER, &[PEER.0]), again];
        // It may be destroyed before it answers.
        if let Err(refused) = Arc::clone(&peer).serve(append(entries, 4)).await {
            assert!(refused.message.contains("has stopped"), "{}", refused.message);
        }
        until("it to be gone", || peers.get(REGION).is_none()).await;
        assert!(peers.quarantined().is_empty());
        for task in tasks {
            task.abort();
        }
    }

    #[tokio::test]
    async fn removal_that_was_applied_before_the_start_is_done_after_it() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(OTHER)]);
        let peers = Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers");
        let peer = peers.get(REGION).expect("the peer");
        peer.raft().runtime_config().elect(false);
        let gone = append(vec![membership(5, 2, OTHER, &[])], 2);
        Arc::clone(&peer).serve(gone).await.expect("taken");
        until("it to know", || peer.has_left()).await;
        peer.stop().await;
        drop((peer, peers));

        let peers = Peers::open(Arc::clone(&fixture.env), true, None).await.expect("peers");
        assert!(peers.get(REGION).is_some(), "nothing was done yet");
        let tasks = [
            tokio::spawn(Arc::clone(&peers).run_destroyer()),
            tokio::spawn(Arc::clone(&peers).run_effects()),
        ];
        until("it to be gone", || peers.get(REGION).is_none()).await;
        for task in tasks {
            task.abort();
        }
    }
}
