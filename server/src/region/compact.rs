//! Keeps the Raft logs short.
//!
//! A region's log is cut when enough entries or bytes were applied since the last time: the state is
//! made to survive a power cut (one sync for all regions that are due), a snapshot is declared
//! (which costs nothing, `raft/snapshot.rs`), and the entries before it are purged but for the last
//! few, which serve peers that are a little behind; one that is further behind gets the snapshot.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{Peer, peers::Peers};
use crate::{ids::RegionId, raft::LogId};

/// How often regions are looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// Bound: wait for openraft to note the snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// Applied index and bytes when a region was last compacted.
type Marks = Mutex<std::collections::HashMap<RegionId, (u64, u64)>>;

/// Runs until the node stops.
pub async fn run(peers: Arc<Peers>) {
    let marks = Marks::default();
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let due: Vec<Arc<Peer>> =
            peers.all().into_iter().filter(|peer| is_due(peer, &marks)).collect();
        if due.is_empty() {
            continue;
        }
        if let Err(error) = compact(&due, &marks).await {
            tracing::warn!(error, "compacting the logs");
        }
    }
}

fn is_due(peer: &Peer, marks: &Marks) -> bool {
    let Some(applied) = peer.view.published().applied else { return false };
    let bytes = peer.view.applied_bytes();
    let mut marks = marks.lock();
    let (index_before, bytes_before) = *marks.entry(peer.region).or_insert((applied.index, bytes));
    let config = &peer.env.config;
    applied.index.saturating_sub(index_before) >= config.compact_entries
        || bytes.saturating_sub(bytes_before) >= config.compact_bytes
}

async fn compact(due: &[Arc<Peer>], marks: &Marks) -> Result<(), String> {
    let reached: Vec<_> = due
        .iter()
        .filter_map(|peer| {
            let applied = peer.view.published().applied?;
            Some((peer, applied, peer.view.applied_bytes()))
        })
        .collect();
    // Durability: what is applied so far survives a power cut before any entry of it goes.
    let Some((first, ..)) = reached.first() else { return Ok(()) };
    let data = Arc::clone(&first.env.data);
    tokio::task::spawn_blocking(move || data.sync())
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    for (peer, applied, bytes) in reached {
        peer.log.mark_durable_applied(applied.index);
        // One region that has stopped must not let the logs of all others grow.
        match compact_one(peer, applied).await {
            Ok(()) => drop(marks.lock().insert(peer.region, (applied.index, bytes))),
            Err(error) => tracing::warn!(region = %peer.region, error, "compacting a log"),
        }
    }
    Ok(())
}

/// Purges the log of a region whose state as of `applied` survives a power cut.
async fn compact_one(peer: &Peer, applied: LogId) -> Result<(), String> {
    let raft = &peer.raft;
    raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
    raft.wait(Some(SNAPSHOT_TIMEOUT))
        .metrics(
            |metrics| metrics.snapshot.is_some_and(|id| id.index >= applied.index),
            "the log is covered by a snapshot",
        )
        .await
        .map_err(|error| error.to_string())?;
    let config = &peer.env.config;
    let keep_bytes = usize::try_from(config.compact_bytes).unwrap_or(usize::MAX);
    let upto = applied
        .index
        .saturating_sub(config.keep_entries)
        .max(peer.log.index_within_bytes(keep_bytes).saturating_sub(1))
        .min(applied.index);
    if upto > peer.log.purged().map_or(0, |id| id.index) {
        raft.trigger().purge_log(upto).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Lets time go on in regions that have keys to expire and nobody who writes.
pub async fn run_ticks(peers: Arc<Peers>) {
    let mut interval = tokio::time::interval(TICK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        for peer in peers.all() {
            let expires = peer.view.with(|now| now.time_ms < now.expiry_max_ms);
            if expires && peer.is_leader() {
                let deadline = crate::clock::now() + TICK_INTERVAL;
                // A tick that fails is made up for by the next one.
                let _ = peer.propose_tick(deadline).await;
            }
        }
    }
}

/// Precision of expiry in a region without writes.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
