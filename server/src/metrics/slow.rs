//! Requests that took long, in the log: a histogram says how many they were, a line says which.

pub(super) mod config;

use std::{
    collections::VecDeque,
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, OnceLock},
    time::Duration,
};

use flotilla_proto::keyspace;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Code;

use self::config::SlowRequestsConfig;
use crate::{trail::Trail, world::clock};

/// Between two lines. In an outage every request is slow, and the slowest says so as well as all.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A sync of the log that took less is not the reason of anything.
const SYNC_MIN: Duration = Duration::from_millis(10);
/// Bound: long syncs that are remembered. On a disk where each takes [`SYNC_MIN`] they reach back some seconds,
/// further on a slower one.
const SYNCS_MAX: usize = 512;

/// Which requests were slow lately. Cloneable handle.
///
/// Never says anything about values, and of keys what it was told to.
#[derive(Clone, Debug, Default)]
pub struct SlowLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    config: OnceLock<SlowRequestsConfig>,
    /// The slowest since the last line, and how many there were.
    slowest: Mutex<Option<(Slow, u64)>>,
    /// Keys are told by their hash with this, which is drawn at start and told nobody: by a hash that anybody can
    /// compute, a key of a few digits is found by trying.
    salt: RandomState,
    /// When long syncs of the log ended, and how long they took.
    syncs: Mutex<VecDeque<(Instant, Duration)>>,
}

/// A request that was slow.
#[derive(Debug)]
struct Slow {
    method: &'static str,
    /// Of a request that another node passed on, only of success.
    code: Option<Code>,
    ended: Instant,
    took: Duration,
    trail: Trail,
    /// The longest sync of this node's log meanwhile.
    sync: Option<Duration>,
}

impl SlowLog {
    /// What is slow; said once, else it is as by default.
    pub fn configure(&self, config: SlowRequestsConfig) {
        let _ = self.0.config.set(config);
    }

    fn config(&self) -> &SlowRequestsConfig {
        self.0.config.get_or_init(SlowRequestsConfig::default)
    }

    /// Whether a request that took so long is told of.
    #[must_use]
    pub fn is_slow(&self, took: Duration) -> bool {
        let threshold = self.config().threshold;
        !threshold.is_zero() && took >= threshold
    }

    /// A request has ended after so long. It is told of with the next line if none was slower.
    pub fn finished(&self, method: &'static str, code: Option<Code>, took: Duration, trail: Trail) {
        if !self.is_slow(took) {
            return;
        }
        let ended = clock::now();
        let mut slowest = self.0.slowest.lock();
        let others = slowest.as_ref().map_or(0, |(_, count)| *count);
        match &mut *slowest {
            Some((known, count)) if known.took >= took => *count += 1,
            slowest => {
                // Of this one only: it looks through hundreds, and in an outage every request ends here.
                let sync = self.longest_sync_within(took, ended);
                let slow = Slow { method, code, ended, took, trail, sync };
                *slowest = Some((slow, others + 1));
            }
        }
    }

    /// A sync of the log has just ended.
    pub fn synced(&self, took: Duration) {
        if took >= SYNC_MIN {
            self.synced_at(clock::now(), took);
        }
    }

    fn synced_at(&self, end: Instant, took: Duration) {
        let mut syncs = self.0.syncs.lock();
        if syncs.len() == SYNCS_MAX {
            syncs.pop_front();
        }
        syncs.push_back((end, took));
    }

    fn longest_sync_within(&self, took: Duration, ended: Instant) -> Option<Duration> {
        let syncs = self.0.syncs.lock();
        let within = |end: &Instant| ended.saturating_duration_since(*end) <= took;
        syncs.iter().rev().take_while(|(end, _)| within(end)).map(|(_, took)| *took).max()
    }

    /// Writes the line that is due, if one is.
    pub fn tell(&self) {
        let Some((slow, count)) = self.0.slowest.lock().take() else { return };
        let told = slow.told(self.config().key_prefix_bytes as usize, &self.0.salt);
        tracing::info!(
            method = slow.method,
            code = slow.code.map(tracing::field::debug),
            seconds = told.seconds,
            client = told.client,
            keyspace = told.keyspace,
            key_hash = told.key_hash,
            key_prefix = told.key_prefix,
            region = told.region,
            passed_on_to_node = told.passed_on_to,
            queue_seconds = told.queue,
            propose_seconds = told.propose,
            fsync_seconds = told.sync,
            apply_seconds = told.apply,
            others = count - 1,
            "a request was slow"
        );
    }
}

/// The fields of a line; what is not known is left out.
#[derive(Debug, Default, PartialEq)]
struct Told {
    seconds: f64,
    client: Option<String>,
    keyspace: Option<u32>,
    key_hash: Option<String>,
    key_prefix: Option<String>,
    region: Option<u64>,
    passed_on_to: Option<u64>,
    /// Until it was handed to Raft: in queues, or until there was a leader.
    queue: Option<f64>,
    /// Until it was on a majority of disks.
    propose: Option<f64>,
    sync: Option<f64>,
    /// Until it was applied, and its answer ready.
    apply: Option<f64>,
}

impl Slow {
    fn told(&self, prefix_bytes: usize, salt: &RandomState) -> Told {
        let Trail { client, key, region, passed_on_to, proposed, committed } = &self.trail;
        let key = key.as_deref().and_then(keyspace::decode);
        let began = self.ended.checked_sub(self.took).unwrap_or(self.ended);
        let seconds = |from: Instant, to: Instant| millis(to.saturating_duration_since(from));
        let hash = |key: &[u8]| format!("{:016x}", salt.hash_one(key));
        Told {
            seconds: millis(self.took),
            client: client.map(|client| client.to_string()),
            keyspace: key.map(|(keyspace, _)| keyspace.get()),
            key_hash: key.map(|(_, key)| hash(key)),
            key_prefix: key
                .filter(|_| prefix_bytes > 0)
                .map(|(_, key)| hex(&key[..key.len().min(prefix_bytes)])),
            region: region.map(|region| region.0),
            passed_on_to: passed_on_to.map(|node| node.0),
            queue: proposed.map(|proposed| seconds(began, proposed)),
            propose: proposed.map(|proposed| seconds(proposed, committed.unwrap_or(self.ended))),
            sync: self.sync.map(millis),
            apply: committed.map(|committed| seconds(committed, self.ended)),
        }
    }
}

/// Seconds, to the millisecond.
fn millis(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, RegionId};

    fn log(threshold: Duration) -> SlowLog {
        let log = SlowLog::default();
        log.configure(SlowRequestsConfig { threshold, key_prefix_bytes: 0 });
        log
    }

    fn slowest(log: &SlowLog) -> Option<(&'static str, u64)> {
        log.0.slowest.lock().as_ref().map(|(slow, count)| (slow.method, *count))
    }

    #[test]
    fn a_flood_of_slow_requests_is_a_line_for_the_slowest_that_counts_the_others() {
        let log = log(Duration::from_millis(500));
        for (method, millis) in [("quick", 499), ("first", 500), ("slowest", 900), ("later", 600)] {
            log.finished(method, Some(Code::Ok), Duration::from_millis(millis), Trail::default());
        }
        assert_eq!(slowest(&log), Some(("slowest", 3)));
        log.tell();
        assert_eq!(slowest(&log), None);
    }

    #[test]
    fn syncs_are_looked_through_for_the_slowest_request_alone() {
        let log = log(Duration::from_millis(500));
        let finished = |method, millis| {
            log.finished(method, None, Duration::from_millis(millis), Trail::default());
        };
        finished("slowest", 900);
        let syncs = log.0.syncs.lock();
        std::thread::scope(|threads| {
            let (done, ended) = std::sync::mpsc::channel();
            threads.spawn(move || {
                finished("later", 600);
                let _ = done.send(());
            });
            let later = ended.recv_timeout(Duration::from_secs(10));
            drop(syncs);
            later.expect("it waits for the syncs");
        });
        assert_eq!(slowest(&log), Some(("slowest", 2)));
    }

    #[test]
    fn threshold_of_zero_is_none() {
        let log = log(Duration::ZERO);
        log.finished("slow", Some(Code::Ok), Duration::from_secs(100), Trail::default());
        assert_eq!(slowest(&log), None);
    }

    #[test]
    fn line_says_where_the_time_went_and_as_much_of_the_key_as_it_may() {
        let at = clock::now();
        let ms = Duration::from_millis;
        let key = keyspace::encode(keyspace::KeyspaceId::DEFAULT, b"secret");
        let trail = Trail {
            client: Some(([127, 0, 0, 1], 4711).into()),
            key: Some(key.clone()),
            region: Some(RegionId(7)),
            passed_on_to: None,
            proposed: Some(at + ms(100)),
            committed: Some(at + ms(700)),
        };
        let slow = |trail: Trail, sync: Option<Duration>| {
            let (ended, took) = (at + ms(1000), ms(1000));
            Slow { method: "put", code: Some(Code::Ok), ended, took, trail, sync }
        };
        let salt = RandomState::new();
        let want = Told {
            seconds: 1.0,
            client: Some("127.0.0.1:4711".to_owned()),
            keyspace: Some(1),
            key_hash: Some(format!("{:016x}", salt.hash_one(&b"secret"[..]))),
            key_prefix: None,
            region: Some(7),
            passed_on_to: None,
            queue: Some(0.1),
            propose: Some(0.6),
            sync: Some(0.55),
            apply: Some(0.3),
        };
        assert_eq!(slow(trail.clone(), Some(ms(550))).told(0, &salt), want);
        let told = slow(trail.clone(), None).told(3, &salt);
        assert_eq!(told.key_prefix.as_deref(), Some("736563"), "as many bytes as it was told");
        let told = slow(trail.clone(), None).told(100, &salt);
        assert_eq!(told.key_prefix.as_deref(), Some("736563726574"), "or all there are");

        let uncommitted = slow(Trail { committed: None, ..trail }, None).told(0, &salt);
        assert_eq!((uncommitted.propose, uncommitted.apply), (Some(0.9), None));
        let node = Some(NodeId(3));
        let passed = slow(Trail { passed_on_to: node, ..Trail::default() }, None).told(0, &salt);
        assert_eq!((passed.queue, passed.passed_on_to), (None, Some(3)));
    }

    #[test]
    fn equal_keys_are_seen_to_be_equal_in_one_log_and_in_no_other() {
        let hash = |log: &SlowLog, key: &[u8]| {
            let key = Some(keyspace::encode(keyspace::KeyspaceId::DEFAULT, key));
            let trail = Trail { key, ..Trail::default() };
            let (ended, took) = (clock::now(), Duration::ZERO);
            let slow = Slow { method: "put", code: None, ended, took, trail, sync: None };
            slow.told(0, &log.0.salt).key_hash
        };
        let (one, other) = (SlowLog::default(), SlowLog::default());
        assert_eq!(hash(&one, b"1234"), hash(&one.clone(), b"1234"));
        assert_ne!(hash(&one, b"1234"), hash(&one, b"1235"));
        // Who has the log cannot try keys until one has the hash.
        assert_ne!(hash(&one, b"1234"), hash(&other, b"1234"));
    }

    #[test]
    fn sync_is_told_of_whom_it_held_up() {
        let log = log(Duration::from_millis(500));
        let (ms, now) = (Duration::from_millis, clock::now());
        log.synced_at(now, ms(3000));
        log.synced_at(now + ms(5000), ms(80));
        let sync = |took: Duration| log.longest_sync_within(took, now + ms(5010));
        assert_eq!(sync(ms(600)), Some(ms(80)));
        assert_eq!(sync(ms(10_000)), Some(ms(3000)));
        assert_eq!(sync(ms(5)), None, "it began after them");
        log.synced(ms(1));
        assert_eq!(log.0.syncs.lock().len(), 2, "as nobody waits for that");
        for _ in 0..2 * SYNCS_MAX {
            log.synced(SYNC_MIN);
        }
        assert_eq!(log.0.syncs.lock().len(), SYNCS_MAX);
    }
}
