//! Whether a peer runs, and what it is in its region while it does.
//!
//! Openraft ends a peer whose log or state it cannot go on with: a damaged block, a command of a newer
//! version, a panic. It says so in one place and leaves the others as they were, so that what led
//! seems to lead for ever. Therefore everything that is told of a peer comes through here, and a peer
//! that does not run any more leads nothing, follows nobody and is in touch with nobody.

use std::{
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use flotilla_proto::v1;
use openraft::{
    RaftState, ServerState,
    alias::WatchReceiverOf,
    async_runtime::WatchReceiver as _,
    errors::Fatal,
    metrics::{RaftMetrics, RaftServerMetrics},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Peer;
use crate::{
    error::Error,
    ids::{NodeId, PeerId},
    raft::{LogId, Raft, TypeConfig},
};

/// What openraft tells of a peer.
pub(super) struct Running {
    all: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    /// It was told to stop.
    stopped: AtomicBool,
    /// A leader that has another entry where one is committed here.
    contradicted: Mutex<Option<Contradiction>>,
    /// Openraft has ended, and could perhaps not say so.
    ended: AtomicBool,
}

struct Contradiction {
    term: u64,
    reason: String,
}

impl Running {
    pub(super) fn of(raft: &Raft) -> Self {
        Self {
            all: raft.metrics(),
            server: raft.server_metrics(),
            stopped: false.into(),
            contradicted: Mutex::default(),
            ended: false.into(),
        }
    }

    fn runs(&self) -> bool {
        !self.is_stopped_or_ended() && self.all.borrow_watched().running_state.is_ok()
    }

    fn is_stopped_or_ended(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.ended.load(Ordering::Acquire)
    }

    /// `None` of a peer that does not run.
    fn told(&self) -> Option<impl Deref<Target = RaftServerMetrics<TypeConfig>> + '_> {
        // Ordering: what was told is of a time before the look at whether it runs.
        let told = self.server.borrow_watched();
        self.runs().then_some(told)
    }

    /// The newest entry that openraft has told to be committed here; it may know of a newer one.
    pub(super) fn local_committed(&self) -> Option<LogId> {
        self.all.borrow_watched().local_committed
    }

    /// The leader of `term` contradicts what is committed here. Answers whether it is new.
    pub(super) fn note_contradiction(&self, term: u64, reason: &str) -> bool {
        let now = Contradiction { term, reason: reason.to_owned() };
        self.contradicted.lock().replace(now).is_none()
    }

    /// The leader of `term` has all that is committed here: if it is a later one, the one before is past.
    pub(super) fn end_contradiction(&self, term: u64) {
        self.contradicted.lock().take_if(|of| of.term < term);
    }

    /// Why nothing is taken from the leader of `term`, if that is known.
    pub(super) fn contradicted_by(&self, term: u64) -> Option<String> {
        let contradicted = self.contradicted.lock();
        contradicted.as_ref().filter(|of| of.term == term).map(|of| of.reason.clone())
    }

    pub(super) fn is_contradicted(&self) -> bool {
        self.contradicted.lock().is_some()
    }

    /// Openraft has ended.
    pub(super) fn note_end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Why it ended by itself.
    pub(super) fn why_ended(&self) -> String {
        match &self.all.borrow_watched().running_state {
            Err(Fatal::Stopped) | Ok(()) => {
                "it ended without a word, perhaps by a panic".to_owned()
            }
            Err(error) => error.to_string(),
        }
    }
}

impl Peer {
    /// Ends the peer in order. Its calls that are under way end unanswered; later ones are refused.
    pub async fn stop(&self) {
        self.running.stopped.store(true, Ordering::Release);
        // It may have failed before; what counts is that it does not run.
        let _ = self.raft.shutdown().await;
    }

    /// Whether it was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.running.stopped.load(Ordering::Acquire)
    }

    /// Whether it takes part in its region.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.running.runs()
    }

    /// The outcome of a call of openraft; `None` when the peer was stopped meanwhile, which openraft
    /// would log as an error of whoever calls.
    pub(super) async fn unless_stopped<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let mut call = std::pin::pin!(call);
        // Openraft wakes those that wait for it when it ends.
        std::future::poll_fn(|cx| {
            if self.is_stopped() {
                return Poll::Ready(None);
            }
            call.as_mut().poll(cx).map(Some)
        })
        .await
    }

    pub(super) fn has_stopped(&self) -> Error {
        Error::NotReady { message: format!("region {} has stopped", self.region) }
    }

    /// All that openraft tells; `None` of a peer that does not run.
    #[must_use]
    pub fn metrics(&self) -> Option<RaftMetrics<TypeConfig>> {
        let told = self.running.all.borrow_watched().clone();
        self.runs().then_some(told)
    }

    /// Looks at all that openraft tells, without a copy of it: there may be ten thousand peers. `None` of a peer
    /// that does not run. While it looks nobody is told anything new, so it must ask nothing else of the peer.
    pub fn look<T>(&self, look: impl FnOnce(&RaftMetrics<TypeConfig>) -> T) -> Option<T> {
        let running = &self.running;
        if running.is_stopped_or_ended() {
            return None;
        }
        let told = running.all.borrow_watched();
        told.running_state.is_ok().then(|| look(&told))
    }

    /// The part of it that changes with elections and members.
    #[must_use]
    pub(super) fn server(&self) -> Option<RaftServerMetrics<TypeConfig>> {
        self.running.told().map(|told| told.clone())
    }

    /// The term that this peer believes to lead in. Only a proof (`read.rs`) or a commit shows it.
    #[must_use]
    pub fn leads(&self) -> Option<u64> {
        let told = self.running.told()?;
        (told.state == ServerState::Leader).then_some(told.vote.leader_id.term.0)
    }

    /// The term of the vote that this peer last gave or won; 0 of one that does not run.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.running.told().map_or(0, |told| told.vote.leader_id.term.0)
    }

    /// Why it takes nothing from its leader, and will not: that one lacks what was committed and applied here.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        let contradicted = self.running.contradicted.lock().as_ref().map(|of| of.reason.clone());
        contradicted.filter(|_| self.runs() && !self.is_leader())
    }

    /// Whether this peer believes that it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leads().is_some()
    }

    /// Peer and node that lead as far as known here.
    #[must_use]
    pub fn leader(&self) -> Option<(PeerId, NodeId)> {
        let told = self.running.told()?;
        let leader = told.current_leader?;
        let address = told.membership_config.get_node(&leader)?;
        Some((leader, address.node))
    }

    /// The refusal of a request that only the leader can serve.
    pub(crate) fn not_leader(&self) -> Error {
        match self.leader() {
            Some((peer, _)) if peer == self.id => Error::NoLeader { region: self.region },
            Some((peer, node)) => Error::NotLeader {
                region: self.region,
                leader: Some(v1::Leader {
                    peer_id: peer.0,
                    node_id: node.0,
                    client_address: String::new(), // filled in at the edge, from the node table
                }),
            },
            None => Error::NoLeader { region: self.region },
        }
    }

    /// Whether somebody else could lead.
    #[must_use]
    pub fn has_other_voters(&self) -> bool {
        self.running
            .told()
            .is_some_and(|told| told.membership_config.voter_ids().any(|voter| voter != self.id))
    }

    /// Whether the newest membership that is in its log has this peer; `None` of one that does not run.
    pub(super) fn is_named(&self) -> Option<bool> {
        let told = self.running.told()?;
        Some(told.membership_config.get_node(&self.id).is_some())
    }

    /// As [`Peer::has_other_voters`], from openraft itself: its metrics tell of no members at all until it
    /// has begun to run, so a peer that was just opened would seem to be alone. `None` when it has
    /// stopped.
    pub(super) async fn knows_other_voters(&self) -> Option<bool> {
        let own = self.id;
        let others = self.ask_raft(move |state| {
            let memberships =
                [state.membership_state.effective(), state.membership_state.committed()];
            memberships.iter().any(|membership| membership.voter_ids().any(|voter| voter != own))
        });
        self.unless_stopped(others).await?
    }

    /// What `look` finds in openraft's state, in the order of what it was given; `None` when it has ended. Openraft's own
    /// way to ask tells of an error whenever the caller is gone, as one whose connection was cut.
    pub(super) async fn ask_raft<T: Send + 'static>(
        &self,
        look: impl FnOnce(&RaftState<TypeConfig>) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let asked = self.raft.external_request(move |state| drop(answer.send(look(state))));
        asked.await.ok()?;
        answered.await.ok()
    }
}
