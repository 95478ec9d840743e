//! Tells the engine now and then how far time has got in each region, so that it can free the space
//! of keys that have expired. What that promises is in `storage/reclaim.rs`.

use std::{sync::Arc, time::Duration};

use flotilla_proto::region::range_of;

use super::peers::Peers;
use crate::{
    command,
    raft::region_view::Published,
    storage::{
        engine,
        reclaim::{Claim, Claims},
    },
    world::blocking,
};

/// How often. Each time costs a flush of the memtables, if anything has expired since the last.
const INTERVAL: Duration = Duration::from_secs(300);

/// Runs until the node stops.
pub async fn run(peers: Arc<Peers>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let telling = {
            let peers = Arc::clone(&peers);
            blocking::run(move || tell(&peers))
        };
        match telling.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "freeing the space of expired keys"),
            Err(error) => tracing::warn!(%error, "freeing the space of expired keys"),
        }
    }
}

fn tell(peers: &Peers) -> Result<(), engine::Error> {
    peers.environment().data.reclaim_expired(&mut || {
        let claims = peers.all().iter().filter_map(|peer| peer.view().with(claim_of)).collect();
        Claims::new(command::expires_at_ms, claims)
    })
}

/// What is true of a region's state as it is published, which is after it was written.
fn claim_of(published: &Published) -> Option<Claim> {
    // Past the last expiry nothing changes any more, however far time goes on: a claim that is known
    // costs no flush.
    let time_ms = published.time_ms.min(published.expiry_max_ms);
    (published.applied.is_some() && time_ms > 0)
        .then(|| Claim { range: range_of(&published.descriptor), time_ms })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::{range::KeyRange, v1};

    use super::*;
    use crate::raft::convert::log_id;

    #[test]
    fn regions_without_keys_that_expire_claim_nothing() {
        for (why, time_ms, expiry_max_ms, applied, want) in [
            ("nothing ever expires", 50, 0, true, None),
            ("keys expire later", 50, 90, true, Some(50)),
            ("all have expired", 50, 30, true, Some(30)),
            ("waits for its first snapshot", 50, 90, false, None),
        ] {
            let descriptor =
                v1::Region { start_key: "a".into(), end_key: "m".into(), ..v1::Region::default() };
            let published = Published {
                descriptor: Arc::new(descriptor),
                time_ms,
                expiry_max_ms,
                applied: applied.then(|| log_id(1, 7)),
                ..Published::default()
            };
            let want = want.map(|time_ms| Claim { range: KeyRange::new("a", "m"), time_ms });
            assert_eq!(claim_of(&published), want, "{why}");
        }
    }
}
