//! Which values and requests a history tells apart.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Call, Operation, Request, Txn};

/// The requests, with one value in place of all that nobody ever saw or looked for. Those without an answer are said by
/// their effect alone.
///
/// Whichever of these values was there, every answer would be the same; so states that differ in them alone are one, and
/// so are requests without an answer.
pub(super) fn told_apart(operations: &[&Operation]) -> Vec<Request> {
    let mut seen = HashSet::new();
    for operation in operations {
        seen.extend(operation.request.expects());
        seen.extend(operation.answer().into_iter().flat_map(super::Answer::shows));
    }
    let unseen = |value: &&Bytes| !seen.contains(*value) && !is_number(value);
    let calls = operations.iter().flat_map(|operation| operation.request.calls());
    let one = calls.filter_map(Call::stores).find(unseen);
    let told = |call: &Call| match one {
        Some(one) if call.stores().is_some_and(|value| unseen(&value)) => call.storing(one.clone()),
        _ => call.clone(),
    };
    let told_all = |calls: &[(Bytes, Call)]| {
        calls.iter().map(|(key, call)| (key.clone(), told(call))).collect()
    };
    let request = |operation: &&Operation| {
        let request = match &operation.request {
            Request::One(key, call) => Request::One(key.clone(), told(call)),
            Request::Txn(Txn { when, then, otherwise }) => Request::Txn(Txn {
                when: when.clone(),
                then: told_all(then),
                otherwise: told_all(otherwise),
            }),
        };
        if operation.answer().is_some() { request } else { effect(request) }
    };
    operations.iter().map(request).collect()
}

/// A request that changes what this one changes, whatever it would have answered, so that those which do the same are
/// equal.
fn effect(request: Request) -> Request {
    let Txn { when, then, otherwise } = match request {
        Request::One(key, call) => return Request::One(key, effect_of_one(call)),
        Request::Txn(txn) => txn,
    };
    let changes = |calls: Vec<(Bytes, Call)>| {
        let changes = calls.into_iter().filter(|(_, call)| !call.is_read());
        let mut changes: Vec<_> = changes.map(|(key, call)| (key, effect_of_one(call))).collect();
        // Those of one key stay in their order.
        changes.sort_by(|(one, _), (other, _)| one.cmp(other));
        changes
    };
    let (then, otherwise) = (changes(then), changes(otherwise));
    match (when.as_slice(), then.as_slice(), otherwise.as_slice()) {
        ([], [(key, call)], _) => Request::One(key.clone(), call.clone()),
        ([], ..) => Request::Txn(Txn { when, then, otherwise: Vec::new() }),
        ([(compared, expected)], [(key, Call::Write(new))], []) if compared == key => {
            let (expected, new) = (expected.clone(), new.clone());
            Request::One(key.clone(), Call::CompareAndPut { expected, new })
        }
        _ => Request::Txn(Txn { when, then, otherwise }),
    }
}

fn effect_of_one(call: Call) -> Call {
    match call {
        Call::GetAndPut(new) => Call::Write(new),
        Call::PutIfAbsent(new) => Call::CompareAndPut { expected: None, new },
        Call::Read
        | Call::Write(_)
        | Call::CompareAndPut { .. }
        | Call::Delete
        | Call::Increment(_) => call,
    }
}

/// What may be added to, where the sum tells it.
pub(super) fn is_number(value: &Bytes) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.parse::<i64>().is_ok())
}
