//! Destroys peers, each in a task of its own.
//!
//! To destroy a peer takes syncs of both instances and waits for an install under way and for its core to
//! end, which one that hangs never does. Whoever decides it has to answer others in time, above all the
//! heartbeat to the placement driver: a node that is not heard because it tidies up is given up for dead, with
//! all that it holds.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::peers::Peers;
use crate::ids::{PeerId, RegionId};

/// Bound: peers whose data is erased at a time, each on a thread that may block.
const ERASED_AT_ONCE_MAX: usize = 4;

/// Peers to be destroyed.
///
/// Bound: each is here once, however often it is given up; so no more than there are peers here.
pub(super) struct Destroyer {
    given_up: Mutex<BTreeMap<(RegionId, PeerId), Stage>>,
    more: Notify,
    erasing: Semaphore,
}

#[derive(PartialEq)]
enum Stage {
    Waits,
    Begun,
}

impl Default for Destroyer {
    fn default() -> Self {
        Self {
            given_up: Mutex::default(),
            more: Notify::new(),
            erasing: Semaphore::new(ERASED_AT_ONCE_MAX),
        }
    }
}

impl Destroyer {
    /// Those that waited; they stay noted, so that they are not given up again meanwhile.
    async fn begin(&self) -> Vec<(RegionId, PeerId)> {
        loop {
            let more = self.more.notified();
            let mut begun = Vec::new();
            for (peer, stage) in self.given_up.lock().iter_mut() {
                if std::mem::replace(stage, Stage::Begun) == Stage::Waits {
                    begun.push(*peer);
                }
            }
            if !begun.is_empty() {
                return begun;
            }
            more.await;
        }
    }

    /// Waits for a turn to erase a peer's data.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.erasing.acquire().await.expect("it is never closed")
    }
}

impl Peers {
    /// Has a peer destroyed that is no longer a member of its region. Does not wait for it.
    pub fn give_up(&self, region: RegionId, peer: PeerId) {
        let is_here = self.get(region).is_some_and(|here| here.id == peer)
            || self.quarantined.read().get(&region).is_some_and(|here| here.peer == peer);
        if !is_here {
            return;
        }
        if let Entry::Vacant(new) = self.destroyer.given_up.lock().entry((region, peer)) {
            new.insert(Stage::Waits);
            self.destroyer.more.notify_one();
        }
    }

    /// Destroys what was given up; runs until the node stops. A peer that cannot be destroyed is
    /// given up again by whoever still sees it, and else the next start finishes it.
    pub async fn run_destroyer(self: Arc<Self>) {
        loop {
            for (region, peer) in self.destroyer.begin().await {
                let peers = Arc::clone(&self);
                self.env.runtime.spawn(async move {
                    if let Err(error) = peers.destroy(region, peer).await {
                        tracing::error!(%region, %peer, "destroy a peer: {error:#}");
                    }
                    peers.destroyer.given_up.lock().remove(&(region, peer));
                });
            }
        }
    }
}
