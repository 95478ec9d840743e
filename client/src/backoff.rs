//! How long to wait between attempts.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Pauses that double from [`Backoff::FIRST`] up to [`Backoff::LONGEST`], each drawn between half
/// and all of its size, so that many clients of one failed node do not come back in step.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    size: Duration,
}

impl Backoff {
    pub(crate) const FIRST: Duration = Duration::from_millis(10);
    /// Bound: about one attempt in half a second while nothing helps; a new leader is found at most that
    /// much later than it is there.
    pub(crate) const LONGEST: Duration = Duration::from_millis(500);

    pub(crate) fn new() -> Self {
        Self { size: Self::FIRST }
    }

    /// The next pause, never shorter than what the server asked for.
    pub(crate) fn next(&mut self, at_least: Duration, rng: &mut impl Rng) -> Duration {
        let pause = self.size.mul_f64(rng.random_range(0.5..=1.0));
        self.size = (self.size * 2).min(Self::LONGEST);
        // The jitter is added on top of the server's wish: it told everybody the same.
        if pause < at_least { at_least + pause } else { pause }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn pauses_grow_stay_bounded_and_differ() {
        let mut rng = StdRng::seed_from_u64(7);
        let (mut one, mut other) = (Backoff::new(), Backoff::new());
        let first: Vec<_> = (0..12).map(|_| one.next(Duration::ZERO, &mut rng)).collect();
        let second: Vec<_> = (0..12).map(|_| other.next(Duration::ZERO, &mut rng)).collect();
        assert!(first[0] >= Backoff::FIRST / 2 && first[0] <= Backoff::FIRST);
        assert!(first.iter().all(|pause| *pause <= Backoff::LONGEST));
        assert!(first[11] >= Backoff::LONGEST / 2);
        assert_ne!(first, second, "two clients must not pause in step");
    }

    #[test]
    fn the_servers_wish_is_a_lower_bound() {
        let mut rng = StdRng::seed_from_u64(7);
        let wish = Duration::from_secs(1);
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            assert!(backoff.next(wish, &mut rng) >= wish);
        }
    }
}
