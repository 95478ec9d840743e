//! Which cluster a client speaks to.
//!
//! Addresses outlive clusters: a node that was wiped and made a cluster of its own, or a second cluster on
//! the same names, would serve some of the calls with another truth. So the first call of a client asks
//! the endpoints that its caller named for their cluster, all at once. When they differ the client is
//! refused; else what they say is pinned, and every request names it from then on: a node of another
//! cluster refuses it, wherever the client heard of that node. Later calls cost a header.
//!
//! An address may be that of a node's HTTP port, or of something else that speaks no gRPC, and a write
//! that was sent there would be called one that may have been applied. So an address that has not answered
//! gRPC yet is asked who it is before anything else is sent there, whoever named it and whenever it is first
//! used: what fails by then was not sent. One that speaks HTTP/1 is passed over, with a warning, and asked
//! again after a while, since it may have been corrected. When all are that, it is said at once.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use flotilla_proto::{CLUSTER_ID_METADATA, v1};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::{
    Error,
    node_pool::{Connection, Nature, Node, NodePool},
    rpc::Rpc as _,
    verdict::Failure,
};

/// Bound: wait for any endpoint to answer; the call then goes on without.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Bound: wait for the others once one has answered. A dead endpoint costs the first call as much.
const OTHERS_MAX: Duration = Duration::from_millis(250);
/// When nobody answered, calls go on without for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The cluster that all clones of a client speak to, once it is known.
#[derive(Debug, Default)]
pub(crate) struct Pin {
    cluster: OnceLock<MetadataValue<Ascii>>,
    /// Held by the call that asks; when it was last asked in vain.
    asking: Mutex<Option<Instant>>,
}

impl Pin {
    /// Learns the cluster, unless it is known, before `deadline`.
    ///
    /// # Errors
    /// [`Error::Configuration`] when the endpoints belong to different clusters.
    pub(crate) async fn learn(&self, nodes: &NodePool, deadline: Instant) -> Result<(), Error> {
        if self.cluster.get().is_some() {
            return Ok(());
        }
        let mut in_vain = self.asking.lock().await;
        let now = Instant::now();
        let asked_lately =
            in_vain.is_some_and(|at| now.saturating_duration_since(at) < AGAIN_AFTER);
        if self.cluster.get().is_some() || asked_lately {
            return Ok(());
        }
        let until = now + (deadline.saturating_duration_since(now) / 2).min(ASK_MAX);
        match agree(&ask(nodes, until).await)? {
            Some(cluster) => {
                // The lock is held: nobody was faster.
                let _ = self.cluster.set(cluster);
            }
            None => *in_vain = Some(Instant::now()),
        }
        Ok(())
    }

    /// Names the cluster in a request.
    pub(crate) fn name(&self, metadata: &mut MetadataMap) {
        if let Some(cluster) = self.cluster.get() {
            metadata.insert(CLUSTER_ID_METADATA, cluster.clone());
        }
    }
}

/// What each endpoint says that its cluster is, of those that answer and belong to one. Those that say
/// nothing are passed over for a moment.
async fn ask(nodes: &NodePool, mut until: Instant) -> Vec<(Arc<str>, String)> {
    let seeds: Vec<Arc<Node>> =
        nodes.seeds().iter().filter_map(|address| nodes.get(address).ok()).collect();
    let mut asked: FuturesUnordered<_> =
        seeds.iter().map(|node| async move { (node, question(node, until).await) }).collect();
    let mut told = Vec::new();
    while let Ok(Some((node, answer))) = timeout_at(until, asked.next()).await {
        if let Ok(Some(cluster)) = answer {
            told.push((node.address.clone(), cluster));
            until = until.min(Instant::now() + OTHERS_MAX);
        }
    }
    let silent = seeds.iter().filter(|node| node.nature() == Nature::Unknown);
    silent.for_each(|node| nodes.suspect(node));
    told
}

/// The refusal to send anything to an address that is no node's client port.
pub(crate) fn no_client_port(address: &str) -> Error {
    Error::configuration(
        "endpoints",
        format!(
            "{address} speaks HTTP/1, so it is no node's client port: is it the port for HTTP?"
        ),
    )
}

/// A connection to a node's client port, before `until`; whatever fails here was not sent.
pub(crate) async fn connect(node: &Node, until: Instant) -> Result<Connection, Failure> {
    if node.nature() != Nature::ClientPort {
        prove(node, until).await.map_err(|message| Failure::NotSent { message })?;
    }
    dial(node, until).await
}

async fn dial(node: &Node, until: Instant) -> Result<Connection, Failure> {
    match timeout_at(until, node.connection()).await {
        Ok(connected) => connected.map_err(|message| Failure::NotSent { message }),
        Err(_) => Err(Failure::NotSent { message: "no connection in time".into() }),
    }
}

/// Finds that an address is a node's client port, or why that is not known.
async fn prove(node: &Node, until: Instant) -> Result<(), String> {
    let now = Instant::now();
    // Bound: half of the time, so that some is left for another node.
    let until = now + until.saturating_duration_since(now) / 2;
    let failure = match node.nature() {
        Nature::Unknown => question(node, until).await.err(),
        Nature::ClientPort | Nature::Http1 { .. } => None,
    };
    if node.speaks_http1() {
        return Err("it speaks HTTP/1, so it is no node's client port".into());
    }
    match failure {
        Some(Failure::NotSent { message } | Failure::Broken { message, .. }) => Err(message),
        Some(Failure::Silent | Failure::Answered { .. }) => Err("no answer in time".into()),
        None => Ok(()),
    }
}

/// Asks who is at an address, and notes what it is; answers the cluster of a node that is of one.
async fn question(node: &Node, until: Instant) -> Result<Option<String>, Failure> {
    let connection = dial(node, until).await?;
    let request = tonic::Request::new(v1::StatusRequest { without_peers: true, after_region: 0 });
    let asking = v1::StatusRequest::send(connection.channel.clone(), request);
    let failure = match timeout_at(until, asking).await {
        Ok(Ok(status)) => {
            connection.answered();
            node.found(Nature::ClientPort);
            let status = status.into_inner();
            // A node that was removed speaks for nobody.
            let speaks = !status.removed && !status.cluster_id.is_empty();
            return Ok(speaks.then_some(status.cluster_id));
        }
        Ok(Err(status)) => Failure::from(status),
        Err(_) => Failure::Silent,
    };
    node.failed(&connection, &failure);
    match failure {
        // A refusal is an answer too.
        Failure::Answered { .. } | Failure::Broken { is_cut: false, .. } => {
            node.found(Nature::ClientPort);
            Ok(None)
        }
        Failure::NotSent { .. } | Failure::Broken { is_cut: true, .. } => {
            if matches!(timeout_at(until, speaks_http1(node)).await, Ok(Ok(true))) {
                node.found(Nature::Http1 { found_at: Instant::now() });
            }
            Err(failure)
        }
        Failure::Silent => Err(failure),
    }
}

/// Whether a request of HTTP/1 is answered as such; a client port speaks HTTP/2 alone.
async fn speaks_http1(node: &Node) -> std::io::Result<bool> {
    const ANSWER: &[u8] = b"HTTP/1.";
    let mut stream = node.stream().await?;
    stream
        .write_all(b"HEAD /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer == ANSWER)
}

/// The one cluster that all name; `None` when nobody names one.
fn agree(told: &[(Arc<str>, String)]) -> Result<Option<MetadataValue<Ascii>>, Error> {
    let Some((first, cluster)) = told.first() else { return Ok(None) };
    if let Some((other, theirs)) = told.iter().find(|(_, theirs)| theirs != cluster) {
        let message = format!(
            "{first} is of cluster {cluster}, {other} of cluster {theirs}: name the nodes of one cluster"
        );
        return Err(Error::configuration("endpoints", message));
    }
    Ok(cluster.parse().ok())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::{Client, fake::FakeCluster};

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn endpoints_of_different_clusters_are_refused_by_both_ids() {
        let (ours, theirs) = (FakeCluster::start(1).await, FakeCluster::start(1).await);
        ours.nodes[0].belong_to("1111111111111111");
        theirs.nodes[0].belong_to("2222222222222222");
        let endpoints = [&ours.nodes[0].address, &theirs.nodes[0].address];
        let client = Client::connect(endpoints).await.expect("well-formed");
        for _ in 0..2 {
            let error = client.put("k", "v").await.expect_err("two clusters");
            let Error::Configuration { what, message } = &error else { panic!("{error:?}") };
            assert_eq!(what, "endpoints");
            for part in ["1111111111111111", "2222222222222222", endpoints[0], endpoints[1]] {
                assert!(message.contains(part), "{message}");
            }
        }
        assert_eq!(ours.count("put") + theirs.count("put"), 0, "nothing was sent");
    }

    #[tokio::test]
    async fn every_request_names_the_cluster_once_it_is_known() {
        let cluster = FakeCluster::start(2).await;
        cluster.nodes.iter().for_each(|node| node.belong_to("1111111111111111"));
        let client = cluster.client(TIMEOUT).await;
        client.put("k", "v").await.expect("put");
        let asked = cluster.count("status");
        assert_eq!(asked, 2, "each endpoint, once");
        client.get("k").await.expect("get");
        let named: Vec<_> = cluster.nodes.iter().flat_map(|node| node.named("put")).collect();
        assert_eq!(named, ["1111111111111111"]);
        assert_eq!(cluster.count("status"), asked, "it is known");
    }

    /// An address where HTTP/1 is spoken, as long as the runtime runs.
    async fn port_for_http() -> String {
        port_for_http_at("127.0.0.1:0").await
    }

    async fn port_for_http_at(address: &str) -> String {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let serve = async |mut stream: TcpStream| {
            let mut seen = [0; 1024];
            let read = stream.read(&mut seen).await.unwrap_or(0);
            let answer = match seen[..read].starts_with(b"PRI ") {
                true => "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n",
                false => "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn ports_for_http_alone_are_called_that_at_once() {
        let (one, other) = (port_for_http().await, port_for_http().await);
        for endpoints in [vec![&one], vec![&one, &other]] {
            let client = Client::connect(endpoints.clone()).await.expect("well-formed");
            for _ in 0..2 {
                let begun = Instant::now();
                let error = client.put("k", "v").await.expect_err("no node");
                assert!(matches!(&error, Error::Configuration { .. }), "{error:?}");
                assert!(endpoints.iter().all(|one| error.to_string().contains(*one)), "{error}");
                assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            }
        }
    }

    /// One that answers is enough: what is no client port is passed over, and sent nothing.
    #[tokio::test]
    async fn port_for_http_among_client_ports_is_passed_over() {
        let (cluster, address) = (FakeCluster::start(1).await, port_for_http().await);
        for endpoints in
            [[&address, &cluster.nodes[0].address], [&cluster.nodes[0].address, &address]]
        {
            let client = Client::connect(endpoints).await.expect("well-formed");
            for number in 0..6 {
                // By turns one of them would go to the port for HTTP.
                client.put(format!("k{number}"), "v").await.expect("the other is a node");
            }
            assert_eq!(client.shared.nodes.passed_over(), std::slice::from_ref(&address));
            let error = client.cluster().status_of(&address).await.expect_err("no node");
            assert!(matches!(&error, Error::Configuration { .. }), "{error:?}");
        }
        assert_eq!(cluster.count("put"), 12);

        // To make a cluster the first one is asked, and no other.
        let endpoints = [&address, &cluster.nodes[0].address];
        let client = Client::connect(endpoints).await.expect("well-formed");
        let error = client.cluster().initialize(v1::InitializeRequest::default()).await;
        let error = error.expect_err("no node");
        assert!(error.to_string().contains(&address) && !error.maybe_applied(), "{error}");
        assert_eq!(cluster.count("initialize"), 0);

        // That nodes which say that they are of no cluster are all there are is found all the same.
        let reason = v1::error_detail::Reason::NotJoined(v1::NotJoined { removed: false });
        let detail = v1::ErrorDetail { reason: Some(reason), ..Default::default() };
        let unjoined = crate::fake::typed(tonic::Code::Unavailable, detail);
        cluster.nodes[0].script(move |seen| {
            (seen.method == "get").then(|| crate::fake::Fault::Refuse(unjoined.clone()))
        });
        let begun = Instant::now();
        let error = client.get("k").await.expect_err("no cluster");
        assert!(matches!(error, Error::NotJoined { .. }), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }

    /// Where nothing listens.
    fn free_address() -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").to_string()
    }

    /// It was down when the cluster was pinned, so nobody has asked it.
    #[tokio::test]
    async fn write_goes_only_where_grpc_was_spoken_before() {
        let (cluster, address) = (FakeCluster::start(1).await, free_address());
        let client = Client::connect([&address, &cluster.nodes[0].address]).await;
        let client = client.expect("well-formed");
        client.put("k", "v").await.expect("the other is a node");
        port_for_http_at(&address).await;
        let nodes = &client.shared.nodes;
        nodes.trust(&nodes.get(&address).expect("an endpoint"));
        for number in 0..6 {
            client.put(format!("k{number}"), "v").await.expect("the other is a node");
        }
        assert_eq!(nodes.passed_over(), [address]);
        assert_eq!(cluster.count("put"), 7);
    }

    /// Found one after the other, and not by one question.
    #[tokio::test]
    async fn endpoints_that_are_all_found_to_speak_http1_are_called_that() {
        let (one, other) = (port_for_http().await, free_address());
        let options = crate::Options { timeout: TIMEOUT, ..Default::default() };
        let client = Client::connect_with([&one, &other], options).await.expect("well-formed");
        let impatient = client.with_timeout(Duration::from_millis(400)).expect("long enough");
        let error = impatient.put("k", "v").await.expect_err("no node");
        assert!(matches!(&error, Error::TimedOut { .. }), "{error:?}");
        assert_eq!(client.shared.nodes.passed_over(), std::slice::from_ref(&one));
        port_for_http_at(&other).await;
        let error = client.put("k", "v").await.expect_err("no node");
        assert!(matches!(&error, Error::Configuration { .. }), "{error:?}");
        assert!([&one, &other].iter().all(|one| error.to_string().contains(*one)), "{error}");
    }

    #[tokio::test]
    async fn endpoint_that_spoke_http1_is_asked_again_after_a_while() {
        let cluster = FakeCluster::start(2).await;
        let client = cluster.client(TIMEOUT).await;
        client.put("k", "v").await.expect("put");
        let address = &cluster.nodes[0].address;
        let node = client.shared.nodes.get(address).expect("an endpoint");
        let status = async || client.cluster().status_of(address).await;

        node.found(Nature::Http1 { found_at: Instant::now() });
        let error = status().await.expect_err("it is no client port");
        assert!(matches!(error, Error::Configuration { .. }), "{error:?}");
        let a_while_ago = Instant::now() - Duration::from_secs(61);
        node.found(Nature::Http1 { found_at: a_while_ago });
        status().await.expect("it is one now");
        assert_eq!(client.shared.nodes.passed_over(), [""; 0]);
    }

    #[tokio::test]
    async fn answer_of_a_node_without_a_cluster_shows_a_client_port_too() {
        let cluster = FakeCluster::start(1).await;
        let reason = v1::error_detail::Reason::NotJoined(v1::NotJoined { removed: false });
        let detail = v1::ErrorDetail { reason: Some(reason), ..Default::default() };
        let unjoined = crate::fake::typed(tonic::Code::Unavailable, detail);
        cluster.nodes[0].script(move |seen| {
            (seen.method == "status").then(|| crate::fake::Fault::Refuse(unjoined.clone()))
        });
        let client = cluster.client(TIMEOUT).await;
        let node = client.shared.nodes.get(&cluster.nodes[0].address).expect("an endpoint");
        node.found(Nature::Http1 { found_at: Instant::now() });
        client.cluster().initialize(v1::InitializeRequest::default()).await.expect("made");
        assert_eq!(cluster.count("initialize"), 1);
    }

    #[tokio::test]
    async fn endpoint_that_does_not_answer_holds_up_nobody_for_long() {
        let cluster = FakeCluster::start(2).await;
        cluster.nodes.iter().for_each(|node| node.belong_to("1111111111111111"));
        cluster.nodes[1]
            .script(|seen| (seen.method == "status").then_some(crate::fake::Fault::Hang));
        let client = cluster.client(TIMEOUT).await;
        let begun = Instant::now();
        client.put("k", "v").await.expect("put");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let named: Vec<_> = cluster.nodes.iter().flat_map(|node| node.named("put")).collect();
        assert_eq!(named, ["1111111111111111"]);
    }
}
