//! openraft's network, over the transport that all regions of the node share.

use std::{sync::Arc, time::Duration};

use flotilla_proto::v1::{self, message::Body};
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption, RPCTypes},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use super::{
    LogId, Snapshot, TypeConfig, Vote,
    convert::{entry_to_proto, log_id_from_proto, log_id_to_proto, vote_from_proto, vote_to_proto},
    pipeline::{Place, pipeline},
    snapshot::{self, SnapshotData},
    transport::{Lane, Transport},
};
use crate::{
    ids::{NodeId, PeerId, RegionId},
    metrics::Direction,
    raft::PeerAddress,
};

/// How much shorter than a Raft heartbeat a commit waits for entries that tell of it as well. A
/// follower is behind by as much where writes are rare; one that serves a linearizable read learns of the
/// commit from the read index round.
const PATIENCE_DIVISOR: u32 = 20;

type RpcError = RPCError<TypeConfig>;

/// Makes the connections of one region's peer; in truth they all share the node's transport.
#[derive(Clone)]
pub struct Network {
    transport: Transport,
    region: RegionId,
    peer: PeerId,
    snapshot_chunk_bytes: usize,
    retry_min: Duration,
    commit_patience: Duration,
}

impl Network {
    #[must_use]
    pub fn new(
        transport: Transport,
        region: RegionId,
        peer: PeerId,
        snapshot_chunk_bytes: usize,
        heartbeat_interval: Duration,
    ) -> Self {
        Self {
            transport,
            region,
            peer,
            snapshot_chunk_bytes,
            retry_min: heartbeat_interval,
            commit_patience: heartbeat_interval / PATIENCE_DIVISOR,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: PeerId, node: &PeerAddress) -> Connection {
        Connection { network: self.clone(), target, node: node.node, lane: Lane::Bulk }
    }

    async fn new_heartbeat_client(&mut self, target: PeerId, node: &PeerAddress) -> Connection {
        Connection { network: self.clone(), target, node: node.node, lane: Lane::Fast }
    }
}

/// From one peer to another of the same region.
pub struct Connection {
    network: Network,
    target: PeerId,
    node: NodeId,
    lane: Lane,
}

impl Connection {
    /// Queues the request now and answers a future of its answer.
    fn call(
        &self,
        lane: Lane,
        action: RPCTypes,
        body: Body,
        timeout: Duration,
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
            match tokio::time::timeout(timeout, answer).await {
                Err(_) => Err(RPCError::Timeout(Timeout { action, id, target, timeout })),
                Ok(Err(error)) => Err(RPCError::Unreachable(Unreachable::new(&error))),
                Ok(Ok(message)) => match message.body {
                    Some(Body::Refused(refused)) => Err(RPCError::Unreachable(
                        Unreachable::from_string(format!("refused: {}", refused.message)),
                    )),
                    Some(body) => Ok(body),
                    None => Err(unexpected()),
                },
            }
        }
    }

    fn append(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> impl Future<Output = Result<AppendEntriesResponse<TypeConfig>, RpcError>> + Send + use<>
    {
        let body = Body::Append(v1::AppendEntries {
            vote: Some(vote_to_proto(&request.vote)),
            prev: request.prev_log_id.as_ref().map(log_id_to_proto),
            entries: request.entries.iter().map(entry_to_proto).collect(),
            leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
        });
        let answer = self.call(self.lane, RPCTypes::AppendEntries, body, timeout);
        async move {
            use v1::append_entries_result::Result as Answer;
            let Body::AppendResult(v1::AppendEntriesResult { result: Some(result) }) =
                answer.await?
            else {
                return Err(unexpected());
            };
            Ok(match result {
                Answer::Success(_) => AppendEntriesResponse::Success,
                Answer::Partial(id) => {
                    AppendEntriesResponse::PartialSuccess(Some(log_id_from_proto(&id)))
                }
                Answer::PartialNone(_) => AppendEntriesResponse::PartialSuccess(None),
                Answer::Conflict(_) => AppendEntriesResponse::Conflict,
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
        match self.call(Lane::Fast, RPCTypes::Vote, body, timeout).await? {
            Body::VoteResult(result) => Ok(VoteResponse {
                vote: vote_from_proto(result.vote.as_ref()).map_err(|_| unexpected())?,
                vote_granted: result.granted,
                last_log_id: result.last.as_ref().map(log_id_from_proto),
            }),
            _ => Err(unexpected()),
        }
    }
}

fn last_log_id(request: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

fn place(request: &AppendEntriesRequest<TypeConfig>) -> Place<Option<LogId>> {
    let only_tells = request.entries.is_empty() && request.leader_commit >= request.prev_log_id;
    Place { end: last_log_id(request), only_tells }
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
        self.append(&request, option.soft_ttl()).await
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
        let this = &*self;
        let timeout = option.soft_ttl();
        async move {
            let patience = this.network.commit_patience;
            let answers = pipeline(input, patience, place, move |request| {
                let prev = request.prev_log_id;
                let last = last_log_id(&request);
                let answer = this.append(&request, timeout);
                async move {
                    let answer = answer.await?;
                    let whole = match &answer {
                        AppendEntriesResponse::Success => true,
                        AppendEntriesResponse::PartialSuccess(upto) => *upto == last,
                        _ => false,
                    };
                    Ok((answer.into_stream_result(prev, last), whole))
                }
            });
            let until_failed = answers.scan(true, |go_on, answer: Result<_, RpcError>| {
                let item = std::mem::replace(go_on, matches!(&answer, Ok((_, true))))
                    .then(|| answer.map(|(result, _)| result));
                futures::future::ready(item)
            });
            Ok(until_failed.boxed())
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
        let network = &self.network;
        let under_way = network.transport.metrics().raft.snapshot(Direction::Send);
        let data = Arc::clone(view.data());
        let sender =
            snapshot::Sender::open(data.as_ref(), network.region, network.snapshot_chunk_bytes)
                .map_err(|error| failed(error.to_string()))?;
        let identity = network.transport.identity();
        let region = sender.region();
        // The state is as of now: after a loss of leadership it may be of a later leader.
        if region.state.applied_term > vote.leader_id.term {
            return Err(failed("leadership was lost".to_owned()));
        }
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
        };
        let sending = network.transport.send_snapshot(self.node, header, sender);
        let result = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            result = sending => result.map_err(|error| failed(error.to_string()))?,
        };
        if let Some(refused) = result.refused {
            return Err(failed(format!("refused: {}", refused.message)));
        }
        let answered =
            vote_from_proto(result.vote.as_ref()).map_err(|error| failed(error.to_string()))?;
        // A later vote turns the snapshot down.
        if answered == vote {
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
        match self.call(Lane::Fast, RPCTypes::TransferLeader, body, option.soft_ttl()).await? {
            Body::TransferResult(result) if result.accepted => Ok(Ok(())),
            Body::TransferResult(result) => {
                Err(RPCError::Network(NetworkError::from_string(result.reason)))
            }
            _ => Err(unexpected()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let first = self.network.retry_min;
        Some(Backoff::new(
            (0_u32..).map(move |attempt| (first * 2_u32.pow(attempt.min(4))).min(first * 10)),
        ))
    }
}
