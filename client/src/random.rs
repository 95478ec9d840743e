//! Randomness, which comes in here and nowhere else.
//!
//! A client draws numbers for the pauses between attempts, so that many do not come back in step. They come
//! from a generator per thread, which [`seed`] sets: a simulation that runs clients on one thread, with tokio's time
//! and a [`Connector`](crate::Connector) of its own, sees them do the same again.

use std::{cell::RefCell, marker::PhantomData};

use rand::{SeedableRng as _, rngs::StdRng};

thread_local! {
    static RANDOM: RefCell<StdRng> = RefCell::new(rand::make_rng());
}

/// Something drawn from this thread's generator.
pub(crate) fn draw<T>(draw: impl FnOnce(&mut StdRng) -> T) -> T {
    RANDOM.with_borrow_mut(draw)
}

/// Makes chance chance again when it is dropped.
#[derive(Debug)]
pub struct Seeded {
    /// It is about the thread that made it.
    not_send: PhantomData<*const ()>,
}

/// From now on, on this thread, `seed` decides every number that clients draw. For simulations and tests.
#[must_use = "the seed is forgotten when this is dropped"]
pub fn seed(seed: u64) -> Seeded {
    RANDOM.set(StdRng::seed_from_u64(seed));
    Seeded { not_send: PhantomData }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        RANDOM.set(rand::make_rng());
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;

    #[test]
    fn a_seed_decides_every_number_until_it_is_dropped() {
        let number = || draw(|random| random.random::<u64>());
        let seeded = |by| {
            let _seeded = seed(by);
            (number(), number())
        };
        assert_eq!(seeded(7), seeded(7));
        assert_ne!(seeded(7), seeded(8));
        let mut after = StdRng::seed_from_u64(8);
        let _ = (after.random::<u64>(), after.random::<u64>());
        assert_ne!(number(), after.random::<u64>(), "the seed is forgotten");
    }
}
