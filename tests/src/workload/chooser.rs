//! What a client that fights over a few keys asks next.

use std::collections::HashMap;

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::history::{Answer, Call};

/// Keys that are fought over at one time: some registers, some counters.
const REGISTERS: u64 = 4;
const COUNTERS: u64 = 2;

/// Every key of a generation, below `prefix`.
pub fn contested_keys(prefix: &str, generation: u64) -> impl Iterator<Item = Bytes> {
    (0..REGISTERS + COUNTERS).map(move |number| key(prefix, generation, number))
}

fn key(prefix: &str, generation: u64, number: u64) -> Bytes {
    let kind = if number < REGISTERS { "register" } else { "counter" };
    Bytes::from(format!("{prefix}/{generation:04}/{kind}/{number}"))
}

/// The choices of one client. The same seed and answers give the same choices.
pub struct Chooser {
    prefix: String,
    number: usize,
    random: StdRng,
    written: u64,
    /// What this client last saw under a key: what its next compare-and-put expects.
    seen: HashMap<Bytes, Option<Bytes>>,
}

impl Chooser {
    /// The choices of client `number`, whose values are unique to it.
    #[must_use]
    pub fn new(seed: u64, prefix: &str, number: usize) -> Self {
        Self {
            prefix: prefix.to_owned(),
            number,
            random: StdRng::seed_from_u64(seed.wrapping_add(1 + number as u64)),
            written: 0,
            seen: HashMap::new(),
        }
    }

    /// A key of this generation, and what to ask about it.
    pub fn next(&mut self, generation: u64) -> (Bytes, Call) {
        let number = self.random.random_range(0..REGISTERS + COUNTERS);
        let key = key(&self.prefix, generation, number);
        let call = self.any_call(&key, number >= REGISTERS);
        (key, call)
    }

    fn any_call(&mut self, key: &Bytes, counter: bool) -> Call {
        let die = self.random.random_range(0..100);
        if counter {
            return if die < 70 { Call::Increment(1) } else { Call::Read };
        }
        self.written += 1;
        let new = Bytes::from(format!("{}-{}", self.number, self.written));
        match die {
            0..35 => Call::Read,
            35..53 => Call::Write(new),
            53..76 => {
                let expected = self.seen.get(key).cloned().flatten();
                Call::CompareAndPut { expected, new }
            }
            76..84 => Call::Delete,
            84..92 => Call::PutIfAbsent(new),
            _ => Call::GetAndPut(new),
        }
    }

    /// What an answer says of the key.
    pub fn learn(&mut self, key: &Bytes, call: &Call, answer: &Answer) {
        let now = match (call, answer) {
            (_, Answer::Value(value) | Answer::Conditional(Err(value))) => value.clone(),
            (_, Answer::Deleted(_)) => None,
            _ => call.stores().cloned(),
        };
        self.seen.insert(key.clone(), now);
    }
}
