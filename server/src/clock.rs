//! Time and randomness, which come in here and nowhere else.
//!
//! Decisions use the monotonic clock: it cannot jump, and it is tokio's, so that a test can pause
//! it and a simulation can own it. The wall clock is for people (logs, creation times), and may jump
//! by an hour at any moment; nothing that must be right depends on it. Random numbers come from one
//! generator per node, which a simulation seeds. clippy refuses the other ways to either.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

/// The clocks and the random numbers of one node. A clone is the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    wall: Wall,
    random: Mutex<StdRng>,
}

enum Wall {
    System,
    /// Moves with the monotonic clock, and by [`Clock::jump`].
    Simulated {
        base: Mutex<SystemTime>,
        since: Instant,
    },
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.wall {
            Wall::System => "Clock::System",
            Wall::Simulated { .. } => "Clock::Simulated",
        })
    }
}

impl Clock {
    /// The clocks of this machine, and numbers nobody can foresee.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Inner { wall: Wall::System, random: Mutex::new(StdRng::from_os_rng()) }))
    }

    /// A wall clock that starts at `wall` and moves with the monotonic one, and random numbers that
    /// `seed` decides.
    #[must_use]
    pub fn simulated(wall: SystemTime, seed: u64) -> Self {
        let wall = Wall::Simulated { base: Mutex::new(wall), since: Instant::now() };
        Self(Arc::new(Inner { wall, random: Mutex::new(StdRng::seed_from_u64(seed)) }))
    }

    /// Now, on the monotonic clock. Never goes back, says nothing about other nodes.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Now, on the wall clock. For people only.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
    pub fn wall(&self) -> SystemTime {
        match &self.0.wall {
            Wall::System => SystemTime::now(),
            Wall::Simulated { base, since } => *base.lock() + (self.now() - *since),
        }
    }

    /// Milliseconds since 1970 on the wall clock. For people only.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        let since = self.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Sets a simulated wall clock forward or back. `false`, and nothing is done, on the machine's.
    pub fn jump(&self, to: SystemTime) -> bool {
        match &self.0.wall {
            Wall::System => false,
            Wall::Simulated { base, since } => {
                *base.lock() = to - (self.now() - *since);
                true
            }
        }
    }

    /// A random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.0.random.lock().random()
    }

    /// 16 random bytes, as for an identity.
    #[must_use]
    pub fn random_bytes(&self) -> [u8; 16] {
        self.0.random.lock().random()
    }

    /// A random duration in `[least, most]`; `least` when that is empty.
    #[must_use]
    pub fn random_between(&self, least: Duration, most: Duration) -> Duration {
        if most <= least { least } else { self.0.random.lock().random_range(least..=most) }
    }

    /// `delay`, randomly shortened by up to a half, so that those who wait for one thing do not
    /// all come back at once.
    #[must_use]
    pub fn jitter(&self, delay: Duration) -> Duration {
        self.random_between(delay / 2, delay)
    }
}

/// Now, on the monotonic clock of the runtime.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Now, on the monotonic clock of the machine: for threads outside of the runtime.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
pub fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}

/// A random number that nobody can foresee.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
pub fn random() -> u64 {
    rand::rng().random()
}

/// 16 random bytes, as for an identity.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
pub fn random_bytes() -> [u8; 16] {
    rand::rng().random()
}

/// `delay`, randomly shortened by up to a half, so that those who wait for one thing do not all
/// come back at once.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
pub fn jitter(delay: Duration) -> Duration {
    delay.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Where a leader takes the time of its commands from.
///
/// A region's *replicated time* is the largest time it has applied. A leader continues it: it starts
/// from the time that was applied when it began to lead and adds what passed since on its own
/// monotonic clock.
///
/// Invariant: a time that is handed out is never below the one it started from, and never below an
/// earlier one. The wall clock has no part in it: a jump of an hour expires nothing and keeps
/// nothing alive. The price is that time stands still while a region has no leader.
#[derive(Clone, Copy, Debug)]
pub struct RegionClock {
    base_ms: u64,
    since: Instant,
}

impl RegionClock {
    /// Continues from `applied_ms`, the replicated time at the start of a leadership.
    #[must_use]
    pub fn start(now: Instant, applied_ms: u64) -> Self {
        Self { base_ms: applied_ms, since: now }
    }

    /// The replicated time to stamp a command with at `now`.
    #[must_use]
    pub fn at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.since);
        self.base_ms.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_700_000_000);

    fn simulated(seed: u64) -> Clock {
        Clock::simulated(UNIX_EPOCH + START, seed)
    }

    #[test]
    fn simulated_wall_clock_moves_with_the_monotonic_one() {
        let clock = simulated(1);
        let (wall, now) = (clock.wall(), clock.now());
        assert!(wall >= UNIX_EPOCH + START && wall < UNIX_EPOCH + START + Duration::from_secs(60));
        while clock.now() == now {}
        assert!(clock.wall() > wall);
        assert!(clock.jump(UNIX_EPOCH + Duration::from_secs(10)));
        assert!((10_000..70_000).contains(&clock.wall_ms()));
    }

    #[test]
    fn region_time_continues_from_what_was_applied() {
        let start = Clock::system().now();
        let leader = RegionClock::start(start, 5_000);
        for (why, elapsed_ms, want) in
            [("at once", 0, 5_000), ("later", 700, 5_700), ("later still", 3_600_000, 3_605_000)]
        {
            assert_eq!(leader.at(start + Duration::from_millis(elapsed_ms)), want, "{why}");
        }
        assert_eq!(leader.at(start + Duration::from_micros(999)), 5_000);
        let later = RegionClock::start(start + Duration::from_secs(9), 5_700);
        assert_eq!(later.at(start), 5_700, "never below what was applied");
        assert_eq!(
            RegionClock::start(start, u64::MAX).at(start + Duration::from_secs(1)),
            u64::MAX
        );
    }

    #[test]
    fn a_seed_decides_every_random_number() {
        let draw = |seed| {
            let clock = simulated(seed);
            (clock.random(), clock.random_bytes(), clock.jitter(Duration::from_secs(1)))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn jitter_stays_between_half_and_the_whole() {
        let clock = Clock::system();
        let delay = Duration::from_millis(100);
        for _ in 0..1000 {
            let wait = clock.jitter(delay);
            assert!(wait >= delay / 2 && wait <= delay, "{wait:?}");
        }
        assert_eq!(clock.jitter(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn the_machines_wall_clock_cannot_be_set() {
        assert!(!Clock::system().jump(UNIX_EPOCH));
    }
}
