//! What may have happened, when of requests without an answer less is asked than is true.
//!
//! The longer a history, the more ways there are to choose which of its lost requests have explained what, and
//! showing that there is no order means trying them all. So an order is first sought among more than the possible ones:
//! a lost request that stores nothing that anybody is known to have found may take effect as often as one likes, and
//! where it depends on a value that nobody is known to have found, either way. Then nothing has to be remembered of
//! what was taken before, and few states can be told apart. Every true order is among these, so where there is none,
//! there is no true one.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Call, Operation, Request, State, Txn, needs::Needs, values::is_number};

/// In place of every value that nobody is known to have found.
const ANY: Bytes = Bytes::from_static(b"(nobody found it)");

/// What may have happened.
pub(super) struct Relaxed {
    /// What each request does, as far as it is asked.
    pub(super) requests: Vec<Request>,
    /// Which of them are there as often as one likes.
    pub(super) common: Vec<bool>,
    /// Requests without an answer, in the order in which they were sent; of those that are common, one for all that
    /// do the same.
    pub(super) lost: Vec<(usize, Request)>,
    /// The values that are told apart, but for numbers.
    found: HashSet<Bytes>,
}

impl Relaxed {
    /// `lost` are the requests without an answer, in the order in which they were sent.
    pub(super) fn of(
        operations: &[&Operation],
        requests: &[Request],
        lost: &[usize],
        needs: &Needs,
    ) -> Self {
        let common: Vec<bool> = (0..requests.len())
            .map(|index| operations[index].answer().is_none() && needs.has_no_use_for(index))
            .collect();
        let mut found: HashSet<Bytes> = needs.values().cloned().collect();
        for index in lost.iter().filter(|index| !common[**index]) {
            found.extend(requests[*index].expects().cloned());
        }
        let mut relaxed = Self { requests: Vec::new(), common, lost: Vec::new(), found };
        relaxed.requests = requests.iter().map(|request| relaxed.request(request)).collect();
        let mut met = HashSet::new();
        for index in lost.iter().copied() {
            if !relaxed.common[index] {
                relaxed.lost.push((index, relaxed.requests[index].clone()));
                continue;
            }
            for request in relaxed.either_way(&requests[index]) {
                if met.insert(request.clone()) {
                    relaxed.lost.push((index, request));
                }
            }
        }
        relaxed
    }

    /// A state in which nothing else is told apart.
    pub(super) fn state(&self, state: &State) -> State {
        state.iter().map(|(key, value)| (key.clone(), self.value(value))).collect()
    }

    fn value(&self, value: &Bytes) -> Bytes {
        if self.is_known(value) { value.clone() } else { ANY }
    }

    fn is_known(&self, value: &Bytes) -> bool {
        is_number(value) || self.found.contains(value)
    }

    fn request(&self, request: &Request) -> Request {
        let call = |call: &Call| match call.stores() {
            Some(value) => call.storing(self.value(value)),
            None => call.clone(),
        };
        let calls = |calls: &[(Bytes, Call)]| {
            calls.iter().map(|(key, of)| (key.clone(), call(of))).collect()
        };
        match request {
            Request::One(key, of) => Request::One(key.clone(), call(of)),
            Request::Txn(Txn { when, then, otherwise }) => Request::Txn(Txn {
                when: when.clone(),
                then: calls(then),
                otherwise: calls(otherwise),
            }),
        }
    }

    /// The request, or what it does in each of two cases when it cannot be told which of them it is.
    fn either_way(&self, request: &Request) -> Vec<Request> {
        let all = |calls: Vec<(Bytes, Call)>| match calls.as_slice() {
            [] => None,
            [(key, call)] => Some(Request::One(key.clone(), call.clone())),
            _ => Some(Request::Txn(Txn { then: calls, ..Txn::default() })),
        };
        if request.expects().all(|value| self.is_known(value)) {
            return vec![self.request(request)];
        }
        match self.request(request) {
            Request::One(key, Call::CompareAndPut { new, .. }) => {
                vec![Request::One(key, Call::Write(new))]
            }
            Request::Txn(Txn { then, otherwise, .. }) => {
                [then, otherwise].into_iter().filter_map(all).collect()
            }
            one => vec![one],
        }
    }
}
