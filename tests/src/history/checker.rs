//! Whether a history is linearizable: the search of Wing and Gong, with Lowe's memory of visited
//! configurations, for each group of keys.
//!
//! Keys are judged apart, but for those that a transaction joins. The search itself is in `search.rs`.
//!
//! The question is NP-complete, so there is a [`Budget`]; past it the verdict is
//! [`Verdict::Undecided`], which a test must treat as a failure: it shows nothing.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Completion, Operation, counterexample,
    search::{End, Search},
    values,
};

/// Where the search gives up.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// For all keys together, by tokio's clock: where a simulation has stopped it, there is no such bound.
    pub time: Duration,
    /// For the memory of visited configurations of one group of keys: of a long history one takes up to 2 KiB.
    pub configurations: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { time: Duration::from_secs(60), configurations: 300_000 }
    }
}

/// What is known after the search.
#[derive(Debug)]
pub enum Verdict {
    /// Every group of keys has an order.
    Legal,
    /// One has none.
    Illegal {
        /// Which keys.
        keys: Vec<Bytes>,
        /// The requests around the place where every order ends, for people.
        explanation: String,
    },
    /// The budget ran out. Nothing is shown, in either direction.
    Undecided {
        /// The keys at which it did.
        keys: Vec<Bytes>,
        /// Which part of the budget.
        why: String,
    },
}

impl Verdict {
    /// Whether an order was found for every key.
    #[must_use]
    pub fn is_legal(&self) -> bool {
        matches!(self, Self::Legal)
    }

    /// Whether it was shown that there is no order.
    #[must_use]
    pub fn is_illegal(&self) -> bool {
        matches!(self, Self::Illegal { .. })
    }
}

/// Judges a history whose keys were all absent at its beginning.
#[must_use]
pub fn check(operations: &[Operation], budget: Budget) -> Verdict {
    let deadline = Instant::now() + budget.time;
    for (keys, all) in groups(operations) {
        let relevant: Vec<&Operation> = all.into_iter().filter(|one| matters(one)).collect();
        let requests = values::told_apart(&relevant);
        let end = Search::new(&relevant, requests, budget, deadline).run();
        let keys = || keys.iter().copied().cloned().collect();
        match end {
            End::Legal => {}
            End::Illegal { done, blocked } => {
                let done: Vec<&Operation> = done.into_iter().map(|index| relevant[index]).collect();
                let explanation = counterexample::explain(&relevant, &done, relevant[blocked]);
                return Verdict::Illegal { keys: keys(), explanation };
            }
            End::Undecided(why) => return Verdict::Undecided { keys: keys(), why },
        }
    }
    Verdict::Legal
}

/// Keys that transactions join, with all that was asked about them; in the order of their first keys.
fn groups(operations: &[Operation]) -> Vec<(Vec<&Bytes>, Vec<&Operation>)> {
    // Each key's least known companion; its own at the root.
    let mut least: BTreeMap<&Bytes, &Bytes> = BTreeMap::new();
    for operation in operations {
        let mut root = None;
        for key in operation.request.keys() {
            let of_key = root_of(&least, key);
            least.entry(key).or_insert(key);
            let (low, high) = match root {
                Some(root) if root < of_key => (root, of_key),
                Some(root) => (of_key, root),
                None => (of_key, of_key),
            };
            least.insert(high, low);
            root = Some(low);
        }
    }
    let mut groups: BTreeMap<&Bytes, (Vec<&Bytes>, Vec<&Operation>)> = BTreeMap::new();
    for key in least.keys() {
        groups.entry(root_of(&least, key)).or_default().0.push(key);
    }
    for operation in operations {
        if let Some(key) = operation.request.keys().next() {
            groups.entry(root_of(&least, key)).or_default().1.push(operation);
        }
    }
    groups.into_values().collect()
}

fn root_of<'a>(least: &BTreeMap<&'a Bytes, &'a Bytes>, key: &'a Bytes) -> &'a Bytes {
    let mut at = key;
    while let Some(lower) = least.get(at).filter(|lower| **lower != at) {
        at = lower;
    }
    at
}

/// Requests without an effect say nothing; neither do reads without an answer.
fn matters(operation: &Operation) -> bool {
    match operation.completion {
        Completion::Ok { .. } => true,
        Completion::NotApplied => false,
        Completion::Unknown => !operation.request.is_read(),
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
