//! openraft's network, over the transport that all regions of the node share.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use flotilla_proto::v1::{self, message::Body, refused::Reason};
use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption, RPCTypes},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::sync::watch;

use super::{
    LogId, Snapshot, TypeConfig, Vote,
    convert::{
        self, entry_to_proto, log_id_from_proto, log_id_to_proto, vote_from_proto, vote_to_proto,
    },
    log::{entry_bytes, memory::reading_for},
    pipeline::{Place, pipeline},
    refusal::Refusals,
    region_state::approximate_bytes,
    region_view::RegionView,
    reversion::{Reversions, is_reversion},
    snapshot::{self, SnapshotData},
    transport::{BACKOFF_MAX, Lane, Transport, Unfinished, budget::RoomGate},
};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    metrics::Direction,
    raft::PeerAddress,
    world::{blocking, clock},
};

/// How much shorter than a Raft heartbeat a commit waits for entries that tell of it as well. A
/// follower is behind by as much where writes are rare; one that serves a linearizable read learns of the
/// commit from the read index round.
const PATIENCE_DIVISOR: u32 = 20;

type RpcError = RPCError<TypeConfig>;

/// Whether a peer is a voter, by the state that was applied here.
pub type IsVoter = Arc<dyn Fn(PeerId) -> bool + Send + Sync>;

/// Of the snapshots that are sent.
#[derive(Clone, Debug)]
pub struct SnapshotSettings {
    pub chunk_bytes: usize,
    /// That of the cluster, as far as this node knows.
    pub feature_level: Arc<AtomicU32>,
}

/// Makes the connections of one region's peer; in truth they all share the node's transport.
#[derive(Clone)]
pub struct Network {
    transport: Transport,
    region: RegionId,
    peer: PeerId,
    reversions: Reversions,
    refusals: Refusals,
    is_voter: IsVoter,
    snapshots: SnapshotSettings,
    retry_min: Duration,
    commit_patience: Duration,
}

impl Network {
    #[must_use]
    pub fn new(
        transport: Transport,
        region: RegionId,
        peer: PeerId,
        reversions: Reversions,
        is_voter: IsVoter,
        snapshots: SnapshotSettings,
        heartbeat_interval: Duration,
    ) -> Self {
        Self {
            transport,
            region,
            peer,
            reversions,
            refusals: Refusals::default(),
            is_voter,
            snapshots,
            retry_min: heartbeat_interval,
            commit_patience: heartbeat_interval / PATIENCE_DIVISOR,
        }
    }

    /// What became of the snapshots that are sent.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.refusals.clone()
    }

    /// Before the next attempt after so many failures.
    fn pause_after(&self, failures: u32) -> Duration {
        (self.retry_min * 2_u32.pow(failures.saturating_sub(1).min(4))).min(self.retry_min * 10)
    }
}

impl Network {
    /// What a program must be able to do that is sent a state. The cluster may be further than this node has
    /// heard; then what it has applied shows it.
    fn level_of(&self, state: &v1::ApplyState) -> u32 {
        self.snapshots.feature_level.load(Ordering::Relaxed).max(state.feature_level)
    }

    /// A peer that its node has buried never comes: nobody is to wait for it, however alive the node is.
    fn note_refusal(&self, refused: &v1::Refused, term: u64, target: PeerId, node: NodeId) {
        if refused.reason() == Reason::Tombstone && self.refusals.note_buried(term, target) {
            let reason = &refused.message;
            tracing::warn!(region = %self.region, peer = %target, %node, reason, "a node has buried a peer of the region");
        }
    }

    /// To openraft a follower that lacks what it acknowledged is not there, so that it is tried again after
    /// pauses, and counts for no lease.
    fn reverted(&self, term: u64, target: PeerId, node: NodeId) -> RpcError {
        self.reversions.found(term, target, node, self.transport.metrics());
        let reason = "it lost what it had acknowledged".to_owned();
        RPCError::Unreachable(Unreachable::from_string(reason))
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: PeerId, node: &PeerAddress) -> Connection {
        Connection::new(self.clone(), target, node.node, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: PeerId, node: &PeerAddress) -> Connection {
        Connection::new(self.clone(), target, node.node, Lane::Fast)
    }
}

/// From one peer to another of the same region.
pub struct Connection {
    network: Network,
    target: PeerId,
    node: NodeId,
    lane: Lane,
    /// Streams of entries that failed since the last answer.
    failures: AtomicU32,
    /// Changes when the node can be spoken to, maybe again.
    reached: watch::Receiver<u64>,
    sends_snapshots: bool,
}

impl Connection {
    /// Whether the state has the peer as a member, for which no peer is sent another; waits a little for
    /// that. A peer is sent to as soon as the entry that adds it is in the log.
    async fn is_applied(&self, view: &RegionView) -> bool {
        let is_named =
            || view.with(|now| now.descriptor.peers.iter().any(|of| of.peer_id == self.target.0));
        let applied = async {
            while !is_named() {
                let next = view.with(|now| now.applied.map_or(0, |id| id.index)) + 1;
                view.wait_applied(next).await;
            }
        };
        tokio::time::timeout(self.network.retry_min, applied).await.is_ok()
    }

    fn tell_unread(&self, reason: &str) {
        let Network { region, peer, transport, .. } = &self.network;
        let (node, to) = (transport.identity().node, self.target);
        tracing::error!(
            %region, %peer, %node, %to, reason,
            "the state of a region cannot be sent: this node cannot read it from its own disk"
        );
    }

    fn new(network: Network, target: PeerId, node: NodeId, lane: Lane) -> Self {
        let reached = network.transport.reached(node);
        let failures = AtomicU32::new(0);
        Self { network, target, node, lane, failures, reached, sends_snapshots: false }
    }

    /// The pause before entries are read for a follower again that failed; ends early when its node can be
    /// spoken to. Openraft's own would begin once the entries are in memory.
    fn pause(&self) -> Option<BoxFuture<'static, ()>> {
        let failures = self.failures.load(Ordering::Relaxed);
        if failures == 0 {
            return None;
        }
        let pause = self.network.pause_after(failures);
        let mut reached = self.reached.clone();
        reached.mark_unchanged();
        let until = async move {
            if reached.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            // It was on another lane; the one for entries may be trying to connect for so long.
            tokio::time::sleep(BACKOFF_MAX).await;
        };
        Some(tokio::time::timeout(pause, until).map(drop).boxed())
    }

    /// Queues the request now and answers a future of its answer. Without a timeout it ends with the stream
    /// that carries it.
    fn call(
        &self,
        lane: Lane,
        action: RPCTypes,
        body: Body,
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<Body, RpcError>> + Send + use<> {
        let message = v1::Message {
            request_id: 0,
            region_id: self.network.region.0,
            from_peer: self.network.peer.0,
            to_peer: self.target.0,
            body: Some(body),
        };
        let answer = self.network.transport.call(self.node, lane, message);
        let (id, target) = (self.network.peer, self.target);
        async move {
            let answer = match timeout {
                None => answer.await,
                Some(timeout) => tokio::time::timeout(timeout, answer)
                    .await
                    .map_err(|_| RPCError::Timeout(Timeout { action, id, target, timeout }))?,
            };
            match answer {
                Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
                Ok(message) => message.body.ok_or_else(unexpected),
            }
        }
    }

    fn append(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<AppendEntriesResponse<TypeConfig>, RpcError>> + Send + use<>
    {
        let (term, prev) = (request.vote.leader_id.term.0, request.prev_log_id);
        let acknowledged = self.network.reversions.acknowledged(term, self.target);
        let last = last_log_id(request);
        let body = Body::Append(v1::AppendEntries {
            vote: Some(vote_to_proto(&request.vote)),
            prev: request.prev_log_id.as_ref().map(log_id_to_proto),
            entries: request.entries.iter().map(entry_to_proto).collect(),
            leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
            acknowledged: acknowledged.as_ref().map(log_id_to_proto),
        });
        let answer = self.call(self.lane, RPCTypes::AppendEntries, body, timeout);
        let (network, target, node) = (self.network.clone(), self.target, self.node);
        async move {
            use v1::append_entries_result::Result as Answer;
            let result = match answer.await? {
                Body::AppendResult(v1::AppendEntriesResult { result: Some(result) }) => result,
                Body::Refused(refused) if refused.reason() == Reason::Reverted => {
                    return Err(network.reverted(term, target, node));
                }
                Body::Refused(refused) => {
                    network.note_refusal(&refused, term, target, node);
                    return Err(refusal(&refused));
                }
                _ => return Err(unexpected()),
            };
            match &result {
                Answer::Success(_) => network.reversions.note(term, target, last),
                Answer::Partial(id) => {
                    network.reversions.note(term, target, Some(log_id_from_proto(id)));
                }
                Answer::Conflict(_) if is_reversion(acknowledged.as_ref(), prev.as_ref()) => {
                    return Err(network.reverted(term, target, node));
                }
                // Only one that had its first state has ever been made a voter. Openraft would count a
                // conflict for its lease, and for its proof that it still leads.
                Answer::Absent(_) if acknowledged.is_some() || (network.is_voter)(target) => {
                    return Err(network.reverted(term, target, node));
                }
                _ => {}
            }
            Ok(match result {
                Answer::Success(_) => AppendEntriesResponse::Success,
                Answer::Partial(id) => {
                    AppendEntriesResponse::PartialSuccess(Some(log_id_from_proto(&id)))
                }
                Answer::PartialNone(_) => AppendEntriesResponse::PartialSuccess(None),
                Answer::Conflict(_) | Answer::Absent(_) => AppendEntriesResponse::Conflict,
                Answer::HigherVote(vote) => AppendEntriesResponse::HigherVote(
                    vote_from_proto(Some(&vote)).map_err(|_| unexpected())?,
                ),
            })
        }
    }

    async fn ask_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        timeout: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let body = Body::Vote(v1::Vote {
            vote: Some(vote_to_proto(&request.vote)),
            last: request.last_log_id.as_ref().map(log_id_to_proto),
            leadership_transfer: request.leadership_transfer,
            pre_vote,
        });
        // Ordering: always on the fast lane, so that bulk appends cannot delay an election.
        match self.call(Lane::Fast, RPCTypes::Vote, body, Some(timeout)).await? {
            Body::VoteResult(result) => Ok(VoteResponse {
                vote: vote_from_proto(result.vote.as_ref()).map_err(|_| unexpected())?,
                vote_granted: result.granted,
                last_log_id: result.last.as_ref().map(log_id_from_proto),
            }),
            Body::Refused(refused) => Err(refusal(&refused)),
            _ => Err(unexpected()),
        }
    }
}

fn refusal(refused: &v1::Refused) -> RpcError {
    let reason = format!("refused: {}", refused.message);
    RPCError::Unreachable(Unreachable::from_string(reason))
}

fn last_log_id(request: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

fn place(request: &AppendEntriesRequest<TypeConfig>) -> Place<Option<LogId>> {
    let commit_only = request.entries.is_empty() && request.leader_commit >= request.prev_log_id;
    let bytes = request.entries.iter().map(entry_bytes).sum();
    Place { end: last_log_id(request), commit_only, bytes }
}

/// An answer as openraft wants it, and whether it acknowledges all of its request.
fn with_verdict(
    answer: AppendEntriesResponse<TypeConfig>,
    prev: Option<LogId>,
    last: Option<LogId>,
) -> (StreamAppendResult<TypeConfig>, bool) {
    let whole = match &answer {
        AppendEntriesResponse::Success => true,
        AppendEntriesResponse::PartialSuccess(upto) => *upto == last,
        _ => false,
    };
    (answer.into_stream_result(prev, last), whole)
}

fn unexpected() -> RpcError {
    RPCError::Network(NetworkError::from_string("an answer of another kind than was asked"))
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        self.append(&request, Some(option.soft_ttl())).await
    }

    /// Keeps several requests on their way; answers come back in order, and the stream ends after
    /// the first that was not a full success, as openraft then starts over.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // Ordering: what of the node's coming back was heard before is no reason not to pause.
        let pause = self.pause();
        let this = &*self;
        async move {
            let send = move |request: AppendEntriesRequest<TypeConfig>, timeout| {
                let (prev, last) = (request.prev_log_id, last_log_id(&request));
                let answer = this.append(&request, timeout);
                answer.map(move |answer| answer.map(|answer| with_verdict(answer, prev, last)))
            };
            let until_failed = |go_on: &mut bool, answer: Result<_, RpcError>| {
                let item = std::mem::replace(go_on, matches!(&answer, Ok((_, true))))
                    .then(|| answer.map(|(result, _)| result));
                futures::future::ready(item)
            };
            if this.lane == Lane::Fast {
                // One Raft heartbeat.
                let timeout = Some(option.soft_ttl());
                let answers = input.then(move |request| send(request, timeout));
                return Ok(answers.scan(true, until_failed).boxed());
            }
            let budget = this.network.transport.budget(this.node, this.lane);
            let mut gate = RoomGate::new(budget, this.network.region, pause);
            let (node, mut input) = (this.node, input);
            // Whatever it reads from the log is for that node.
            let requests =
                stream::poll_fn(move |cx| reading_for(node, || input.poll_next_unpin(cx)));
            let answers = pipeline(
                requests,
                this.network.commit_patience,
                place,
                move |cx| gate.poll(cx),
                // Bound: the stream that carries it ends when nothing moves on it (`transport/link.rs`).
                // A timeout from here on would count the wait for its turn.
                move |request| send(request, None),
            );
            let answers = answers.inspect(move |answer| match answer {
                Ok(_) => this.failures.store(0, Ordering::Relaxed),
                Err(_) => drop(this.failures.fetch_add(1, Ordering::Relaxed)),
            });
            Ok(answers.scan(true, until_failed).boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(request, false, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(request, true, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let failed =
            |error: String| StreamingError::Unreachable(Unreachable::new(&AnyError::error(error)));
        let SnapshotData::Local(view) = snapshot.snapshot else {
            return Err(failed("only local state is sent".to_owned()));
        };
        self.sends_snapshots = true;
        tokio::pin!(cancel);
        let network = &self.network;
        if !self.is_applied(&view).await {
            return Err(failed("the entry that adds the peer is not applied yet".to_owned()));
        }
        // Ordering: its turn first. What is pinned keeps the disk from freeing space.
        let turn = tokio::select! {
            closed = &mut cancel => return Err(StreamingError::Closed(closed)),
            turn = network.transport.snapshot_turn(self.node) => match turn {
                Ok(turn) => turn,
                Err(error) => {
                    network.refusals.attempt(vote.leader_id.term.0, self.target).not_begun();
                    return Err(failed(error.to_string()));
                }
            }
        };
        let under_way = network.transport.metrics().raft.snapshot(Direction::Send);
        let data = Arc::clone(view.data());
        let (region, chunk_bytes) = (network.region, network.snapshots.chunk_bytes);
        let opening = blocking::run(move || {
            let sender = snapshot::Sender::open(data.as_ref(), region, chunk_bytes)?;
            let bytes = approximate_bytes(data.as_ref(), &sender.region().descriptor);
            Ok::<_, snapshot::Error>((sender, bytes))
        });
        let (sender, bytes) = match opening.await.map_err(|error| failed(error.to_string()))? {
            Ok(opened) => opened,
            Err(error @ snapshot::Error::Empty { .. }) => return Err(failed(error.to_string())),
            Err(error) => {
                under_way.unread();
                self.tell_unread(&error.to_string());
                return Err(failed(error.to_string()));
            }
        };
        let identity = network.transport.identity();
        let region = sender.region();
        // The state is as of now: after a loss of leadership it may be of a later leader.
        if region.state.applied_term > vote.leader_id.term.0 {
            return Err(failed("leadership was lost".to_owned()));
        }
        let sent = convert::applied(&region.state);
        let header = v1::SnapshotHeader {
            cluster_id: bytes::Bytes::copy_from_slice(&identity.cluster.0),
            to_node: self.node.0,
            from_node: identity.node.0,
            region_id: network.region.0,
            from_peer: network.peer.0,
            to_peer: self.target.0,
            vote: Some(vote_to_proto(&vote)),
            descriptor: prost::Message::encode_to_vec(&region.descriptor).into(),
            state: Some(region.state.clone()),
            from_incarnation: identity.incarnation,
            bytes,
            feature_level: network.level_of(&region.state),
        };
        let attempt = network.refusals.attempt(vote.leader_id.term.0, self.target);
        let sending = network.transport.send_snapshot(turn, self.node, header, sender);
        let sent_to_end = tokio::select! {
            closed = &mut cancel => return Err(StreamingError::Closed(closed)),
            result = sending => result,
        };
        let result = match sent_to_end {
            Ok(result) => result,
            // That the sender's disk is at fault says nothing of the receiver: another one would fare no better.
            Err(error @ Unfinished::Unread { .. }) => {
                under_way.unread();
                self.tell_unread(&error.to_string());
                return Err(failed(error.to_string()));
            }
            Err(Unfinished::Undelivered(error)) => {
                attempt.failed(&error.to_string(), clock::now());
                return Err(failed(error.to_string()));
            }
        };
        if let Some(refused) = result.refused {
            // Others are before it: nothing is said of this one.
            if refused.reason() != Reason::Busy {
                attempt.refused(&refused.message, clock::now());
            }
            if refused.reason() == Reason::Reverted {
                network.reverted(vote.leader_id.term.0, self.target, self.node);
            }
            network.note_refusal(&refused, vote.leader_id.term.0, self.target, self.node);
            return Err(failed(format!("refused: {}", refused.message)));
        }
        attempt.taken();
        let answered =
            vote_from_proto(result.vote.as_ref()).map_err(|error| failed(error.to_string()))?;
        // A later vote turns the snapshot down.
        if answered == vote {
            network.reversions.note(vote.leader_id.term.0, self.target, sent);
            under_way.done();
        }
        Ok(SnapshotResponse::new(answered))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let body = Body::Transfer(v1::TransferLeader {
            from_leader: Some(vote_to_proto(request.from_leader())),
            to_peer: request.to_node_id().0,
            last: request.last_log_id().map(log_id_to_proto),
        });
        match self.call(Lane::Fast, RPCTypes::TransferLeader, body, Some(option.soft_ttl())).await?
        {
            Body::TransferResult(result) if result.accepted => Ok(Ok(())),
            Body::TransferResult(result) => {
                Err(RPCError::Network(NetworkError::from_string(result.reason)))
            }
            Body::Refused(refused) => Err(refusal(&refused)),
            _ => Err(unexpected()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        if self.sends_snapshots {
            let network = self.network.clone();
            let pauses = (1..).map(move |failures| network.pause_after(failures));
            return Some(Backoff::new(pauses));
        }
        // Streams of entries pause by themselves, before they read any.
        Some(Backoff::new(std::iter::repeat(Duration::ZERO)))
    }
}
