//! The keys and values of a load.
//!
//! A key is a number, scrambled and written as 16 hex digits: keys are spread evenly over the whole
//! key space, so that evenly cut regions get even shares. A value is a slice of one pool of random
//! bytes, so that no compression helps and making one costs a counter.

use bytes::Bytes;

/// Bytes of every key.
pub const KEY_BYTES: usize = 16;
/// Bytes of the pool that values are cut from.
const POOL_BYTES: usize = 4 << 20;

/// A small generator of well mixed numbers; the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct SplitMix(u64);

impl SplitMix {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }

    /// A number in `[0, end)`. `end` is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        // Small ends only: the bias is below end / 2^64.
        (self.draw() % end as u64) as usize
    }
}

/// A one-to-one mapping of numbers that leaves no pattern.
fn scramble(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What a load reads and writes. Clones share it.
#[derive(Clone)]
pub struct Data {
    /// All keys, one after the other.
    keys: Bytes,
    pool: Bytes,
    value_bytes: usize,
}

impl Data {
    /// `keys` different keys, and values of `value_bytes`.
    ///
    /// # Errors
    ///
    /// When there are no keys, or values are empty or larger than 1 MiB.
    pub fn new(keys: usize, value_bytes: usize, seed: u64) -> anyhow::Result<Self> {
        anyhow::ensure!(keys > 0, "a load needs keys");
        anyhow::ensure!(
            (1..=POOL_BYTES / 4).contains(&value_bytes),
            "a value has 1 to {} bytes",
            POOL_BYTES / 4
        );
        let mut written = String::with_capacity(keys * KEY_BYTES);
        for number in 0..keys as u64 {
            written.push_str(&format!("{:016x}", scramble(number.wrapping_add(1))));
        }
        let mut random = SplitMix::new(seed);
        let mut pool = Vec::with_capacity(POOL_BYTES);
        while pool.len() < POOL_BYTES {
            pool.extend_from_slice(&random.draw().to_le_bytes());
        }
        Ok(Self { keys: Bytes::from(written), pool: Bytes::from(pool), value_bytes })
    }

    pub fn keys(&self) -> usize {
        self.keys.len() / KEY_BYTES
    }

    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// The key with this number, in `[0, keys)`.
    pub fn key(&self, number: usize) -> Bytes {
        let start = number * KEY_BYTES;
        self.keys.slice(start..start + KEY_BYTES)
    }

    /// Some value.
    pub fn value(&self, random: &mut SplitMix) -> Bytes {
        let start = random.below(self.pool.len() - self.value_bytes);
        self.pool.slice(start..start + self.value_bytes)
    }
}

/// Where to cut the key space into `regions` even shares.
pub fn split_keys(regions: u32) -> Vec<Bytes> {
    let share = u64::MAX / u64::from(regions.max(1));
    (1..u64::from(regions)).map(|cut| Bytes::from(format!("{:016x}", share * cut))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_different_and_of_one_size() {
        let data = Data::new(10_000, 256, 1).expect("valid");
        let keys: HashSet<Bytes> = (0..data.keys()).map(|number| data.key(number)).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().all(|key| key.len() == KEY_BYTES));
    }

    #[test]
    fn regions_get_even_shares_of_the_keys() {
        let data = Data::new(60_000, 256, 1).expect("valid");
        let cuts = split_keys(6);
        assert_eq!(cuts.len(), 5);
        let mut shares = [0_usize; 6];
        for number in 0..data.keys() {
            shares[cuts.partition_point(|cut| *cut <= data.key(number))] += 1;
        }
        assert!(shares.iter().all(|share| (9_000..11_000).contains(share)), "{shares:?}");
    }

    #[test]
    fn one_region_has_no_split_keys() {
        assert!(split_keys(1).is_empty());
    }

    #[test]
    fn values_have_the_asked_size_and_differ() {
        let data = Data::new(1, 256, 1).expect("valid");
        let mut random = SplitMix::new(7);
        let (first, second) = (data.value(&mut random), data.value(&mut random));
        assert_eq!((first.len(), second.len()), (256, 256));
        assert_ne!(first, second);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(Data::new(0, 256, 1).is_err());
        assert!(Data::new(1, 0, 1).is_err());
        assert!(Data::new(1, POOL_BYTES, 1).is_err());
    }
}
