//! A network of pipes in memory, on which a test owns the time.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::{io::DuplexStream, sync::mpsc};

use crate::Connector;

/// Bytes under way in each direction of a pipe.
const PIPE_BYTES: usize = 64 << 10;

/// Who listens where.
#[derive(Clone, Default)]
pub(crate) struct Pipes {
    listeners: Arc<Mutex<BTreeMap<String, mpsc::UnboundedSender<DuplexStream>>>>,
    /// Connections that were asked for.
    pub(crate) dialled: Arc<AtomicUsize>,
}

impl Pipes {
    /// The connections that are made to this address.
    pub(crate) fn listen(&self, address: &str) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (listener, connections) = mpsc::unbounded_channel();
        self.listeners.lock().insert(address.to_owned(), listener);
        connections
    }

    /// What a client is given.
    pub(crate) fn connector(&self) -> Connector {
        let pipes = self.clone();
        Connector::new(move |address| std::future::ready(pipes.dial(&address)))
    }

    fn dial(&self, address: &str) -> io::Result<DuplexStream> {
        self.dialled.fetch_add(1, Relaxed);
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let listeners = self.listeners.lock();
        let taken = listeners.get(address).is_some_and(|listener| listener.send(far).is_ok());
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        if taken { Ok(near) } else { Err(refused()) }
    }
}
