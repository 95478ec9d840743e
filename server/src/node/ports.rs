//! The sockets of a node.
//!
//! Requests of clients run on threads of their own, each with its own listener on the shared port
//! and its own single-threaded runtime: a request then wakes nobody but the Raft thread. With few cores
//! they are served beside the regions, as peers and HTTP always are.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use flotilla_proto::v1::placement_server::PlacementServer;
use futures::TryStreamExt as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Node,
    calls::{Calls, Gate, NodeInbox, PlacementCalls},
    readiness,
};
use crate::{
    api::{self, Admission, Limits, Method, Observer, Services},
    clock,
    config::{Advertised, BoundAddresses, Config, RuntimeConfig},
    handoff,
    metrics::{self, MethodMetrics, RuntimeMetrics},
    raft::{presence::Accepted, transport::RaftService},
};

const BACKLOG: i32 = 4096;
/// With so few cores, clients are served by the Raft thread: a request then wakes nobody at all, which
/// saves more than a second thread could do.
const SHARED_CORES_MAX: usize = 2;
/// Time between the end of the requests and the end of the threads.
const THREAD_GRACE: Duration = Duration::from_secs(1);

/// Bound, not yet served.
pub(super) struct Ports {
    client: TcpListener,
    peer: TcpListener,
    http: TcpListener,
    bound: BoundAddresses,
    advertised: Advertised,
}

impl Ports {
    /// # Errors
    /// When a port is taken, or the addresses cannot be noted in the data directory.
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let client = bind(config.client_addr).context("client_addr")?;
        let peer = bind(config.peer_addr).context("peer_addr")?;
        let http = bind(config.http_addr).context("http_addr")?;
        let bound = BoundAddresses {
            client: client.local_addr()?,
            peer: peer.local_addr()?,
            http: http.local_addr()?,
        };
        let advertised = config.advertised(&bound);
        Ok(Self { client, peer, http, bound, advertised })
    }

    pub(super) fn advertised(&self) -> Advertised {
        self.advertised.clone()
    }

    /// Starts to accept on all ports.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be started.
    pub(super) fn serve(self, node: &Arc<Node>, cores: usize) -> anyhow::Result<Servers> {
        let limits = Arc::new(node.config.limits.to_api());
        let shared = Shared {
            calls: Arc::new(Calls(Arc::clone(node))),
            admission: Admission::new(&limits),
            limits,
            observer: Arc::new(Observed::new(node)),
            stop: CancellationToken::new(),
            node: Arc::clone(node),
        };
        let mut runtimes = vec![("raft".to_owned(), node.runtime.clone())];
        let clients = match api_threads(&node.config.runtime, cores) {
            0 => Clients::Beside(node.runtime.spawn(shared.serve_clients(self.client))),
            wanted => {
                let mut listeners = vec![self.client];
                while listeners.len() < wanted {
                    listeners.push(bind(self.bound.client).context("client_addr")?);
                }
                let mut threads = Vec::new();
                for (index, listener) in listeners.into_iter().enumerate() {
                    let name = format!("api-{index}");
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtimes.push((name.clone(), runtime.handle().clone()));
                    let serving = shared.serve_clients(listener);
                    threads.push(thread::Builder::new().name(name).spawn(move || {
                        runtime.block_on(handoff::serve(serving));
                    })?);
                }
                Clients::Threads(threads)
            }
        };
        RuntimeMetrics::register(&node.registry, runtimes)?;
        let tasks = vec![shared.serve_peers(self.peer)?, shared.serve_http(self.http)?];
        // Ordering: written when all ports answer; whoever finds the file may connect.
        self.bound.write(&node.data_dir()).context("write addresses.json")?;
        Ok(Servers { stop: shared.stop, clients, tasks })
    }
}

/// What the ports have in common.
struct Shared {
    node: Arc<Node>,
    calls: Arc<Calls>,
    limits: Arc<Limits>,
    admission: Admission,
    observer: Arc<dyn Observer>,
    stop: CancellationToken,
}

impl Shared {
    fn gate(&self) -> Gate {
        Gate(Arc::clone(&self.node))
    }

    fn membership(&self) -> Arc<dyn api::Membership> {
        Arc::clone(&self.calls) as Arc<dyn api::Membership>
    }

    /// Serves gRPC until the stop, on the runtime that it is polled by.
    fn serve_clients(&self, listener: TcpListener) -> impl Future<Output = ()> + Send + 'static {
        let services = Services::new(
            self.gate(),
            self.membership(),
            Arc::clone(&self.limits),
            self.admission.clone(),
            Arc::clone(&self.observer),
        );
        let limits = Arc::clone(&self.limits);
        let removed = self.node.removed.clone();
        let stopped = self.stop.clone().cancelled_owned();
        async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let incoming = api::listen(listener);
                    let limits = &limits.connections;
                    api::serve_grpc(incoming, services, limits, removed, stopped).await;
                }
                Err(error) => tracing::error!(%error, "listen for clients"),
            }
        }
    }

    fn serve_peers(&self, listener: TcpListener) -> anyhow::Result<JoinHandle<()>> {
        let node = &self.node;
        let raft = RaftService::new(Arc::new(NodeInbox(Arc::clone(node))));
        let placement = PlacementServer::new(PlacementCalls(Arc::clone(node)));
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stopped = self.stop.clone().cancelled_owned();
        Ok(node.runtime.spawn(async move {
            let served = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(2)))
                .http2_keepalive_timeout(Some(Duration::from_secs(4)))
                .initial_stream_window_size(4 << 20)
                .initial_connection_window_size(16 << 20)
                .add_service(raft)
                .add_service(placement)
                .serve_with_incoming_shutdown(api::listen(listener).map_ok(Accepted::new), stopped)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "serving peers");
            }
        }))
    }

    fn serve_http(&self, listener: TcpListener) -> anyhow::Result<JoinHandle<()>> {
        let metrics = {
            let (node, admission) = (Arc::clone(&self.node), self.admission.clone());
            Arc::new(move || {
                readiness::measure(&node);
                for (queue, total) in admission.refused() {
                    node.metrics.requests.busy_so_far(queue, total);
                }
                metrics::encode(&node.registry)
            })
        };
        let router = api::http_router(
            self.gate(),
            self.membership(),
            Arc::clone(&self.limits),
            self.admission.clone(),
            Arc::clone(&self.observer),
            metrics,
        );
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let limits = Arc::clone(&self.limits);
        let stopped = self.stop.clone().cancelled_owned();
        Ok(self.node.runtime.spawn(async move {
            api::serve_http(api::listen(listener), router, &limits.connections, stopped).await;
        }))
    }
}

/// How many threads serve clients; none: the Raft thread does.
fn api_threads(config: &RuntimeConfig, cores: usize) -> usize {
    match config.api_threads {
        0 if cores <= SHARED_CORES_MAX => 0,
        0 => cores / 2,
        threads => threads as usize,
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serving; [`Servers::stop`] finishes what is under way.
pub(super) struct Servers {
    stop: CancellationToken,
    clients: Clients,
    tasks: Vec<JoinHandle<()>>,
}

/// Who serves clients.
enum Clients {
    Threads(Vec<thread::JoinHandle<()>>),
    /// A task beside the regions.
    Beside(JoinHandle<()>),
}

impl Servers {
    /// Accepts nothing new and waits for requests under way, until the deadline.
    pub(super) async fn stop(self, deadline: Instant) {
        self.stop.cancel();
        let left = deadline.max(clock::now() + THREAD_GRACE);
        if tokio::time::timeout_at(left, self.clients.served()).await.is_err() {
            tracing::warn!("requests were cut off at the end of the grace period");
        }
        for task in self.tasks {
            // Streams of peers stay open; they end with the process.
            task.abort();
        }
    }
}

impl Clients {
    /// Waits for the requests under way. What panicked has ended all the same.
    async fn served(self) {
        let task = match self {
            Self::Beside(task) => task,
            Self::Threads(threads) => tokio::task::spawn_blocking(move || {
                for thread in threads {
                    let _ = thread.join();
                }
            }),
        };
        let _ = task.await;
    }
}

/// Counts requests.
struct Observed(Vec<MethodMetrics>);

impl Observed {
    fn new(node: &Node) -> Self {
        Self(Method::ALL.iter().map(|method| node.metrics.requests.method(method.name())).collect())
    }
}

impl Observer for Observed {
    fn started(&self, method: Method) {
        self.0[method as usize].started();
    }

    fn finished(&self, method: Method, code: tonic::Code, seconds: f64) {
        self.0[method as usize].finished(code, seconds);
    }
}
