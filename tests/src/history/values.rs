//! Which values a history tells apart.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Call, Operation, Request, Txn};

/// The requests, with one value in place of all that nobody ever saw or looked for.
///
/// Whichever of these was there, every answer would be the same; so states that differ in them alone are one, and so
/// are requests without an answer.
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
    let request = |operation: &&Operation| match &operation.request {
        Request::One(key, call) => Request::One(key.clone(), told(call)),
        Request::Txn(Txn { when, then, otherwise }) => Request::Txn(Txn {
            when: when.clone(),
            then: told_all(then),
            otherwise: told_all(otherwise),
        }),
    };
    operations.iter().map(request).collect()
}

/// What may be added to, where the sum tells it.
fn is_number(value: &Bytes) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| text.parse::<i64>().is_ok())
}
