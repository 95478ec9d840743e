//! Ports, and the connections that others make to them.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{Io, Listen, simulated};

const BACKLOG: i32 = 4096;

/// A port of this process alone, bound, and not yet accepting.
pub struct Port(Bound);

enum Bound {
    Tcp(std::net::TcpListener),
    Simulated(Box<dyn Listen>),
}

/// Binds a port for this process alone.
///
/// # Errors
/// When somebody listens there already, also a process of the same user.
pub fn bind(address: SocketAddr) -> io::Result<Port> {
    if let Some(world) = simulated() {
        return world.listen(address).map(|listener| Port(Bound::Simulated(listener)));
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose connections of before are still closing is free. Never `SO_REUSEPORT`: two processes
    // would share the port and its connections, without a word.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).and_then(|()| socket.listen(BACKLOG))?;
    Ok(Port(Bound::Tcp(socket.into())))
}

impl Port {
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Bound::Tcp(listener) => listener.local_addr(),
            Bound::Simulated(listener) => Ok(listener.address()),
        }
    }

    /// Begins to accept, on the current runtime.
    ///
    /// # Errors
    /// When the runtime cannot wait for it.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener(match self.0 {
            Bound::Tcp(listener) => Listening::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Bound::Simulated(listener) => Listening::Simulated(listener),
        }))
    }
}

/// A port that accepts.
pub struct Listener(Listening);

enum Listening {
    Tcp(tokio::net::TcpListener),
    Simulated(Box<dyn Listen>),
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// When one could not be accepted; the next may be.
    pub async fn accept(&mut self) -> io::Result<Stream> {
        match &mut self.0 {
            Listening::Tcp(listener) => {
                listener.accept().await.map(|(stream, _)| Stream::Tcp(stream))
            }
            Listening::Simulated(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok(Stream::Simulated { stream, from })
            }
        }
    }
}

impl From<tokio::net::TcpListener> for Listener {
    fn from(listener: tokio::net::TcpListener) -> Self {
        Self(Listening::Tcp(listener))
    }
}

/// A connection that somebody has made.
pub enum Stream {
    Tcp(TcpStream),
    Simulated { stream: Box<dyn Io>, from: SocketAddr },
}

impl Stream {
    /// Sends small packets at once.
    ///
    /// # Errors
    /// When the connection is closed already.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Simulated { .. } => Ok(()),
        }
    }

    /// Where the other side is, if that can be told.
    #[must_use]
    pub fn from(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Simulated { from, .. } => Some(*from),
        }
    }

    /// The socket, to go to another runtime.
    ///
    /// # Errors
    /// When there is none, or it cannot leave the current one.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        match self {
            Self::Tcp(stream) => stream.into_std(),
            Self::Simulated { .. } => Err(io::Error::other("a simulation has one runtime a node")),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stream").field(&self.from()).finish()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Simulated { stream, .. } => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Simulated { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Simulated { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Simulated { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Simulated { stream, .. } => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Simulated { stream, .. } => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_bound_once() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(drop).expect("a free port");
        let address = first.address().expect("bound");
        let error = bind(address).map(drop).expect_err("the port is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        assert!(bind(everywhere).is_err(), "also for all addresses together");
        drop(first);
        assert!(bind(address).is_ok(), "given back");
    }
}
