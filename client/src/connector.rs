//! How a client reaches an address.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint, Uri};

/// What carries the bytes of a connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

type Dialled = BoxFuture<'static, io::Result<Pin<Box<dyn Stream>>>>;

/// How connections are made: over TCP, or by a function of the caller, for a proxy, a Unix socket, a network in
/// memory.
///
/// The function is told an address as `host:port`, just as the caller named it in
/// [`Client::connect`](crate::Client::connect) or as the cluster tells where a node is, and answers with what
/// carries bytes in order both ways. It is called for each connection, and again after one broke. Names are
/// its own affair, so is encryption; [`Options::connect_timeout`](crate::Options::connect_timeout) is the client's.
///
/// ```
/// use flotilla_client::{Connector, Options};
/// use tokio::net::UnixStream;
///
/// // Every node is reached through a proxy beside this program, one socket for each.
/// let connector = Connector::new(|address| UnixStream::connect(format!("/run/proxy/{address}")));
/// let options = Options { connector, ..Options::default() };
/// ```
///
/// # Cancel safety
/// The function's future is dropped when the time for a connection is over.
#[derive(Clone, Default)]
pub struct Connector {
    /// None: TCP.
    dial: Option<Arc<dyn Fn(String) -> Dialled + Send + Sync>>,
}

impl Connector {
    /// Connections that this function makes.
    pub fn new<F, Made, S>(dial: F) -> Self
    where
        F: Fn(String) -> Made + Send + Sync + 'static,
        Made: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let dial = move |address| -> Dialled {
            let made = dial(address);
            Box::pin(async { Ok(Box::pin(made.await?) as Pin<Box<dyn Stream>>) })
        };
        Self { dial: Some(Arc::new(dial)) }
    }

    /// A connection that speaks gRPC, of the endpoint at this address.
    pub(crate) async fn channel(
        &self,
        endpoint: &Endpoint,
        address: &str,
    ) -> Result<Channel, tonic::transport::Error> {
        let Some(dial) = &self.dial else { return endpoint.connect().await };
        let (dial, address) = (dial.clone(), address.to_owned());
        let service = tower::service_fn(move |_: Uri| {
            let dialled = dial(address.clone());
            async { dialled.await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(service).await
    }

    /// A connection that nothing was sent over yet.
    pub(crate) async fn stream(&self, address: &str) -> io::Result<Pin<Box<dyn Stream>>> {
        match &self.dial {
            Some(dial) => dial(address.to_owned()).await,
            None => Ok(Box::pin(TcpStream::connect(address).await?)),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.dial.is_some() { "Connector(of the caller)" } else { "Connector(TCP)" })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering::Relaxed, time::Duration};

    use flotilla_proto::v1;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::Instant,
    };

    use super::*;
    use crate::{
        Client, Error, Options,
        fake::{FakeCluster, pipes::Pipes},
    };

    fn options(connector: Connector) -> Options {
        Options { connector, timeout: Duration::from_secs(5), ..Options::default() }
    }

    /// Nobody could resolve these names, also not of the nodes that are learnt.
    #[tokio::test(start_paused = true)]
    async fn nodes_are_reached_by_the_connector_alone_those_that_are_learnt_too() {
        let pipes = Pipes::default();
        let cluster = FakeCluster::start_on(&pipes, 2);
        cluster.list_nodes();
        let first = [cluster.nodes[0].address.clone()];
        let client = Client::connect_with(first, options(pipes.connector())).await;
        let client = client.expect("well-formed");
        let mut number = 0;
        while cluster.nodes[1].seen("put").is_empty() {
            number += 1;
            assert!(number < 1000, "the other node is never asked");
            client.put(format!("k{number}"), "v").await.expect("stored");
        }
        assert!(pipes.dialled.load(Relaxed) >= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_connector_refuses_was_not_sent_and_its_words_are_told() {
        let refuse = |_: String| async { Err::<TcpStream, _>(io::Error::other("no such socket")) };
        let client = Client::connect_with(["node:1"], options(Connector::new(refuse))).await;
        let error = client.expect("well-formed").put("k", "v").await.expect_err("no node");
        assert!(matches!(&error, Error::TimedOut { .. }) && !error.maybe_applied(), "{error:?}");
        assert!(error.to_string().contains("no such socket"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connector_that_hangs_is_given_up_in_time() {
        let hang = |_: String| std::future::pending::<io::Result<TcpStream>>();
        let options = Options {
            connect_timeout: Duration::from_millis(300),
            ..options(Connector::new(hang))
        };
        let client = Client::connect_with(["node:1"], options).await.expect("well-formed");
        let begun = Instant::now();
        let asked = client.cluster().status_of("node:1").await;
        assert!(asked.is_err_and(|error| !error.maybe_applied()));
        assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_for_http_is_found_through_the_connector_too() {
        let speak_http1 = |_: String| async {
            let (near, mut far) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let mut seen = [0; 1024];
                let _ = far.read(&mut seen).await;
                let _ = far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            });
            Ok(near)
        };
        let client = Client::connect_with(["node:1"], options(Connector::new(speak_http1))).await;
        let error = client.expect("well-formed").put("k", "v").await.expect_err("no node");
        assert!(matches!(&error, Error::Configuration { .. }), "{error:?}");
    }

    /// What a simulation relies on: the same seed, the same calls to the same nodes at the same times.
    #[tokio::test(start_paused = true)]
    async fn a_seed_decides_which_node_is_asked_when() {
        let one = course(7).await;
        assert!(one.len() > 60, "{one:?}");
        assert_eq!(one, course(7).await);
        assert_ne!(one, course(8).await);
    }

    /// What three nodes that are busy now and then are asked by a client, and when.
    async fn course(seed: u64) -> Vec<(Duration, usize, &'static str)> {
        let _seeded = crate::random::seed(seed);
        let pipes = Pipes::default();
        let cluster = FakeCluster::start_on(&pipes, 3);
        cluster.list_nodes();
        cluster.list(&[crate::fake::region(2, &[0, 0, 1], b"", 5, &cluster.nodes[1])]);
        let asked = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let begun = Instant::now();
        for (number, node) in cluster.nodes.iter().enumerate() {
            let asked = asked.clone();
            node.script(move |seen| {
                asked.lock().push((begun.elapsed(), number, seen.method));
                (seen.method == "put" && seen.nth % 3 != 0).then(|| crate::fake::busy(0))
            });
        }
        let addresses = cluster.nodes.iter().map(|node| node.address.clone());
        let client = Client::connect_with(addresses, options(pipes.connector())).await;
        let client = client.expect("well-formed");
        for number in 0..20 {
            client.put(format!("k{number}"), "v").await.expect("stored in the end");
            client.get(format!("k{number}")).await.expect("read");
        }
        let regions = v1::ListRegionsRequest::default();
        client.cluster().list_regions(regions).await.expect("listed");
        std::mem::take(&mut *asked.lock())
    }
}
