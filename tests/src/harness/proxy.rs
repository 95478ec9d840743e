//! A link between two nodes that is only so fast.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::elapse;

/// What is carried at a time.
const PART_BYTES: usize = 16 << 10;

/// Carries TCP connections to a node, in both directions together no faster than it was told. Ends when it
/// is dropped.
pub struct Proxy {
    carried: Arc<Carried>,
    accepting: JoinHandle<()>,
}

struct Carried {
    bytes_per_second: u64,
    bytes: AtomicU64,
    free_at: Mutex<Instant>,
}

impl Proxy {
    /// Takes connections at `from` and carries them to `to`.
    ///
    /// # Panics
    /// When `from` is taken.
    pub async fn start(from: SocketAddr, to: SocketAddr, bytes_per_second: u64) -> Self {
        let listener = TcpListener::bind(from).await.expect("listen as a proxy");
        let free_at = Mutex::new(Instant::now());
        let carried = Arc::new(Carried { bytes_per_second, bytes: AtomicU64::new(0), free_at });
        let accepting = tokio::spawn(Arc::clone(&carried).accept(listener, to));
        Self { carried, accepting }
    }

    /// How much was carried so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.carried.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Carried {
    async fn accept(self: Arc<Self>, listener: TcpListener, to: SocketAddr) {
        // Ends with the future.
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let this = Arc::clone(&self);
            connections.spawn(async move {
                // Where nobody listens, the connection is closed at once.
                let Ok(far) = TcpStream::connect(to).await else { return };
                for stream in [&near, &far] {
                    stream.set_nodelay(true).ok();
                }
                let (near, far) = (near.into_split(), far.into_split());
                tokio::select! {
                    () = this.carry(near.0, far.1) => {}
                    () = this.carry(far.0, near.1) => {}
                }
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn carry(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut part = vec![0; PART_BYTES];
        loop {
            let Ok(bytes @ 1..) = from.read(&mut part).await else { return };
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            let free = {
                let mut free_at = self.free_at.lock();
                let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
                *free_at = (*free_at).max(Instant::now()) + takes;
                *free_at
            };
            // A timer is no finer than a millisecond; the mean is what counts.
            let wait = free.saturating_duration_since(Instant::now());
            if wait > Duration::from_millis(2) {
                elapse(wait).await;
            }
            if to.write_all(&part[..bytes]).await.is_err() {
                return;
            }
        }
    }
}
