//! What a peer does with a message from another node.

use std::{sync::Arc, time::Duration};

use flotilla_proto::v1::{
    self, append_entries_result::Result as AppendAnswer, forward, forward_result, message::Body,
    refused::Reason,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
};

use super::Peer;
use crate::{
    clock,
    error::Error,
    ids::PeerId,
    raft::{
        TypeConfig,
        convert::{
            Malformed, entry_from_proto, log_id, log_id_from_proto, log_id_to_proto,
            vote_from_proto, vote_to_proto,
        },
    },
};

/// Longest that work for another node's client goes on without a word of its deadline.
const FORWARD_DEADLINE_MAX: Duration = Duration::from_secs(60);

/// A refusal with its reason.
pub(super) fn refused(reason: Reason, message: impl Into<String>) -> v1::Refused {
    v1::Refused { reason: reason.into(), message: message.into() }
}

fn malformed(error: Malformed) -> v1::Refused {
    refused(Reason::Malformed, error.to_string())
}

fn stopped<E: std::fmt::Display>(error: E) -> v1::Refused {
    refused(Reason::Failed, error.to_string())
}

impl Peer {
    /// Handles a request; the first poll hands it to openraft, so that order is kept.
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
                    self.read_index().await.ok().map(|index| log_id_to_proto(&log_id(0, index)))
                } else {
                    None
                };
                Ok(Body::ReadIndexResult(v1::ReadIndexResult { read }))
            }
            Body::Forward(forward) => {
                let result = self
                    .serve_forward(forward)
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
        self.silence.heard();
        let result = match self.raft.append_entries(request).await.map_err(stopped)? {
            AppendEntriesResponse::Success => AppendAnswer::Success(true),
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

    /// Serves another node's client here; never passes it on.
    async fn serve_forward(
        self: &Arc<Self>,
        forward: v1::Forward,
    ) -> Result<forward_result::Result, Error> {
        let left = Duration::from_millis(forward.deadline_ms).min(FORWARD_DEADLINE_MAX);
        let deadline = clock::now() + left;
        match forward.request {
            Some(forward::Request::Write(write)) => self
                .propose_write(write, forward.epoch_version, deadline)
                .await
                .map(forward_result::Result::Write),
            Some(forward::Request::Read(read)) => {
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
