//! Counting calls, and the time for which nothing went through.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use super::Progress;
use crate::workload::Failure;

/// Bound: of failures, the first so many are kept in words.
const WORDS_MAX: usize = 20;

pub(super) struct Meter {
    started: Instant,
    counts: Mutex<Counts>,
}

struct Counts {
    calls: u64,
    failures: u64,
    unknown: u64,
    words: Vec<String>,
    /// When each worker last had an answer; none before its first.
    last: Vec<Option<Instant>>,
    gap: Duration,
    gap_at: Duration,
}

/// One worker's view of it.
#[derive(Clone)]
pub(super) struct Worker {
    meter: Arc<Meter>,
    number: usize,
}

impl Meter {
    pub(super) fn new(workers: usize) -> Self {
        let counts = Counts {
            calls: 0,
            failures: 0,
            unknown: 0,
            words: Vec::new(),
            last: vec![None; workers],
            gap: Duration::ZERO,
            gap_at: Duration::ZERO,
        };
        Self { started: Instant::now(), counts: Mutex::new(counts) }
    }

    pub(super) fn worker(self: &Arc<Self>, number: usize) -> Worker {
        Worker { meter: Arc::clone(self), number }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress_at(Instant::now())
    }

    fn progress_at(&self, now: Instant) -> Progress {
        let counts = self.lock();
        // A worker that still waits has had no answer since.
        let open = counts.last.iter().flatten().map(|last| now - *last).max().unwrap_or_default();
        let gap = counts.gap.max(open);
        Progress {
            elapsed_ms: millis(now - self.started),
            calls: counts.calls,
            failures: counts.failures,
            unknown: counts.unknown,
            longest_gap_ms: millis(gap),
            longest_gap_at_ms: millis(if open > counts.gap {
                now - self.started
            } else {
                counts.gap_at
            }),
            errors: counts.words.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("nobody panics while counting")
    }
}

impl Worker {
    /// A call was answered. The time since this very worker's last answer is what counts: that others
    /// went on is no comfort to it.
    pub(super) fn answered(&self) {
        self.answered_at(Instant::now());
    }

    fn answered_at(&self, now: Instant) {
        let mut counts = self.meter.lock();
        counts.calls += 1;
        if let Some(last) = counts.last[self.number].replace(now)
            && now - last > counts.gap
        {
            counts.gap = now - last;
            counts.gap_at = now - self.meter.started;
        }
    }

    /// A call failed, retries and all.
    pub(super) fn failed(&self, what: &str, failure: &Failure) {
        let at = millis(Instant::now() - self.meter.started);
        let mut counts = self.meter.lock();
        counts.failures += 1;
        counts.unknown += u64::from(failure.maybe_applied);
        if counts.words.len() < WORDS_MAX {
            counts.words.push(format!("at {at} ms, {what}: {failure}"));
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_waits_is_a_gap_though_others_go_on() {
        let meter = Arc::new(Meter::new(2));
        let (quick, slow) = (meter.worker(0), meter.worker(1));
        let at = |ms| meter.started + Duration::from_millis(ms);
        quick.answered_at(at(0));
        slow.answered_at(at(0));
        for tenth in 1..=10 {
            quick.answered_at(at(100 * tenth));
        }
        assert_eq!(meter.progress_at(at(1000)).longest_gap_ms, 1000, "still open");
        slow.answered_at(at(1000));
        quick.failed("put", &Failure::silence("silence"));
        let progress = meter.progress_at(at(1000));
        assert_eq!((progress.longest_gap_ms, progress.longest_gap_at_ms), (1000, 1000));
        assert_eq!((progress.calls, progress.failures, progress.unknown), (13, 1, 1));
    }
}
