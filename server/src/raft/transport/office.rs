//! What the links to all nodes share: who speaks, where the others are, and which of them can be reached.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::{Directory, Identity, Lane, Room, TransportConfig};
use crate::{
    ids::NodeId,
    metrics::Metrics,
    world::{
        dial,
        maps::{HashMap, HashSet},
    },
};

/// What all links share.
pub(super) struct Office {
    pub(super) identity: Identity,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) config: TransportConfig,
    pub(super) metrics: Arc<Metrics>,
    /// Counts the streams that were opened to each node.
    pub(super) reached: Mutex<HashMap<NodeId, watch::Sender<u64>>>,
    /// Nodes to which the newest attempt to connect failed, or its stream ended without an answer.
    pub(super) unreached: Mutex<HashSet<NodeId>>,
    /// Streams that are open and on which the node has answered; without those that have none.
    pub(super) answering: Mutex<HashMap<NodeId, usize>>,
    /// Lanes that failed again and again for longer than `silence_max` while the node answered on another, and
    /// that it has not answered on since.
    pub(super) cut: Mutex<BTreeSet<(NodeId, Lane)>>,
    pub(super) room: Room,
}

/// A stream on which the node has answered, until it ends.
pub(super) struct Answering {
    office: Arc<Office>,
    node: NodeId,
}

impl Answering {
    pub(super) fn begin(office: &Arc<Office>, node: NodeId) -> Self {
        *office.answering.lock().entry(node).or_default() += 1;
        Self { office: Arc::clone(office), node }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut answering = self.office.answering.lock();
        if let Some(streams) = answering.get_mut(&self.node) {
            *streams -= 1;
            if *streams == 0 {
                answering.remove(&self.node);
            }
        }
    }
}

impl Office {
    pub(super) fn new(
        identity: Identity,
        directory: Arc<dyn Directory>,
        config: TransportConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            identity,
            directory,
            config,
            metrics,
            reached: Mutex::default(),
            unreached: Mutex::default(),
            answering: Mutex::default(),
            cut: Mutex::default(),
            room: Room::default(),
        }
    }

    /// Where a node is to be tried now.
    pub(super) fn address(&self, node: NodeId) -> Result<String, String> {
        self.directory.peer_address(node).ok_or_else(|| "its address is not known".to_owned())
    }

    pub(super) fn note_attempt(&self, node: NodeId, connected: bool) {
        let mut unreached = self.unreached.lock();
        if connected {
            unreached.remove(&node);
        } else {
            unreached.insert(node);
        }
    }

    /// A lane has failed for so long, each time anew.
    pub(super) fn note_failing(&self, node: NodeId, lane: Lane, failing_for: Duration) {
        // One that answers nowhere is missed as a whole.
        if failing_for >= self.config.silence_max
            && self.answering.lock().contains_key(&node)
            && self.cut.lock().insert((node, lane))
        {
            tracing::warn!(%node, ?lane, "a node answers, but not on this lane: it is cut");
        }
    }

    pub(super) fn note_answer(&self, node: NodeId, lane: Lane) {
        self.note_attempt(node, true);
        if self.cut.lock().remove(&(node, lane)) {
            tracing::info!(%node, ?lane, "a node answers on this lane again");
        }
    }

    pub(super) fn reached(&self, node: NodeId) -> watch::Sender<u64> {
        self.reached.lock().entry(node).or_default().clone()
    }

    pub(super) fn times_reached(&self, node: NodeId) -> u64 {
        self.reached.lock().get(&node).map_or(0, |times| *times.borrow())
    }

    pub(super) fn forget(&self, node: NodeId) {
        self.reached.lock().remove(&node);
        self.unreached.lock().remove(&node);
        self.room.forget(node);
        self.cut.lock().retain(|(of, _)| *of != node);
    }
}

/// Connects to a node's peer port.
pub(super) async fn connect(office: &Office, node: NodeId) -> Result<Channel, String> {
    connect_to(&office.address(node)?).await
}

/// Connects to a peer port.
pub(super) async fn connect_to(address: &str) -> Result<Channel, String> {
    dial::node(address)?.connect().await.map_err(|error| format!("connect to {address}: {error}"))
}
