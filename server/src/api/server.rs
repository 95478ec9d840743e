//! The ports for clients: accepting connections, bounding them, closing them.
//!
//! Listeners and streams come from outside, so that a simulation can bring its own.

use std::{
    fmt::Display,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::stream::{self, Stream, StreamExt as _};
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Requests, Services, limits::ConnectionLimits};

/// After a failed accept, as when no file descriptor is left: time for connections to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a client of HTTP/2 says first.
const PREFACE_BYTES: usize = 24;

/// The connections of a TCP port, without delay for small packets.
pub fn listen(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        Some((accepted, listener))
    })
}

/// Serves gRPC on `incoming` until `shutdown`; then no connection is accepted, calls under way are
/// finished, and the future ends with the last of them.
///
/// Once `elsewhere` is cancelled, clients that are connected are told to connect anew, which leads
/// those behind a service to another node; calls under way are finished. Who comes later is
/// answered.
///
/// # Cancel safety
///
/// Dropping the future closes all connections, whatever they are doing.
pub async fn serve_grpc<R, IO>(
    incoming: impl Stream<Item = io::Result<IO>>,
    services: Services<R>,
    limits: &ConnectionLimits,
    elsewhere: CancellationToken,
    shutdown: impl Future<Output = ()>,
) where
    R: Requests,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits.streams_max)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buf_size(limits.send_buffer_bytes_max);
    let opening_timeout = limits.opening_timeout;
    let shutdown = async {
        shutdown.await;
        services.drain();
    };
    accept(incoming, limits.connections_max, shutdown, |io, closing: CancellationToken| {
        let read = Arc::new(AtomicUsize::new(0));
        let opened = Arc::clone(&read);
        let io = TokioIo::new(Opening { io, read });
        let connection = builder.serve_connection(io, services.clone());
        let (elsewhere, is_late) = (elsewhere.clone(), elsewhere.is_cancelled());
        let leave = async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = elsewhere.cancelled(), if !is_late => {}
            }
        };
        let silent = async move {
            sleep(opening_timeout).await;
            if opened.load(Ordering::Relaxed) >= PREFACE_BYTES {
                std::future::pending().await
            }
        };
        async move {
            tokio::select! {
                () = drive(connection, leave) => {}
                () = silent => debug!("connection said nothing"),
            }
        }
    })
    .await;
}

/// Serves HTTP/1 on `incoming` until `shutdown`, as [`serve_grpc`] does.
pub async fn serve_http<IO>(
    incoming: impl Stream<Item = io::Result<IO>>,
    router: axum::Router,
    limits: &ConnectionLimits,
    shutdown: impl Future<Output = ()>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.opening_timeout)
        .max_buf_size(limits.header_bytes_max.max(HTTP1_BUFFER_BYTES_MIN));
    accept(incoming, limits.connections_max, shutdown, |io, closing: CancellationToken| {
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(io), service);
        drive(connection, closing.cancelled_owned())
    })
    .await;
}

/// A percent-encoded key of the largest size fits in the head of a request.
const HTTP1_BUFFER_BYTES_MIN: usize = 64 << 10;

/// Runs one task per connection.
///
/// Bound: `connections_max` tasks; a connection beyond is closed at once, which its client sees.
async fn accept<IO, F>(
    incoming: impl Stream<Item = io::Result<IO>>,
    connections_max: usize,
    shutdown: impl Future<Output = ()>,
    serve: impl Fn(IO, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let closing = CancellationToken::new();
    {
        let mut incoming = pin!(incoming);
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = incoming.next() => match accepted {
                    Some(Ok(io)) if connections.len() < connections_max => {
                        connections.spawn(serve(io, closing.clone()));
                    }
                    Some(Ok(io)) => {
                        drop(io);
                        debug!(connections_max, "too many connections, closed a new one");
                    }
                    Some(Err(error)) => {
                        warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                    None => break,
                },
                // Disabled while there are none.
                Some(_) = connections.join_next() => {}
            }
        }
        // Ordering: the listener is closed here, before the wait, so that clients go elsewhere.
    }
    closing.cancel();
    while connections.join_next().await.is_some() {}
}

/// Serves a connection to its end; from `leave` on, calls under way are finished and no more are taken.
async fn drive<C>(connection: C, leave: impl Future<Output = ()>)
where
    C: GracefulConnection<Error: Display>,
{
    let (mut connection, mut leave) = (pin!(connection), pin!(leave));
    let mut open = true;
    loop {
        tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    debug!(%error, "connection ended");
                }
                return;
            }
            () = &mut leave, if open => {
                connection.as_mut().graceful_shutdown();
                open = false;
            }
        }
    }
}

/// A stream that counts what was read, until a connection has introduced itself.
struct Opening<IO> {
    io: IO,
    read: Arc<AtomicUsize>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Opening<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.io).poll_read(cx, buf);
        let read = this.read.load(Ordering::Relaxed);
        if read < PREFACE_BYTES {
            this.read.store(read + buf.filled().len() - before, Ordering::Relaxed);
        }
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Opening<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
