//! Whether a key's revisions only grow.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Answer, Call, Completion, Operation, Request};

/// Checks, for each key, that a call which began after another had ended never saw a smaller
/// revision, that no two writes were given the same one, and that each has one value: whoever compares
/// revisions relies on it.
///
/// # Errors
/// Names the calls that contradict it.
pub fn check_revisions(operations: &[Operation]) -> Result<(), String> {
    let mut keys: BTreeMap<&Bytes, Vec<(&Operation, u64, u64)>> = BTreeMap::new();
    for operation in operations {
        if let Completion::Ok { at, answer, revision: Some(revision) } = &operation.completion {
            for key in told_of(&operation.request, answer) {
                keys.entry(key).or_default().push((operation, *at, *revision));
            }
        }
    }
    for (key, seen) in keys {
        no_step_back(key, &seen)?;
        no_revision_twice(key, &seen)?;
        one_value_a_revision(key, &seen)?;
    }
    Ok(())
}

/// The keys whose revision the answer tells; of a transaction those that it wrote.
fn told_of<'a>(request: &'a Request, answer: &'a Answer) -> Vec<&'a Bytes> {
    let (txn, succeeded, answers) = match (request, answer) {
        (Request::One(key, _), _) => return vec![key],
        (Request::Txn(txn), Answer::Txn(succeeded, answers)) => (txn, *succeeded, answers),
        (Request::Txn(_), _) => return Vec::new(),
    };
    let calls = if succeeded { &txn.then } else { &txn.otherwise };
    let wrote = |call: &Call, answer: &Answer| !call.is_read() && *answer != Answer::Deleted(false);
    let answered = calls.iter().zip(answers);
    answered.filter(|((_, call), answer)| wrote(call, answer)).map(|((key, _), _)| key).collect()
}

fn no_step_back(key: &Bytes, seen: &[(&Operation, u64, u64)]) -> Result<(), String> {
    let mut by_end: Vec<&(&Operation, u64, u64)> = seen.iter().collect();
    by_end.sort_by_key(|(_, end, _)| *end);
    let mut by_begin: Vec<&(&Operation, u64, u64)> = seen.iter().collect();
    by_begin.sort_by_key(|(operation, ..)| operation.invoked);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&(&Operation, u64, u64)> = None;
    for current in by_begin {
        while let Some(earlier) = ended.next_if(|(_, end, _)| *end < current.0.invoked) {
            if newest.is_none_or(|newest| earlier.2 > newest.2) {
                newest = Some(earlier);
            }
        }
        if let Some(newest) = newest
            && newest.2 > current.2
        {
            return Err(format!("{key:?}: {current:?} came after {newest:?}"));
        }
    }
    Ok(())
}

fn no_revision_twice(key: &Bytes, seen: &[(&Operation, u64, u64)]) -> Result<(), String> {
    let mut writes: BTreeMap<u64, &Operation> = BTreeMap::new();
    for (operation, _, revision) in seen {
        if operation.request.is_read() {
            continue;
        }
        if let Some(other) = writes.insert(*revision, operation) {
            return Err(format!("{key:?}: {operation:?} and {other:?} share a revision"));
        }
    }
    Ok(())
}

fn one_value_a_revision(key: &Bytes, seen: &[(&Operation, u64, u64)]) -> Result<(), String> {
    let mut values: BTreeMap<u64, (Bytes, &Operation)> = BTreeMap::new();
    for (operation, _, revision) in seen {
        let Some(value) = value_told(operation) else { continue };
        if let Some((other, by)) = values.get(revision)
            && *other != value
        {
            return Err(format!("{key:?}: {operation:?} and {by:?} differ at one revision"));
        }
        values.insert(*revision, (value, operation));
    }
    Ok(())
}

/// What was under the key of a single call at the revision that it told.
fn value_told(operation: &Operation) -> Option<Bytes> {
    let Request::One(_, call) = &operation.request else { return None };
    match operation.answer()? {
        Answer::Value(value) => value.clone(),
        Answer::Range(_, end) => Some(Bytes::from(end.to_string())),
        Answer::Written | Answer::Conditional(Ok(())) | Answer::Previous(_) => {
            call.stores().cloned()
        }
        Answer::Conditional(Err(_)) | Answer::Deleted(_) | Answer::Txn(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Answer;

    fn read(invoked: u64, at: u64, revision: u64) -> Operation {
        let answer = Answer::Value(Some(Bytes::from_static(b"v")));
        let completion = Completion::Ok { at, answer, revision: Some(revision) };
        let request = Request::One(Bytes::from_static(b"k"), Call::Read);
        Operation { client: 0, request, invoked, completion }
    }

    fn write(invoked: u64, at: u64, revision: u64) -> Operation {
        let completion = Completion::Ok { at, answer: Answer::Written, revision: Some(revision) };
        let write = Call::Write(Bytes::from_static(b"v"));
        let request = Request::One(Bytes::from_static(b"k"), write);
        Operation { request, completion, ..read(invoked, at, 0) }
    }

    fn other(mut read: Operation) -> Operation {
        if let Completion::Ok { answer, .. } = &mut read.completion {
            *answer = Answer::Value(Some(Bytes::from_static(b"w")));
        }
        read
    }

    #[test]
    fn falling_and_repeated_revisions_are_noticed() {
        for (why, operations, want) in [
            ("grows", vec![read(0, 1, 1), read(2, 3, 1), read(4, 5, 2)], true),
            ("falls while both run", vec![read(0, 3, 2), read(1, 2, 1)], true),
            ("falls after the end", vec![read(0, 1, 2), read(2, 3, 1)], false),
            ("two writes, two revisions", vec![write(0, 3, 1), write(1, 2, 2)], true),
            ("two writes, one revision", vec![write(0, 3, 1), write(1, 2, 1)], false),
            ("what was written is read", vec![write(0, 1, 1), read(2, 3, 1)], true),
            ("another value at its revision", vec![write(0, 1, 1), other(read(2, 3, 1))], false),
        ] {
            assert_eq!(check_revisions(&operations).is_ok(), want, "{why}");
        }
    }
}
