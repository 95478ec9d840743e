//! What a peer does with a message from another node.

use std::{sync::Arc, time::Duration};

use flotilla_proto::{
    keyspace::{self, KeyspaceId},
    region::{Epoch, range_of},
    touched,
    v1::{
        self, append_entries_result::Result as AppendAnswer, forward, forward_result,
        message::Body, refused::Reason,
    },
};
use openraft::{
    RaftState,
    raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest},
};

use super::Peer;
use crate::{
    error::Error,
    ids::PeerId,
    metrics::PeerLoss,
    raft::{
        LogId, TypeConfig, Vote,
        convert::{
            Malformed, entry_from_proto, log_id_from_proto, log_id_to_proto, vote_from_proto,
            vote_to_proto,
        },
        reversion::{contradicts, is_reversion, shown},
    },
    trail,
    world::{Mark, clock, sometimes},
};

/// Longest that work for another node's client goes on without a word of its deadline.
const FORWARD_DEADLINE_MAX: Duration = Duration::from_secs(60);

/// A refusal with its reason.
pub(super) fn refused(reason: Reason, message: impl Into<String>) -> v1::Refused {
    v1::Refused { reason: reason.into(), message: message.into() }
}

/// A refusal for an error of this node.
pub(super) fn failed(error: impl std::fmt::Display) -> v1::Refused {
    refused(Reason::Failed, error.to_string())
}

fn malformed(error: Malformed) -> v1::Refused {
    refused(Reason::Malformed, error.to_string())
}

fn stopped<E: std::fmt::Display>(error: E) -> v1::Refused {
    refused(Reason::Failed, error.to_string())
}

impl Peer {
    /// Handles a request. The first poll hands it to openraft, so that order is kept; but for an append that seems to
    /// contradict what is committed here, of which openraft is asked first: what comes after that may overtake it, as it
    /// may on the network.
    pub(super) async fn serve(self: Arc<Self>, body: Body) -> Result<Body, v1::Refused> {
        let ended = || Err(refused(Reason::NotReady, "the peer has stopped"));
        match body {
            Body::Append(append) => {
                self.unless_stopped(self.serve_append(append)).await.unwrap_or_else(ended)
            }
            Body::Vote(vote) => {
                self.unless_stopped(self.serve_vote(vote)).await.unwrap_or_else(ended)
            }
            Body::Transfer(transfer) => {
                self.unless_stopped(self.serve_transfer(transfer)).await.unwrap_or_else(ended)
            }
            Body::ReadIndex(_) => {
                let read = if self.is_leader() {
                    self.read_index().await.ok().as_ref().map(log_id_to_proto)
                } else {
                    None
                };
                Ok(Body::ReadIndexResult(v1::ReadIndexResult { read }))
            }
            Body::Forward(forward) => {
                let result = trail::scope(None, self.serve_noted(forward))
                    .await
                    .unwrap_or_else(|error| forward_result::Result::Failure(error.to_failure()));
                Ok(Body::ForwardResult(v1::ForwardResult { result: Some(result) }))
            }
            _ => Err(refused(Reason::Malformed, "not a request this version knows")),
        }
    }

    async fn serve_append(&self, append: v1::AppendEntries) -> Result<Body, v1::Refused> {
        let request: AppendEntriesRequest<TypeConfig> = AppendEntriesRequest {
            vote: vote_from_proto(append.vote.as_ref()).map_err(malformed)?,
            prev_log_id: append.prev.as_ref().map(log_id_from_proto),
            entries: append
                .entries
                .into_iter()
                .map(entry_from_proto)
                .collect::<Result<_, _>>()
                .map_err(malformed)?,
            leader_commit: append.leader_commit.as_ref().map(log_id_from_proto),
        };
        // A hole would become one in the log: openraft only asserts that there is none, in debug builds.
        let first = request.prev_log_id.map_or(0, |prev| prev.index + 1);
        for (next, entry) in (first..).zip(&request.entries) {
            if entry.log_id.index != next {
                let found = entry.log_id.index;
                let message = format!("an append has entry {found} where entry {next} has to be");
                return Err(refused(Reason::Malformed, message));
            }
        }
        let term = request.vote.leader_id.term.0;
        self.refuse_contradiction(&request).await?;
        let prev = request.prev_log_id;
        let committed = self.committed();
        // A leader that is new sends nothing at first.
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let has_all = last.map(|last| last.index) >= committed.map(|committed| committed.index);
        let acknowledged = append.acknowledged.as_ref().map(log_id_from_proto);
        let answer = self.raft.append_entries(request).await.map_err(stopped)?;
        // Whom a later leader was heard of before is no leader.
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.silence.heard();
        }
        let result = match answer {
            AppendEntriesResponse::Conflict
                if is_reversion(acknowledged.as_ref(), prev.as_ref()) =>
            {
                return Err(self.reverted(acknowledged.map_or(0, |id| id.index)));
            }
            AppendEntriesResponse::Success => {
                if has_all {
                    self.running.end_contradiction(term);
                }
                AppendAnswer::Success(true)
            }
            AppendEntriesResponse::PartialSuccess(Some(id)) => {
                AppendAnswer::Partial(log_id_to_proto(&id))
            }
            AppendEntriesResponse::PartialSuccess(None) => AppendAnswer::PartialNone(true),
            AppendEntriesResponse::Conflict => AppendAnswer::Conflict(true),
            AppendEntriesResponse::HigherVote(vote) => {
                AppendAnswer::HigherVote(vote_to_proto(&vote))
            }
        };
        Ok(Body::AppendResult(v1::AppendEntriesResult { result: Some(result) }))
    }

    /// Invariant: openraft has found the leader's vote to be the newest that this peer knows of, so no
    /// later leader has had the entries removed.
    fn reverted(&self, acknowledged: u64) -> v1::Refused {
        let last = self.log.last().map_or(0, |id| id.index);
        let message = format!(
            "the log ends at index {last} but was acknowledged up to {acknowledged}: the disk was set \
             back"
        );
        refused(Reason::Reverted, message)
    }

    /// Of a leader that lacks what is committed here nothing is taken: openraft supposes that there is none,
    /// and would leave the two states beside each other for ever.
    async fn refuse_contradiction(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<(), v1::Refused> {
        let term = request.vote.leader_id.term.0;
        let Some(committed) = self.committed() else { return Ok(()) };
        // Of one that was found so, also what shows nothing of it: openraft would stay its follower, and those who have
        // what it lacks would elect nobody.
        let known = self.running.contradicted_by(term);
        let shown = shown(&committed, request);
        if known.is_none() && shown.is_none() {
            return Ok(());
        }
        // A leader of before may well have other entries; openraft tells it so. It is asked in its own order,
        // since what it shows may be older than what was committed.
        let own = move |state: &RaftState<TypeConfig>| {
            let ids = &state.log_ids;
            let is_other =
                |shown: LogId| contradicts(&shown, ids.get(shown.index).as_ref(), ids.purged());
            (*state.vote_ref(), shown.filter(|shown| is_other(*shown)))
        };
        let ended = || refused(Reason::Failed, "the peer has ended");
        let (vote, other) = self.ask_raft(own).await.ok_or_else(ended)?;
        if vote.leader_id.term.0 > term {
            return Ok(());
        }
        if let Some(known) = known {
            return Err(refused(Reason::Failed, known));
        }
        let Some(shown) = other else { return Ok(()) };
        let message = format!(
            "the leader of term {term} has an entry of term {} at index {}, which is not the one that was \
             committed here, up to index {} of term {}: a committed entry was lost elsewhere",
            shown.leader_id.term, shown.index, committed.index, committed.leader_id.term
        );
        self.note_contradiction(term, &message);
        // That it leads is so all the same: a peer that led before would else do so for ever, in vain, and requests
        // would go there.
        if vote != request.vote {
            self.hear_that_it_leads(request.vote).await?;
        }
        Err(refused(Reason::Failed, message))
    }

    /// The newest entry that is known to be committed: applied, or about to be once the disk lets it. Others may be so, too.
    fn committed(&self) -> Option<LogId> {
        self.running.local_committed().max(self.view.with(|now| now.applied))
    }

    async fn hear_that_it_leads(&self, vote: Vote) -> Result<(), v1::Refused> {
        let leads = AppendEntriesRequest {
            vote,
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        self.raft.append_entries(leads).await.map(drop).map_err(stopped)
    }

    fn note_contradiction(&self, term: u64, message: &str) {
        if self.running.note_contradiction(term, message) {
            sometimes(Mark::CONTRADICTED);
            self.env.metrics.regions.peers_lost_total.get(PeerLoss::Contradicted).inc();
            tracing::error!(region = %self.region, peer = %self.id, node = %self.env.node, message);
        }
    }

    /// Refuses a state up to `upto`, from the leader with `vote`, that would take the place of one which has what was lost
    /// elsewhere: openraft asserts that there is none. A later leader than the one that was found so has most likely
    /// followed that one: only what it appends shows that it did not.
    ///
    /// Ordering: openraft is asked in its own order, after it has heard that this one leads. From then on no earlier one
    /// makes it commit more, so that what is found here holds until the state is installed. Where it has heard of a later one
    /// by then, what was committed here may be of that one, and shows nothing: openraft turns the state down by its vote.
    pub(super) async fn refuse_contradicting_snapshot(
        &self,
        vote: Vote,
        upto: &LogId,
    ) -> Result<(), v1::Refused> {
        if let Some(known) = self.contradiction() {
            return Err(refused(Reason::Failed, known));
        }
        let term = vote.leader_id.term.0;
        self.hear_that_it_leads(vote).await?;
        let own =
            |state: &RaftState<TypeConfig>| (*state.vote_ref(), state.local_committed().copied());
        let ended = || refused(Reason::Failed, "the peer has ended");
        let (own_vote, committed) = self.ask_raft(own).await.ok_or_else(ended)?;
        if own_vote.leader_id.term.0 > term {
            return Ok(());
        }
        // Terms grow along a log, so that one of the two has another entry where the other ends.
        let other = |committed: &LogId| {
            (upto.index <= committed.index && upto.leader_id > committed.leader_id)
                || (upto.index >= committed.index && upto.leader_id < committed.leader_id)
        };
        let Some(committed) = committed.filter(other) else { return Ok(()) };
        let message = format!(
            "the leader of term {term} has a state up to index {} of term {}, which is not of what was committed here, \
             up to index {} of term {}: a committed entry was lost elsewhere",
            upto.index, upto.leader_id.term, committed.index, committed.leader_id.term
        );
        self.note_contradiction(term, &message);
        Err(refused(Reason::Failed, message))
    }

    async fn serve_vote(&self, vote: v1::Vote) -> Result<Body, v1::Refused> {
        let mut request = VoteRequest::new(
            vote_from_proto(vote.vote.as_ref()).map_err(malformed)?,
            vote.last.as_ref().map(log_id_from_proto),
        );
        request.leadership_transfer = vote.leadership_transfer;
        let response = if vote.pre_vote {
            self.raft.pre_vote(request).await
        } else {
            self.raft.vote(request).await
        }
        .map_err(stopped)?;
        Ok(Body::VoteResult(v1::VoteResult {
            vote: Some(vote_to_proto(&response.vote)),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(log_id_to_proto),
        }))
    }

    async fn serve_transfer(&self, transfer: v1::TransferLeader) -> Result<Body, v1::Refused> {
        let request = TransferLeaderRequest::new(
            vote_from_proto(transfer.from_leader.as_ref()).map_err(malformed)?,
            PeerId(transfer.to_peer),
            transfer.last.as_ref().map(log_id_from_proto),
        );
        let result = match self.raft.handle_transfer_leader(request).await.map_err(stopped)? {
            Ok(()) => v1::TransferLeaderResult { accepted: true, reason: String::new() },
            Err(error) => v1::TransferLeaderResult { accepted: false, reason: error.to_string() },
        };
        Ok(Body::TransferResult(result))
    }

    /// Whether another node may have taken this from a client: its keys are raw. No client can name a
    /// key of the system's keyspace, or one that is in no keyspace, and the router there has
    /// checked against a descriptor of this version that all keys are the region's.
    fn check_forwarded<'a>(
        &self,
        version: u64,
        touched: impl Iterator<Item = touched::Touched<'a>>,
    ) -> Result<(), Error> {
        let descriptor = self.view.published().descriptor;
        if !Epoch::of(&descriptor).range_verdict(version).fits() {
            return Err(Error::EpochNotMatch { regions: vec![(*descriptor).clone()] });
        }
        let range = range_of(&descriptor);
        for touched in touched {
            match keyspace::decode(touched.start()) {
                Some((keyspace, _)) if keyspace != KeyspaceId::SYSTEM => {}
                _ => return Err(Error::invalid("key", "is in no keyspace of clients")),
            }
            if !touched.lies_in(&range) {
                return Err(Error::KeyNotInRegion { region: Box::new((*descriptor).clone()) });
            }
        }
        Ok(())
    }

    /// As [`Self::serve_forward`]; one that was slow is told of. The node that it came from knows the client.
    async fn serve_noted(
        self: &Arc<Self>,
        forward: v1::Forward,
    ) -> Result<forward_result::Result, Error> {
        let began = clock::now();
        trail::note(|trail| {
            let write = match &forward.request {
                Some(forward::Request::Write(write)) => write,
                _ => return,
            };
            trail.key = touched::of_write(write).next().map(|part| part.start().clone());
        });
        trail::note(|trail| trail.region = Some(self.region));
        let result = self.serve_forward(forward).await;
        let (slow, took) = (&self.env.metrics.slow, began.elapsed());
        if slow.is_slow(took) {
            // What the code of an error is, is for the node to say that the client has asked.
            let code = result.is_ok().then_some(tonic::Code::Ok);
            slow.finished("forward", code, took, trail::current());
        }
        result
    }

    /// Serves another node's client here; never passes it on.
    async fn serve_forward(
        self: &Arc<Self>,
        forward: v1::Forward,
    ) -> Result<forward_result::Result, Error> {
        let left = Duration::from_millis(forward.deadline_ms).min(FORWARD_DEADLINE_MAX);
        let deadline = clock::now() + left;
        let version = forward.epoch_version;
        match forward.request {
            Some(forward::Request::Write(write)) => {
                self.check_forwarded(version, touched::of_write(&write))?;
                self.propose_write(write, version, deadline)
                    .await
                    .map(forward_result::Result::Write)
            }
            Some(forward::Request::Read(read)) => {
                self.check_forwarded(version, touched::of_read(&read))?;
                let read = v1::ReadCommand { epoch_version: version, ..read };
                self.read(&read, deadline).await.map(forward_result::Result::Read)
            }
            Some(forward::Request::Checksum(checksum)) => self
                .propose_checksum(checksum.check_id, deadline)
                .await
                .map(|index| forward_result::Result::Done(v1::Done { index })),
            None => Err(Error::invalid("forward", "not a request this version knows")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::fixture::{Fixture, put};

    fn forward(epoch_version: u64, request: forward::Request) -> Body {
        let request = Some(request);
        Body::Forward(v1::Forward { epoch_version, deadline_ms: 20_000, request })
    }

    fn read(key: &[u8]) -> forward::Request {
        let keys = vec![bytes::Bytes::copy_from_slice(key)];
        let body = Some(v1::read_command::Body::Points(v1::PointReads { keys }));
        forward::Request::Read(v1::ReadCommand { body, ..v1::ReadCommand::default() })
    }

    fn write(key: &[u8]) -> forward::Request {
        let mut write = put("", "1");
        let Some(v1::op::Op::Put(put)) = &mut write.success[0].op else { unreachable!() };
        put.key = bytes::Bytes::copy_from_slice(key);
        forward::Request::Write(write)
    }

    /// The keys of a forwarded request are raw: what the API of the other node refuses has to be refused
    /// here as well.
    #[tokio::test]
    async fn a_forwarded_request_is_checked_where_it_is_served() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_cut(&[0, 0, 1, b'm'][..].into());
        let peer = fixture.open().await;
        crate::region::fixture::lead(&peer).await;
        let applied = peer.view().published().applied;
        let end_of_map = [0xff; 8];
        for (why, version, key, want) in [
            ("the system's keyspace", 1, &b"\0\0\0nodes/1"[..], "invalid"),
            ("no keyspace", 1, b"\0", "invalid"),
            ("no key", 1, b"", "invalid"),
            ("the end of the map", 1, &end_of_map, "invalid"),
            ("another region's", 1, b"\0\0\x01z", "not in region"),
            ("an old epoch", 0, b"\0\0\x01a", "epoch"),
            ("a later epoch", 2, b"\0\0\x01a", "epoch"),
        ] {
            for request in [read(key), write(key)] {
                let answer = Arc::clone(&peer).serve(forward(version, request)).await;
                let Ok(Body::ForwardResult(result)) = answer else { panic!("{why}: {answer:?}") };
                let Some(forward_result::Result::Failure(failure)) = result.result else {
                    panic!("{why}: {result:?}")
                };
                let error = Error::from_failure(failure);
                let kind = match &error {
                    Error::InvalidArgument { .. } => "invalid",
                    Error::KeyNotInRegion { .. } => "not in region",
                    Error::EpochNotMatch { .. } => "epoch",
                    other => panic!("{why}: {other:?}"),
                };
                assert_eq!(kind, want, "{why}");
                assert!(!error.maybe_applied(), "{why}");
            }
        }
        assert_eq!(peer.view().published().applied, applied, "nothing was proposed");
        for request in [write(b"\0\0\x01a"), read(b"\0\0\x01a")] {
            let answer = Arc::clone(&peer).serve(forward(1, request)).await;
            let Ok(Body::ForwardResult(result)) = answer else { panic!("{answer:?}") };
            let failed = matches!(result.result, Some(forward_result::Result::Failure(_)) | None);
            assert!(!failed, "{result:?}");
        }
    }
}
