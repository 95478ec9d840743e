//! Which cluster a client speaks to.
//!
//! Addresses outlive clusters: a node that was wiped and made a cluster of its own, or a second cluster on
//! the same names, would serve some of the calls with another truth. So the first call of a client asks
//! the endpoints that its caller named for their cluster, all at once. When they differ the client is
//! refused; else what they say is pinned, and every request names it from then on: a node of another
//! cluster refuses it, wherever the client heard of that node. Later calls cost a header.
//!
//! An endpoint that turns out to speak HTTP/1 is a node's HTTP port, or something else that will never
//! answer, and a write that was sent there would be called one that may have been applied. So nothing is sent
//! there: it is passed over, with a warning, while another endpoint may be a node's client port. When none
//! is, that is said at once, since no patience helps.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use flotilla_proto::{CLUSTER_ID_METADATA, v1};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::{
    Error,
    call::connect,
    node_pool::{Node, NodePool},
    rpc::Rpc as _,
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
    /// [`Error::Configuration`] when the endpoints belong to different clusters, or none is a node's client
    /// port: which they are, in words.
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
        match agree(&ask(nodes, until).await?)? {
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

/// What each endpoint says that its cluster is, of those that answer and belong to one. Those that are no
/// client ports are marked as such.
async fn ask(nodes: &NodePool, mut until: Instant) -> Result<Vec<(Arc<str>, String)>, Error> {
    let mut asked: FuturesUnordered<_> = nodes
        .seeds()
        .iter()
        .filter_map(|address| nodes.get(address).ok())
        .map(|node| async move {
            let told = cluster_of(&node, until).await;
            (node, told)
        })
        .collect();
    let (mut told, mut others) = (Vec::new(), Vec::new());
    while let Ok(Some((node, answer))) = timeout_at(until, asked.next()).await {
        match answer {
            Some(Told::Cluster(cluster)) => {
                node.set_speaks_http1(false);
                told.push((node.address.clone(), cluster));
                until = until.min(Instant::now() + OTHERS_MAX);
            }
            Some(Told::Http1) => others.push(node),
            None => {}
        }
    }
    if others.len() == nodes.seeds().len() {
        let addresses: Vec<&str> = others.iter().map(|node| &*node.address).collect();
        return Err(no_client_port(&addresses.join(" and ")));
    }
    others.iter().for_each(|node| node.set_speaks_http1(true));
    Ok(told)
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

/// What an endpoint is.
enum Told {
    Cluster(String),
    Http1,
}

async fn cluster_of(node: &Node, until: Instant) -> Option<Told> {
    let connection = connect(node, until).await.ok()?;
    let request = tonic::Request::new(v1::StatusRequest { without_peers: true, after_region: 0 });
    let asking = v1::StatusRequest::send(connection.channel.clone(), request);
    let status = match timeout_at(until, asking).await.ok()? {
        Ok(status) => status.into_inner(),
        // It was said by nobody: the connection broke.
        Err(status) if std::error::Error::source(&status).is_some() => {
            let speaks = timeout_at(until, speaks_http1(&node.address)).await;
            return matches!(speaks, Ok(Ok(true))).then_some(Told::Http1);
        }
        Err(_) => return None,
    };
    connection.answered();
    // A node that was removed speaks for nobody.
    let speaks = !status.removed && !status.cluster_id.is_empty();
    speaks.then_some(Told::Cluster(status.cluster_id))
}

/// Whether a request of HTTP/1 is answered as such; a client port speaks HTTP/2 alone.
async fn speaks_http1(address: &str) -> std::io::Result<bool> {
    const ANSWER: &[u8] = b"HTTP/1.";
    let mut stream = TcpStream::connect(address).await?;
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
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
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
