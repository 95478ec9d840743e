//! Peers that are to be destroyed, and those that are being.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::ids::{PeerId, RegionId};

/// Bound: peers that are destroyed at a time; each may take a thread that may block, of which apply and the reads
/// of clients need some as well. One that hangs does not count.
pub(super) const AT_ONCE_MAX: usize = 16;

/// Peers to be destroyed.
///
/// Bound: each is here once, however often it is given up; so no more than there are peers here.
pub(super) struct GivenUp {
    peers: Mutex<BTreeMap<(RegionId, PeerId), Stage>>,
    more: Notify,
    places: Arc<Semaphore>,
}

#[derive(PartialEq)]
enum Stage {
    Waits,
    Begun,
}

impl Default for GivenUp {
    fn default() -> Self {
        Self {
            peers: Mutex::default(),
            more: Notify::new(),
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }
}

impl GivenUp {
    pub(super) fn add(&self, region: RegionId, peer: PeerId) {
        if let Entry::Vacant(new) = self.peers.lock().entry((region, peer)) {
            new.insert(Stage::Waits);
            self.more.notify_one();
        }
    }

    /// The next that waits, and a place for it. It stays noted, so that it is not given up again meanwhile.
    pub(super) async fn next(&self) -> (RegionId, PeerId, OwnedSemaphorePermit) {
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
        let mut peers = self.peers.lock();
        let (peer, stage) = peers.iter_mut().find(|(_, stage)| **stage == Stage::Waits)?;
        *stage = Stage::Begun;
        Some(*peer)
    }

    pub(super) fn done(&self, region: RegionId, peer: PeerId) {
        self.peers.lock().remove(&(region, peer));
    }

    #[cfg(test)]
    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.peers.lock().is_empty()
    }
}
