//! The sockets of a node.
//!
//! Each port is this process' alone. Requests of clients run on threads of their own, each with its own
//! single-threaded runtime and connections that are dealt out to it: a request then wakes nobody but the
//! Raft thread. With few cores they are served beside the regions, as peers and HTTP always are.

use std::{future::Future, io, net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use flotilla_proto::{MESSAGE_BYTES_MAX, v1::placement_server::PlacementServer};
use futures::TryStreamExt as _;
use rustix::process::{Resource, getrlimit};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, service::interceptor::InterceptedService};

use super::{
    Node, cluster_calls::Calls, gate::WhileJoined, inbox::NodeInbox,
    placement_service::PlacementCalls, pulse::Pulses, readiness,
};
use crate::{
    api::{self, Admission, Limits, Method, Observer, Places, Services},
    config::{Advertised, BoundAddresses, Config, RuntimeConfig},
    metrics::{self, MethodMetrics, RuntimeMetrics, SLOW_LOG_INTERVAL, SlowLog},
    raft::transport::RaftService,
    trail::Trail,
    world::{
        accept::{self, Port, Stream},
        clock, handoff,
        presence::Accepted,
    },
};

/// With so few cores, clients are served by the Raft thread: a request then wakes nobody at all, which
/// saves more than a second thread could do.
const SHARED_CORES_MAX: usize = 2;
/// Bound: connections of other nodes, of which each has a few.
const PEER_CONNECTIONS_MAX: usize = 1024;
/// Bound: calls of a connection of another node that are under way; it has one stream of messages, or one
/// snapshot, or some calls for the placement driver.
const PEER_STREAMS_MAX: u32 = 256;
const PEER_HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bound: wait for the first words of a connection of another node.
const PEER_OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound: calls of peers that were cancelled before they were taken up, per connection.
const PEER_RESETS_MAX: usize = 1024;
/// File descriptors for logs, snapshots, small files, and calls to other nodes.
const OTHER_FILES: u64 = 512;
/// Time between the end of the requests and the end of the threads.
const THREAD_GRACE: Duration = Duration::from_secs(1);

/// Bound, not yet served.
pub(super) struct Ports {
    client: Port,
    peer: Port,
    http: Port,
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
            client: client.address()?,
            peer: peer.address()?,
            http: http.address()?,
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
        let mut limits = node.config.limits.clone();
        limits.connections_max = connections_within(limits.connections_max, &node.config);
        let limits = Arc::new(limits);
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
            0 => {
                let places = shared.admission.client_connections();
                let incoming = api::listen(self.client.listen()?, places);
                Clients::Beside(node.runtime.spawn(shared.serve_clients(incoming)))
            }
            wanted => {
                let mut threads = Vec::new();
                let (dealer, dealt) = api::dealer(wanted);
                // The first one also accepts, for all.
                let mut dealing = Some(shared.deal(self.client, dealer));
                for (index, incoming) in dealt.into_iter().enumerate() {
                    let name = format!("api-{index}");
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtimes.push((name.clone(), runtime.handle().clone()));
                    let serving = shared.serve_clients(incoming);
                    let dealing = dealing.take();
                    threads.push(thread::Builder::new().name(name).spawn(move || {
                        runtime.block_on(handoff::serve(async move {
                            if let Some(dealing) = dealing {
                                tokio::spawn(dealing);
                            }
                            serving.await;
                        }));
                    })?);
                }
                Clients::Threads(threads)
            }
        };
        let _ = node.pulses.set(Pulses::start(&runtimes));
        RuntimeMetrics::register(&node.registry, runtimes)?;
        let tasks = vec![
            shared.serve_peers(self.peer)?,
            shared.serve_http(self.http)?,
            node.runtime.spawn(tell_of_slow_requests(node.metrics.slow.clone())),
        ];
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
    fn gate(&self) -> WhileJoined {
        WhileJoined(Arc::clone(&self.node))
    }

    fn membership(&self) -> Arc<dyn api::ClusterCalls> {
        Arc::clone(&self.calls) as Arc<dyn api::ClusterCalls>
    }

    /// Accepts the connections of clients for other threads, until the stop.
    fn deal(&self, port: Port, dealer: api::Dealer) -> impl Future<Output = ()> + Send + 'static {
        let places = self.admission.client_connections();
        let stop = self.stop.clone();
        async move {
            match port.listen() {
                Ok(listener) => {
                    let dealing = dealer.deal(api::listen(listener, places));
                    let _ = stop.run_until_cancelled_owned(dealing).await;
                }
                Err(error) => tracing::error!(%error, "listen for clients"),
            }
        }
    }

    /// Serves gRPC until the stop, on the runtime that it is polled by.
    fn serve_clients(
        &self,
        incoming: impl futures::Stream<Item = io::Result<api::Connection<Stream>>> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
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
            api::serve_grpc(incoming, services, &limits, removed, stopped).await;
        }
    }

    fn serve_peers(&self, port: Port) -> anyhow::Result<JoinHandle<()>> {
        let node = &self.node;
        let raft = RaftService::new(Arc::new(NodeInbox(Arc::clone(node))));
        // As the clients of this service (`node/clients.rs`): what one side may send the other takes.
        let placement = PlacementServer::new(PlacementCalls(Arc::clone(node)))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let calls = Arc::clone(&self.calls);
        let placement = InterceptedService::new(placement, move |request: Request<()>| {
            let headers = request.metadata().clone().into_headers();
            api::check_cluster(&headers, &*calls).map_err(|error| api::status(&error))?;
            Ok(request)
        });
        let incoming = api::listen(port.listen()?, Places::new(PEER_CONNECTIONS_MAX));
        let stopped = self.stop.clone().cancelled_owned();
        let accepted = |stream| Accepted::new(stream, PEER_OPENING_TIMEOUT);
        Ok(node.runtime.spawn(async move {
            let served = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(2)))
                .http2_keepalive_timeout(Some(Duration::from_secs(4)))
                .http2_max_pending_accept_reset_streams(Some(PEER_RESETS_MAX))
                .initial_stream_window_size(4 << 20)
                .initial_connection_window_size(16 << 20)
                .max_concurrent_streams(PEER_STREAMS_MAX)
                .http2_max_header_list_size(PEER_HEADER_BYTES_MAX)
                .add_service(raft)
                .add_service(placement)
                .serve_with_incoming_shutdown(incoming.map_ok(accepted), stopped)
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "serving peers");
            }
        }))
    }

    /// The names that clients of HTTP may call this node by.
    fn hosts(&self) -> api::Hosts {
        let advertised = &self.node.advertised.http;
        let host = advertised.rsplit_once(':').map_or(&advertised[..], |(host, _)| host);
        api::Hosts::new(host, &self.node.config.http_allowed_hosts)
    }

    fn serve_http(&self, port: Port) -> anyhow::Result<JoinHandle<()>> {
        let metrics = {
            let (node, admission) = (Arc::clone(&self.node), self.admission.clone());
            // On a thread that may block: it asks the disk, and looks at every region.
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
            self.hosts(),
        );
        let incoming = api::listen(port.listen()?, self.admission.http_connections());
        let limits = Arc::clone(&self.limits);
        let stopped = self.stop.clone().cancelled_owned();
        Ok(self.node.runtime.spawn(async move {
            api::serve_http(incoming, router, &limits, stopped).await;
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

fn bind(address: SocketAddr) -> anyhow::Result<Port> {
    accept::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{address} is in use: another process listens there ({error})")
        }
        _ => anyhow::Error::new(error).context(format!("bind {address}")),
    })
}

/// How many connections each of the two ports for clients may have, with what this process may open.
fn connections_within(wanted: usize, config: &Config) -> usize {
    let open_files_max = getrlimit(Resource::Nofile).current;
    let connections_max = connections_max(wanted, open_files_max, config.storage.open_files_max);
    if connections_max < wanted {
        tracing::warn!(
            wanted,
            connections_max,
            open_files_max,
            "limits.connections_max is more than the limit of open files allows for two ports"
        );
    }
    connections_max
}

/// Bound: the connections of both ports, the files of both instances of RocksDB, the connections of peers
/// and what else a node opens are within `open_files_max`. A node that ran out of descriptors could not
/// open the files of its own disk. With a limit that is too low for a node at all, some connections are
/// allowed nevertheless.
fn connections_max(wanted: usize, open_files_max: Option<u64>, engine_files_max: u32) -> usize {
    let Some(open_files_max) = open_files_max else { return wanted };
    let reserve = 2 * u64::from(engine_files_max) + PEER_CONNECTIONS_MAX as u64 + OTHER_FILES;
    let each = open_files_max.saturating_sub(reserve) / 2;
    let least = open_files_max / 8;
    wanted.min(usize::try_from(each.max(least).max(1)).unwrap_or(usize::MAX))
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
    #[expect(clippy::disallowed_methods, reason = "a simulation has no threads to wait for")]
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

/// Runs until the node stops.
async fn tell_of_slow_requests(slow: SlowLog) {
    let mut interval = tokio::time::interval(SLOW_LOG_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        slow.tell();
    }
}

/// Counts requests, and notes the slow ones.
struct Observed(Vec<MethodMetrics>, SlowLog);

impl Observed {
    fn new(node: &Node) -> Self {
        let methods = Method::ALL.iter();
        let methods = methods.map(|method| node.metrics.requests.method(method.name())).collect();
        Self(methods, node.metrics.slow.clone())
    }
}

impl Observer for Observed {
    fn started(&self, method: Method) {
        self.0[method as usize].started();
    }

    fn finished(&self, method: Method, code: tonic::Code, seconds: f64) {
        self.0[method as usize].finished(code, seconds);
    }

    fn is_slow(&self, method: Method, took: Duration) -> bool {
        // A stream takes as long as its client does.
        self.1.is_slow(took) && !method.streams() && method != Method::HttpList
    }

    fn slow(&self, method: Method, code: tonic::Code, took: Duration, trail: Trail) {
        self.1.finished(method.name(), Some(code), took, trail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_disk() {
        for (why, wanted, open_files_max, want) in [
            ("no limit", 16_384, None, 16_384),
            ("plenty", 16_384, Some(1 << 20), 16_384),
            ("a usual hard limit", 16_384, Some(20_000), (20_000 - 2048) / 2),
            ("4096", 16_384, Some(4096), 1024),
            ("less was wanted", 100, Some(4096), 100),
            ("less than the reserve", 16_384, Some(1024), 128),
            ("hardly any", 16_384, Some(4), 1),
        ] {
            assert_eq!(connections_max(wanted, open_files_max, 256), want, "{why}");
        }
    }
}
