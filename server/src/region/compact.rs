//! Keeps the Raft logs short.
//!
//! A region's log is cut when enough entries or bytes were applied since the last time: the state is
//! made to survive a power cut (one sync for all regions that are due), a snapshot is declared
//! (which costs nothing, `raft/snapshot.rs`), and the entries before it are purged but for the last
//! few, which serve whoever is a little behind when it next leads.
//!
//! A leader keeps more, within a bound: what a follower that was heard lately lacks. One that is sent a
//! snapshot has to go on from there by the log. Were that purged meanwhile, it would get the next
//! snapshot, and where writes are faster than snapshots it would never follow. Nor should a restart
//! of a node cost a copy of all its regions. Once nobody lacks them such entries go, whether or not there
//! are writes; followers that are gone are not waited for. (TiKV collects its logs by the same rule: the
//! progress of the followers, up to a bound.)
//!
//! What a log had grown by before a restart is told by the log itself, so that a node that restarts
//! often compacts like any other.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};

use super::{Peer, followers::Follower, peers::Peers, turns::Turns};
use crate::{
    ids::{PeerId, RegionId},
    raft::{LogId, log::config::LogConfig},
    world::{blocking, maps::HashMap},
};

/// How often regions are looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// Bound: wait for openraft to note the snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound: all of the compaction of one region.
const COMPACTING_TIME_MAX: Duration = Duration::from_secs(15);
/// Bound: regions that are compacted at a time, so that one that hangs holds up few.
const COMPACTING_MAX: usize = 64;
/// Before a region that could not be compacted is tried again: those that hang leave the places to others for
/// most of the time, however many they are.
const REST: Duration = Duration::from_secs(15);
/// A follower that has been silent for longer is not waited for: time for a node to restart.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Precision of expiry in a region without writes.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// Bound: regions whose time is moved on at a time. One that has stopped has no second tick under way
/// and takes its place for one interval.
const TICKING_MAX: usize = 256;

/// Where a peer's log was when it was last compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    peer: PeerId,
    index: u64,
    /// [`RegionView::applied_bytes`](crate::raft::region_view::RegionView::applied_bytes) then.
    applied_bytes: u64,
    /// What the log had grown by in earlier processes.
    carried_bytes: u64,
    /// Where the log would have been purged up to, but for a follower that lacks entries before it.
    owed: Option<u64>,
}

/// A log as it is found by a new process.
#[derive(Clone, Copy, Debug)]
struct FoundLog {
    purged: u64,
    applied: u64,
    bytes: u64,
}

/// What a log has grown by since it was last compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Growth {
    entries: u64,
    bytes: u64,
}

impl Mark {
    /// Compaction leaves some entries; a log that has more has grown by the rest.
    fn of_found(peer: PeerId, found: FoundLog, applied_bytes: u64, config: &LogConfig) -> Self {
        let entries = found.applied.saturating_sub(found.purged);
        let left = entries.min(config.keep_entries);
        let left_bytes = u128::from(found.bytes) * u128::from(left) / u128::from(entries.max(1));
        let left_bytes = u64::try_from(left_bytes).unwrap_or(u64::MAX).min(config.compact_bytes);
        Self {
            peer,
            index: found.applied - (entries - left),
            applied_bytes,
            carried_bytes: found.bytes.saturating_sub(left_bytes),
            owed: None,
        }
    }

    fn growth(&self, applied: u64, applied_bytes: u64) -> Growth {
        Growth {
            entries: applied.saturating_sub(self.index),
            bytes: applied_bytes.saturating_sub(self.applied_bytes) + self.carried_bytes,
        }
    }
}

impl Growth {
    fn is_due(self, config: &LogConfig) -> bool {
        self.entries >= config.compact_entries || self.bytes >= config.compact_bytes
    }

    /// Entries to leave, of which no more than `compact_bytes` if those to come are like those past.
    fn entries_to_keep(self, config: &LogConfig) -> u64 {
        config.keep_entries.min(self.entries_of(config.compact_bytes))
    }

    fn entries_of(self, bytes: u64) -> u64 {
        bytes / (self.bytes / self.entries.max(1)).max(1)
    }
}

/// Runs until the node stops.
pub async fn run(peers: Arc<Peers>) {
    let mut compactor = Compactor::new();
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            (region, mark) = compactor.turns.done() => compactor.note(region, mark),
            _ = interval.tick() => {
                if let Err(error) = compactor.round(peers.all()).await {
                    tracing::warn!(error, "compacting the logs");
                }
            }
        }
    }
}

/// What is known of all logs, and those that are being compacted.
struct Compactor {
    marks: HashMap<RegionId, Mark>,
    turns: Turns<Mark>,
}

impl Compactor {
    fn new() -> Self {
        let turns = Turns::new(COMPACTING_MAX, COMPACTING_TIME_MAX, REST);
        Self { marks: HashMap::default(), turns }
    }

    fn note(&mut self, region: RegionId, mark: Option<Mark>) {
        match mark {
            Some(mark) => drop(self.marks.insert(region, mark)),
            None => tracing::debug!(%region, "its log was not compacted"),
        }
    }

    /// Begins to compact what is due.
    async fn round(&mut self, mut peers: Vec<Arc<Peer>>) -> Result<(), String> {
        let marks = &mut self.marks;
        // One that has ended purges nothing, and would be due in every round.
        peers.retain(|peer| peer.runs() && peer.view().is_initialized());
        if marks.len() > peers.len() {
            let here: HashMap<RegionId, PeerId> =
                peers.iter().map(|peer| (peer.region, peer.id)).collect();
            marks.retain(|region, mark| here.get(region) == Some(&mark.peer));
        }
        let known =
            |peer: &&Arc<Peer>| marks.get(&peer.region).is_some_and(|of| of.peer == peer.id);
        let new: Vec<Arc<Peer>> = peers.iter().filter(|peer| !known(peer)).cloned().collect();
        if !new.is_empty() {
            let found = blocking::run(move || {
                new.iter().map(|peer| (peer.region, find(peer))).collect::<Vec<_>>()
            });
            marks.extend(found.await.map_err(|error| error.to_string())?);
        }
        let Some(first) = peers.first() else { return Ok(()) };
        let catch_up_bytes = share(&first.env.config.log, marks);
        peers.retain(|peer| self.turns.is_free(peer.region));
        let due: Vec<Due> =
            peers.into_iter().filter_map(|peer| due(peer, marks, catch_up_bytes)).collect();
        let Some(first) = due.first() else { return Ok(()) };
        // Durability: what is applied so far survives a power cut before any entry of it goes.
        let data = Arc::clone(&first.peer.env.data);
        blocking::run(move || data.sync())
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        for due in due {
            self.turns.begin(due.peer.region, compact(due));
        }
        Ok(())
    }
}

/// `None` when it could not be done.
async fn compact(due: Due) -> Option<Mark> {
    due.peer.log.mark_durable_applied(due.applied.index);
    let compacting = due.peer.unless_stopped(compact_one(&due)).await;
    match compacting? {
        Ok(owed) => Some(Mark {
            peer: due.peer.id,
            index: due.applied.index,
            applied_bytes: due.applied_bytes,
            carried_bytes: 0,
            owed,
        }),
        Err(error) => {
            tracing::warn!(region = %due.peer.region, error, "compacting a log");
            None
        }
    }
}

/// Looks at the log of a peer that this process has not compacted yet. Blocks on the disk.
fn find(peer: &Peer) -> Mark {
    let found = FoundLog {
        purged: peer.log.purged().map_or(0, |id| id.index),
        applied: peer.view.published().applied.map_or(0, |id| id.index),
        bytes: peer.log.approximate_bytes(),
    };
    Mark::of_found(peer.id, found, peer.view.applied_bytes(), &peer.env.config.log)
}

/// A region whose log is to be compacted now.
struct Due {
    peer: Arc<Peer>,
    /// What may be kept of its log for followers.
    catch_up_bytes: u64,
    /// The state that survives once `data` is synced.
    applied: LogId,
    applied_bytes: u64,
    growth: Growth,
}

fn due(peer: Arc<Peer>, marks: &HashMap<RegionId, Mark>, catch_up_bytes: u64) -> Option<Due> {
    let applied = peer.view.published().applied?;
    let applied_bytes = peer.view.applied_bytes();
    let mark = marks.get(&peer.region)?;
    let growth = mark.growth(applied.index, applied_bytes);
    let upto = |owed| may_go_upto(&peer, applied.index, growth, catch_up_bytes) >= owed;
    let is_due = growth.is_due(&peer.env.config.log) || mark.owed.is_some_and(upto);
    is_due.then_some(Due { peer, catch_up_bytes, applied, applied_bytes, growth })
}

/// What each region may keep for followers that lack it, with so many that do.
fn share(config: &LogConfig, marks: &HashMap<RegionId, Mark>) -> u64 {
    let owing = marks.values().filter(|mark| mark.owed.is_some()).count() as u64;
    config.catch_up_bytes.min(config.catch_up_bytes_max / owing.max(1))
}

/// Up to where all followers that count have the log, or where it is too much to keep it for them.
fn may_go_upto(peer: &Peer, applied: u64, growth: Growth, catch_up_bytes: u64) -> u64 {
    if !peer.env.disk.level().has_room() {
        return applied;
    }
    let followers = peer.followers().into_iter();
    let lacks = |of: &Follower| of.silent <= AWAY_MAX && !of.is_lost();
    let matched = followers.filter(lacks).map(|of| of.matched).min();
    let bound = applied.saturating_sub(growth.entries_of(catch_up_bytes));
    matched.map_or(applied, |matched| matched.max(bound))
}

/// Purges the log of a region whose state as of `applied` survives a power cut. Answers up to where
/// more was to go, if a follower lacks it.
async fn compact_one(due: &Due) -> Result<Option<u64>, String> {
    let Due { peer, catch_up_bytes, applied, growth, .. } = due;
    let raft = &peer.raft;
    raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
    raft.wait(Some(SNAPSHOT_TIMEOUT))
        .metrics(
            |metrics| metrics.snapshot.is_some_and(|id| id.index >= applied.index),
            "the log is covered by a snapshot",
        )
        .await
        .map_err(|error| error.to_string())?;
    let config = &peer.env.config.log;
    let keep_bytes = usize::try_from(config.compact_bytes).unwrap_or(usize::MAX);
    let wanted = applied
        .index
        .saturating_sub(growth.entries_to_keep(config))
        .max(peer.log.index_within_bytes(keep_bytes).saturating_sub(1))
        .min(applied.index);
    let upto = wanted.min(may_go_upto(peer, applied.index, *growth, *catch_up_bytes));
    if upto > peer.log.purged().map_or(0, |id| id.index) {
        raft.trigger().purge_log(upto).await.map_err(|error| error.to_string())?;
    }
    Ok((upto < wanted).then_some(wanted))
}

/// Lets time go on in regions that have keys to expire and nobody who writes.
pub async fn run_ticks(peers: Arc<Peers>) {
    let mut interval = tokio::time::interval(TICK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        tick(peers.all()).await;
    }
}

async fn tick(peers: Vec<Arc<Peer>>) {
    let due = peers.into_iter().filter(|peer| peer.needs_tick());
    stream::iter(due)
        .for_each_concurrent(TICKING_MAX, |peer| async move {
            let deadline = crate::world::clock::now() + TICK_INTERVAL;
            // A tick that fails is made up for by the next one.
            let _ = peer.propose_tick(deadline).await;
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        region::fixture::{Fixture, PEER, lead, put, until},
        world::clock,
    };

    #[test]
    fn growth_of_a_log_is_told_by_the_log_after_a_restart() {
        let config = LogConfig {
            compact_entries: 100,
            compact_bytes: 1000,
            keep_entries: 10,
            ..LogConfig::default()
        };
        for (why, purged, applied, bytes, entries, carried) in [
            ("nothing yet", 1, 1, 0, 0, 0),
            ("just compacted", 90, 100, 100, 0, 0),
            ("grown by some", 90, 150, 600, 50, 500),
            ("never compacted", 1, 201, 2000, 190, 1900),
            ("large entries, of which few are kept", 97, 100, 3000, 0, 2000),
            ("purged beyond what is applied, by a snapshot", 500, 400, 0, 0, 0),
        ] {
            let mark = Mark::of_found(PEER, FoundLog { purged, applied, bytes }, 70, &config);
            let want = Growth { entries, bytes: carried };
            assert_eq!(mark.growth(applied, 70), want, "{why}");
            let later = Growth { entries: entries + 5, bytes: carried + 30 };
            assert_eq!(mark.growth(applied + 5, 100), later, "{why}, later");
        }
        for (why, entries, bytes, due, keep) in [
            ("young", 99, 999, false, 10),
            ("many entries", 100, 100, true, 10),
            ("many bytes", 2, 1000, true, 2),
            ("one giant", 1, 5000, true, 0),
        ] {
            let growth = Growth { entries, bytes };
            assert_eq!(growth.is_due(&config), due, "{why}");
            assert_eq!(growth.entries_to_keep(&config), keep, "{why}");
        }
    }

    #[test]
    fn regions_share_what_is_kept_for_followers() {
        let config =
            LogConfig { catch_up_bytes: 100, catch_up_bytes_max: 250, ..LogConfig::default() };
        let marks = |owing: u64| -> HashMap<RegionId, Mark> {
            let found = FoundLog { purged: 1, applied: 1, bytes: 0 };
            let mark = Mark::of_found(PEER, found, 0, &config);
            let owed = |region| (region < owing).then_some(9);
            (0..20).map(|region| (RegionId(region), Mark { owed: owed(region), ..mark })).collect()
        };
        for (owing, want) in [(0, 100), (1, 100), (2, 100), (3, 83), (10, 25)] {
            assert_eq!(share(&config, &marks(owing)), want, "{owing} lag");
        }
    }

    #[tokio::test]
    async fn node_that_restarts_often_compacts_all_the_same() {
        let fixture = Fixture::new(|config| config.log.compact_entries = 100);
        fixture.bear();
        let mut written = 0;
        for start in 0..4 {
            let peer = fixture.open().await;
            lead(&peer).await;
            let mut compactor = Compactor::new();
            for _ in 0..40 {
                let deadline = clock::now() + Duration::from_secs(20);
                peer.propose_write(put("a", "1"), 1, deadline).await.expect("a write");
                written += 1;
            }
            compactor.round(vec![Arc::clone(&peer)]).await.expect("a round");
            while !compactor.turns.is_idle() {
                let (region, mark) = compactor.turns.done().await;
                compactor.note(region, mark);
            }
            let purged = || peer.log.purged().map_or(0, |id| id.index);
            if written < 100 {
                assert_eq!(purged(), 1, "start {start}");
            } else {
                until("the log to be cut", || purged() >= written - 20).await;
                return peer.raft().shutdown().await.expect("a stop");
            }
            peer.raft().shutdown().await.expect("a stop");
            peer.view().close();
        }
        panic!("never compacted");
    }

    #[tokio::test]
    async fn region_that_has_stopped_gets_no_second_tick() {
        let fixture = Fixture::new(|_| {});
        let peer = fixture.leader().await;
        let deadline = clock::now() + Duration::from_secs(20);
        let mut write = put("a", "1");
        if let Some(flotilla_proto::v1::op::Op::Put(put)) = &mut write.success[0].op {
            put.ttl_ms = 3_600_000;
        }
        peer.propose_write(write, 1, deadline).await.expect("a write");
        let last = || peer.log.last().map_or(0, |id| id.index);
        let before = last();
        tick(vec![Arc::clone(&peer)]).await;
        assert_eq!(last(), before + 1, "time goes on");
        fixture.log.hold();
        for _ in 0..3 {
            tick(vec![Arc::clone(&peer)]).await;
        }
        assert_eq!(last(), before + 2, "and waits for the tick that is stuck");
        fixture.log.release();
    }
}
