//! Checksums of regions that are computed on one node, and those that wait for their turn.
//!
//! What is summed is the state after exactly one entry, so each peer pins it when it applies that entry, and apply goes
//! on. It cannot be pinned later: another state would be compared. But what is pinned keeps the disk from freeing
//! space, of all regions, and whoever checks all regions at once would have it pinned for as long as all of it takes. So
//! both are bounded, and a leader begins no check while half of the places on its own node are taken: the rest is for
//! what leaders elsewhere begin.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bound: checksums that a node computes at a time. Each looks at all data of a region on a thread that may block, of
/// which apply and the reads of clients need some as well; all regions can be checked at once.
pub(crate) const AT_ONCE_MAX: usize = 4;
/// Bound: states that a node keeps pinned for checksums, with those that are being computed. A peer that applies
/// one more has no checksum of it, and says why.
pub(crate) const PINNED_MAX: usize = 16;

/// See the module. One for each node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Checks {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// The right to keep a state pinned, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    turns: Arc<Semaphore>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            places: Arc::new(Semaphore::new(PINNED_MAX)),
        }
    }
}

impl Checks {
    /// Whether this node may begin one that all peers of a region compute.
    #[must_use]
    pub fn may_begin(&self) -> bool {
        self.places.available_permits() > PINNED_MAX / 2
    }

    /// `None` while all places are taken.
    pub(crate) fn pin(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { _permit: permit, turns: Arc::clone(&self.turns) })
    }
}

impl Place {
    pub(crate) async fn turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.turns).acquire_owned().await.expect("it is never closed")
    }
}
