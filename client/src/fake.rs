//! Nodes that do as a test tells them, over real connections, or over pipes on which it owns the time.

pub(crate) mod pipes;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::{
    range::Borders,
    v1::{
        self, ErrorDetail, RequestContext, ServerIsBusy, cluster_server, error_detail::Reason,
        kv_server,
    },
};
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Notify,
};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Code, Request, Response, Status, transport::server::Connected};

use self::pipes::Pipes;
use crate::{Client, Options};

/// A request that a fake node was sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) method: &'static str,
    pub(crate) context: RequestContext,
    /// How many of this method the node had been sent before.
    pub(crate) nth: usize,
}

/// What a test makes of a request. `None` serves it.
pub(crate) enum Fault {
    /// Refuses it.
    Refuse(Status),
    /// Serves it, and answers that it failed.
    ServeAndFail(Status),
    /// Never answers.
    Hang,
}

type Script = Box<dyn Fn(&Seen) -> Option<Fault> + Send + Sync>;
type Edit = Box<dyn Fn(usize, &mut v1::ListNodesResponse) + Send + Sync>;
type Written = Box<dyn Fn(usize) -> Vec<v1::RegionWriteResult> + Send + Sync>;
type Data = BTreeMap<Bytes, (Bytes, u64)>;

#[derive(Default)]
struct State {
    script: Mutex<Option<Script>>,
    seen: Mutex<Vec<Seen>>,
    regions: Mutex<Vec<v1::RegionInfo>>,
    nodes: Mutex<Vec<v1::Node>>,
    check: Mutex<Option<v1::CheckRegionResponse>>,
    /// That every node is listed with.
    leaders: AtomicUsize,
    /// Whether every node is listed as one that leaders are kept away from.
    evicted: AtomicBool,
    edit: Mutex<Option<Edit>>,
    /// The node that it is, where it is told what it knows by itself; 0 is no such node.
    own_id: AtomicU64,
    /// Whether it finds no placement driver.
    is_alone: AtomicBool,
    removal: Mutex<Option<v1::RemoveNodeResponse>>,
    /// What each change of the membership said of nodes that were demoted.
    kept_demoted: Mutex<Vec<bool>>,
    /// What regions are said to have done with a write.
    written: Mutex<Option<Written>>,
    cluster: Mutex<String>,
    /// Methods, with the cluster that each request named.
    named: Mutex<Vec<(&'static str, String)>>,
    /// Operations or keys of one request; 0 is no limit.
    entries_max: AtomicUsize,
    stop: Notify,
}

/// One node; those of a [`FakeCluster`] serve the same data.
#[derive(Clone)]
pub(crate) struct FakeNode {
    pub(crate) address: String,
    state: Arc<State>,
    data: Arc<Mutex<Data>>,
}

pub(crate) struct FakeCluster {
    pub(crate) nodes: Vec<FakeNode>,
    pub(crate) data: Arc<Mutex<Data>>,
}

impl FakeCluster {
    pub(crate) async fn start(count: usize) -> Self {
        let data = Arc::new(Mutex::new(Data::new()));
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(FakeNode::start(data.clone()).await);
        }
        Self { nodes, data }
    }

    /// As [`FakeCluster::start`], with names that only these pipes know.
    pub(crate) fn start_on(pipes: &Pipes, count: usize) -> Self {
        let data = Arc::new(Mutex::new(Data::new()));
        let start = |number| FakeNode::start_on(pipes, format!("node-{number}:7420"), data.clone());
        Self { nodes: (1..=count).map(start).collect(), data }
    }

    /// Stores these without a request.
    pub(crate) fn fill(&self, keys: impl IntoIterator<Item = String>) {
        let mut data = self.data.lock();
        for (number, key) in keys.into_iter().enumerate() {
            data.insert(key.into(), (format!("v{number}").into(), 1));
        }
    }

    /// Makes every node list these regions.
    pub(crate) fn list(&self, regions: &[v1::RegionInfo]) {
        for node in &self.nodes {
            *node.state.regions.lock() = regions.to_vec();
        }
    }

    /// Makes every node list all of them as up.
    pub(crate) fn list_nodes(&self) {
        self.list_nodes_as(v1::NodeState::Up);
    }

    /// Makes every node list all of them in this state.
    pub(crate) fn list_nodes_as(&self, state: v1::NodeState) {
        let list: Vec<_> = (1..)
            .zip(&self.nodes)
            .map(|(node_id, node)| v1::Node {
                node_id,
                client_address: node.address.clone(),
                state: state.into(),
                liveness: v1::Liveness::Alive.into(),
                ..v1::Node::default()
            })
            .collect();
        for node in &self.nodes {
            *node.state.nodes.lock() = list.clone();
        }
    }

    pub(crate) async fn client(&self, timeout: Duration) -> Client {
        self.client_with(Options { timeout, ..Options::default() }).await
    }

    pub(crate) async fn client_with(&self, options: Options) -> Client {
        let addresses = self.nodes.iter().map(|node| node.address.clone());
        Client::connect_with(addresses, options).await.expect("loopback addresses are well-formed")
    }

    /// How often all nodes together were sent a method.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.nodes.iter().map(|node| node.seen(method).len()).sum()
    }
}

impl FakeNode {
    async fn start(data: Arc<Mutex<Data>>) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .expect("a free port on loopback");
        let address = listener.local_addr().expect("bound").to_string();
        Self::serve_at(address, data, TcpListenerStream::new(listener))
    }

    fn start_on(pipes: &Pipes, address: String, data: Arc<Mutex<Data>>) -> Self {
        let connections = UnboundedReceiverStream::new(pipes.listen(&address));
        Self::serve_at(address, data, connections.map(Ok))
    }

    fn serve_at<C>(
        address: String,
        data: Arc<Mutex<Data>>,
        connections: impl Stream<Item = io::Result<C>> + Send + 'static,
    ) -> Self
    where
        C: AsyncRead + AsyncWrite + Connected + Send + Unpin + 'static,
    {
        let node = Self { address, state: Arc::new(State::default()), data };
        let server = tonic::transport::Server::builder()
            .add_service(kv_server::KvServer::new(node.clone()))
            .add_service(cluster_server::ClusterServer::new(node.clone()));
        let state = node.state.clone();
        let stopped = async move { state.stop.notified().await };
        tokio::spawn(server.serve_with_incoming_shutdown(connections, stopped));
        node
    }

    /// From now on each request is shown to this first.
    pub(crate) fn script(&self, script: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) {
        *self.state.script.lock() = Some(Box::new(script));
    }

    /// Refuses writes and batch reads of more operations or keys, as `limits.txn_ops_max` does.
    pub(crate) fn take_at_most(&self, entries: usize) {
        self.state.entries_max.store(entries, Relaxed);
    }

    fn check_count(&self, field: &str, count: usize) -> Result<(), Status> {
        let limit = self.state.entries_max.load(Relaxed);
        if limit == 0 || count <= limit {
            return Ok(());
        }
        let (field, limit) = (field.to_owned(), limit as u64);
        let reason = Some(Reason::InvalidArgument(v1::InvalidArgument { field, limit }));
        let detail = ErrorDetail { reason, ..ErrorDetail::default() };
        Err(typed(Code::InvalidArgument, detail))
    }

    /// Shuts down as a node does on SIGTERM: finishes what it has, takes nothing new.
    pub(crate) fn stop(&self) {
        self.state.stop.notify_one();
    }

    pub(crate) fn seen(&self, method: &str) -> Vec<Seen> {
        self.state.seen.lock().iter().filter(|seen| seen.method == method).cloned().collect()
    }

    pub(crate) fn answer_checks(&self, response: v1::CheckRegionResponse) {
        *self.state.check.lock() = Some(response);
    }

    /// Lists every node with so many leaders, which it is to give up.
    pub(crate) fn leave_leaders(&self, count: usize) {
        self.state.leaders.store(count, Relaxed);
        self.state.evicted.store(true, Relaxed);
    }

    /// Shows each listing of nodes to this before it is answered, with how many there were before.
    pub(crate) fn edit_listings(
        &self,
        edit: impl Fn(usize, &mut v1::ListNodesResponse) + Send + Sync + 'static,
    ) {
        *self.state.edit.lock() = Some(Box::new(edit));
    }

    /// Tells as this node what it knows by itself, if no driver is to be asked; `is_alone`: also when one is.
    pub(crate) fn know_itself(&self, node_id: u64, is_alone: bool, regions: &[v1::RegionInfo]) {
        self.state.own_id.store(node_id, Relaxed);
        self.state.is_alone.store(is_alone, Relaxed);
        *self.state.regions.lock() = regions.to_vec();
    }

    fn told_by(&self, allow_local: bool, only_local: bool) -> u64 {
        let by_itself = only_local || (allow_local && self.state.is_alone.load(Relaxed));
        if by_itself { self.state.own_id.load(Relaxed) } else { 0 }
    }

    fn leaders(&self) -> u32 {
        u32::try_from(self.state.leaders.load(Relaxed)).expect("few")
    }

    pub(crate) fn answer_removals(&self, response: v1::RemoveNodeResponse) {
        *self.state.removal.lock() = Some(response);
    }

    /// Whether each change of the membership was to leave demoted nodes alone.
    pub(crate) fn kept_demoted(&self) -> Vec<bool> {
        self.state.kept_demoted.lock().clone()
    }

    /// Answers each write by this, with how many there were before.
    pub(crate) fn answer_writes(
        &self,
        regions: impl Fn(usize) -> Vec<v1::RegionWriteResult> + Send + Sync + 'static,
    ) {
        *self.state.written.lock() = Some(Box::new(regions));
    }

    /// Answers that it is of this cluster.
    pub(crate) fn belong_to(&self, cluster: &str) {
        cluster.clone_into(&mut self.state.cluster.lock());
    }

    /// The clusters that puts named.
    pub(crate) fn named(&self, method: &str) -> Vec<String> {
        let named = self.state.named.lock();
        let of_method = named.iter().filter(|(other, _)| *other == method);
        of_method.map(|(_, cluster)| cluster.clone()).collect()
    }

    pub(crate) fn leader(&self) -> v1::Leader {
        v1::Leader { peer_id: 1, node_id: 1, client_address: self.address.clone() }
    }

    /// Serves a request as the script says.
    async fn serve<T>(
        &self,
        method: &'static str,
        context: Option<RequestContext>,
        serve: impl FnOnce(&mut Data) -> T,
    ) -> Result<Response<T>, Status> {
        let fault = self.fault(method, context);
        match fault {
            None => Ok(Response::new(serve(&mut self.data.lock()))),
            Some(Fault::Refuse(status)) => Err(status),
            Some(Fault::ServeAndFail(status)) => {
                serve(&mut self.data.lock());
                Err(status)
            }
            Some(Fault::Hang) => std::future::pending().await,
        }
    }

    fn fault(&self, method: &'static str, context: Option<RequestContext>) -> Option<Fault> {
        let nth = self.seen(method).len();
        let seen = Seen { method, context: context.unwrap_or_default(), nth };
        self.state.seen.lock().push(seen.clone());
        self.state.script.lock().as_ref().and_then(|script| script(&seen))
    }
}

/// A typed error as a node answers it.
pub(crate) fn typed(code: Code, detail: ErrorDetail) -> Status {
    flotilla_proto::status::with_detail(code, "as the test wants", &detail)
}

/// An error that promises that nothing was applied and that repeating can help.
pub(crate) fn refusal(code: Code, reason: Reason) -> Fault {
    let detail = ErrorDetail { retryable: true, reason: Some(reason), ..ErrorDetail::default() };
    Fault::Refuse(typed(code, detail))
}

/// A refusal by a node that is busy, and wants to be left alone for so long.
pub(crate) fn busy(retry_after_ms: u64) -> Fault {
    let detail = ErrorDetail {
        retryable: true,
        retry_after_ms,
        reason: Some(Reason::ServerIsBusy(ServerIsBusy { queue: "proposals".into() })),
        ..ErrorDetail::default()
    };
    Fault::Refuse(typed(Code::ResourceExhausted, detail))
}

pub(crate) fn region(
    id: u64,
    start: &[u8],
    end: &[u8],
    version: u64,
    leader: &FakeNode,
) -> v1::RegionInfo {
    let epoch = Some(v1::RegionEpoch { conf_ver: 1, version });
    let peers = vec![v1::Peer { peer_id: 1, node_id: 1, role: v1::PeerRole::Voter.into() }];
    let (start_key, end_key) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
    v1::RegionInfo {
        region: Some(v1::Region { region_id: id, start_key, end_key, epoch, peers }),
        leader: Some(leader.leader()),
        ..v1::RegionInfo::default()
    }
}

fn to_kv(key: &Bytes, (value, revision): &(Bytes, u64)) -> v1::KeyValue {
    let (key, value) = (key.clone(), value.clone());
    v1::KeyValue { key, value, revision: *revision, ttl_ms: None }
}

fn find(data: &Data, key: &Bytes) -> Option<v1::KeyValue> {
    data.get(key).map(|stored| to_kv(key, stored))
}

fn store(data: &mut Data, key: Bytes, value: Bytes) -> u64 {
    let revision = data.get(&key).map_or(1, |(_, revision)| revision + 1);
    data.insert(key, (value, revision));
    revision
}

/// Pages of a fake scan are this long, so that few keys make many pages.
const PAGE_KEYS: usize = 2;

#[tonic::async_trait]
impl kv_server::Kv for FakeNode {
    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let v1::GetRequest { context, key } = request.into_inner();
        let serve = |data: &mut Data| v1::GetResponse { kv: find(data, &key), applied_revision: 1 };
        self.serve("get", context, serve).await
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetResponse>, Status> {
        let v1::BatchGetRequest { context, keys } = request.into_inner();
        self.check_count("keys", keys.len())?;
        self.serve("batch_get", context, |data| v1::BatchGetResponse {
            kvs: keys.iter().filter_map(|key| find(data, key)).collect(),
        })
        .await
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let named = request.metadata().get(flotilla_proto::CLUSTER_ID_METADATA);
        if let Some(named) = named.and_then(|named| named.to_str().ok()) {
            self.state.named.lock().push(("put", named.to_owned()));
        }
        let request = request.into_inner();
        self.serve("put", request.context, |data| v1::PutResponse {
            previous: find(data, &request.key).filter(|_| request.return_previous),
            revision: store(data, request.key, request.value),
        })
        .await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let request = request.into_inner();
        self.serve("delete", request.context, |data| v1::DeleteResponse {
            revision: 1,
            previous: find(data, &request.key).filter(|_| request.return_previous),
            deleted: data.remove(&request.key).is_some(),
        })
        .await
    }

    async fn write(
        &self,
        request: Request<v1::WriteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let request = request.into_inner();
        self.check_count("ops", request.ops.len())?;
        let nth = self.seen("write").len();
        let regions = self.state.written.lock().as_ref().map_or_else(Vec::new, |of| of(nth));
        self.serve("write", request.context, |data| {
            for op in request.ops {
                if let Some(v1::op::Op::Put(put)) = op.op {
                    store(data, put.key, put.value);
                }
            }
            v1::WriteResponse { atomic: regions.is_empty(), regions }
        })
        .await
    }

    async fn txn(
        &self,
        request: Request<v1::TxnRequest>,
    ) -> Result<Response<v1::TxnResponse>, Status> {
        let request = request.into_inner();
        self.serve("txn", request.context, |data| {
            let holds = |compare: &v1::Compare| match &compare.condition {
                Some(v1::compare::Condition::Absent(_)) => !data.contains_key(&compare.key),
                _ => data.contains_key(&compare.key),
            };
            let succeeded = request.compare.iter().all(holds);
            let ops = if succeeded { request.success } else { request.failure };
            let mut results = Vec::new();
            for op in ops {
                results.push(v1::OpResult {
                    result: Some(match op.op {
                        Some(v1::op::Op::Put(put)) => {
                            store(data, put.key, put.value);
                            v1::op_result::Result::Put(v1::PutResult::default())
                        }
                        Some(v1::op::Op::Get(get)) => {
                            v1::op_result::Result::Get(v1::GetResult { kv: find(data, &get.key) })
                        }
                        other => panic!("the fake has no {other:?}"),
                    }),
                });
            }
            v1::TxnResponse { succeeded, revision: 7, results }
        })
        .await
    }

    async fn compare_and_put(
        &self,
        request: Request<v1::CompareAndPutRequest>,
    ) -> Result<Response<v1::CompareAndPutResponse>, Status> {
        use v1::compare_and_put_request::Expected;
        let request = request.into_inner();
        self.serve("compare_and_put", request.context, |data| {
            let current = find(data, &request.key);
            let succeeded = match (&request.expected, &current) {
                (Some(Expected::Absent(_)), None) => true,
                (Some(Expected::Value(value)), Some(kv)) => *value == kv.value,
                (Some(Expected::Revision(revision)), Some(kv)) => *revision == kv.revision,
                _ => false,
            };
            if succeeded {
                let revision = store(data, request.key, request.new_value);
                return v1::CompareAndPutResponse { succeeded, revision, current: None };
            }
            v1::CompareAndPutResponse { succeeded, revision: 1, current }
        })
        .await
    }

    async fn put_if_absent(
        &self,
        request: Request<v1::PutIfAbsentRequest>,
    ) -> Result<Response<v1::PutIfAbsentResponse>, Status> {
        let request = request.into_inner();
        self.serve("put_if_absent", request.context, |data| {
            let current = find(data, &request.key);
            let succeeded = current.is_none();
            if succeeded {
                store(data, request.key, request.value);
            }
            v1::PutIfAbsentResponse { succeeded, revision: 1, current }
        })
        .await
    }

    async fn get_and_put(
        &self,
        request: Request<v1::GetAndPutRequest>,
    ) -> Result<Response<v1::GetAndPutResponse>, Status> {
        let request = request.into_inner();
        self.serve("get_and_put", request.context, |data| v1::GetAndPutResponse {
            previous: find(data, &request.key),
            revision: store(data, request.key, request.value),
        })
        .await
    }

    async fn append(
        &self,
        request: Request<v1::AppendRequest>,
    ) -> Result<Response<v1::AppendResponse>, Status> {
        let request = request.into_inner();
        self.serve("append", request.context, |data| {
            let mut value = data.get(&request.key).map_or(Vec::new(), |(old, _)| old.to_vec());
            value.extend_from_slice(&request.value);
            let value_bytes = value.len() as u64;
            let revision = store(data, request.key, value.into());
            v1::AppendResponse { revision, value_bytes }
        })
        .await
    }

    async fn increment(
        &self,
        request: Request<v1::IncrementRequest>,
    ) -> Result<Response<v1::IncrementResponse>, Status> {
        let request = request.into_inner();
        self.serve("increment", request.context, |data| {
            let old = data.get(&request.key).and_then(|(old, _)| std::str::from_utf8(old).ok());
            let start: i64 = old.and_then(|old| old.parse().ok()).unwrap_or(0);
            let end = start + request.delta;
            let revision = store(data, request.key, end.to_string().into());
            v1::IncrementResponse { revision, start, end }
        })
        .await
    }

    async fn delete_range(
        &self,
        request: Request<v1::DeleteRangeRequest>,
    ) -> Result<Response<v1::DeleteRangeResponse>, Status> {
        let request = request.into_inner();
        self.serve("delete_range", request.context, |data| {
            let before = data.len();
            let is_in = |key: &Bytes| {
                Borders { start: &request.start_key, end: &request.end_key }.contains(key)
                    && key.starts_with(&request.prefix)
            };
            data.retain(|key, _| !is_in(key));
            let deleted = (before - data.len()) as u64;
            v1::DeleteRangeResponse { deleted, regions_done: vec![2] }
        })
        .await
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<v1::ScanResponse, Status>> + Send>>;

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        let context = request.context;
        let keys = |data: &mut Data| {
            let is_in = |key: &&Bytes| {
                Borders { start: &request.start_key, end: &request.end_key }.contains(key)
            };
            let mut keys: Vec<_> = data.keys().filter(is_in).cloned().collect();
            if request.reverse {
                keys.reverse();
            }
            let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
            keys.into_iter().take(limit).map(|key| to_kv(&key, &data[&key])).collect::<Vec<_>>()
        };
        let keys = self.serve("scan", context, keys).await?.into_inner();
        let node = self.clone();
        let pages: Vec<_> = keys.chunks(PAGE_KEYS).map(<[v1::KeyValue]>::to_vec).collect();
        let pages = futures::StreamExt::then(futures::stream::iter(pages), move |kvs| {
            let node = node.clone();
            async move {
                // Each page is a request of its own for the script.
                let keyspaces = if request.all_keyspaces { vec![1; kvs.len()] } else { Vec::new() };
                let page = v1::ScanResponse { kvs, keyspaces };
                let page = node.serve("scan_page", context, |_| page).await;
                page.map(Response::into_inner)
            }
        });
        Ok(Response::new(Box::pin(pages)))
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for FakeNode {
    async fn initialize(
        &self,
        _: Request<v1::InitializeRequest>,
    ) -> Result<Response<v1::InitializeResponse>, Status> {
        self.serve("initialize", None, |_| v1::InitializeResponse {
            cluster_id: "c1".into(),
            node_id: 1,
        })
        .await
    }

    async fn add_learner(
        &self,
        _: Request<v1::AddLearnerRequest>,
    ) -> Result<Response<v1::AddLearnerResponse>, Status> {
        self.serve("add_learner", None, |_| v1::AddLearnerResponse { node_id: 4, version: 9 }).await
    }

    async fn change_membership(
        &self,
        request: Request<v1::ChangeMembershipRequest>,
    ) -> Result<Response<v1::ChangeMembershipResponse>, Status> {
        self.state.kept_demoted.lock().push(request.into_inner().keep_demoted);
        self.serve("change_membership", None, |_| v1::ChangeMembershipResponse { version: 10 })
            .await
    }

    async fn remove_node(
        &self,
        _: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let removed = v1::RemoveNodeResponse {
            state: v1::NodeState::Removed.into(),
            ..v1::RemoveNodeResponse::default()
        };
        let removal = self.state.removal.lock().unwrap_or(removed);
        self.serve("remove_node", None, |_| removal).await
    }

    async fn cancel_remove_node(
        &self,
        _: Request<v1::CancelRemoveNodeRequest>,
    ) -> Result<Response<v1::CancelRemoveNodeResponse>, Status> {
        self.serve("cancel_remove_node", None, |_| v1::CancelRemoveNodeResponse {
            state: v1::NodeState::Up.into(),
            version: 11,
        })
        .await
    }

    async fn evict_leaders(
        &self,
        _: Request<v1::EvictLeadersRequest>,
    ) -> Result<Response<v1::EvictLeadersResponse>, Status> {
        let leaders_left = self.leaders();
        self.serve("evict_leaders", None, |_| v1::EvictLeadersResponse { leaders_left }).await
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        self.serve("transfer_leader", None, |_| v1::TransferLeaderResponse {}).await
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let cluster_id = match &**self.state.cluster.lock() {
            "" => "c1".to_owned(),
            other => other.to_owned(),
        };
        self.serve("status", None, |_| v1::StatusResponse {
            joined: true,
            cluster_id,
            ready: true,
            node_id: 1,
            client_address: self.address.clone(),
            ..v1::StatusResponse::default()
        })
        .await
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let v1::ListNodesRequest { allow_local, only_local, .. } = request.into_inner();
        let mut nodes = self.state.nodes.lock().clone();
        let (leaders, leaders_evicted) = (self.leaders(), self.state.evicted.load(Relaxed));
        for node in &mut nodes {
            (node.leaders, node.leaders_evicted) = (leaders, leaders_evicted);
        }
        let nth = self.seen("list_nodes").len();
        let mut listed = v1::ListNodesResponse {
            cluster_id: "c1".into(),
            version: 8,
            nodes,
            replication_factor: 1,
            told_by_node: self.told_by(allow_local, only_local),
        };
        if let Some(edit) = &*self.state.edit.lock() {
            edit(nth, &mut listed);
        }
        self.serve("list_nodes", None, |_| listed).await
    }

    async fn list_regions(
        &self,
        request: Request<v1::ListRegionsRequest>,
    ) -> Result<Response<v1::ListRegionsResponse>, Status> {
        let v1::ListRegionsRequest { allow_local, only_local, .. } = request.into_inner();
        let told_by_node = self.told_by(allow_local, only_local);
        let regions = self.state.regions.lock().clone();
        self.serve("list_regions", None, |_| v1::ListRegionsResponse {
            regions,
            told_by_node,
            ..v1::ListRegionsResponse::default()
        })
        .await
    }

    async fn locate(
        &self,
        _: Request<v1::LocateRequest>,
    ) -> Result<Response<v1::LocateResponse>, Status> {
        let regions = self.state.regions.lock().clone();
        self.serve("locate", None, |_| v1::LocateResponse { regions }).await
    }

    async fn check_region(
        &self,
        _: Request<v1::CheckRegionRequest>,
    ) -> Result<Response<v1::CheckRegionResponse>, Status> {
        let check = self.state.check.lock().clone();
        let equal = v1::CheckRegionResponse {
            consistent: true,
            peers: vec![v1::PeerChecksum { node_id: 1, keys: 3, ..v1::PeerChecksum::default() }],
            check_id: 9,
            done: true,
        };
        self.serve("check_region", None, |_| check.unwrap_or(equal)).await
    }
}
