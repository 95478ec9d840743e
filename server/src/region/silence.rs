//! Whether a peer is in touch with the rest of its region.

use std::time::Duration;

use openraft::{Instant as _, ServerState, async_runtime::WatchReceiver as _};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Peer;
use crate::world::clock;

/// When a peer last heard of a leader.
pub(super) struct Silence {
    opened: Instant,
    /// `None`: not since the peer was opened.
    heard: Mutex<Option<Instant>>,
}

impl Default for Silence {
    fn default() -> Self {
        Self { opened: clock::now(), heard: Mutex::default() }
    }
}

impl Silence {
    pub(super) fn heard(&self) {
        *self.heard.lock() = Some(clock::now());
    }

    fn since(&self, instant: Option<Instant>) -> Duration {
        clock::now().saturating_duration_since(instant.unwrap_or(self.opened))
    }
}

impl Peer {
    /// How long no leader has been heard of; zero on a leader.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        if self.is_leader() {
            self.silence.heard();
        }
        self.silence.since(*self.silence.heard.lock())
    }

    /// Whether a leader was heard of lately, and since the peer was opened: whom the disk names as the
    /// leader may be gone, or not reach this node. A leader must have been heard by a quorum. Who does not
    /// run is in touch with nobody.
    #[must_use]
    pub fn is_in_touch(&self) -> bool {
        let bound = 2 * self.env.config.raft.election_timeout_max;
        if !self.runs() {
            return false;
        }
        // Without a copy of it: there may be ten thousand.
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            let alone = metrics.membership_config.voter_ids().all(|voter| voter == self.id);
            return alone || metrics.last_quorum_acked.is_some_and(|at| at.elapsed() <= bound);
        }
        // What a leader says that lacks what was applied here is no company.
        if self.running.is_contradicted() {
            return false;
        }
        let heard = *self.silence.heard.lock();
        metrics.current_leader.is_some() && heard.is_some() && self.silence.since(heard) <= bound
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flotilla_proto::v1::{self, message::Body};

    use super::*;
    use crate::{
        ids::PeerId,
        region::fixture::{Fixture, PEER, until},
    };

    #[tokio::test]
    async fn leader_that_only_the_disk_names_is_not_in_touch() {
        let fixture = Fixture::new(|_| {});
        fixture.bear_with_voters(&[PEER, PeerId(71), PeerId(72)]);
        let follower = fixture.open().await;
        assert!(!follower.is_in_touch(), "nobody leads");
        // Or it would say by itself that it knows of no leader any more.
        follower.raft().runtime_config().elect(false);
        let heartbeat = || v1::AppendEntries {
            vote: Some(v1::VoteState { term: 5, voted_for: 71, committed: true }),
            ..v1::AppendEntries::default()
        };
        let hear = async |peer: &Arc<Peer>| {
            let heard = Arc::clone(peer).serve(Body::Append(heartbeat())).await;
            heard.expect("an answer");
        };
        hear(&follower).await;
        until("the leader to be known", || follower.leader().is_some()).await;
        assert!(follower.is_in_touch());
        let bound = 2 * fixture.env.config.raft.election_timeout_max;
        until("silence", || !follower.is_in_touch()).await;
        assert!(follower.silent_for() >= bound);
        follower.raft().shutdown().await.expect("a stop");
        follower.view().close();

        let again = fixture.open().await;
        until("the leader to be read from the disk", || again.leader().is_some()).await;
        assert!(!again.is_in_touch());
        hear(&again).await;
        assert!(again.is_in_touch());
    }

    #[tokio::test]
    async fn leader_is_in_touch_while_a_quorum_hears_it() {
        let fixture = Fixture::new(|_| {});
        let alone = fixture.leader().await;
        until("its own quorum to be seen", || alone.is_in_touch()).await;
    }
}
