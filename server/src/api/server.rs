//! The ports for clients: accepting connections, bounding them, closing them.
//!
//! Listeners and streams come from outside, so that a simulation can bring its own.

use std::{
    fmt::Display,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::stream::{self, Stream, StreamExt as _};
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::{
    Services,
    admission::{Permit, Places},
    answer::CallTasks,
    limits::Limits,
};
use crate::{router::Requests, trail, world::accept};

/// After a failed accept, as when no file descriptor is left: time for connections to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a client of HTTP/2 says first.
const PREFACE_BYTES: usize = 24;

/// The connections of a TCP port, without delay for small packets. None of them is an error.
///
/// Bound: as many as there are `places`; a connection beyond is closed at once, which its client sees.
pub fn listen(
    listener: impl Into<accept::Listener>,
    places: Places,
) -> impl Stream<Item = io::Result<Connection<accept::Stream>>> {
    stream::unfold((listener.into(), places), |(mut listener, places)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = places.take() else {
                debug!("too many connections, closed a new one");
                continue;
            };
            // One that is closed already cannot be set.
            if stream.set_nodelay().is_ok() {
                return Some((Ok(Connection { stream, _place: place }), (listener, places)));
            }
        }
    })
}

/// Deals the connections of one listener out to threads with runtimes of their own, in turn.
///
/// One socket and one queue of the system is what a port has: with a socket for each thread (`SO_REUSEPORT`)
/// a second process of the same user could bind the port, too, and would get a share of the clients.
pub struct Dealer(Vec<mpsc::UnboundedSender<Connection<std::net::TcpStream>>>);

/// A dealer, and what each of so many threads is dealt.
pub fn dealer(
    threads: usize,
) -> (Dealer, Vec<impl Stream<Item = io::Result<Connection<accept::Stream>>> + Send + 'static>) {
    // Bound: a connection in here has one of the places of its port.
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..threads).map(|_| mpsc::unbounded_channel::<Connection<_>>()).unzip();
    let dealt = receivers.into_iter().map(|receiver| {
        stream::unfold(receiver, |mut receiver| async move {
            let Connection { stream, _place } = receiver.recv().await?;
            let stream = TcpStream::from_std(stream).map(accept::Stream::Tcp);
            Some((stream.map(|stream| Connection { stream, _place }), receiver))
        })
    });
    (Dealer(senders), dealt.collect())
}

impl Dealer {
    /// Deals until there are no more, or the future is dropped, which closes the listener.
    pub async fn deal(self, incoming: impl Stream<Item = io::Result<Connection<accept::Stream>>>) {
        let mut incoming = pin!(incoming);
        let mut threads = self.0.iter().cycle();
        while let Some(connection) = incoming.next().await {
            let leave_runtime = |Connection { stream, _place }: Connection<accept::Stream>| {
                Ok(Connection { stream: stream.into_std()?, _place })
            };
            match (connection.and_then(leave_runtime), threads.next()) {
                // Who has stopped takes none, which closes it.
                (Ok(connection), Some(thread)) => drop(thread.send(connection)),
                (Ok(_), None) => return,
                (Err(error), _) => debug!(%error, "connection cannot be handed over"),
            }
        }
    }
}

/// A connection that has one of the places of its port.
#[derive(Debug)]
pub struct Connection<IO> {
    stream: IO,
    /// Given back when it is dropped.
    _place: Permit,
}

/// A connection that a client has made.
pub trait OfClient {
    /// Where the client is, if that can be told.
    fn client(&self) -> Option<SocketAddr>;
}

impl OfClient for Connection<accept::Stream> {
    fn client(&self) -> Option<SocketAddr> {
        self.stream.from()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
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
    limits: &Limits,
    elsewhere: CancellationToken,
    shutdown: impl Future<Output = ()>,
) where
    R: Requests,
    IO: AsyncRead + AsyncWrite + OfClient + Unpin + Send + 'static,
{
    let stall_timeout = limits.stall_timeout;
    let mut builder = http2::Builder::new(CallTasks { stall_timeout });
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits.connections.streams_max)
        // Bound: calls that were cancelled before they were taken up, beyond which the connection is closed.
        // A client that gives up all its calls at once, as when a request of its own is dropped, does no wrong.
        .max_pending_accept_reset_streams(limits.connections.streams_max as usize)
        .keep_alive_interval(limits.connections.keepalive_interval)
        .keep_alive_timeout(limits.connections.keepalive_timeout)
        .max_header_list_size(
            u32::try_from(limits.connections.header_bytes_max).unwrap_or(u32::MAX),
        )
        .initial_stream_window_size(limits.connections.stream_window_bytes)
        .initial_connection_window_size(limits.connections.connection_window_bytes)
        .max_send_buf_size(limits.connections.send_buffer_bytes_max);
    let opening_timeout = limits.connections.opening_timeout;
    let shutdown = async {
        shutdown.await;
        services.drain();
    };
    accept(incoming, shutdown, |io, closing: CancellationToken| {
        let services = services.for_client(io.client());
        let (io, read) = Watched::new(io, stall_timeout);
        let io = TokioIo::new(io);
        let connection = builder.serve_connection(io, services);
        let (elsewhere, is_late) = (elsewhere.clone(), elsewhere.is_cancelled());
        let leave = async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = elsewhere.cancelled(), if !is_late => {}
            }
        };
        let spoken = move || read.load(Ordering::Relaxed) >= PREFACE_BYTES;
        unless_silent(opening_timeout, spoken, drive(connection, leave))
    })
    .await;
}

/// Serves HTTP/1 on `incoming` until `shutdown`, as [`serve_grpc`] does.
pub async fn serve_http<IO>(
    incoming: impl Stream<Item = io::Result<IO>>,
    router: axum::Router,
    limits: &Limits,
    shutdown: impl Future<Output = ()>,
) where
    IO: AsyncRead + AsyncWrite + OfClient + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Runs from the end of one request to the end of the next one's head.
        .header_read_timeout(limits.http_idle_timeout)
        .max_buf_size(limits.connections.header_bytes_max.max(HTTP1_BUFFER_BYTES_MIN));
    let (opening_timeout, stall_timeout) =
        (limits.connections.opening_timeout, limits.stall_timeout);
    accept(incoming, shutdown, |io, closing: CancellationToken| {
        let client = io.client();
        let (io, _) = Watched::new(io, stall_timeout);
        let (asked, asks) = (Arc::new(AtomicBool::new(false)), router.clone());
        let first = Arc::clone(&asked);
        let service = TowerToHyperService::new(tower::service_fn(move |request| {
            first.store(true, Ordering::Relaxed);
            trail::scope(client, asks.clone().oneshot(request))
        }));
        let connection = builder.serve_connection(TokioIo::new(io), service);
        let asked = move || asked.load(Ordering::Relaxed);
        unless_silent(opening_timeout, asked, drive(connection, closing.cancelled_owned()))
    })
    .await;
}

/// Ends a connection that has not `spoken` when `opening_timeout` is over.
async fn unless_silent(
    opening_timeout: Duration,
    spoken: impl Fn() -> bool,
    connection: impl Future<Output = ()>,
) {
    let silent = async {
        sleep(opening_timeout).await;
        if spoken() {
            std::future::pending().await
        }
    };
    tokio::select! {
        () = connection => {}
        () = silent => debug!("connection said nothing"),
    }
}

/// A percent-encoded key of the largest size fits in the head of a request.
const HTTP1_BUFFER_BYTES_MIN: usize = 64 << 10;

/// Runs one task per connection, of which [`listen`] bounds the number.
async fn accept<IO, F>(
    incoming: impl Stream<Item = io::Result<IO>>,
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
                    Some(Ok(io)) => {
                        connections.spawn(serve(io, closing.clone()));
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

/// A stream that counts what was read until a connection has introduced itself, and whose writes fail
/// when its other side takes nothing for `stall_timeout`.
struct Watched<IO> {
    io: IO,
    read: Arc<AtomicUsize>,
    stall_timeout: Duration,
    /// Made when a write has to wait for the first time.
    timer: Option<Pin<Box<Sleep>>>,
    /// Since the timer was set, a write waits.
    waits: bool,
}

impl<IO> Watched<IO> {
    fn new(io: IO, stall_timeout: Duration) -> (Self, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        (Self { io, read, stall_timeout, timer: None, waits: false }, counted)
    }

    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        let timeout = self.stall_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if !self.waits {
            self.waits = true;
            timer.as_mut().reset(Instant::now() + timeout);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
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

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.watch(cx, written)
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
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
