//! Destroys peers in a task of its own.
//!
//! To destroy a peer takes syncs of both instances and waits for an install under way. Whoever decides
//! it has to answer others in time, above all the heartbeat to the placement driver: a node that is not
//! heard because it tidies up is given up for dead, with all that it holds.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::peers::Peers;
use crate::ids::{PeerId, RegionId};

/// Peers to be destroyed.
///
/// Bound: each waits once, however often it is given up; so no more than there are peers here.
#[derive(Default)]
pub(super) struct Destroyer {
    waiting: Mutex<BTreeSet<(RegionId, PeerId)>>,
    more: Notify,
}

impl Destroyer {
    /// The next that waits; it waits on, so that it is not given up again meanwhile.
    async fn next(&self) -> (RegionId, PeerId) {
        loop {
            let more = self.more.notified();
            let first = self.waiting.lock().first().copied();
            if let Some(first) = first {
                return first;
            }
            more.await;
        }
    }
}

impl Peers {
    /// Has a peer destroyed that is no longer a member of its region. Does not wait for it.
    pub fn give_up(&self, region: RegionId, peer: PeerId) {
        let is_here = self.get(region).is_some_and(|here| here.id == peer)
            || self.quarantined.read().get(&region).is_some_and(|here| here.peer == peer);
        if is_here && self.destroyer.waiting.lock().insert((region, peer)) {
            self.destroyer.more.notify_one();
        }
    }

    /// Destroys what was given up; runs until the node stops. A peer that cannot be destroyed is
    /// given up again by whoever still sees it, and else the next start finishes it.
    pub async fn run_destroyer(self: Arc<Self>) {
        loop {
            let (region, peer) = self.destroyer.next().await;
            if let Err(error) = self.destroy(region, peer).await {
                tracing::error!(%region, %peer, "destroy a peer: {error:#}");
            }
            self.destroyer.waiting.lock().remove(&(region, peer));
        }
    }
}
