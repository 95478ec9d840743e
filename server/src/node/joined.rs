//! What a node has once it belongs to a cluster.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Node;
use crate::{
    error::Error,
    ids::{ClusterId, NodeId, PeerId, RegionId},
    placement::driver::Driver,
    region::peers::Peers,
    router::Router,
    world::{clock, maps::HashSet},
};

/// Pause before a look at what is still led.
const HAND_OVER_INTERVAL: Duration = Duration::from_millis(10);
/// Bound: when nobody takes a leadership by then, an election will settle it.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);

/// Peers, router and driver of a joined node.
pub struct Joined {
    pub node: NodeId,
    pub cluster: ClusterId,
    pub peers: Arc<Peers>,
    pub router: Router,
    pub driver: Arc<Driver>,
    /// Set once the driver has accepted this node since its start, or since it belongs to the cluster: before
    /// that it may have been removed without knowing, also when it follows its birth after the others.
    pub(super) confirmed: AtomicBool,
    /// Set once the cluster was seen to be as large as the node was told to expect.
    pub(super) whole: AtomicBool,
    pub(super) opened: Instant,
    /// The peers that were here then: what comes later is not waited for.
    pub(super) opened_with: HashSet<(RegionId, PeerId)>,
    /// Set once the regions here had heard their leaders and caught up since the start.
    pub(super) settled: AtomicBool,
    pub(super) tasks: parking_lot::Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Joined {
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    #[must_use]
    pub(super) fn was_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    pub(super) fn note_whole(&self) {
        self.whole.store(true, Ordering::Release);
    }

    /// Since the peers of this node were opened.
    pub(super) fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.opened)
    }

    /// Whether a peer was here when the node was opened.
    pub(super) fn was_opened_with(&self, region: RegionId, peer: PeerId) -> bool {
        self.opened_with.contains(&(region, peer))
    }

    #[must_use]
    pub(super) fn has_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    pub(super) fn note_settled(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Gives every leadership to another voter, as far as there is one, until the deadline.
    pub(super) async fn hand_over(&self, deadline: Instant) {
        let deadline = deadline.min(clock::now() + HAND_OVER_MAX);
        loop {
            let led: Vec<_> = self
                .peers
                .all()
                .into_iter()
                .filter(|peer| peer.is_leader() && peer.has_other_voters())
                .collect();
            if led.is_empty() || clock::now() >= deadline {
                return;
            }
            futures::future::join_all(led.iter().map(|peer| peer.hand_over(deadline))).await;
            // Others may have handed over to this node meanwhile.
            tokio::time::sleep(HAND_OVER_INTERVAL).await;
        }
    }

    pub(super) async fn stop(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        let peers = self.peers.all();
        futures::future::join_all(peers.iter().map(|peer| peer.stop())).await;
    }
}

/// What a call that needs a joined node answers on one that is not.
pub(super) fn not_joined(node: &Node) -> Error {
    Error::NotJoined { removed: node.is_removed() }
}
