//! Losing the leader while many callers write.
//!
//! A record counts as acknowledged when a node answered its `Put` with success, and not before: a call
//! that failed may or may not have been applied, and is repeated, on another node, until one succeeds.
//! Nobody else writes these keys, so the repeat stores what the first attempt would have.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use anyhow::Context as _;
use flotilla_proto::v1::{LocateRequest, PutRequest};
use futures::future::try_join_all;
use tokio::time::Instant;

use super::{
    data::{PREFIX, Record},
    fleet::Fleet,
    session::{Session, ask_until_answered, request, request_within},
    until,
};
use crate::world::clock;

/// Callers, each with one write under way.
pub(super) const WRITERS: usize = 32;
/// Writes are watched for this long before the kill, and after it.
const WATCHED: Duration = Duration::from_secs(3);
/// And at least so many must have been acknowledged in each.
const ACKNOWLEDGED_MIN: u64 = 500;
/// How long to wait for that.
const BOUND: Duration = Duration::from_secs(30);
/// Longest single call, so that one which waits for a dead node does not hide that another serves.
const CALL: Duration = Duration::from_secs(1);

/// What happened.
pub(super) struct Outcome {
    /// Every record that was acknowledged.
    pub(super) acknowledged: Vec<Record>,
    /// Which server was killed.
    pub(super) killed: usize,
    /// Which server leads now.
    pub(super) successor: usize,
    /// Regions that the killed one led.
    pub(super) led: Vec<u64>,
    /// Acknowledged before the kill, and in how long.
    pub(super) before: (u64, Duration),
    /// Acknowledged after the kill.
    pub(super) after: u64,
    /// Longest time between one acknowledgement and the next, over all writers.
    pub(super) longest_gap: Duration,
    /// Calls that did not succeed, and were repeated.
    pub(super) failed_calls: u64,
}

/// Kills the leader of the records under load, and goes on writing.
///
/// # Errors
/// When a write is not acknowledged for twenty seconds.
pub(super) async fn kill_leader(fleet: &mut Fleet) -> anyhow::Result<Outcome> {
    let sessions = fleet.sessions.clone();
    let traffic = Traffic::new(&sessions);
    let writers = try_join_all((0..WRITERS).map(|number| traffic.write(number)));
    let script = async {
        let outcome = script(fleet, &traffic).await;
        traffic.stop.set(true);
        outcome
    };
    let (mut outcome, written) = futures::try_join!(script, writers)?;
    let per_writer = written.into_iter().enumerate();
    outcome.acknowledged = per_writer
        .flat_map(|(writer, count)| (0..count).map(move |sequence| record(writer, sequence)))
        .collect();
    outcome.longest_gap = traffic.gap.borrow().longest;
    outcome.failed_calls = traffic.failed_calls.get();
    outcome.after = outcome.acknowledged.len() as u64 - outcome.before.0;
    Ok(outcome)
}

async fn script(fleet: &mut Fleet, traffic: &Traffic<'_>) -> anyhow::Result<Outcome> {
    let begun = clock::now();
    traffic.watch("before the kill").await?;
    fleet.expect_all_running()?;

    let leader = leader(&fleet.sessions, None).await?;
    let killed = fleet.index_of(leader).context("the leader is none of ours")?;
    let led = led_by(&fleet.sessions, leader).await?;
    let before = (traffic.acknowledged.get(), clock::now() - begun);
    fleet.servers[killed].kill();
    traffic.watch("after the kill").await?;

    let survivors = fleet.sessions_without(killed);
    let successor = self::leader(&survivors, Some(leader)).await?;
    let successor = fleet.index_of(successor).context("the new leader is none of ours")?;
    Ok(Outcome {
        acknowledged: Vec::new(),
        killed,
        successor,
        led,
        before,
        after: 0,
        longest_gap: Duration::ZERO,
        failed_calls: 0,
    })
}

/// Node id of the leader of the region that holds the records; another than `not`.
async fn leader(sessions: &[Session], not: Option<u64>) -> anyhow::Result<u64> {
    until("a leader", BOUND, async || {
        let session = &sessions[0];
        let locate = LocateRequest { keyspace: 0, keys: vec![PREFIX.into()] };
        let answer = session.cluster.clone().locate(request(locate)).await;
        let answer = answer.map_err(|status| session.blame(&status))?.into_inner();
        let region = answer.regions.into_iter().next().ok_or("the key has no region")?;
        let leader = region.leader.map(|leader| leader.node_id).filter(|leader| *leader != 0);
        leader.filter(|leader| Some(*leader) != not).ok_or_else(|| "not known yet".to_owned())
    })
    .await
}

async fn led_by(sessions: &[Session], node_id: u64) -> anyhow::Result<Vec<u64>> {
    let regions = until("the regions", BOUND, async || sessions[0].regions().await).await?;
    let led = regions
        .into_iter()
        .filter(|info| info.leader.as_ref().is_some_and(|leader| leader.node_id == node_id));
    Ok(led.filter_map(|info| Some(info.region?.region_id)).collect())
}

fn record(writer: usize, sequence: u64) -> Record {
    Record::new(format!("written/{writer:02}/{sequence:06}"), format!("{sequence} by {writer}"))
}

/// What all writers share. They run on one thread, so that counting costs nothing.
struct Traffic<'a> {
    sessions: &'a [Session],
    stop: Cell<bool>,
    acknowledged: Cell<u64>,
    failed_calls: Cell<u64>,
    gap: RefCell<Gap>,
}

/// The time between acknowledgements.
struct Gap {
    last: Option<Instant>,
    longest: Duration,
}

impl<'a> Traffic<'a> {
    fn new(sessions: &'a [Session]) -> Self {
        Self {
            sessions,
            stop: Cell::new(false),
            acknowledged: Cell::new(0),
            failed_calls: Cell::new(0),
            gap: RefCell::new(Gap { last: None, longest: Duration::ZERO }),
        }
    }

    /// Writes one record after the other until it is told to stop; answers how many were
    /// acknowledged, which are the first so many of this writer.
    async fn write(&self, number: usize) -> anyhow::Result<u64> {
        let mut node = number;
        let mut count = 0;
        while !self.stop.get() {
            let Record { key, value } = record(number, count);
            let answered = ask_until_answered(self.sessions, node, async |session| {
                let put =
                    PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
                session.kv.clone().put(request_within(CALL, put)).await
            })
            .await?;
            node = answered.by;
            count += 1;
            self.acknowledged.set(self.acknowledged.get() + 1);
            self.failed_calls.set(self.failed_calls.get() + answered.failures);
            self.gap.borrow_mut().end(clock::now());
        }
        Ok(count)
    }

    /// Lets the writers go on for a while, and expects that they do.
    async fn watch(&self, when: &str) -> anyhow::Result<()> {
        let (begun, already) = (clock::now(), self.acknowledged.get());
        until(&format!("writes {when} to be acknowledged"), BOUND, async || {
            let count = self.acknowledged.get() - already;
            if count < ACKNOWLEDGED_MIN || clock::now() - begun < WATCHED {
                Err(format!("only {count} were"))
            } else {
                Ok(())
            }
        })
        .await
    }
}

impl Gap {
    /// A write was acknowledged.
    fn end(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_gap_is_between_two_acknowledgements() {
        let mut gap = Gap { last: None, longest: Duration::ZERO };
        let mut now = clock::now();
        for pause in [900, 10, 700, 20] {
            now += Duration::from_millis(pause);
            gap.end(now);
        }
        assert_eq!(gap.longest, Duration::from_millis(700), "what precedes the first is no gap");
    }

    #[test]
    fn no_two_writers_share_a_key() {
        let keys: std::collections::HashSet<_> =
            (0..WRITERS).flat_map(|writer| (0..50).map(move |n| record(writer, n).key)).collect();
        assert_eq!(keys.len(), WRITERS * 50);
    }
}
