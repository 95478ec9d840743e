//! The clock of a region, which only its leader advances.
//!
//! Expiry must be the same on every peer, so it is decided by a time that is replicated: each command
//! carries one, and the largest applied one is the region's *replicated time*. A leader continues
//! from the time it found when it began to lead, by its monotonic clock. The wall clock has no part
//! in it: a node whose date jumps by an hour expires nothing early. While nobody leads, time stands
//! still, so a key may live longer than it was given, never shorter.

use std::time::Duration;

use tokio::time::Instant;

/// Time of a region as its leader tells it.
#[derive(Debug, Default)]
pub struct RegionClock {
    /// Term, replicated time at its begin, and when that was.
    leading: Option<(u64, u64, Instant)>,
}

impl RegionClock {
    /// Milliseconds to stamp on a command proposed at `now` in `term`, where `applied_ms` is the
    /// replicated time as applied here. Never below `applied_ms`.
    pub fn stamp(&mut self, term: u64, applied_ms: u64, now: Instant) -> u64 {
        match self.leading {
            Some((leading, base_ms, since)) if leading == term => {
                let elapsed = now.saturating_duration_since(since);
                base_ms.saturating_add(millis(elapsed)).max(applied_ms)
            }
            _ => {
                self.leading = Some((term, applied_ms, now));
                applied_ms
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_follows_the_leaders_monotonic_clock_and_never_goes_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = RegionClock::default();
        for (why, term, applied_ms, now, want) in [
            ("a new leader continues where the region was", 2, 500, at(0), 500),
            ("then by its own clock", 2, 500, at(40), 540),
            ("not below what is applied", 2, 600, at(50), 600),
            ("a later term starts over from what is applied", 3, 700, at(10_000), 700),
            ("and goes on from there", 3, 700, at(10_005), 705),
        ] {
            assert_eq!(clock.stamp(term, applied_ms, now), want, "{why}");
        }
    }
}
