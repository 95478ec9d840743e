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
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::{Extensions, transport::server::Connected};

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
}

impl<IO> Accepted<IO> {
    #[must_use]
    pub fn new(stream: IO) -> Self {
        Self { stream, open: Open(Arc::new(())) }
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
