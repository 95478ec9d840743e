//! Destroys peers, each in a task of its own.
//!
//! To destroy a peer takes syncs of both instances and waits for an install under way and for its core to
//! end, which one that hangs never does. Whoever decides it has to answer others in time, above all the
//! heartbeat to the placement driver: a node that is not heard because it tidies up is given up for dead, with
//! all that it holds.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    pin::pin,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::peers::Peers;
use crate::ids::{PeerId, RegionId};

/// Bound: peers that are destroyed at a time; each may take a thread that may block, of which apply and the reads
/// of clients need some as well. One that hangs does not count.
const AT_ONCE_MAX: usize = 16;

/// Peers to be destroyed.
///
/// Bound: each is here once, however often it is given up; so no more than there are peers here.
pub(super) struct Destroyer {
    given_up: Mutex<BTreeMap<(RegionId, PeerId), Stage>>,
    more: Notify,
    places: Arc<Semaphore>,
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
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }
}

impl Destroyer {
    /// The next that waits, and a place for it. It stays noted, so that it is not given up again meanwhile.
    async fn next(&self) -> (RegionId, PeerId, OwnedSemaphorePermit) {
        let places = Arc::clone(&self.places);
        let place = places.acquire_owned().await.expect("it is never closed");
        loop {
            let more = self.more.notified();
            if let Some((region, peer)) = self.begin() {
                return (region, peer, place);
            }
            more.await;
        }
    }

    fn begin(&self) -> Option<(RegionId, PeerId)> {
        let mut given_up = self.given_up.lock();
        let (peer, stage) = given_up.iter_mut().find(|(_, stage)| **stage == Stage::Waits)?;
        *stage = Stage::Begun;
        Some(*peer)
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
            let (region, peer, place) = self.destroyer.next().await;
            let peers = Arc::clone(&self);
            self.env.runtime.spawn(async move {
                let mut destroying = pin!(peers.destroy(region, peer));
                // As long as for the next part of a snapshot: a disk that is well has done it by then.
                let patience = peers.env.config.snapshot.idle_timeout;
                let destroyed = match tokio::time::timeout(patience, &mut destroying).await {
                    Ok(destroyed) => destroyed,
                    Err(_) => {
                        tracing::warn!(%region, %peer, "a peer hangs while it is destroyed");
                        drop(place);
                        destroying.await
                    }
                };
                if let Err(error) = destroyed {
                    tracing::error!(%region, %peer, "destroy a peer: {error:#}");
                }
                peers.destroyer.given_up.lock().remove(&(region, peer));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{
        fixture::{Fixture, PEER, REGION, until},
        peers::Quarantined,
    };

    #[tokio::test]
    async fn peers_that_hang_while_they_are_destroyed_keep_no_other_from_it() {
        let fixture = Fixture::new(|_| {});
        fixture.bear();
        let peers = Peers::open(Arc::clone(&fixture.env), false, None).await.expect("peers");
        let destroying = tokio::spawn(Arc::clone(&peers).run_destroyer());
        let mut hang = Vec::new();
        // In the order of regions they come first.
        for region in (1..REGION.0).chain((100..).take(AT_ONCE_MAX)).map(RegionId) {
            hang.push(peers.changing.begin(region).await);
            let reason = "a test".to_owned();
            let quarantined = Quarantined { peer: PEER, reason, remains: None };
            peers.quarantined.write().insert(region, quarantined);
            peers.give_up(region, PEER);
        }
        until("all places to be taken", || peers.destroyer.places.available_permits() == 0).await;
        peers.give_up(REGION, PEER);
        until("the other to be gone", || peers.get(REGION).is_none()).await;
        assert_eq!(peers.quarantined().len(), hang.len());
        drop(hang);
        until("all to be gone", || peers.destroyer.given_up.lock().is_empty()).await;
        assert!(peers.quarantined().is_empty());
        destroying.abort();
    }
}
