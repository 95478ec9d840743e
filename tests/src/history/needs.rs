//! Values that are still to be seen.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{Answer, Call, Operation, Request, State, counted::Counted, values::is_number};

/// Which values requests that are not done have shown, and who could still store them.
///
/// Invariant: a value that a request is to show is not replaced while nobody is left who stores it: an order that
/// does so ends nowhere. It would be found out in the end, but after everything that comes in between was tried.
/// Numbers are left out, since they can also be counted up to; but see [`Counted`].
pub(super) struct Needs {
    numbers: HashMap<(Bytes, Bytes), usize>,
    /// For each value: requests that need it, and requests that may store it, of those that are not done.
    left: Vec<(usize, usize)>,
    /// For each request: the values that it needs, and those that it may store.
    of: Vec<(Vec<usize>, Vec<usize>)>,
    /// For each request: whether it adds to a number, or may store one.
    counts: Vec<bool>,
    counted: Counted,
}

impl Needs {
    pub(super) fn of(operations: &[&Operation], requests: &[Request]) -> Self {
        let counts = |request: &Request| {
            request.calls().any(|call| match call {
                Call::Increment(_) => true,
                call => call.stores().is_some_and(is_number),
            })
        };
        let mut needs = Self {
            numbers: HashMap::new(),
            left: Vec::new(),
            of: Vec::new(),
            counts: requests.iter().map(counts).collect(),
            counted: Counted::of(operations, requests),
        };
        for (operation, request) in operations.iter().zip(requests) {
            let shown = operation.answer().map(|answer| needed(request, answer));
            let shown = needs.numbered(shown.unwrap_or_default());
            let stored = needs.numbered(stored(request));
            shown.iter().for_each(|number| needs.left[*number].0 += 1);
            stored.iter().for_each(|number| needs.left[*number].1 += 1);
            needs.of.push((shown, stored));
        }
        needs
    }

    fn numbered(&mut self, values: Vec<(&Bytes, &Bytes)>) -> Vec<usize> {
        let distinct: HashSet<_> =
            values.into_iter().filter(|(_, value)| !is_number(value)).collect();
        let number = |(key, value): (&Bytes, &Bytes)| {
            let next = self.numbers.len();
            let number = *self.numbers.entry((key.clone(), value.clone())).or_insert(next);
            self.left.resize(self.numbers.len(), (0, 0));
            number
        };
        distinct.into_iter().map(number).collect()
    }

    /// The values that requests have shown or found.
    pub(super) fn values(&self) -> impl Iterator<Item = &Bytes> {
        let needed = self.numbers.iter().filter(|(_, number)| self.left[**number].0 > 0);
        needed.map(|((_, value), _)| value)
    }

    /// Whether nobody needs what this request stores. What counts, or may be counted on, is always of use.
    pub(super) fn has_no_use_for(&self, index: usize) -> bool {
        let (_, stored) = &self.of[index];
        !self.counts[index] && stored.iter().all(|number| self.left[*number].0 == 0)
    }

    pub(super) fn done(&mut self, index: usize) {
        let (shown, stored) = &self.of[index];
        shown.iter().for_each(|number| self.left[*number].0 -= 1);
        stored.iter().for_each(|number| self.left[*number].1 -= 1);
        self.counted.done(index);
    }

    pub(super) fn undone(&mut self, index: usize) {
        let (shown, stored) = &self.of[index];
        shown.iter().for_each(|number| self.left[*number].0 += 1);
        stored.iter().for_each(|number| self.left[*number].1 += 1);
        self.counted.undone(index);
    }

    /// Whether no value went with this request that is still to be seen, and no number was passed.
    pub(super) fn are_met(&self, request: &Request, before: &State, after: &State) -> bool {
        let none_went = request.keys().all(|key| match before.get(key) {
            Some(value) if after.get(key) != Some(value) => {
                let number = self.numbers.get(&(key.clone(), value.clone()));
                number.is_none_or(|number| !matches!(self.left[*number], (1.., 0)))
            }
            _ => true,
        });
        none_went && self.counted.are_met(request, after)
    }
}

/// What must be there for the answer.
fn needed<'a>(request: &'a Request, answer: &'a Answer) -> Vec<(&'a Bytes, &'a Bytes)> {
    let (txn, succeeded, answers) = match (request, answer) {
        (Request::One(key, call), answer) => {
            return needed_by_one(call, answer).map(|value| (key, value)).into_iter().collect();
        }
        (Request::Txn(txn), Answer::Txn(succeeded, answers)) => (txn, *succeeded, answers),
        (Request::Txn(_), _) => return Vec::new(),
    };
    let compared = txn.when.iter().filter(|_| succeeded);
    let compared = compared.filter_map(|(key, value)| Some((key, value.as_ref()?)));
    let calls = if succeeded { &txn.then } else { &txn.otherwise };
    // What a call finds under a key that one before it has changed was not there before the transaction.
    let mut changed = HashSet::new();
    let shown = calls.iter().zip(answers).filter_map(|((key, call), answer)| {
        let first = !changed.contains(key);
        if !call.is_read() {
            changed.insert(key);
        }
        needed_by_one(call, answer).filter(|_| first).map(|value| (key, value))
    });
    compared.chain(shown).collect()
}

fn needed_by_one<'a>(call: &'a Call, answer: &'a Answer) -> Option<&'a Bytes> {
    match (call, answer) {
        (Call::CompareAndPut { expected, .. }, Answer::Conditional(Ok(()))) => expected.as_ref(),
        (_, answer) => answer.shows().into_iter().next(),
    }
}

fn stored(request: &Request) -> Vec<(&Bytes, &Bytes)> {
    let calls: Vec<(&Bytes, &Call)> = match request {
        Request::One(key, call) => vec![(key, call)],
        Request::Txn(txn) => {
            txn.then.iter().chain(&txn.otherwise).map(|(key, call)| (key, call)).collect()
        }
    };
    calls.into_iter().filter_map(|(key, call)| Some((key, call.stores()?))).collect()
}
