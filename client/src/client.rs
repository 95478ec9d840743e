//! The handle that callers hold, and what all its clones share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use flotilla_proto::{
    keyspace::{KeyspaceId, decode},
    v1::{ListNodesRequest, ListRegionsRequest, ReadMode, RegionInfo},
};
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{
    Cluster, Connector, Error,
    bounds::Bounds,
    call::Audience,
    keyspace::{self, DEFAULT_KEYSPACE},
    node_pool::{Dialling, NodePool},
    pin::Pin,
    routes::{RouteTable, Span},
    written::Written,
};

/// Regions fetched at once, from the first key without a route on.
const REFRESH_REGIONS_MAX: u32 = 512;
/// Bound: a refresh that takes longer is given up; the next call that misses starts another.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound: so often at most the table is fetched, however many calls miss it.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);

/// How a [`Client`] behaves. `Options::default()` is right for most programs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time for a call with all its retries; for a scan, time without progress. Longer than two elections by
    /// default, so that the death of a leader is a wait and no error.
    pub timeout: Duration,
    /// Time for one connection to be made; never more than half of `timeout`.
    pub connect_timeout: Duration,
    /// Connections to each node, used by turns. More than one pays off from about a hundred
    /// concurrent calls.
    pub channels_per_node: usize,
    /// What reads promise. Unspecified means linearizable.
    pub read_mode: ReadMode,
    /// The name space of keys.
    pub keyspace: u32,
    /// Send requests straight to the leader. Without it every request goes to some node, which
    /// forwards it: right for a program that makes one call and ends.
    pub routing: bool,
    /// How nodes are reached: over TCP, unless a program has something else.
    pub connector: Connector,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(1),
            channels_per_node: 2,
            read_mode: ReadMode::Unspecified,
            keyspace: DEFAULT_KEYSPACE,
            routing: true,
            connector: Connector::default(),
        }
    }
}

/// A handle to a cluster: cheap to clone, safe to share, with one set of connections and one route
/// table behind all clones.
///
/// # Guarantees
/// A call ends within the timeout. It is repeated only while that cannot apply a write twice; a write
/// whose outcome is not known ends with [`Error::MaybeApplied`], and no other error hides one.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Settings,
}

/// What clones may differ in.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    pub(crate) read_mode: ReadMode,
    pub(crate) keyspace: KeyspaceId,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) nodes: NodePool,
    pub(crate) pin: Pin,
    pub(crate) routes: RwLock<RouteTable>,
    pub(crate) routing: bool,
    pub(crate) written: Written,
    pub(crate) bounds: Bounds,
    refreshing: AtomicBool,
    /// In milliseconds since `born`.
    refreshed_at: AtomicU64,
    born: Instant,
}

impl Client {
    /// A client of the cluster that these nodes belong to. One reachable node is enough; the others
    /// are learnt. Nothing is dialled yet, so the cluster need not be up. Calls fail with
    /// [`Error::Configuration`] when the endpoints turn out to belong to different clusters, or to speak HTTP/1,
    /// all of them. One that does among others is passed over, with a warning, and asked again a minute later.
    /// A write goes only to an address that has answered this client before.
    ///
    /// # Errors
    /// [`Error::Configuration`] when an endpoint is not `host:port` or `http://host:port`.
    pub async fn connect<I>(endpoints: I) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self::connect_with(endpoints, Options::default()).await
    }

    /// As [`Client::connect`], with options.
    ///
    /// # Errors
    /// [`Error::Configuration`] when an endpoint or an option is out of range.
    #[expect(
        clippy::unused_async,
        reason = "callers await it already, and a handshake may come here"
    )]
    pub async fn connect_with<I>(endpoints: I, options: Options) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        check_timeout(options.timeout)?;
        let dialling = Dialling {
            channels_per_node: options.channels_per_node,
            connect_timeout: options.connect_timeout.min(options.timeout / 2),
            connector: options.connector,
        };
        let shared = Shared {
            nodes: NodePool::new(&endpoints, dialling)?,
            pin: Pin::default(),
            routes: RwLock::default(),
            routing: options.routing,
            written: Written::default(),
            bounds: Bounds::default(),
            refreshing: AtomicBool::new(false),
            refreshed_at: AtomicU64::new(0),
            born: Instant::now(),
        };
        let settings = Settings {
            timeout: options.timeout,
            read_mode: options.read_mode,
            keyspace: keyspace::check(options.keyspace)?,
        };
        Ok(Self { shared: Arc::new(shared), settings })
    }

    /// The same client with another timeout.
    ///
    /// # Errors
    /// [`Error::Configuration`] when it is under a millisecond or over a day.
    pub fn with_timeout(&self, timeout: Duration) -> Result<Self, Error> {
        check_timeout(timeout)?;
        let mut client = self.clone();
        client.settings.timeout = timeout;
        Ok(client)
    }

    /// The same client whose reads promise something else.
    #[must_use]
    pub fn with_read_mode(&self, read_mode: ReadMode) -> Self {
        let mut client = self.clone();
        client.settings.read_mode = read_mode;
        client
    }

    /// The same client in another keyspace.
    ///
    /// # Errors
    /// [`Error::Configuration`] when the id does not fit into three bytes.
    pub fn with_keyspace(&self, keyspace: u32) -> Result<Self, Error> {
        let mut client = self.clone();
        client.settings.keyspace = keyspace::check(keyspace)?;
        Ok(client)
    }

    /// Membership, routing and state of the cluster.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.clone())
    }

    /// The addresses that the caller named, as `host:port`.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.shared.nodes.seeds().iter().map(ToString::to_string).collect()
    }

    /// Fetches the routes from the first key of the span on, in the background, unless that is being done
    /// or was done a moment ago.
    pub(crate) fn refresh_routes(&self, span: &Span) {
        let shared = &self.shared;
        let now = shared.born.elapsed().as_millis() as u64;
        let due = shared.refreshed_at.load(Relaxed) + REFRESH_INTERVAL.as_millis() as u64;
        let is_first = shared.refreshed_at.load(Relaxed) == 0;
        if (!is_first && now < due) || shared.refreshing.swap(true, Relaxed) {
            return;
        }
        let guard = Refreshing(shared.clone());
        let mut client = self.clone();
        client.settings.timeout = client.settings.timeout.min(REFRESH_TIMEOUT);
        let own = |(keyspace, key)| (keyspace == client.settings.keyspace).then_some(key);
        let start = span.first().and_then(decode).and_then(own);
        let start = bytes::Bytes::copy_from_slice(start.unwrap_or_default());
        tokio::spawn(async move {
            // Ended by its own timeout. A failure is not told: the calls that wanted the routes
            // are under way without them, and the next one that misses asks again.
            let regions = ListRegionsRequest {
                keyspace: client.settings.keyspace.get(),
                start_key: start,
                limit: REFRESH_REGIONS_MAX,
                ..ListRegionsRequest::default()
            };
            let nodes = ListNodesRequest::default();
            let (regions, nodes) = futures::join!(
                client.call_for(regions, Audience::Anyone),
                client.call_for(nodes, Audience::Anyone)
            );
            if let Ok(regions) = regions {
                client.shared.learn(regions.regions);
            }
            if let Ok(nodes) = nodes {
                let addresses: Vec<String> = nodes
                    .nodes
                    .into_iter()
                    .map(|node| node.client_address)
                    .filter(|address| !address.is_empty())
                    .collect();
                client.shared.nodes.replace_learnt(&addresses);
            }
            drop(guard);
        });
    }
}

impl Shared {
    pub(crate) fn learn(&self, regions: Vec<RegionInfo>) {
        let mut routes = self.routes.write();
        for info in regions {
            let leader = info.leader.map(|leader| leader.client_address).unwrap_or_default();
            let leader = (!leader.is_empty()).then(|| leader.into());
            if let Some(region) = info.region {
                routes.learn(region, leader);
            }
        }
    }
}

/// Marks the end of a refresh, even if its task is dropped with the runtime.
struct Refreshing(Arc<Shared>);

impl Drop for Refreshing {
    fn drop(&mut self) {
        let now = self.0.born.elapsed().as_millis() as u64;
        self.0.refreshed_at.store(now.max(1), Relaxed);
        self.0.refreshing.store(false, Relaxed);
    }
}

fn check_timeout(timeout: Duration) -> Result<(), Error> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    if (Duration::from_millis(1)..=DAY).contains(&timeout) {
        Ok(())
    } else {
        Err(Error::configuration("timeout", "must be 1 ms to one day"))
    }
}
