//! The way of a command into the log of its region.
//!
//! Here ends what can be refused with certainty: before openraft takes the entry, every error means
//! *not applied*; after it, only the answer of apply is certain, and a deadline or a lost leadership
//! means *maybe*. Openraft keeps the two apart (`ForwardToLeader`: never appended;
//! `LogEntryDiscarded`: appended, fate unknown). A proposal has its place among those in flight until
//! it is answered, also when nobody waits any more (`raft/proposal.rs`). The entry comes back in
//! `raft/state_machine.rs`.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use flotilla_proto::{
    region::Epoch,
    v1::{self, command::Body, command_reply},
};
use openraft::{
    async_runtime::WatchReceiver as _, errors::ClientWriteError, raft::ClientWriteResult,
};
use tokio::time::Instant;

use super::{Peer, clock::Applied};
use crate::{
    command,
    error::Error,
    ids::{NodeId, PeerId, RegionId},
    metrics::ProposeOutcome,
    raft::{
        CommandBytes, Reply, TypeConfig,
        proposal::{Admitted, Answered, Answerer, Full},
        quorum::{Disk, low_disks},
    },
    trail,
    world::{Mark, clock, sometimes},
};

/// How long a caller is told to wait when a queue is full: of a region here, or of those that are passed on.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_millis(20);

/// How long whoever wants a checksum is told to wait: others look at all data of their regions.
const CHECK_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Peer {
    /// Replicates and applies a write; answers what apply answered, which may be a refusal
    /// (`WriteReply.refused`). One that only reads is served by [`Peer::read`], and costs no peer
    /// but this one.
    ///
    /// # Errors
    /// See [`Error::maybe_applied`].
    ///
    /// # Cancel safety
    /// Dropped, the write may or may not be applied.
    pub async fn propose_write(
        &self,
        write: v1::WriteCommand,
        epoch_version: u64,
        deadline: Instant,
    ) -> Result<v1::WriteReply, Error> {
        self.rates.written();
        // What the driver writes is little, and by it peers go to where there is room.
        if self.region != RegionId::SYSTEM && !command::frees_space(&write) {
            self.check_room()?;
        }
        if command::only_reads(&write) {
            let message = "a transaction that only reads is not proposed";
            return Err(Error::invalid("txn", message));
        }
        let reply = self.propose(Body::Write(write), epoch_version, deadline).await?;
        match reply.reply {
            Some(command_reply::Reply::Write(reply)) => Ok(reply),
            Some(command_reply::Reply::EpochChanged(changed)) => {
                Err(Error::EpochNotMatch { regions: changed.region.into_iter().collect() })
            }
            Some(command_reply::Reply::Done(_)) | None => Err(Error::Internal {
                message: "a write was answered as something else".to_owned(),
            }),
        }
    }

    /// Makes every peer compute a checksum; answers the index of the entry.
    ///
    /// Bound: one at a time. While this peer computes one, whoever asks for another gets that: each is a
    /// look at all data of the region on every peer. Nor does the node begin one while many are under way on it
    /// (`region/checks.rs`).
    ///
    /// # Errors
    /// As for [`Peer::propose_write`].
    pub async fn propose_checksum(&self, check_id: u64, deadline: Instant) -> Result<u64, Error> {
        let waiting = tokio::time::timeout_at(deadline, self.checking.lock()).await;
        let _checking = waiting.map_err(|_| Error::DeadlineExceeded {
            message: "while another check of the region was begun".to_owned(),
        })?;
        self.leading_term()?;
        if let Some(index) = self.view.checksum_under_way() {
            return Ok(index);
        }
        if !self.env.checks.may_begin() {
            self.env.metrics.raft.busy("checksums");
            let queue = "checksums".to_owned();
            return Err(Error::Busy { queue, retry_after: CHECK_RETRY_AFTER });
        }
        let version = self.view.with(|published| Epoch::of(&published.descriptor).version);
        let body = Body::Checksum(v1::ChecksumCommand { check_id });
        match self.propose(body, version, deadline).await?.reply {
            Some(command_reply::Reply::Done(done)) => Ok(done.index),
            _ => Err(Error::EpochNotMatch { regions: Vec::new() }),
        }
    }

    /// Whether time has to be moved on: there are keys to expire, and no proposal is under way, which brings the
    /// time with it. So in a region that has stopped there is never more than one tick.
    pub(super) fn needs_tick(&self) -> bool {
        self.view.with(|now| now.time_ms < now.expiry_max_ms)
            && self.is_leader()
            && self.proposals_in_flight() == 0
    }

    /// Moves the replicated time on, so that keys expire in a region that nobody writes to.
    pub(super) async fn propose_tick(&self, deadline: Instant) -> Result<(), Error> {
        let version = self.view.with(|published| Epoch::of(&published.descriptor).version);
        self.propose(Body::Tick(v1::TickCommand {}), version, deadline).await.map(drop)
    }

    async fn propose(
        &self,
        body: Body,
        epoch_version: u64,
        deadline: Instant,
    ) -> Result<v1::CommandReply, Error> {
        let started = clock::now();
        if started >= deadline {
            return Err(Error::DeadlineExceeded { message: "before the proposal".to_owned() });
        }
        self.leading_term()?;
        let cluster = self.env.feature_level.load(Ordering::Relaxed);
        let needed = command::feature_level(&body);
        if needed > cluster {
            return Err(Error::FailedPrecondition {
                message: format!(
                    "it needs feature level {needed}, the cluster is at {cluster}: upgrade all nodes"
                ),
            });
        }
        // What it will have at most: the time is stamped when its turn has come.
        let mut command = v1::Command {
            epoch_version,
            time_ms: u64::MAX,
            feature_level: command::stamp(cluster),
            body: Some(body),
        };
        let mut admitted = self.admit(self.weight(&command))?;
        tokio::time::timeout_at(deadline, admitted.wait_for_turn()).await.map_err(|_| {
            self.observe(started, ProposeOutcome::Rejected);
            Error::DeadlineExceeded { message: "before the proposal".to_owned() }
        })?;
        command.time_ms = self.tell_time_in(self.leading_term()?);
        let bytes = command::encode(&command);
        admitted.set_under_way();
        fail::fail_point!("propose-before-raft");

        let (answerer, answer) = Answerer::<ClientWriteResult<TypeConfig>>::new(admitted);
        let unknown = |message: &str| Error::OutcomeUnknown { message: message.to_owned() };
        trail::note(|trail| {
            trail.region = Some(self.region);
            (trail.proposed, trail.committed) = (Some(clock::now()), None);
        });
        let handed_over = self.raft.client_write_ff(CommandBytes(bytes), Some(answerer));
        match tokio::time::timeout_at(deadline, self.unless_stopped(handed_over)).await {
            Ok(Some(Ok(()))) => {}
            // Openraft did not take it.
            Ok(Some(Err(_)) | None) => return Err(self.has_stopped()),
            // Openraft's queue had no room for it, and now never gets it.
            Err(_) => {
                self.observe(started, ProposeOutcome::Rejected);
                return Err(Error::DeadlineExceeded { message: "before the proposal".to_owned() });
            }
        }
        let result = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(Answered { result, committed })) => {
                trail::note(|trail| trail.committed = committed);
                result
            }
            Ok(Err(_)) => {
                Err(ClientWriteError::LogEntryDiscarded(openraft::errors::ForwardToLeader::empty()))
            }
            Err(_) => {
                self.observe(started, ProposeOutcome::Unknown);
                return Err(unknown("deadline passed after the proposal"));
            }
        };
        match result {
            Ok(response) => {
                self.observe(started, ProposeOutcome::Applied);
                match response.data {
                    Reply::Command(reply) => Ok(reply),
                    Reply::Nothing => Err(Error::Internal {
                        message: "a command was applied as a blank entry".to_owned(),
                    }),
                }
            }
            Err(ClientWriteError::ForwardToLeader(_)) => {
                self.observe(started, ProposeOutcome::Rejected);
                Err(self.not_leader())
            }
            Err(ClientWriteError::LogEntryDiscarded(_)) => {
                self.observe(started, ProposeOutcome::Unknown);
                Err(unknown("leadership was lost after the proposal"))
            }
            Err(error) => Err(Error::Internal { message: error.to_string() }),
        }
    }
}

impl Peer {
    /// The time of a command that is proposed now, in a term that this peer leads.
    fn tell_time_in(&self, term: u64) -> u64 {
        let mut clock = self.clock.lock();
        let now = clock::now();
        let applied = self.view.with(|published| Applied {
            term: published.applied.map_or(0, |id| id.leader_id.term.0),
            time_ms: published.time_ms,
            since: published.time_since.unwrap_or(now),
        });
        clock.stamp(term, applied, now)
    }

    /// Refuses what grows while disks that it needs have no room.
    fn check_room(&self) -> Result<(), Error> {
        let low = self.low_disks();
        if low.is_empty() {
            return Ok(());
        }
        // Else its leader is to be asked, which may have room.
        self.leading_term()?;
        let available_bytes = self.env.disk.available_bytes();
        sometimes(Mark::REFUSED_FOR_ROOM);
        Err(Error::LowDisk { node: self.env.node, available_bytes, low: low.into_iter().collect() })
    }

    /// The nodes for whose disks this peer takes no writes that grow while it leads, by what the nodes said last.
    #[must_use]
    pub fn low_disks(&self) -> BTreeSet<NodeId> {
        let (own, level) = (self.env.node, self.env.disk.level());
        let transport = &self.env.transport;
        if level.has_room() && !transport.room().is_scarce() {
            return BTreeSet::new();
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let node = |peer: &PeerId| membership.get_node(peer).map(|address| address.node);
        let configs = membership.get_joint_config().iter();
        let configs: Vec<Vec<NodeId>> =
            configs.map(|voters| voters.iter().filter_map(node).collect()).collect();
        low_disks(Some(own), &configs, |node| Disk {
            level: if node == own { level } else { transport.room().of(node) },
            answers: node == own || transport.is_answering(node),
        })
    }

    /// The term in which this peer leads.
    fn leading_term(&self) -> Result<u64, Error> {
        self.leads().ok_or_else(|| self.not_leader())
    }

    /// Bytes that the command counts for: its own, and those of large values that it will read. These up to a
    /// quarter of what may be under way, so that no command waits until there is no other.
    fn weight(&self, command: &v1::Command) -> usize {
        let own = prost::Message::encoded_len(command);
        let Some(Body::Write(write)) = &command.body else { return own };
        let most = self.env.config.proposal_bytes_max / 4;
        own + self.large.read_by(write, self.env.data.as_ref(), most)
    }

    fn admit(&self, bytes: usize) -> Result<Admitted, Error> {
        self.proposals.admit(bytes).map_err(|full| {
            let queue = match full {
                Full::Proposals => "proposals",
                Full::Bytes => "proposal_bytes",
            };
            self.env.metrics.raft.busy(queue);
            Error::Busy { queue: queue.to_owned(), retry_after: BUSY_RETRY_AFTER }
        })
    }

    fn observe(&self, started: Instant, outcome: ProposeOutcome) {
        let seconds = started.elapsed().as_secs_f64();
        self.env.metrics.raft.propose_seconds.get(outcome).observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::{
        raft::PeerAddress,
        region::fixture::{Fixture, delete, put, until},
        storage::disk::Level,
    };

    #[tokio::test]
    async fn proposals_that_nobody_waits_for_keep_their_places() {
        let fixture = Fixture::new(|config| config.proposals_max = 3);
        let peer = fixture.leader().await;
        let late = || clock::now() + Duration::from_secs(60);
        let bytes = || fixture.env.proposal_bytes.load(Ordering::Relaxed);
        peer.propose_write(put("a", "1"), 1, late()).await.expect("a write");
        until("the first place to be free", || peer.proposals_in_flight() == 0).await;

        fixture.log.hold();
        for _ in 0..2 {
            let soon = clock::now() + Duration::from_millis(50);
            let error = peer.propose_write(put("a", "2"), 1, soon).await.expect_err("held back");
            assert!(error.maybe_applied(), "{error}");
        }
        let caller = peer.propose_write(put("a", "3"), 1, late());
        let gone = tokio::time::timeout(Duration::from_millis(50), caller).await;
        assert!(gone.is_err(), "the caller left: {gone:?}");
        assert_eq!(peer.proposals_in_flight(), 3);
        assert!(bytes() > 0);
        let error = peer.propose_write(put("b", "4"), 1, late()).await.expect_err("no place");
        assert!(matches!(&error, Error::Busy { queue, .. } if queue == "proposals"), "{error}");

        fixture.log.release();
        until("all places to be free", || peer.proposals_in_flight() == 0).await;
        assert_eq!(bytes(), 0);
        peer.propose_write(put("b", "5"), 1, late()).await.expect("there is room again");
    }

    /// Their nodes need not be there for what they said.
    #[tokio::test]
    async fn leader_with_room_takes_only_deletes_while_no_quorum_has_room() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let late = || clock::now() + Duration::from_secs(60);
        peer.propose_write(put("a", "1"), 1, late()).await.expect("a write");
        let others: Vec<NodeId> = (1..3).map(|more| NodeId(fixture.env.node.0 + more)).collect();
        let learners = others.iter().zip([81, 82]);
        for (node, peer_id) in learners {
            let added =
                peer.raft().add_learner(PeerId(peer_id), PeerAddress { node: *node }, false);
            added.await.expect("a learner");
        }
        let room = fixture.env.transport.room();
        others.iter().for_each(|node| room.heard(*node, Level::Critical));
        peer.propose_write(put("b", "2"), 1, late()).await.expect("learners do not count");

        // It is not committed, since nobody is there; what is refused is not before that.
        let voters = [peer.id, PeerId(81), PeerId(82)];
        let joint = peer.raft().change_membership(BTreeSet::from(voters), false);
        let joint = tokio::time::timeout(Duration::from_millis(50), joint).await;
        assert!(joint.is_err(), "no quorum is there: {joint:?}");
        let refused = peer.propose_write(put("c", "3"), 1, late()).await.expect_err("no room");
        assert!(
            matches!(&refused, Error::LowDisk { low, .. } if *low == others),
            "{refused}, {:?}",
            refused.to_failure()
        );
        assert!(refused.retryable() && !refused.maybe_applied());
        let message = refused.to_string();
        assert!(others.iter().all(|node| message.contains(&node.to_string())), "{message}");
        // Whatever else becomes of them where nobody is there.
        let soon = || clock::now() + Duration::from_millis(50);
        let delete = peer.propose_write(delete("a"), 1, soon()).await.expect_err("no quorum");
        assert!(!matches!(delete, Error::LowDisk { .. }), "it gives space back: {delete}");
        room.heard(others[0], Level::Normal);
        let write = peer.propose_write(put("c", "3"), 1, soon()).await.expect_err("no quorum");
        assert!(!matches!(write, Error::LowDisk { .. }), "two of three have room: {write}");
    }

    #[tokio::test]
    async fn a_byte_that_is_appended_weighs_the_value_that_it_makes() {
        let fixture = Fixture::new(|config| config.proposal_bytes_max = 8 << 20);
        let peer = fixture.leader().await;
        let late = || clock::now() + Duration::from_secs(60);
        let value = "x".repeat(1 << 20);
        peer.propose_write(put("a", &value), 1, late()).await.expect("a write");
        let append = v1::AppendOp { key: "a".into(), value: "y".into() };
        let append = v1::WriteCommand {
            success: vec![v1::Op { op: Some(v1::op::Op::Append(append)) }],
            ..v1::WriteCommand::default()
        };
        fixture.log.hold();
        let appends = (0..50).map(|_| peer.propose_write(append.clone(), 1, late()));
        let mut appends = std::pin::pin!(futures::future::join_all(appends));
        assert!((&mut appends).now_or_never().is_none(), "the log is held back");
        assert!((1..8).contains(&peer.proposals_in_flight()), "{}", peer.proposals_in_flight());
        fixture.log.release();
        let refused = appends.await.into_iter().filter_map(Result::err).inspect(|error| {
            let by_bytes = matches!(error, Error::Busy { queue, .. } if queue == "proposal_bytes");
            assert!(by_bytes && !error.maybe_applied(), "{error}");
        });
        assert!(refused.count() > 40);
        until("all places to be free", || peer.proposals_in_flight() == 0).await;
        peer.propose_write(append, 1, late()).await.expect("one at a time");
    }

    #[tokio::test]
    async fn command_above_the_level_of_the_cluster_is_not_proposed() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let late = || clock::now() + Duration::from_secs(60);
        fixture.env.feature_level.store(0, Ordering::Relaxed);
        let error = peer.propose_write(put("a", "1"), 1, late()).await.expect_err("too new");
        assert!(matches!(error, Error::FailedPrecondition { .. }), "{error}");
        fixture.env.feature_level.store(crate::feature_level::FIRST, Ordering::Relaxed);
        peer.propose_write(put("a", "1"), 1, late()).await.expect("all have it");
    }

    #[tokio::test]
    async fn deadline_that_passes_before_its_turn_is_certain() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let late = || clock::now() + Duration::from_secs(60);
        fixture.log.hold();
        let crowd = futures::future::join_all(
            (0..100).map(|number| peer.propose_write(put(&format!("k{number}"), "1"), 1, late())),
        );
        let mut crowd = std::pin::pin!(crowd);
        assert!((&mut crowd).now_or_never().is_none(), "the log is held back");
        let soon = clock::now() + Duration::from_millis(50);
        let error = peer.propose_write(put("late", "1"), 1, soon).await.expect_err("no turn");
        assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
        assert!(!error.maybe_applied(), "{error}");
        fixture.log.release();
        for answer in crowd.await {
            answer.expect("a write");
        }
        until("all places to be free", || peer.proposals_in_flight() == 0).await;
    }
}
