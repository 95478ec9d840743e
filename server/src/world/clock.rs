//! Time and randomness, which come in here and nowhere else.
//!
//! Decisions use the monotonic clock: it cannot jump, and it is tokio's, so that a simulation can own
//! it. The wall clock is for people (logs, creation times) and may jump by an hour at any moment;
//! nothing that must be right depends on it. Random numbers come from a generator per thread. A
//! simulation runs all its nodes on one thread; there [`simulate`] seeds the generator and makes the
//! wall clock follow tokio's. clippy refuses the other ways to time and randomness.

use std::{
    cell::RefCell,
    marker::PhantomData,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

thread_local! {
    static RANDOM: RefCell<StdRng> = RefCell::new(rand::make_rng());
    /// In a simulation: a wall time, and when it was on the monotonic clock.
    static WALL: RefCell<Option<(SystemTime, Instant)>> = const { RefCell::new(None) };
}

/// Now, on the monotonic clock. Never goes back, says nothing about other nodes.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// As [`now`], for threads of our own and for measurements: the machine's clock, except in a simulation.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
pub fn monotonic() -> std::time::Instant {
    if is_simulated() { now().into_std() } else { std::time::Instant::now() }
}

/// Since a moment of [`monotonic`].
#[must_use]
pub fn since(began: std::time::Instant) -> Duration {
    monotonic().saturating_duration_since(began)
}

pub(super) fn is_simulated() -> bool {
    WALL.with_borrow(Option::is_some)
}

/// Now, on the wall clock. For people only.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the seam that others must use")]
pub fn wall() -> SystemTime {
    let simulated = WALL.with_borrow(|wall| wall.map(|(base, since)| base + (now() - since)));
    simulated.unwrap_or_else(SystemTime::now)
}

/// Milliseconds since 1970 on the wall clock. For people only.
#[must_use]
pub fn wall_ms() -> u64 {
    let since = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A random number.
#[must_use]
pub fn random() -> u64 {
    RANDOM.with_borrow_mut(|random| random.random())
}

/// 16 random bytes, as for an identity.
#[must_use]
pub fn random_bytes() -> [u8; 16] {
    RANDOM.with_borrow_mut(|random| random.random())
}

/// A random duration in `[least, most]`; `least` when that is empty.
#[must_use]
pub fn random_between(least: Duration, most: Duration) -> Duration {
    if most <= least {
        return least;
    }
    RANDOM.with_borrow_mut(|random| random.random_range(least..=most))
}

/// `delay`, randomly shortened by up to a half, so that those who wait for one thing do not all come
/// back at once.
#[must_use]
pub fn jitter(delay: Duration) -> Duration {
    random_between(delay / 2, delay)
}

/// Ends a simulation of this thread when it is dropped.
#[derive(Debug)]
pub struct Simulation {
    /// It is about the thread that made it.
    not_send: PhantomData<*const ()>,
}

/// From now on, on this thread: `seed` decides every random number, and the wall clock starts at
/// `wall` and moves with the monotonic one.
#[must_use = "the simulation ends when this is dropped"]
pub fn simulate(wall: SystemTime, seed: u64) -> Simulation {
    RANDOM.set(StdRng::seed_from_u64(seed));
    WALL.set(Some((wall, now())));
    Simulation { not_send: PhantomData }
}

impl Simulation {
    /// Sets the wall clock forward or back.
    pub fn jump(&self, to: SystemTime) {
        WALL.set(Some((to, now())));
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        RANDOM.set(rand::make_rng());
        WALL.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any of these tests may take, and shorter than the jumps in them.
    const WHILE: Duration = Duration::from_secs(600);
    const START: SystemTime = UNIX_EPOCH;

    #[test]
    fn simulated_wall_clock_moves_with_the_monotonic_one_and_jumps_alone() {
        let simulation = simulate(START + WHILE * 2, 1);
        let before = (wall(), now());
        while now() == before.1 {}
        assert!(wall() > before.0 && wall() < START + WHILE * 3);
        simulation.jump(START + WHILE * 10);
        assert!(wall() >= START + WHILE * 10 && wall_ms() < 6_600_000);
        simulation.jump(START);
        assert!(wall() < START + WHILE, "it can go back");
        assert!(now() > before.1 && now() - before.1 < WHILE, "the monotonic clock did not jump");
        drop(simulation);
        assert!(wall() > START + WHILE * 1000, "the machine's again");
    }

    #[test]
    fn a_seed_decides_every_random_number() {
        let draw = |seed| {
            let _simulation = simulate(START, seed);
            (random(), random_bytes(), jitter(Duration::from_secs(1)))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_ne!(random(), random(), "outside of a simulation nothing repeats");
    }

    #[test]
    fn jitter_stays_between_half_and_the_whole() {
        let delay = Duration::from_millis(100);
        for _ in 0..1000 {
            let wait = jitter(delay);
            assert!(wait >= delay / 2 && wait <= delay, "{wait:?}");
        }
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }
}
