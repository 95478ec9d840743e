//! Requests that took long, in the log: a histogram says how many they were, a line says when.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tonic::Code;

use crate::clock;

/// From here on a request is slow. A write on healthy disks takes milliseconds; an election takes seconds.
const SLOW_SECONDS: f64 = 1.0;
/// Bound: between two lines. In an outage every request is slow, and one line says so as well as all.
const INTERVAL_MS: u64 = 1000;

/// Never says anything about keys or values.
#[derive(Debug)]
pub struct SlowLog {
    born: std::time::Instant,
    /// When the next line may be written, in milliseconds since `born`.
    due_ms: AtomicU64,
    /// Slow requests since the last line, without one of their own.
    untold: AtomicU64,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self { born: clock::monotonic(), due_ms: AtomicU64::new(0), untold: AtomicU64::new(0) }
    }
}

impl SlowLog {
    /// A request was answered after so long.
    pub fn finished(&self, method: &str, code: Code, seconds: f64) {
        if seconds >= SLOW_SECONDS
            && let Some(others) = self.take_turn(self.born.elapsed().as_millis() as u64)
        {
            tracing::info!(method, ?code, seconds, others, "a request was slow");
        }
    }

    /// Whether a line may be written now, and for how many others it stands.
    fn take_turn(&self, now_ms: u64) -> Option<u64> {
        let due = self.due_ms.load(Relaxed);
        let next = now_ms + INTERVAL_MS;
        if now_ms < due || self.due_ms.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            self.untold.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.untold.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_slow_requests_is_a_line_a_second_that_counts_them() {
        let log = SlowLog::default();
        let turns: Vec<_> = [0, 1, 500, 999, 1000, 1001, 2500].map(|now| log.take_turn(now)).into();
        assert_eq!(turns, [Some(0), None, None, None, Some(3), None, Some(1)]);
    }
}
