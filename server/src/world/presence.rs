//! Whether the connection is still open through which somebody spoke.
//!
//! A process that ends takes its connections with it, and the system tells the other side at once. That
//! a node's connections are gone is therefore how its restart is told from a second process with
//! its identity (`region/incarnations.rs`).

use std::{
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tonic::{Extensions, transport::server::Connected};

/// What the other side of a connection of HTTP/2 says first.
const PREFACE_BYTES: usize = 24;

/// A connection of another node, which its requests carry for as long as it is open.
#[derive(Clone, Debug)]
pub struct Open(Arc<()>);

/// Tells whether a connection is open, and does not hold it.
#[derive(Clone, Debug, Default)]
pub struct Presence(Option<Weak<()>>);

impl Presence {
    /// Of the connection that a request came through; unknown when it was accepted otherwise.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        Self(extensions.get::<Open>().map(|open| Arc::downgrade(&open.0)))
    }

    #[must_use]
    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it surely is closed.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.strong_count() == 0)
    }

    /// Whether both are of one connection.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => one.ptr_eq(other),
            _ => false,
        }
    }
}

/// A connection that tells its requests of itself.
#[derive(Debug)]
pub struct Accepted<IO> {
    stream: IO,
    open: Open,
    opening: Option<Opening>,
}

/// A connection that has not introduced itself.
#[derive(Debug)]
struct Opening {
    bytes_left: usize,
    ends: Pin<Box<Sleep>>,
}

impl<IO> Accepted<IO> {
    /// Bound: one that does not speak HTTP/2 within `opening_timeout` is closed.
    #[must_use]
    pub fn new(stream: IO, opening_timeout: Duration) -> Self {
        let ends = Box::pin(tokio::time::sleep(opening_timeout));
        let opening = Opening { bytes_left: PREFACE_BYTES, ends };
        Self { stream, open: Open(Arc::new(())), opening: Some(opening) }
    }
}

impl<IO> Connected for Accepted<IO> {
    type ConnectInfo = Open;

    fn connect_info(&self) -> Open {
        self.open.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Accepted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(opening) = &mut self.opening {
            opening.bytes_left =
                opening.bytes_left.saturating_sub(buf.filled().len().saturating_sub(before));
            if opening.bytes_left == 0 {
                self.opening = None;
            } else if opening.ends.as_mut().poll(cx).is_ready() {
                let error = "the connection said nothing";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)));
            }
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Accepted<IO> {
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

#[cfg(test)]
pub(crate) fn pretend() -> (Open, Presence) {
    let open = Open(Arc::new(()));
    let presence = Presence(Some(Arc::downgrade(&open.0)));
    (open, presence)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::raft::fixture::soon;

    #[tokio::test]
    async fn connection_that_says_nothing_is_closed_and_one_that_has_spoken_is_not() {
        let patience = Duration::from_millis(50);
        for (why, said, is_open) in [
            ("nothing", 0, false),
            ("not enough", PREFACE_BYTES - 1, false),
            ("what is said first", PREFACE_BYTES, true),
        ] {
            let (mut near, far) = tokio::io::duplex(1024);
            let mut accepted = Accepted::new(far, patience);
            near.write_all(&vec![7; said]).await.expect("room");
            let mut read = Vec::new();
            let reading = accepted.read_to_end(&mut read);
            if is_open {
                assert!(tokio::time::timeout(patience * 4, reading).await.is_err(), "{why}");
            } else {
                let error = soon("an end", reading).await.expect_err(why);
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{why}");
            }
            assert_eq!(read.len(), said, "{why}");
        }
    }
}
