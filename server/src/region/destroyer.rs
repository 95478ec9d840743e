//! Destroys peers, each in a task of its own.
//!
//! To destroy a peer takes syncs of both instances and waits for an install under way and for its core to
//! end, which one that hangs never does. Whoever decides it has to answer others in time, above all the
//! heartbeat to the placement driver: a node that is not heard because it tidies up is given up for dead, with
//! all that it holds.

use std::{pin::pin, sync::Arc};

use super::{changing::Changes, lifecycle, peers::Peers};
use crate::{
    ids::{PeerId, RegionId},
    world::{Mark, blocking, sometimes},
};

impl Peers {
    /// Has a peer destroyed that is no longer a member of its region. Does not wait for it.
    pub fn give_up(&self, region: RegionId, peer: PeerId) {
        let is_here = self.get(region).is_some_and(|here| here.id == peer)
            || self.quarantined.read().get(&region).is_some_and(|here| here.peer == peer);
        if !is_here {
            return;
        }
        self.given_up.add(region, peer);
    }

    /// Destroys a peer that is no longer a member of its region. Doing it again does nothing.
    ///
    /// # Errors
    /// When the disk fails; the next start repeats it.
    ///
    /// # Cancel safety
    /// Once begun it goes on.
    pub async fn destroy(self: &Arc<Self>, region: RegionId, peer: PeerId) -> anyhow::Result<()> {
        let peers = Arc::clone(self);
        let destroying = async move {
            let changes = peers.changing.begin(region).await;
            peers.destroy_while(&changes, peer).await
        };
        self.env.runtime.spawn(destroying).await?
    }

    async fn destroy_while(&self, changes: &Changes, peer: PeerId) -> anyhow::Result<()> {
        let region = changes.region;
        let here = self.get(region).filter(|here| here.id == peer);
        let remains = || {
            let quarantined = self.quarantined.read();
            quarantined.get(&region).filter(|here| here.peer == peer).map(|of| of.remains.clone())
        };
        let here = match (here, remains()) {
            (None, None) => return Ok(()),
            (here, remains) => here.or_else(|| remains.flatten()),
        };
        tracing::info!(%region, %peer, "destroying a peer");
        sometimes(Mark::DESTROYED);
        lifecycle::bury(&self.env, region, peer).await?;
        self.note_tombstone(region, peer);
        if let Some(here) = here {
            self.map.write().take_out(&here);
            here.stop().await;
            let view = Arc::clone(here.view());
            blocking::run(move || view.close()).await?;
        }
        self.quarantined.write().remove(&region);
        lifecycle::erase(&self.env, region).await
    }

    /// Destroys what was given up; runs until the node stops. A peer that cannot be destroyed is
    /// given up again by whoever still sees it, and else the next start finishes it.
    pub async fn run_destroyer(self: Arc<Self>) {
        loop {
            let (region, peer, place) = self.given_up.next().await;
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
                peers.given_up.done(region, peer);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::{
        fixture::{Fixture, PEER, REGION, until},
        given_up::AT_ONCE_MAX,
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
        until("all places to be taken", || peers.given_up.is_full()).await;
        peers.give_up(REGION, PEER);
        until("the other to be gone", || peers.get(REGION).is_none()).await;
        assert_eq!(peers.quarantined().len(), hang.len());
        drop(hang);
        until("all to be gone", || peers.given_up.is_empty()).await;
        assert!(peers.quarantined().is_empty());
        destroying.abort();
    }
}
