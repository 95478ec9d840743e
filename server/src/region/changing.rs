//! Who makes or destroys what a region has on this node: one at a time.
//!
//! Each region for itself, as to destroy a peer waits for its Raft core to end, and a core that never does
//! must cost no other region anything.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::{ids::RegionId, world::maps::HashMap};

/// A lock for each region.
///
/// Bound: those that somebody has or waits for.
#[derive(Default)]
pub(super) struct Changing {
    regions: Mutex<HashMap<RegionId, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to change what a region has here, given back on drop.
pub(super) struct Changes {
    pub(super) region: RegionId,
    _guard: OwnedMutexGuard<()>,
}

impl Changing {
    /// Waits for the right, which may be for ever.
    pub(super) async fn begin(&self, region: RegionId) -> Changes {
        let lock = {
            let mut regions = self.regions.lock();
            // Somebody who has or waits for a lock holds it, and can only have it from here.
            regions.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(regions.entry(region).or_default())
        };
        Changes { region, _guard: lock.lock_owned().await }
    }

    /// Whether somebody has the right.
    pub(super) fn is_begun(&self, region: RegionId) -> bool {
        self.regions.lock().get(&region).is_some_and(|lock| lock.try_lock().is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_region_waits_for_itself_only_and_nothing_is_left_of_it() {
        let changing = Changing::default();
        let first = changing.begin(RegionId(1)).await;
        let mut again = std::pin::pin!(changing.begin(RegionId(1)));
        assert!(futures::poll!(again.as_mut()).is_pending());
        drop(changing.begin(RegionId(2)).await);
        assert!(changing.is_begun(RegionId(1)) && !changing.is_begun(RegionId(2)));
        drop(first);
        drop(again.await);
        drop(changing.begin(RegionId(3)).await);
        assert_eq!(changing.regions.lock().len(), 1);
    }
}
