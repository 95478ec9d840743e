//! An HTTP/2 connection that a tonic client can call directly.
//!
//! tonic's own `Channel` puts a queue and a task between caller and connection, which costs about as
//! much CPU as the call. The generator shares two cores with six servers, so that is left out: a
//! call goes straight to hyper. The price is that a broken connection stays broken; for a
//! measurement that is right, because its errors are counted instead of hidden.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::Context as _;
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::body::Body;
use tower::Service;

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Http2 {
    sender: http2::SendRequest<Body>,
}

impl Http2 {
    /// Opens a connection to `host:port` without TLS, and the origin to call it by.
    pub async fn connect(endpoint: &str) -> anyhow::Result<(Self, Uri)> {
        let origin = format!("http://{endpoint}").parse().context("parse the endpoint")?;
        let stream =
            TcpStream::connect(endpoint).await.with_context(|| format!("connect to {endpoint}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .with_context(|| format!("open HTTP/2 to {endpoint}"))?;
        // Its end is seen by every later call as an error.
        tokio::spawn(connection);
        Ok((Self { sender }, origin))
    }
}

impl Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
