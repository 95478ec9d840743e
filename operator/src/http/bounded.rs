//! A listener with so many connections at a time, each for so long.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// Bound: connections at a time; others wait in the queue of the system. Those who ask are a Prometheus or
/// two, and the kubelet.
const CONNECTIONS_MAX: usize = 64;
/// Bound: how long a connection may take to be answered for the first time, which is until its request was
/// read. Shorter than the kubelet waits for `/livez`, so that it gets a place in time behind as many as
/// there may be that say nothing.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// Bound: how long a connection may last, whatever it does. Longer than any scrape, and shorter than the
/// kubelet's patience, so that those who ask and then stay do not get the operator restarted.
const LIFETIME: Duration = Duration::from_secs(15);

pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    first_answer: Duration,
    lifetime: Duration,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self::with(listener, CONNECTIONS_MAX, FIRST_ANSWER, LIFETIME)
    }

    fn with(
        listener: TcpListener,
        connections: usize,
        first_answer: Duration,
        lifetime: Duration,
    ) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections)), first_answer, lifetime }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let places = Arc::clone(&self.places);
        let place = places.acquire_owned().await.expect("it is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let connection = Connection {
            stream,
            end: Box::pin(sleep(self.first_answer)),
            last: Some(Instant::now() + self.lifetime),
            _place: place,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection, and its place.
pub(super) struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    /// When it ends once it was answered; taken then.
    last: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn lives(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.lives(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(last) = self.last.take() {
            self.end.as_mut().reset(last);
        }
        self.lives(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const ASKS: &[u8] = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn serve(
        connections: usize,
        first_answer: Duration,
        lifetime: Duration,
    ) -> (SocketAddr, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let bounded = Bounded::with(listener, connections, first_answer, lifetime);
        let router = Router::new().route("/livez", get(|| async { "ok\n" }));
        (address, tokio::spawn(async move { axum::serve(bounded, router).await }))
    }

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(ASKS).await.expect("written");
        let mut answer = String::new();
        while !answer.ends_with("ok\n") {
            let mut part = [0; 512];
            let read = timeout(PATIENCE, stream.read(&mut part)).await;
            let count = read.expect("answered in time").expect("read");
            assert!(count > 0, "ended after {answer:?}");
            answer.push_str(&String::from_utf8_lossy(&part[..count]));
        }
        answer
    }

    /// As many as there may be say nothing, or say it byte by byte; who asks behind them is answered long
    /// before a connection's life ends, which here is an hour.
    #[tokio::test]
    async fn connections_that_say_nothing_keep_nobody_out_for_long() {
        let (address, server) =
            serve(CONNECTIONS_MAX, Duration::from_millis(200), Duration::from_secs(3600)).await;
        let mut silent = Vec::new();
        for index in 0..CONNECTIONS_MAX {
            let mut one = TcpStream::connect(address).await.expect("connected");
            if index % 2 == 0 {
                one.write_all(b"GET /livez HT").await.expect("written");
            }
            silent.push(one);
        }
        let mut asks = TcpStream::connect(address).await.expect("connected");
        assert!(ask(&mut asks).await.starts_with("HTTP/1.1 200"));
        for mut one in silent {
            let mut end = Vec::new();
            let ended = timeout(PATIENCE, one.read_to_end(&mut end)).await;
            assert!(ended.is_ok(), "it was let go on");
        }
        server.abort();
    }

    /// A Prometheus keeps its connection. One that was answered may stay, but not for ever.
    #[tokio::test]
    async fn connection_that_was_answered_stays_until_its_life_ends() {
        let short = Duration::from_millis(50);
        let (address, server) = serve(1, short, short * 40).await;
        let mut asks = TcpStream::connect(address).await.expect("connected");
        ask(&mut asks).await;
        sleep(short * 4).await;
        ask(&mut asks).await;
        let mut behind = TcpStream::connect(address).await.expect("connected");
        ask(&mut behind).await;
        server.abort();
    }

    /// The figures of the probes are the chart's.
    #[test]
    fn kubelet_is_answered_before_it_gives_up() {
        let chart = include_str!("../../../helm/flotilla/templates/deployment.yaml");
        let probes: Vec<_> = chart.split("Probe:\n").skip(1).collect();
        assert_eq!(probes.len(), 3);
        let figure = |probe: &str, name: &str| {
            let line = probe.lines().find_map(|line| line.trim().strip_prefix(name));
            let number = line.unwrap_or_else(|| panic!("{name} in {probe}"));
            Duration::from_secs(number.trim().parse().expect("a number"))
        };
        for probe in &probes {
            assert!(FIRST_ANSWER < figure(probe, "timeoutSeconds:"), "{probe}");
        }
        let liveness = probes.iter().find(|probe| probe.contains("failureThreshold: 3\n"));
        let liveness = liveness.expect("the liveness probe");
        // The last of its tries begins so long after the first.
        assert!(LIFETIME < figure(liveness, "periodSeconds:") * 2, "{liveness}");
    }
}
