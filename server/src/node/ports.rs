//! The sockets of a node.
//!
//! Requests of clients run on threads of their own, each with its own listener on the shared port
//! and its own single-threaded runtime: a request then wakes nobody but the Raft thread. With few cores
//! they are served beside the regions, as peers and HTTP always are.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use flotilla_proto::v1::placement_server::PlacementServer;
use futures::TryStreamExt as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Node,
    calls::{Calls, Gate, NodeInbox, PlacementCalls},
    readiness,
};
use crate::{
    api::{self, Admission, Method, Observer, Services},
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
        let stop = CancellationToken::new();
        let calls = Arc::new(Calls(Arc::clone(node)));
        let gate = Gate(Arc::clone(node));
        let limits = Arc::new(node.config.limits.to_api());
        let admission = Admission::new(&limits);
        let observer: Arc<dyn Observer> = Arc::new(Observed::new(node));

        let mut runtimes = vec![("raft".to_owned(), node.runtime.clone())];
        let serve = |listener| {
            let services = Services::new(
                gate.clone(),
                Arc::clone(&calls) as Arc<dyn api::Membership>,
                Arc::clone(&limits),
                admission.clone(),
                Arc::clone(&observer),
            );
            let (limits, stop) = (Arc::clone(&limits), stop.clone());
            let removed = node.removed.clone();
            async move {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => {
                        let incoming = api::listen(listener);
                        let limits = &limits.connections;
                        let stopped = stop.cancelled_owned();
                        api::serve_grpc(incoming, services, limits, removed, stopped).await;
                    }
                    Err(error) => tracing::error!(%error, "listen for clients"),
                }
            }
        };
        let mut threads = Vec::new();
        let mut beside = None;
        match api_threads(&node.config.runtime, cores) {
            0 => beside = Some(node.runtime.spawn(serve(self.client))),
            wanted => {
                let mut listeners = vec![self.client];
                while listeners.len() < wanted {
                    listeners.push(bind(self.bound.client).context("client_addr")?);
                }
                for (index, listener) in listeners.into_iter().enumerate() {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    let name = format!("api-{index}");
                    runtimes.push((name.clone(), runtime.handle().clone()));
                    let serving = serve(listener);
                    threads.push(thread::Builder::new().name(name).spawn(move || {
                        runtime.block_on(handoff::serve(serving));
                    })?);
                }
            }
        }

        RuntimeMetrics::register(&node.registry, runtimes)?;

        let raft = RaftService::new(Arc::new(NodeInbox(Arc::clone(node))));
        let placement = PlacementServer::new(PlacementCalls(Arc::clone(node)));
        let peer = tokio::net::TcpListener::from_std(self.peer)?;
        let stopped = stop.clone().cancelled_owned();
        let peers = node.runtime.spawn(async move {
            let served = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(2)))
                .http2_keepalive_timeout(Some(Duration::from_secs(4)))
                .initial_stream_window_size(4 << 20)
                .initial_connection_window_size(16 << 20)
                .add_service(raft)
                .add_service(placement)
                .serve_with_incoming_shutdown(api::listen(peer).map_ok(Accepted::new), stopped)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "serving peers");
            }
        });

        let text = {
            let (node, admission) = (Arc::clone(node), admission.clone());
            Arc::new(move || {
                readiness::measure(&node);
                for (queue, total) in admission.refused() {
                    node.metrics.requests.busy_so_far(queue, total);
                }
                metrics::encode(&node.registry)
            })
        };
        let router = api::http_router(
            gate,
            calls as Arc<dyn api::Membership>,
            Arc::clone(&limits),
            admission,
            observer,
            text,
        );
        let http = tokio::net::TcpListener::from_std(self.http)?;
        let stopped = stop.clone().cancelled_owned();
        let http = node.runtime.spawn(async move {
            api::serve_http(api::listen(http), router, &limits.connections, stopped).await;
        });
        // Ordering: written when all ports answer; whoever finds the file may connect.
        self.bound.write(&node.data_dir()).context("write addresses.json")?;
        Ok(Servers { stop, threads, beside, tasks: vec![peers, http] })
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
    threads: Vec<thread::JoinHandle<()>>,
    /// Serves clients beside the regions, where there are no threads for it.
    beside: Option<tokio::task::JoinHandle<()>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Servers {
    /// Accepts nothing new and waits for requests under way, until the deadline.
    pub(super) async fn stop(self, deadline: Instant) {
        self.stop.cancel();
        let threads = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                // A thread that panicked has ended all the same.
                let _ = thread.join();
            }
        });
        let served = async {
            // A part that panicked has ended all the same.
            let _ = threads.await;
            if let Some(beside) = self.beside {
                let _ = beside.await;
            }
        };
        let left = deadline.max(clock::now() + THREAD_GRACE);
        if tokio::time::timeout_at(left, served).await.is_err() {
            tracing::warn!("requests were cut off at the end of the grace period");
        }
        for task in self.tasks {
            // Streams of peers stay open; they end with the process.
            task.abort();
        }
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
