//! Numbers that only grow.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::{Answer, Call, Operation, Request, State};

/// Keys to which requests only add, and the numbers that those which are not done have found there.
///
/// Invariant: such a number is never larger than the least that is still to be found: an order in which it is ends
/// nowhere.
#[derive(Default)]
pub(super) struct Counted {
    keys: HashMap<Bytes, usize>,
    /// For each key: numbers that are still to be found, and how often.
    left: Vec<BTreeMap<i64, usize>>,
    /// For each request: a key, and the number that it found.
    of: Vec<Option<(usize, i64)>>,
}

impl Counted {
    pub(super) fn of(operations: &[&Operation], requests: &[Request]) -> Self {
        let mut counted = Self::default();
        let other: HashSet<&Bytes> = requests.iter().flat_map(other_than_counted).collect();
        for (operation, request) in operations.iter().zip(requests) {
            let found = match (request, operation.answer()) {
                (Request::One(key, call), Some(answer)) if !other.contains(key) => {
                    found(call, answer).map(|number| (key, number))
                }
                _ => None,
            };
            let found = found.map(|(key, number)| (counted.key(key), number));
            if let Some((key, number)) = found {
                *counted.left[key].entry(number).or_default() += 1;
            }
            counted.of.push(found);
        }
        counted
    }

    fn key(&mut self, key: &Bytes) -> usize {
        let next = self.keys.len();
        let number = *self.keys.entry(key.clone()).or_insert(next);
        self.left.resize(self.keys.len(), BTreeMap::new());
        number
    }

    pub(super) fn done(&mut self, index: usize) {
        let Some((key, number)) = self.of[index] else { return };
        let left = self.left[key].entry(number).or_default();
        *left -= 1;
        if *left == 0 {
            self.left[key].remove(&number);
        }
    }

    pub(super) fn undone(&mut self, index: usize) {
        let Some((key, number)) = self.of[index] else { return };
        *self.left[key].entry(number).or_default() += 1;
    }

    /// Whether no number is past one that is still to be found.
    pub(super) fn are_met(&self, request: &Request, state: &State) -> bool {
        request.keys().all(|key| {
            let least = self.keys.get(key).and_then(|key| self.left[*key].keys().next());
            least.is_none_or(|least| number(state.get(key)).is_none_or(|now| now <= *least))
        })
    }
}

/// The keys with which a request does anything else than to read them or to add to them.
fn other_than_counted(request: &Request) -> Vec<&Bytes> {
    match request {
        Request::One(_, Call::Read | Call::Increment(1..)) => Vec::new(),
        request => request.keys().collect(),
    }
}

fn found(call: &Call, answer: &Answer) -> Option<i64> {
    match (call, answer) {
        (Call::Read, Answer::Value(value)) => number(value.as_ref()),
        (Call::Increment(_), Answer::Range(start, _)) => Some(*start),
        _ => None,
    }
}

/// What is absent counts as nothing.
fn number(value: Option<&Bytes>) -> Option<i64> {
    value.map_or(Some(0), |digits| std::str::from_utf8(digits).ok()?.parse().ok())
}
