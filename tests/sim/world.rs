//! What surrounds the nodes: the network of turmoil, disks that take their time, and a record of what happened.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use flotilla_server::world::{self, Io, Listen, clock};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::marks::ServerMarks;

/// Everything that two runs of one seed must have in common: who sent something when, what was committed, what clients
/// were told.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: AtomicU64,
    messages: AtomicU64,
}

impl Trace {
    /// Adds to what happened.
    pub(crate) fn note(&self, bytes: &[u8]) {
        let hash = self.hash.load(Relaxed);
        let elapsed = turmoil::sim_elapsed().unwrap_or_default().as_nanos() as u64;
        let low = crc32c::crc32c_append(hash as u32, bytes);
        let high = crc32c::crc32c_append((hash >> 32) as u32, &elapsed.to_le_bytes());
        let mixed = (u64::from(high) << 32 | u64::from(low)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash.store(mixed.rotate_left(29) ^ u64::from(low), Relaxed);
        self.messages.fetch_add(1, Relaxed);
    }

    #[must_use]
    pub(crate) fn hash(&self) -> u64 {
        self.hash.load(Relaxed)
    }

    #[must_use]
    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }
}

/// What work with a disk takes at most while nothing is wrong with it, in microseconds.
pub(crate) const CALM_DISK_MICROS_MAX: u64 = 2_000;

/// What a message takes at most while nothing is wrong with the links.
pub(crate) const CALM_LATENCY_MAX: Duration = Duration::from_millis(5);

/// Connects a client to `host:port`.
pub(crate) async fn connect(authority: String) -> io::Result<TcpStream> {
    TcpStream::connect(authority).await
}

/// The world of one simulation.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) trace: Arc<Trace>,
    pub(crate) marks: ServerMarks,
    /// By host, microseconds that the slowest work with its disk takes now.
    disk_micros_max: Mutex<BTreeMap<usize, u64>>,
    /// Whose runtime is whose, since work with a disk does not say who does it.
    hosts: Mutex<BTreeMap<String, usize>>,
}

impl World {
    /// From now on the runtime of this task is that of a host.
    pub(crate) fn runs_here(&self, host: usize) {
        self.hosts.lock().expect("nobody panics with it").insert(runtime(), host);
    }

    /// What work with the disk of a host takes at most from now on.
    pub(crate) fn slow_disk(&self, host: usize, micros_max: u64) {
        self.disk_micros_max.lock().expect("nobody panics with it").insert(host, micros_max);
    }
}

/// Names the runtime of this task.
fn runtime() -> String {
    tokio::runtime::Handle::current().id().to_string()
}

impl world::World for World {
    fn connect(&self, authority: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let trace = Arc::clone(&self.trace);
        async move {
            let stream = TcpStream::connect(authority).await?;
            Ok(Box::new(Traced { stream, trace }) as Box<dyn Io>)
        }
        .boxed()
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listen>> {
        let bound = TcpListener::bind(address).now_or_never();
        let listener = bound.unwrap_or_else(|| Err(io::Error::other("turmoil binds at once")))?;
        Ok(Box::new(Port { address, listener, trace: Arc::clone(&self.trace) }))
    }

    fn sometimes(&self, name: &'static str) {
        self.marks.hit(name);
    }

    fn disk_takes(&self) -> Duration {
        let host = self.hosts.lock().expect("nobody panics with it").get(&runtime()).copied();
        let micros_max = self.disk_micros_max.lock().expect("nobody panics with it");
        let most = host.and_then(|host| micros_max.get(&host)).unwrap_or(&CALM_DISK_MICROS_MAX);
        clock::random_between(Duration::ZERO, Duration::from_micros(*most))
    }
}

struct Port {
    address: SocketAddr,
    listener: TcpListener,
    trace: Arc<Trace>,
}

impl Listen for Port {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Io>, SocketAddr)>> {
        async move {
            let (stream, from) = self.listener.accept().await?;
            let trace = Arc::clone(&self.trace);
            Ok((Box::new(Traced { stream, trace }) as Box<dyn Io>, from))
        }
        .boxed()
    }
}

/// A connection whose every write is part of the trace.
struct Traced {
    stream: TcpStream,
    trace: Arc<Trace>,
}

impl AsyncRead for Traced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Traced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            let ends =
                self.stream.local_addr().and_then(|from| Ok((from, self.stream.peer_addr()?)));
            tracing::trace!(?ends, count, "sent");
            self.trace.note(format!("{ends:?}").as_bytes());
            self.trace.note(&bytes[..*count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
