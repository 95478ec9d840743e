//! Maps without an order of their own, for what is only looked up, and what may come in any order.
//!
//! Where the map of the standard library begins is drawn anew in each process, so that nobody outside can choose keys
//! that meet. In a simulation it is always the same: the order in which such a map is gone through may wake one task
//! before another.

use std::{
    collections,
    hash::{BuildHasher, DefaultHasher, RandomState},
};

use super::clock;

pub type HashMap<K, V> = collections::HashMap<K, V, Hashing>;
pub type HashSet<T> = collections::HashSet<T, Hashing>;

/// As [`RandomState`], except in a simulation.
#[derive(Clone, Debug)]
pub struct Hashing(Option<RandomState>);

impl Default for Hashing {
    fn default() -> Self {
        Self((!clock::is_simulated()).then(RandomState::new))
    }
}

impl BuildHasher for Hashing {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        self.0.as_ref().map_or_else(DefaultHasher::new, BuildHasher::build_hasher)
    }
}
