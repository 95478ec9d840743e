//! The nodes that are known, and the connections to them.
//!
//! A connection is made when it is first used, and again after it broke. A node that could not be reached
//! is passed over for a moment, so that its death costs each caller at most one attempt.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use flotilla_proto::{
    address,
    v1::{NotJoined, error_detail::Reason},
};
use parking_lot::RwLock;
use tokio::{sync::Mutex, time::Instant};
use tonic::transport::{Channel, Endpoint};

use crate::{
    Connector, Error,
    connector::Stream,
    verdict::{Failure, root_cause},
};

/// How long a node that could not be reached is passed over while there are others.
const SUSPICION: Duration = Duration::from_secs(1);
/// Bound: an address that spoke HTTP/1 is asked again after this; somebody may have corrected it.
const HTTP1_FOR: Duration = Duration::from_secs(60);
/// Bound: past it no further address is taken in; the nodes that are known forward.
const NODES_MAX: usize = 1024;
/// A silent peer is noticed after the sum of the two, and the connection is dropped.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Large enough for several values of the largest size under way.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How nodes are dialled.
#[derive(Clone, Debug)]
pub(crate) struct Dialling {
    pub(crate) channels_per_node: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) connector: Connector,
}

/// What is at an address, as far as this client has found out; see [`crate::pin`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Nature {
    /// It has answered nothing yet.
    Unknown,
    /// It has answered a call of gRPC.
    ClientPort,
    /// It speaks HTTP/1.
    Http1 { found_at: Instant },
}

/// One node's address and its connections.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: Arc<str>,
    endpoint: Endpoint,
    connector: Connector,
    lines: Vec<Line>,
    next: AtomicUsize,
    /// In milliseconds since the pool was made; 0 when nothing is held against the node.
    suspect_until: AtomicU64,
    nature: RwLock<Nature>,
}

/// A place for one connection.
#[derive(Debug, Default)]
struct Line {
    live: RwLock<Option<Arc<Live>>>,
    /// Held by the one who dials.
    dialling: Mutex<String>,
    /// Attempts to dial that failed.
    failures: AtomicU64,
}

/// A connection that was made.
#[derive(Debug)]
struct Live {
    channel: Channel,
    /// Answers that came over it, of whatever call.
    answers: AtomicU64,
}

/// A connection that is there, for one attempt, and how to give it up.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    line: usize,
    live: Arc<Live>,
    answers_before: u64,
}

impl Connection {
    fn of(live: &Arc<Live>, line: usize) -> Self {
        let answers_before = live.answers.load(Relaxed);
        Self { channel: live.channel.clone(), line, live: live.clone(), answers_before }
    }

    /// Something came back over it.
    pub(crate) fn answered(&self) {
        self.live.answers.fetch_add(1, Relaxed);
    }

    /// Whether no call at all was answered over it since this attempt began.
    fn is_mute(&self) -> bool {
        self.live.answers.load(Relaxed) == self.answers_before
    }
}

impl Node {
    fn new(address: Arc<str>, dialling: &Dialling) -> Result<Self, Error> {
        let refuse = |message: String| Error::configuration(format!("endpoint {address}"), message);
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| refuse(error.to_string()))?
            .tcp_nodelay(true)
            .connect_timeout(dialling.connect_timeout)
            .tcp_keepalive(Some(KEEP_ALIVE_INTERVAL))
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Ok(Self {
            address,
            endpoint,
            connector: dialling.connector.clone(),
            lines: (0..dialling.channels_per_node).map(|_| Line::default()).collect(),
            next: AtomicUsize::new(0),
            suspect_until: AtomicU64::new(0),
            nature: RwLock::new(Nature::Unknown),
        })
    }

    /// Notes what was found at the address.
    pub(crate) fn found(&self, nature: Nature) {
        let before = std::mem::replace(&mut *self.nature.write(), nature);
        let is_http1 = |nature| matches!(nature, Nature::Http1 { .. });
        if is_http1(nature) && !is_http1(before) {
            tracing::warn!(
                address = %self.address,
                "passed over: it speaks HTTP/1, so it is no node's client port"
            );
        }
    }

    /// What is at the address; what was no client port a while ago may be one now.
    pub(crate) fn nature(&self) -> Nature {
        match *self.nature.read() {
            Nature::Http1 { found_at } if found_at.elapsed() >= HTTP1_FOR => Nature::Unknown,
            nature => nature,
        }
    }

    /// Whether nothing may be sent to it.
    pub(crate) fn speaks_http1(&self) -> bool {
        matches!(self.nature(), Nature::Http1 { .. })
    }

    /// A connection, the node's lines by turns; dialled now if there is none.
    ///
    /// Ordering: dialled here and not by a lazy channel. A lazy one lets its queue fail one by one, each after
    /// a connect timeout of its own; here all who wait share one attempt, and whoever gets an error
    /// knows that nothing was sent.
    pub(crate) async fn connection(&self) -> Result<Connection, String> {
        let line = self.next.fetch_add(1, Relaxed) % self.lines.len();
        let Line { live, dialling, failures } = &self.lines[line];
        if let Some(live) = &*live.read() {
            return Ok(Connection::of(live, line));
        }
        let failures_before = failures.load(Relaxed);
        let mut last_failure = dialling.lock().await;
        if let Some(live) = &*live.read() {
            return Ok(Connection::of(live, line));
        }
        if failures.load(Relaxed) != failures_before {
            return Err(last_failure.clone());
        }
        match self.connector.channel(&self.endpoint, &self.address).await {
            Ok(channel) => {
                let made = Arc::new(Live { channel, answers: AtomicU64::new(0) });
                *live.write() = Some(made.clone());
                Ok(Connection::of(&made, line))
            }
            Err(error) => {
                *last_failure = root_cause(&error);
                failures.fetch_add(1, Relaxed);
                Err(last_failure.clone())
            }
        }
    }

    /// A connection that no gRPC is spoken over, to find out what is there.
    pub(crate) async fn stream(&self) -> io::Result<Pin<Box<dyn Stream>>> {
        self.connector.stream(&self.address).await
    }

    /// Learns from an attempt that failed. When the connection is of no more use the next caller dials;
    /// calls that are under way on it go on.
    ///
    /// Silence alone is no proof, since a slow node is silent too. A connection over which nobody had
    /// an answer meanwhile may lead to a machine that is gone: whoever dials the same name anew may
    /// come to another one, which is all that a client of a service's address can do about it. The same
    /// goes for one that leads to a node that was removed from its cluster.
    pub(crate) fn failed(&self, connection: &Connection, failure: &Failure) {
        let is_over = match failure {
            Failure::Silent => connection.is_mute(),
            Failure::NotSent { .. } | Failure::Broken { is_cut: true, .. } => true,
            Failure::Answered { .. } | Failure::Broken { is_cut: false, .. } => {
                connection.answered();
                is_of_removed(failure)
            }
        };
        let mut live = self.lines[connection.line].live.write();
        // Not one that was made since.
        if is_over && live.as_ref().is_some_and(|live| Arc::ptr_eq(live, &connection.live)) {
            *live = None;
        }
    }
}

/// A node that was removed will never serve again, but may go on to answer for a while.
fn is_of_removed(failure: &Failure) -> bool {
    let Failure::Answered { detail, .. } = failure else { return false };
    matches!(&detail.reason, Some(Reason::NotJoined(NotJoined { removed: true })))
}

/// All nodes that are known: those the caller named, and those that answers named since.
#[derive(Debug)]
pub(crate) struct NodePool {
    dialling: Dialling,
    born: Instant,
    /// Invariant: never empty, and never forgotten.
    seeds: Vec<Arc<str>>,
    /// Ordered, so that who is asked next is not up to a hash.
    nodes: RwLock<BTreeMap<Arc<str>, Arc<Node>>>,
    next: AtomicUsize,
}

impl NodePool {
    /// # Errors
    /// [`Error::Configuration`] when there is no endpoint or one is malformed.
    pub(crate) fn new(endpoints: &[String], dialling: Dialling) -> Result<Self, Error> {
        if !(1..=64).contains(&dialling.channels_per_node) {
            return Err(Error::configuration("channels_per_node", "must be 1 to 64"));
        }
        let mut seeds: Vec<Arc<str>> = Vec::new();
        let mut nodes = BTreeMap::new();
        for endpoint in endpoints {
            let address: Arc<str> = parse_endpoint(endpoint)?.into();
            if nodes.contains_key(&address) {
                continue;
            }
            seeds.push(address.clone());
            nodes.insert(address.clone(), Arc::new(Node::new(address, &dialling)?));
        }
        if seeds.is_empty() {
            return Err(Error::configuration("endpoints", "at least one is needed"));
        }
        let nodes = RwLock::new(nodes);
        Ok(Self { dialling, born: Instant::now(), seeds, nodes, next: AtomicUsize::new(0) })
    }

    /// The endpoint that the caller named first.
    pub(crate) fn first_seed(&self) -> Arc<str> {
        self.seeds[0].clone()
    }

    /// The endpoints that the caller named.
    pub(crate) fn seeds(&self) -> &[Arc<str>] {
        &self.seeds
    }

    /// The node at an address, taken in if it is new.
    pub(crate) fn get(&self, address: &str) -> Result<Arc<Node>, Error> {
        if let Some(node) = self.nodes.read().get(address) {
            return Ok(node.clone());
        }
        let node = Arc::new(Node::new(parse_endpoint(address)?.into(), &self.dialling)?);
        let mut nodes = self.nodes.write();
        if nodes.len() >= NODES_MAX {
            return Err(Error::configuration("nodes", format!("more than {NODES_MAX}")));
        }
        Ok(nodes.entry(node.address.clone()).or_insert(node).clone())
    }

    /// The endpoints that are no client ports, as far as that is known.
    pub(crate) fn passed_over(&self) -> Vec<String> {
        let seeds = self.seeds.iter().filter_map(|address| self.get(address).ok());
        seeds.filter(|node| node.speaks_http1()).map(|node| node.address.to_string()).collect()
    }

    /// Some node, by turns: rather one that is not in `avoid`, rather one that answers. One that is no
    /// client port only when there is no other.
    pub(crate) fn pick(&self, avoid: &[Arc<str>]) -> Arc<Node> {
        let nodes = self.nodes.read();
        let mut all: Vec<&Arc<Node>> = nodes.values().collect();
        let first = self.next.fetch_add(1, Relaxed) % all.len();
        all.rotate_left(first);
        let rank = |node: &&Arc<Node>| {
            (node.speaks_http1(), avoid.contains(&node.address), self.is_suspect(node))
        };
        let best = all.into_iter().min_by_key(rank).expect("the seeds are never forgotten");
        best.clone()
    }

    /// Whether some node is neither in `avoid` nor known to be out of reach.
    pub(crate) fn has_other(&self, avoid: &[Arc<str>]) -> bool {
        let nodes = self.nodes.read();
        nodes.values().any(|node| {
            !node.speaks_http1() && !avoid.contains(&node.address) && !self.is_suspect(node)
        })
    }

    /// Whether every node is in `asked`, but for those that are no client ports.
    pub(crate) fn all_in(&self, asked: &[Arc<str>]) -> bool {
        let nodes = self.nodes.read();
        nodes.values().all(|node| node.speaks_http1() || asked.contains(&node.address))
    }

    /// Passes a node over for a moment.
    pub(crate) fn suspect(&self, node: &Node) {
        node.suspect_until.store(self.now_millis() + SUSPICION.as_millis() as u64, Relaxed);
    }

    /// The node answered.
    pub(crate) fn trust(&self, node: &Node) {
        if node.suspect_until.load(Relaxed) != 0 {
            node.suspect_until.store(0, Relaxed);
        }
    }

    pub(crate) fn is_suspect(&self, node: &Node) -> bool {
        let until = node.suspect_until.load(Relaxed);
        until != 0 && self.now_millis() < until
    }

    fn now_millis(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    /// Replaces the learnt addresses by these; the seeds stay.
    pub(crate) fn replace_learnt(&self, addresses: &[String]) {
        for address in addresses {
            // A node that told others a malformed address is reached through the others.
            let _ = self.get(address);
        }
        let is_listed = |address: &Arc<str>| addresses.iter().any(|listed| **listed == **address);
        self.nodes.write().retain(|address, _| self.seeds.contains(address) || is_listed(address));
    }
}

/// `host:port` of `host:port` or `http://host:port`.
fn parse_endpoint(endpoint: &str) -> Result<String, Error> {
    let refuse = |message: &str| {
        Err(Error::configuration(format!("endpoint {endpoint:?}"), message.to_owned()))
    };
    let trimmed = endpoint.trim();
    if trimmed.starts_with("https://") {
        return refuse("TLS is not supported yet, use http://");
    }
    let address = trimmed.strip_prefix("http://").unwrap_or(trimmed).trim_end_matches('/');
    match address::parse(address) {
        Ok(_) => Ok(address.to_owned()),
        Err(problem) => refuse(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(endpoints: &[&str]) -> Result<NodePool, Error> {
        let endpoints: Vec<String> = endpoints.iter().map(|one| (*one).to_owned()).collect();
        let connect_timeout = Duration::from_secs(1);
        let connector = Connector::default();
        NodePool::new(&endpoints, Dialling { channels_per_node: 1, connect_timeout, connector })
    }

    #[test]
    fn endpoints_are_host_and_port_with_or_without_http() {
        for (endpoint, want) in [
            ("127.0.0.1:7420", Some("127.0.0.1:7420")),
            ("http://127.0.0.1:7420", Some("127.0.0.1:7420")),
            ("http://node-0.flotilla:7420/", Some("node-0.flotilla:7420")),
            ("[::1]:7420", Some("[::1]:7420")),
            ("::1:7420", None),
            ("https://a:7420", None),
            ("a", None),
            (":7420", None),
            ("a:0", None),
            ("a:70000", None),
            ("a b:1", None),
            ("a/b:1", None),
            ("", None),
        ] {
            assert_eq!(parse_endpoint(endpoint).ok().as_deref(), want, "{endpoint:?}");
        }
    }

    #[tokio::test]
    async fn nodes_take_turns_and_suspects_come_last() {
        let pool = pool(&["a:1", "b:1", "a:1"]).expect("well-formed");
        assert_eq!(pool.seeds().len(), 2, "the same endpoint twice is one node");
        let picked: Vec<_> = (0..4).map(|_| pool.pick(&[]).address.to_string()).collect();
        assert_eq!(picked, ["a:1", "b:1", "a:1", "b:1"]);

        let a = pool.get("a:1").expect("known");
        pool.suspect(&a);
        assert!((0..4).all(|_| &*pool.pick(&[]).address == "b:1"));
        let b: Arc<str> = "b:1".into();
        assert!(!pool.has_other(std::slice::from_ref(&b)));
        assert_eq!(&*pool.pick(&[b]).address, "a:1", "a suspect is better than one that refused");
        pool.trust(&a);
        assert!(!pool.is_suspect(&a));
    }

    #[tokio::test]
    async fn seeds_outlive_a_listing_that_does_not_name_them() {
        let pool = pool(&["seed:1"]).expect("well-formed");
        pool.replace_learnt(&["x:1".into(), "not an address".into()]);
        assert!(pool.nodes.read().contains_key("x:1"));
        pool.replace_learnt(&["y:1".into()]);
        let known: Vec<_> = pool.nodes.read().keys().map(ToString::to_string).collect();
        assert_eq!(known, ["seed:1", "y:1"]);
    }

    #[tokio::test]
    async fn a_client_without_endpoints_is_refused() {
        assert!(pool(&[]).is_err());
    }

    #[tokio::test]
    async fn all_who_wait_for_a_connection_share_one_failure() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let pool = pool(&[&address]).expect("well-formed");
        let node = pool.pick(&[]);
        let outcomes = futures::future::join_all((0..50).map(|_| node.connection())).await;
        assert!(outcomes.iter().all(Result::is_err));
        assert_eq!(node.lines[0].failures.load(Relaxed), 1, "nobody dialled again");
        assert!(node.connection().await.is_err());
        assert_eq!(node.lines[0].failures.load(Relaxed), 2, "a later caller does");
    }
}
