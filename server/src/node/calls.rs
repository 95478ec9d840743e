//! What clients and other nodes can ask of this node, joined or not.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::v1::{
    self, pass_request::Call, pass_response::Answer, placement_server::Placement,
};
use futures::{FutureExt, future::BoxFuture};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Joined, Node,
    adopt::adopt,
    birth,
    clients::is_unsent,
    heartbeat::{self, Asking, Unanswered},
    identity,
    join::not_joined,
    local,
    pulse::STILL_MAX,
    readiness,
};
use crate::{
    api::{Check, ClusterAnswer, Context, Membership, Requests},
    clock,
    error::Error,
    ids::{ClusterId, NodeId, RegionId},
    placement::view::check_located,
    raft::{
        presence::Presence,
        transport::{Identity, Inbox},
    },
    region::peers::Peers,
    storage::{
        disk::Level,
        engine::KeyRange,
        keys::data::{self, KeyspaceId},
    },
};

/// Bound: wait for a check to be begun.
const CHECK_START_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound: wait for a peer to say how far its checksum is.
const CHECK_POLL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a driver is asked for before this node answers a person what it knows itself, or does without one: an
/// election, as a rule, takes longer, a driver that is there does not.
const LOCAL_AFTER: Duration = Duration::from_secs(1);

/// Requests for keys: to the router once the node has joined.
#[derive(Clone)]
pub(super) struct Gate(pub(super) Arc<Node>);

impl Gate {
    fn joined(&self) -> Result<&Arc<Joined>, Error> {
        self.0.joined().ok_or_else(|| not_joined(&self.0))
    }

    /// A node that may have been removed while it was down must not tell what it remembers.
    fn reader(&self, cx: &Context) -> Result<&Arc<Joined>, Error> {
        let joined = self.joined()?;
        if cx.read_mode == v1::ReadMode::Stale && !joined.is_confirmed() {
            return Err(Error::NotReady {
                message: "this node has not heard from its cluster since its start".to_owned(),
            });
        }
        Ok(joined)
    }
}

impl Requests for Gate {
    async fn write(&self, cx: Context, command: v1::WriteCommand) -> Result<v1::WriteReply, Error> {
        self.joined()?.router.write(cx, command).await
    }

    async fn read_points(&self, cx: Context, keys: Vec<Bytes>) -> Result<v1::ReadReply, Error> {
        self.reader(&cx)?.router.read_points(cx, keys).await
    }

    async fn read_range(&self, cx: Context, range: v1::RangeRead) -> Result<v1::ReadReply, Error> {
        self.reader(&cx)?.router.read_range(cx, range).await
    }

    fn regions_of(&self, range: &KeyRange) -> Result<Vec<v1::Region>, Error> {
        self.joined()?.router.regions_of(range)
    }
}

/// `flotilla.v1.Cluster` on this node.
pub(super) struct Calls(pub(super) Arc<Node>);

impl Calls {
    fn joined(&self) -> Result<Arc<Joined>, Error> {
        self.0.joined().cloned().ok_or_else(|| not_joined(&self.0))
    }

    /// Serves a membership call on the driver, wherever it is.
    async fn on_driver(&self, call: Call) -> Result<Answer, Error> {
        let joined = self.joined()?;
        if let Some(answer) = joined.driver.call(call.clone()).await? {
            return Ok(answer);
        }
        let asking = match &call {
            Call::ListNodes(_) | Call::JudgeTransfer(_) => Asking::Reads,
            _ => Asking::Changes,
        };
        let request = v1::PassRequest { call: Some(call) };
        heartbeat::ask_driver(&self.0, &joined, asking, |mut client| {
            let request = request.clone();
            async move {
                // The calls are idempotent, so a lost answer may be asked for again elsewhere.
                let response = client.pass(request).await?.into_inner();
                match response.answer {
                    Some(Answer::Failure(failure)) => {
                        Err(Unanswered::Refused(Error::from_failure(failure)))
                    }
                    answer if response.accepted => Ok(answer),
                    _ => Ok(None),
                }
            }
            .boxed()
        })
        .await
    }

    /// Why the driver would take the lead away again; `None` also when none answers: a lead can be moved without one.
    async fn would_lose_lead(&self, request: v1::TransferRequest) -> Option<String> {
        let asking = self.on_driver(Call::JudgeTransfer(request));
        match tokio::time::timeout(LOCAL_AFTER, asking).await {
            Ok(Ok(Answer::JudgeTransfer(judged))) => Some(judged.why_not),
            _ => None,
        }
        .filter(|why| !why.is_empty())
    }

    /// What the driver answers, or this node if it may and no driver does; this node alone if it is to.
    async fn or_local<T>(
        &self,
        (allowed, only): (bool, bool),
        driver: impl Future<Output = Result<T, Error>>,
        local: impl FnOnce(&Joined) -> T,
    ) -> Result<T, Error> {
        if only {
            return Ok(local(self.joined()?.as_ref()));
        }
        if !allowed {
            return driver.await;
        }
        match tokio::time::timeout(LOCAL_AFTER, driver).await {
            Ok(Err(Error::NoLeader { .. } | Error::NotLeader { .. } | Error::NotReady { .. }))
            | Err(_) => Ok(local(self.joined()?.as_ref())),
            Ok(answer) => answer,
        }
    }

    /// Starts a check of a region, or tells how far one is.
    async fn check(
        &self,
        request: v1::CheckRegionRequest,
    ) -> Result<v1::CheckRegionResponse, Error> {
        let joined = self.joined()?;
        let region = RegionId(request.region_id);
        let route = named(heartbeat::region(&self.0, &joined, region).await)?;
        let check_id = if request.check_id == 0 {
            let deadline = clock::now() + CHECK_START_TIMEOUT;
            joined.router.propose_checksum(&route, clock::random(), deadline).await?
        } else {
            request.check_id
        };
        let asked = route.region.peers.iter().map(|member| {
            let request =
                v1::PeerChecksumRequest { region_id: region.0, peer_id: member.peer_id, check_id };
            let (peer_id, node_id) = (member.peer_id, member.node_id);
            let joined = Arc::clone(&joined);
            async move {
                let asking = self.peer_checksum(&joined, node_id, request);
                let answer = tokio::time::timeout(CHECK_POLL_TIMEOUT, asking).await;
                match answer.unwrap_or_else(|_| Err("its node does not answer".to_owned())) {
                    Ok(sum) => v1::PeerChecksum {
                        peer_id,
                        node_id,
                        error: sum.error,
                        applied_index: sum.applied_index,
                        checksum: sum.checksum,
                        keys: sum.keys,
                        pending: !sum.ready,
                    },
                    // It may be asked again.
                    Err(error) => v1::PeerChecksum {
                        peer_id,
                        node_id,
                        error,
                        pending: true,
                        ..Default::default()
                    },
                }
            }
        });
        let peers = futures::future::join_all(asked).await;
        let done = peers.iter().all(|peer| !peer.pending);
        let consistent = done
            && peers.iter().all(|peer| peer.error.is_empty())
            && peers.windows(2).all(|pair| {
                let of = |peer: &v1::PeerChecksum| (peer.applied_index, peer.checksum, peer.keys);
                of(&pair[0]) == of(&pair[1])
            });
        Ok(v1::CheckRegionResponse { consistent, peers, check_id, done })
    }

    fn status_now(&self, request: &v1::StatusRequest) -> v1::StatusResponse {
        // The checks look at every region: a listing of many pages is to cost them once.
        if let (false, after @ 1..) = (request.without_peers, request.after_region) {
            return self.further_peers(after);
        }
        let node = &self.0;
        let checks = readiness::checks(node);
        let complaints = |counts: bool| {
            let checks = checks.iter().filter(move |check| check.counts == counts);
            checks.filter_map(Check::complaint)
        };
        let reasons: Vec<String> = complaints(true).collect();
        let disk = *node.disk_status.lock();
        let mut status = v1::StatusResponse {
            removed: node.is_removed(),
            ready: reasons.is_empty(),
            not_ready_reasons: reasons,
            warnings: complaints(false).collect(),
            disk_level: match disk.map(|disk| disk.level) {
                None | Some(Level::Normal) => "normal",
                Some(Level::Low) => "low",
                Some(Level::Critical) => "critical",
            }
            .to_owned(),
            disk_available_bytes: disk.map_or(0, |disk| disk.available_bytes),
            disk_used_bytes: disk.map_or(0, |disk| disk.total_bytes - disk.available_bytes),
            data_bytes: node.data_bytes(),
            ..node.introduce()
        };
        if let Some(joined) = node.joined.get() {
            status.joined = true;
            status.cluster_id = joined.cluster.to_string();
            status.node_id = joined.node.0;
            let table = node.directory.table();
            (status.table_version, status.cluster_feature_level) =
                (table.version, table.feature_level);
            status.system_leader_node = joined.driver.system_leader().map_or(0, |leader| leader.0);
            if !request.without_peers {
                (status.peers, status.more_peers) = local::peers(joined, 0);
            }
        } else if let Ok(Some(stored)) = identity::read(node.log.as_ref()) {
            status.joined = true;
            status.cluster_id = stored.cluster.to_string();
            status.node_id = stored.node.0;
        }
        status.birth_id = node.births.birth_id(status.joined);
        if status.joined {
            status.told_of.clear();
        }
        status
    }

    /// A page of a status but the first: who answers, and peers.
    fn further_peers(&self, after_region: u64) -> v1::StatusResponse {
        let mut page = self.0.introduce();
        if let Some(joined) = self.0.joined.get() {
            page.joined = true;
            page.cluster_id = joined.cluster.to_string();
            page.node_id = joined.node.0;
            (page.peers, page.more_peers) = local::peers(joined, after_region);
        }
        page
    }

    async fn peer_checksum(
        &self,
        joined: &Joined,
        node_id: u64,
        request: v1::PeerChecksumRequest,
    ) -> Result<v1::PeerChecksumResponse, String> {
        if node_id == joined.node.0 {
            return Ok(local_checksum(joined, &request));
        }
        let record = self.0.directory.node(NodeId(node_id)).ok_or("its node is not known")?;
        let mut client = self.0.clients.get(joined.cluster, &record.peer_address)?;
        let answer = client.peer_checksum(request).await;
        answer.map(Response::into_inner).map_err(|status| status.message().to_owned())
    }
}

fn local_checksum(joined: &Joined, request: &v1::PeerChecksumRequest) -> v1::PeerChecksumResponse {
    let peer =
        joined.peers.get(RegionId(request.region_id)).filter(|peer| peer.id.0 == request.peer_id);
    let Some(peer) = peer else {
        return v1::PeerChecksumResponse {
            ready: true,
            error: "the peer is not on its node".to_owned(),
            ..Default::default()
        };
    };
    let failed =
        |error: String| v1::PeerChecksumResponse { ready: true, error, ..Default::default() };
    match peer.view().checksum(request.check_id) {
        Some(sum) => match sum.outcome {
            None => v1::PeerChecksumResponse::default(),
            Some(Ok((checksum, keys))) => v1::PeerChecksumResponse {
                ready: true,
                applied_index: sum.applied_index,
                checksum,
                keys,
                error: String::new(),
            },
            Some(Err(error)) => failed(error),
        },
        None => {
            let applied = peer.view().published().applied.map_or(0, |id| id.index);
            if applied < request.check_id {
                return v1::PeerChecksumResponse::default();
            }
            failed("it has applied the check by a snapshot or before a restart".to_owned())
        }
    }
}

/// The answer of one kind out of the many.
macro_rules! only {
    ($answer:expr, $kind:ident) => {
        match $answer {
            Answer::$kind(answer) => Ok(answer),
            _ => Err(Error::Internal { message: "an answer of another kind".to_owned() }),
        }
    };
}

impl Membership for Calls {
    fn initialize(
        &self,
        request: v1::InitializeRequest,
    ) -> ClusterAnswer<'_, v1::InitializeResponse> {
        // Once begun it is finished, also when the caller goes.
        let calls = Self(Arc::clone(&self.0));
        let task = self.0.runtime.spawn(async move { calls.initialize_here(request).await });
        async move {
            task.await.unwrap_or_else(|error| Err(Error::Internal { message: error.to_string() }))
        }
        .boxed()
    }

    fn add_learner(
        &self,
        request: v1::AddLearnerRequest,
    ) -> ClusterAnswer<'_, v1::AddLearnerResponse> {
        async move { only!(self.on_driver(Call::AddLearner(request)).await?, AddLearner) }.boxed()
    }

    fn change_membership(
        &self,
        request: v1::ChangeMembershipRequest,
    ) -> ClusterAnswer<'_, v1::ChangeMembershipResponse> {
        async move {
            only!(self.on_driver(Call::ChangeMembership(request)).await?, ChangeMembership)
        }
        .boxed()
    }

    fn remove_node(
        &self,
        request: v1::RemoveNodeRequest,
    ) -> ClusterAnswer<'_, v1::RemoveNodeResponse> {
        async move { only!(self.on_driver(Call::RemoveNode(request)).await?, RemoveNode) }.boxed()
    }

    fn cancel_remove_node(
        &self,
        request: v1::CancelRemoveNodeRequest,
    ) -> ClusterAnswer<'_, v1::CancelRemoveNodeResponse> {
        async move {
            only!(self.on_driver(Call::CancelRemoveNode(request)).await?, CancelRemoveNode)
        }
        .boxed()
    }

    fn evict_leaders(
        &self,
        request: v1::EvictLeadersRequest,
    ) -> ClusterAnswer<'_, v1::EvictLeadersResponse> {
        async move { only!(self.on_driver(Call::EvictLeaders(request)).await?, EvictLeaders) }
            .boxed()
    }

    fn transfer_leader(
        &self,
        request: v1::TransferLeaderRequest,
    ) -> ClusterAnswer<'_, v1::TransferLeaderResponse> {
        async move {
            let joined = self.joined()?;
            let v1::TransferLeaderRequest { region_id, to_node_id } = request;
            let request = v1::TransferRequest { region_id, to_node_id };
            if let Some(why) = self.would_lose_lead(request).await {
                return Err(Error::FailedPrecondition {
                    message: format!(
                        "node {to_node_id} would not keep the lead of region {region_id}: {why}"
                    ),
                });
            }
            transfer(&self.0, &joined, request).await?;
            Ok(v1::TransferLeaderResponse {})
        }
        .boxed()
    }

    fn status(&self, request: v1::StatusRequest) -> ClusterAnswer<'_, v1::StatusResponse> {
        let calls = Self(Arc::clone(&self.0));
        // It looks at every region, and perhaps at the disk: nobody else is to wait for that.
        let looking = tokio::task::spawn_blocking(move || calls.status_now(&request));
        async move { looking.await.map_err(|error| Error::Internal { message: error.to_string() }) }
            .boxed()
    }

    fn list_nodes(
        &self,
        request: v1::ListNodesRequest,
    ) -> ClusterAnswer<'_, v1::ListNodesResponse> {
        async move {
            let asking =
                async { only!(self.on_driver(Call::ListNodes(request)).await?, ListNodes) };
            let local = |joined: &Joined| local::nodes(&self.0, joined, request);
            self.or_local((request.allow_local, request.only_local), asking, local).await
        }
        .boxed()
    }

    fn list_regions(
        &self,
        request: v1::ListRegionsRequest,
    ) -> ClusterAnswer<'_, v1::ListRegionsResponse> {
        async move {
            let range = if request.all {
                KeyRange::default()
            } else {
                data::range(keyspace(request.keyspace)?, &request.start_key, &request.end_key)
            };
            let start_key = range.start.max(request.page_token.clone());
            let asked = v1::RegionsRequest {
                start_key,
                end_key: range.end,
                limit: request.limit,
                proven: true,
                ..Default::default()
            };
            let listing = |told_by_node: u64, told: v1::RegionsResponse| {
                let last = told.regions.last().and_then(|info| info.region.as_ref());
                let next = last.filter(|_| told.more).map(|region| region.end_key.clone());
                v1::ListRegionsResponse {
                    next_page_token: next.unwrap_or_default(),
                    regions: told.regions,
                    told_by_node,
                }
            };
            let asking =
                async { Ok(listing(0, heartbeat::regions(&self.0, asked.clone()).await?)) };
            let local =
                |joined: &Joined| listing(joined.node.0, local::regions(&self.0, joined, &asked));
            self.or_local((request.allow_local, request.only_local), asking, local).await
        }
        .boxed()
    }

    fn locate(&self, request: v1::LocateRequest) -> ClusterAnswer<'_, v1::LocateResponse> {
        async move {
            let keyspace = keyspace(request.keyspace)?;
            let keys: Vec<Bytes> =
                request.keys.iter().map(|key| data::encode(keyspace, key)).collect();
            let wanted = keys.len();
            if wanted == 0 {
                return Ok(v1::LocateResponse::default());
            }
            let asked = v1::RegionsRequest { keys, ..Default::default() };
            let regions = heartbeat::regions(&self.0, asked).await?.regions;
            if regions.len() != wanted {
                return Err(Error::NotReady {
                    message: "the regions of some of these keys are not known".to_owned(),
                });
            }
            check_located(&regions)?;
            Ok(v1::LocateResponse { regions })
        }
        .boxed()
    }

    fn check_region(
        &self,
        request: v1::CheckRegionRequest,
    ) -> ClusterAnswer<'_, v1::CheckRegionResponse> {
        self.check(request).boxed()
    }

    fn cluster_id(&self) -> Option<ClusterId> {
        self.0.joined.get().map(|joined| joined.cluster)
    }

    fn is_live(&self) -> Vec<String> {
        // A node whose disk does not answer ends by itself (`watch.rs`).
        self.0.pulses.get().map(|pulses| pulses.still(STILL_MAX)).unwrap_or_default()
    }

    fn checks(&self) -> Vec<Check> {
        readiness::checks(&self.0)
    }
}

fn keyspace(id: u32) -> Result<KeyspaceId, Error> {
    KeyspaceId::named(id).ok_or_else(|| Error::InvalidArgument {
        field: "keyspace".to_owned(),
        message: format!("there is no keyspace {id}, the largest is {}", KeyspaceId::MAX),
        limit: KeyspaceId::MAX.get().into(),
    })
}

/// A region that the caller named by its id, and that the driver does not know once it has heard every node,
/// is not there: no other node has it, and a repeat would not find it.
fn named<T>(found: Result<T, Error>) -> Result<T, Error> {
    found.map_err(|error| match error {
        Error::RegionNotFound { region } => {
            Error::NotFound { message: format!("region {region}: not found") }
        }
        other => other,
    })
}

/// Asks the leader of a region, wherever it is, to hand over.
async fn transfer(
    node: &Arc<Node>,
    joined: &Joined,
    request: v1::TransferRequest,
) -> Result<(), Error> {
    let region = RegionId(request.region_id);
    if let Some(peer) = joined.peers.get(region).filter(|peer| peer.is_leader()) {
        return peer.transfer_to(NodeId(request.to_node_id)).await;
    }
    let route = named(heartbeat::region(node, joined, region).await)?;
    let leader = route.leader.ok_or(Error::NoLeader { region })?;
    let record = node.directory.node(leader).ok_or(Error::NoLeader { region })?;
    let unsent = |error: String| Error::NotReady {
        message: format!("node {leader}, which leads region {region}, cannot be asked: {error}"),
    };
    let mut client = node.clients.get(joined.cluster, &record.peer_address).map_err(unsent)?;
    handed_over(leader, region, client.transfer(request).await)
}

/// What a leader answered that was asked to hand over. Where it may have begun to, nobody knows who leads next.
fn handed_over(
    leader: NodeId,
    region: RegionId,
    answer: Result<Response<v1::TransferResponse>, Status>,
) -> Result<(), Error> {
    match answer.map(|answer| answer.into_inner().failure) {
        Ok(None) => Ok(()),
        Ok(Some(failure)) => Err(match Error::from_failure(failure) {
            // It led a moment ago: whoever asks again finds who does.
            Error::NotLeader { .. } | Error::RegionNotFound { .. } => Error::NoLeader { region },
            error => error,
        }),
        Err(status) => {
            let message =
                format!("node {leader} led region {region} and was asked: {}", status.message());
            Err(if is_unsent(&status) {
                Error::NotReady { message }
            } else {
                Error::OutcomeUnknown { message }
            })
        }
    }
}

/// `flotilla.v1.Placement` on this node.
pub(super) struct PlacementCalls(pub(super) Arc<Node>);

impl PlacementCalls {
    fn joined(&self) -> Result<Arc<Joined>, Status> {
        self.0.joined().cloned().ok_or_else(|| Status::unavailable("not joined"))
    }
}

#[tonic::async_trait]
impl Placement for PlacementCalls {
    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let joined = self.joined()?;
        let presence = Presence::of(request.extensions());
        let request = request.into_inner();
        let (from, incarnation) = (NodeId(request.node_id), request.incarnation);
        if request.cluster_id[..] == joined.cluster.0
            && self.0.directory.node(from).is_some()
            && joined.peers.recognize(from, incarnation, &presence).is_ok()
        {
            // Whether this node leads region 1 or not: it may be the only one that the other finds.
            self.0.directory.see(from, &request.peer_address);
        }
        Ok(Response::new(joined.driver.hear(request, &presence).await))
    }

    async fn adopt(
        &self,
        request: Request<v1::AdoptRequest>,
    ) -> Result<Response<v1::AdoptResponse>, Status> {
        let node = Arc::clone(&self.0);
        let request = request.into_inner();
        // Once begun it is finished, also when the caller goes.
        self.0
            .runtime
            .spawn(async move { adopt(&node, request).await })
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(v1::AdoptResponse {}))
    }

    async fn promise_birth(
        &self,
        request: Request<v1::PromiseBirthRequest>,
    ) -> Result<Response<v1::PromiseBirthResponse>, Status> {
        let node = Arc::clone(&self.0);
        let request = request.into_inner();
        // Once begun it is finished, also when the caller goes.
        self.0
            .runtime
            .spawn(async move { birth::promise(&node, request).await })
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(v1::PromiseBirthResponse {}))
    }

    async fn peer_checksum(
        &self,
        request: Request<v1::PeerChecksumRequest>,
    ) -> Result<Response<v1::PeerChecksumResponse>, Status> {
        Ok(Response::new(local_checksum(self.joined()?.as_ref(), &request.into_inner())))
    }

    async fn transfer(
        &self,
        request: Request<v1::TransferRequest>,
    ) -> Result<Response<v1::TransferResponse>, Status> {
        let request = request.into_inner();
        let region = RegionId(request.region_id);
        let taken = match self.joined()?.peers.get(region) {
            Some(peer) => peer.transfer_to(NodeId(request.to_node_id)).await,
            None => Err(Error::RegionNotFound { region }),
        };
        let failure = taken.err().map(|error| error.to_failure());
        Ok(Response::new(v1::TransferResponse { failure }))
    }

    async fn regions(
        &self,
        request: Request<v1::RegionsRequest>,
    ) -> Result<Response<v1::RegionsResponse>, Status> {
        let regions = self.joined()?.driver.regions(&request.into_inner()).await;
        Ok(Response::new(regions.unwrap_or_default()))
    }

    async fn pass(
        &self,
        request: Request<v1::PassRequest>,
    ) -> Result<Response<v1::PassResponse>, Status> {
        let call = request
            .into_inner()
            .call
            .ok_or_else(|| Status::invalid_argument("not a call this version knows"))?;
        let answer = self.joined()?.driver.call(call).await;
        Ok(Response::new(match answer {
            Ok(Some(answer)) => v1::PassResponse { accepted: true, answer: Some(answer) },
            Ok(None) => v1::PassResponse { accepted: false, answer: None },
            Err(error) => v1::PassResponse {
                accepted: true,
                answer: Some(Answer::Failure(error.to_failure())),
            },
        }))
    }
}

/// What arrives on the peer port for regions.
pub(super) struct NodeInbox(pub(super) Arc<Node>);

impl NodeInbox {
    fn peers(&self) -> Result<&Arc<Peers>, v1::Refused> {
        let refuse = |message: &str| v1::Refused {
            reason: v1::refused::Reason::NotReady.into(),
            message: message.to_owned(),
        };
        if self.0.is_removed() {
            return Err(refuse("this node was removed from its cluster"));
        }
        self.0.joined().map(|joined| &joined.peers).ok_or_else(|| refuse("not joined"))
    }
}

impl Inbox for NodeInbox {
    fn identity(&self) -> Option<Identity> {
        self.0.joined().map(|joined| joined.peers.environment().transport.identity())
    }

    fn disk_level(&self) -> v1::DiskLevel {
        self.0.joined().map_or(v1::DiskLevel::Unspecified, |joined| joined.peers.disk_level())
    }

    fn admit(&self, batch: &v1::MessageBatch, presence: &Presence) -> Result<(), v1::Refused> {
        self.peers()?.admit(batch, presence)
    }

    fn deliver(&self, from: NodeId, message: v1::Message) -> BoxFuture<'static, v1::Message> {
        match self.peers() {
            Ok(peers) => peers.deliver(from, message),
            Err(refused) => {
                let answer = crate::raft::transport::refusal(&message, refused);
                async move { answer }.boxed()
            }
        }
    }

    fn snapshot(
        &self,
        header: v1::SnapshotHeader,
        presence: Presence,
        chunks: Streaming<v1::SnapshotChunk>,
    ) -> BoxFuture<'static, v1::SnapshotResult> {
        match self.peers() {
            Ok(peers) => peers.snapshot(header, presence, chunks),
            Err(refused) => {
                async move { v1::SnapshotResult { vote: None, refused: Some(refused) } }.boxed()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One answer of the leader, as it is passed on; what was lost on the way may have been done.
    #[tokio::test]
    async fn leader_that_was_asked_to_hand_over_answers_for_itself() {
        let answered = |error: Option<Error>| {
            let failure = error.map(|error| error.to_failure());
            handed_over(NodeId(1), RegionId(2), Ok(Response::new(v1::TransferResponse { failure })))
        };
        answered(None).expect("the one that was asked for leads");
        let missing = Error::NotFound { message: "node 9 has no voter".to_owned() };
        assert_eq!(answered(Some(missing.clone())), Err(missing), "by whomever it was asked");
        let unknown = Error::OutcomeUnknown { message: "nobody took it".to_owned() };
        assert_eq!(answered(Some(unknown.clone())), Err(unknown));
        let moved = Error::NotLeader { region: RegionId(2), leader: None };
        assert_eq!(answered(Some(moved)), Err(Error::NoLeader { region: RegionId(2) }));
        for status in [Status::unknown("transport error"), Status::unavailable("not joined")] {
            let lost = handed_over(NodeId(1), RegionId(2), Err(status)).expect_err("no answer");
            assert!(lost.maybe_applied(), "{lost:?}");
        }

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let clients = super::super::clients::PlacementClients::default();
        let mut client = clients.get(ClusterId([1; 16]), &address).expect("an address");
        let answer = client.transfer(v1::TransferRequest::default()).await;
        let unsent = handed_over(NodeId(1), RegionId(2), answer).expect_err("nobody is there");
        assert!(!unsent.maybe_applied() && unsent.retryable(), "{unsent:?}");
    }

    #[test]
    fn region_that_nobody_has_is_not_waited_for() {
        let missing = named::<()>(Err(Error::RegionNotFound { region: RegionId(9) }));
        let missing = missing.expect_err("it is not there");
        assert!(
            matches!(&missing, Error::NotFound { message } if message.contains('9')),
            "{missing:?}"
        );
        assert!(!missing.retryable(), "a client would ask again until its time is over");
        let elsewhere = named::<()>(Err(Error::NoLeader { region: RegionId(9) }));
        assert!(elsewhere.expect_err("it has no leader").retryable(), "that can pass");
    }
}
