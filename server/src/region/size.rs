//! How large regions are, sampled beside everything else.
//!
//! To estimate a size reads the indexes of files, perhaps from the disk, and counts what is in
//! memtables: far too slow for a thread that carries Raft. So it is done on a thread that may block, for a
//! few regions at a time, and whoever wants to know gets the last estimate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Peer, peers::Peers};
use crate::{
    raft::region_state::approximate_bytes,
    world::{blocking, clock},
};

/// How often a few regions are sampled.
const INTERVAL: Duration = Duration::from_secs(1);
/// Bound: regions sampled at a time, and how long that may take before the others wait for the next.
const SAMPLED_MAX: usize = 16;
const SAMPLING_MAX: Duration = Duration::from_millis(50);

/// The last estimate; 0 before the first.
#[derive(Debug, Default)]
pub(super) struct Size {
    bytes: AtomicU64,
    /// Round in which it was made; 0: never.
    round: AtomicU64,
}

impl Peer {
    /// Size of the region's rows on this disk, as it was sampled lately.
    #[must_use]
    pub fn approximate_bytes(&self) -> u64 {
        self.size.bytes.load(Ordering::Relaxed)
    }

    /// Blocks on the disk.
    fn sample(&self, round: u64) {
        let descriptor = self.view.with(|now| Arc::clone(&now.descriptor));
        let bytes = approximate_bytes(self.view.data().as_ref(), &descriptor);
        self.size.bytes.store(bytes, Ordering::Relaxed);
        self.size.round.store(round, Ordering::Relaxed);
    }
}

/// Runs until the node stops.
pub async fn run(peers: Arc<Peers>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 1.. {
        interval.tick().await;
        let peers = Arc::clone(&peers);
        let sampling = blocking::run(move || sample(peers.all(), round));
        if let Err(error) = sampling.await {
            tracing::warn!(%error, "sampling the sizes of regions");
        }
    }
}

/// Samples the regions that were not for the longest time, of those led here: only leaders tell sizes.
/// Answers how many.
fn sample(mut peers: Vec<Arc<Peer>>, round: u64) -> usize {
    peers.retain(|peer| peer.view().is_initialized() && peer.is_leader());
    peers.sort_by_key(|peer| (peer.size.round.load(Ordering::Relaxed), peer.region));
    let began = clock::monotonic();
    let mut sampled = 0;
    for peer in peers.iter().take(SAMPLED_MAX) {
        peer.sample(round);
        sampled += 1;
        if clock::since(began) >= SAMPLING_MAX {
            break;
        }
    }
    sampled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::fixture::{Fixture, put};

    #[tokio::test]
    async fn size_is_what_was_sampled_last() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let deadline = clock::now() + Duration::from_secs(20);
        peer.propose_write(put("a", &"v".repeat(10_000)), 1, deadline).await.expect("a write");
        assert_eq!(peer.approximate_bytes(), 0, "nobody looked");
        assert_eq!(sample(vec![Arc::clone(&peer)], 1), 1);
        let first = peer.approximate_bytes();
        assert!(first >= 10_000, "{first}");
        peer.propose_write(put("b", &"v".repeat(50_000)), 1, deadline).await.expect("a write");
        assert_eq!(peer.approximate_bytes(), first, "who asks does not look");
        assert_eq!(sample(vec![Arc::clone(&peer)], 2), 1);
        assert!(peer.approximate_bytes() >= first + 50_000);
    }
}
