//! Messages between nodes.
//!
//! Each ordered pair of nodes has one stream per lane: what all regions have to say to a node shares
//! it, as many messages per frame as were waiting. A message that gets no answer fails when its
//! stream does; the caller's own deadline bounds the wait. A node that cannot be reached fails calls
//! at once until the next attempt to connect, so it costs no queue and no busy loop. Every frame
//! carries the cluster's identity and the ids of both nodes (`Exchange` on the other side checks
//! them).
//!
//! Everything here is bounded in bytes ([`budget`]): what one lane to one node has in memory and on its
//! way, one message, one frame, what one stream has being handled. A message that finds no room, or
//! that is too large, fails by itself and at once, and surely was not sent; the stream and everybody
//! else's calls go on.

pub mod budget;
mod frame;
mod link;
mod office;
mod room;
mod service;
mod snapshots;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_proto::v1;
use tokio::sync::watch;

use self::{
    budget::Budget,
    frame::counted_bytes,
    link::{Link, Links},
    office::Office,
    snapshots::Shipping,
};
use crate::{
    ids::{ClusterId, NodeId},
    metrics::{self, Metrics},
    raft::snapshot::config::SnapshotConfig,
};

pub(crate) use self::snapshots::INSTALL_IDLE_TIMEOUTS;
pub use self::{
    frame::NODE_MESSAGE_BYTES_MAX,
    link::BACKOFF_MAX,
    room::Room,
    service::{Inbox, RaftService},
    snapshots::{SnapshotTurn, Unfinished, client},
};
pub use v1::Lane;

/// Bound: wait for the answer to a greeting. An attempt to connect has ended by then.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// This process, as it presents itself to other nodes.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Drawn at each start; tells two processes with one copied identity apart
    /// (`region/incarnations.rs`).
    pub incarnation: u64,
}

/// Where nodes are. Implemented by the node table.
pub trait Directory: Send + Sync {
    /// `host:port` of a node's peer port; `None` when the node is not known or removed.
    fn peer_address(&self, node: NodeId) -> Option<String>;

    /// The node has answered at this peer address.
    fn answers_at(&self, node: NodeId, peer_address: &str) {
        let _ = (node, peer_address);
    }

    /// The node did not answer at this peer address. Where it may be at another one, that is to be tried next.
    fn not_at(&self, node: NodeId, peer_address: &str) {
        let _ = (node, peer_address);
    }
}

/// Why a message got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// It surely was not sent.
    #[error("{0}")]
    Unsent(String),
    /// Too much is under way to that node on that lane; it surely was not sent.
    #[error("too much is under way to it")]
    Full,
    /// No message of that size is sent.
    #[error("the message has {bytes} bytes, more than {NODE_MESSAGE_BYTES_MAX}")]
    TooLarge { bytes: usize },
    /// Somebody else took it, who refuses whatever is for this node: it surely was not handled.
    #[error("{0}")]
    Stranger(String),
    /// It or its answer did not arrive. It may have been handled.
    #[error("{0}")]
    Lost(String),
}

/// A message that got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} is unreachable: {cause}")]
pub struct Undelivered {
    pub node: NodeId,
    pub cause: Cause,
}

impl Undelivered {
    /// Whether the message surely was not handled.
    #[must_use]
    pub fn is_unhandled(&self) -> bool {
        !matches!(self.cause, Cause::Lost(_))
    }
}

/// Settings of the transport.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    pub snapshot: SnapshotConfig,
    /// Bound: a stream with log entries on which nothing moves for so long is given up.
    pub silence_max: Duration,
}

/// Sends to other nodes. Cheap to clone. Its streams end with the last clone.
#[derive(Clone)]
pub struct Transport {
    office: Arc<Office>,
    links: Arc<Links>,
    shipping: Arc<Shipping>,
    next_request: Arc<AtomicU64>,
}

impl Transport {
    #[must_use]
    pub fn new(
        identity: Identity,
        directory: Arc<dyn Directory>,
        config: TransportConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        let shipping = Shipping::new(
            config.snapshot.concurrent_max as usize,
            config.snapshot.bytes_per_second_max,
        );
        Self {
            office: Arc::new(Office::new(identity, directory, config, metrics)),
            links: Arc::new(Links::default()),
            shipping: Arc::new(shipping),
            next_request: Arc::new(AtomicU64::new(1)),
        }
    }

    #[must_use]
    pub fn identity(&self) -> Identity {
        self.office.identity
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.office.metrics
    }

    /// Queues a message for a node and answers a future of its answer. The message is queued when
    /// this returns, so that calls keep their order; the future may be dropped.
    pub fn call(
        &self,
        node: NodeId,
        lane: Lane,
        mut message: v1::Message,
    ) -> impl Future<Output = Result<v1::Message, Undelivered>> + Send + use<> {
        message.request_id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let bytes = counted_bytes(&message);
        let called = self.with_link(node, lane, |link| link.leave(lane, message, bytes));
        if matches!(called, Err(Cause::Full | Cause::TooLarge { .. })) {
            self.office.metrics.raft.link_refused_total.get(lane.into()).inc();
        }
        async move {
            let answer = match called {
                Ok(called) => called.answered().await,
                Err(cause) => Err(cause),
            };
            answer.map_err(|cause| Undelivered { node, cause })
        }
    }

    /// The bound of what is under way to a node. Whoever reads from the disk to send it waits for room
    /// first.
    #[must_use]
    pub fn budget(&self, node: NodeId, lane: Lane) -> Arc<Budget> {
        self.with_link(node, lane, |link| Arc::clone(link.budget()))
    }

    /// Changes when a stream to the node was opened: it can be spoken to, maybe again.
    #[must_use]
    pub fn reached(&self, node: NodeId) -> watch::Receiver<u64> {
        self.office.reached(node).subscribe()
    }

    /// How many streams to the node were opened so far.
    #[must_use]
    pub fn times_reached(&self, node: NodeId) -> u64 {
        self.office.times_reached(node)
    }

    /// Whether the newest attempt to connect to a node failed. That may be long ago: nobody connects without a
    /// message to send.
    #[must_use]
    pub fn is_unreached(&self, node: NodeId) -> bool {
        self.office.unreached.lock().contains(&node)
    }

    /// Whether a stream to a node is open on which it, and nobody in its place, has answered. Pings end it within
    /// four seconds of the node's death.
    #[must_use]
    pub fn is_answering(&self, node: NodeId) -> bool {
        self.office.answering.lock().contains_key(&node)
    }

    /// Which nodes have no room on their disks, by their answers.
    #[must_use]
    pub fn room(&self) -> &Room {
        &self.office.room
    }

    /// Lanes to nodes that answer on another lane, on which what was sent last did not arrive, nor what was sent
    /// before it for longer than a lane may be silent. Of a lane on which nothing was sent since it stays so.
    #[must_use]
    pub fn cut(&self) -> Vec<(NodeId, Lane)> {
        let cut = self.office.cut.lock().clone();
        cut.into_iter().filter(|(node, _)| self.is_answering(*node)).collect()
    }

    /// Finds out whether a node is there: afterwards it is [answering](Self::is_answering) or
    /// [unreached](Self::is_unreached). The message is empty, which every version refuses.
    pub async fn greet(&self, node: NodeId) {
        let greeting = self.call(node, Lane::Fast, v1::Message::default());
        // What came of it is noted by the link.
        drop(tokio::time::timeout(GREETING_MAX, greeting).await);
    }

    fn with_link<T>(&self, node: NodeId, lane: Lane, act: impl FnOnce(&Link) -> T) -> T {
        let mut links = self.links.lock();
        act(links
            .entry((node, lane))
            .or_insert_with(|| Link::open(&self.office, &self.links, node, lane)))
    }
}

impl From<Lane> for metrics::LinkLane {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Fast | Lane::Unspecified => Self::Fast,
            Lane::Bulk => Self::Bulk,
            Lane::Forward => Self::Forward,
        }
    }
}

/// The answer that refuses `message`.
#[must_use]
pub fn refusal(message: &v1::Message, refused: v1::Refused) -> v1::Message {
    answer(message, v1::message::Body::Refused(refused))
}

/// An answer to `message`.
#[must_use]
pub fn answer(message: &v1::Message, body: v1::message::Body) -> v1::Message {
    v1::Message {
        request_id: message.request_id,
        region_id: message.region_id,
        from_peer: message.to_peer,
        to_peer: message.from_peer,
        body: Some(body),
    }
}
