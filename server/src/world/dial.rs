//! Connections to other nodes.

use std::{
    io,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Error};
use tower::Service;

use super::{Io, simulated};

/// Bound: the time a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(2);
/// HTTP/2 windows: bandwidth times delay of a fast network between machines.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A node that can be called.
#[derive(Clone, Debug)]
pub struct Dial(Endpoint);

/// How nodes connect to each other.
///
/// # Errors
/// When `address` is no `host:port`.
pub fn node(address: &str) -> Result<Dial, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("address {address}: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(Dial(endpoint))
}

impl Dial {
    /// Connects now.
    ///
    /// # Errors
    /// When nobody answers there within a second.
    pub async fn connect(&self) -> Result<Channel, Error> {
        if simulated().is_some() {
            self.0.connect_with_connector(Simulated).await
        } else {
            self.0.connect().await
        }
    }

    /// Connects when it is first used, and again after the connection has broken.
    #[must_use]
    pub fn connect_lazy(&self) -> Channel {
        if simulated().is_some() {
            self.0.connect_with_connector_lazy(Simulated)
        } else {
            self.0.connect_lazy()
        }
    }
}

/// Connects through the simulation of the thread.
struct Simulated;

impl Service<Uri> for Simulated {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let world = simulated();
        Box::pin(async move {
            let Some(world) = world else { return Err(io::Error::other("the simulation is over")) };
            world.connect(authority).await.map(TokioIo::new)
        })
    }
}
