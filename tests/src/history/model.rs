//! Keys as registers: what each request does and answers when nothing else happens.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Answer, Call, Request, Txn};

/// The keys that are there, with their values.
pub type State = BTreeMap<Bytes, Bytes>;

/// The state after `request`, if registers in `state` could have answered `answer` to it.
///
/// Without an answer (an unknown outcome) everything is possible, and the state is what it would be
/// if the request took effect now.
#[must_use]
pub fn step(state: &State, request: &Request, answer: Option<&Answer>) -> Option<State> {
    let mut next = state.clone();
    let expected = apply(&mut next, request)?;
    answer.is_none_or(|answer| *answer == expected).then_some(next)
}

/// Does the request, and tells what it answers. `None`: the registers refuse it (no counter, or past its
/// range), and are left as they may be.
#[must_use]
pub fn apply(state: &mut State, request: &Request) -> Option<Answer> {
    let Txn { when, then, otherwise } = match request {
        Request::One(key, call) => return act(state, key, call),
        Request::Txn(txn) => txn,
    };
    let succeeded = when.iter().all(|(key, expected)| state.get(key) == expected.as_ref());
    let calls = if succeeded { then } else { otherwise };
    let answers: Option<Vec<Answer>> =
        calls.iter().map(|(key, call)| act(state, key, call)).collect();
    Some(Answer::Txn(succeeded, answers?))
}

fn act(state: &mut State, key: &Bytes, call: &Call) -> Option<Answer> {
    let present = state.get(key).cloned();
    let mut put = |value: &Bytes| state.insert(key.clone(), value.clone());
    Some(match call {
        Call::Read => Answer::Value(present),
        Call::Write(value) => {
            put(value);
            Answer::Written
        }
        Call::CompareAndPut { expected, new } if present == *expected => {
            put(new);
            Answer::Conditional(Ok(()))
        }
        Call::PutIfAbsent(value) if present.is_none() => {
            put(value);
            Answer::Conditional(Ok(()))
        }
        Call::CompareAndPut { .. } | Call::PutIfAbsent(_) => Answer::Conditional(Err(present)),
        Call::Delete => Answer::Deleted(state.remove(key).is_some()),
        Call::Increment(delta) => {
            let start = match present {
                None => 0,
                Some(digits) => std::str::from_utf8(&digits).ok()?.parse::<i64>().ok()?,
            };
            let end = start.checked_add(*delta)?;
            put(&Bytes::from(end.to_string()));
            Answer::Range(start, end)
        }
        Call::GetAndPut(value) => Answer::Previous(put(value)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn register_answers_as_the_contract_says() {
        let (a, b) = (value("a"), value("b"));
        let some_a = Some(a.clone());
        let cas = |expected| Call::CompareAndPut { expected, new: b.clone() };
        for (why, state, call, after, answer) in [
            ("read", some_a.clone(), Call::Read, some_a.clone(), Answer::Value(some_a.clone())),
            ("read absent", None, Call::Read, None, Answer::Value(None)),
            ("write", None, Call::Write(a.clone()), some_a.clone(), Answer::Written),
            (
                "cas hits",
                some_a.clone(),
                cas(some_a.clone()),
                Some(b.clone()),
                Answer::Conditional(Ok(())),
            ),
            ("cas on absent hits", None, cas(None), Some(b.clone()), Answer::Conditional(Ok(()))),
            (
                "cas misses",
                some_a.clone(),
                cas(None),
                some_a.clone(),
                Answer::Conditional(Err(some_a.clone())),
            ),
            ("delete", some_a.clone(), Call::Delete, None, Answer::Deleted(true)),
            ("delete absent", None, Call::Delete, None, Answer::Deleted(false)),
            ("first increment", None, Call::Increment(5), Some(value("5")), Answer::Range(0, 5)),
            (
                "increment",
                Some(value("7")),
                Call::Increment(-2),
                Some(value("5")),
                Answer::Range(7, 5),
            ),
            (
                "put if absent",
                None,
                Call::PutIfAbsent(a.clone()),
                some_a.clone(),
                Answer::Conditional(Ok(())),
            ),
            (
                "put if absent, present",
                some_a.clone(),
                Call::PutIfAbsent(b.clone()),
                some_a.clone(),
                Answer::Conditional(Err(some_a.clone())),
            ),
            (
                "get and put",
                some_a.clone(),
                Call::GetAndPut(b.clone()),
                Some(b.clone()),
                Answer::Previous(some_a.clone()),
            ),
        ] {
            let (state, after) = (holding(state), holding(after));
            let request = Request::One(value("k"), call);
            let wrong = Answer::Range(99, 99);
            assert_eq!(step(&state, &request, Some(&answer)), Some(after.clone()), "{why}");
            assert_eq!(step(&state, &request, None), Some(after), "{why}, outcome unknown");
            assert_eq!(step(&state, &request, Some(&wrong)), None, "{why}, wrong answer");
        }
        let increment = Request::One(value("k"), Call::Increment(1));
        assert_eq!(step(&holding(some_a), &increment, None), None, "letters are no counter");
    }

    /// One key, with this under it.
    fn holding(present: Option<Bytes>) -> State {
        present.map(|present| (value("k"), present)).into_iter().collect()
    }

    #[test]
    fn transaction_does_one_branch_of_two_and_all_of_it() {
        let txn = Request::Txn(Txn {
            when: vec![(value("a"), Some(value("1"))), (value("b"), None)],
            then: vec![
                (value("a"), Call::Write(value("2"))),
                (value("b"), Call::Increment(5)),
                (value("c"), Call::Delete),
            ],
            otherwise: vec![(value("a"), Call::Read)],
        });
        let state = |keys: &[(&'static str, &'static str)]| -> State {
            keys.iter().map(|(key, present)| (value(key), value(present))).collect()
        };
        let all = vec![Answer::Written, Answer::Range(0, 5), Answer::Deleted(true)];
        let read = |present: Option<&'static str>| vec![Answer::Value(present.map(value))];
        for (why, before, after, answer) in [
            (
                "all is as it must be",
                state(&[("a", "1"), ("c", "x")]),
                state(&[("a", "2"), ("b", "5")]),
                Answer::Txn(true, all),
            ),
            (
                "one value is another",
                state(&[("a", "3")]),
                state(&[("a", "3")]),
                Answer::Txn(false, read(Some("3"))),
            ),
            (
                "one is there that must not be",
                state(&[("a", "1"), ("b", "1")]),
                state(&[("a", "1"), ("b", "1")]),
                Answer::Txn(false, read(Some("1"))),
            ),
            ("nothing is there", state(&[]), state(&[]), Answer::Txn(false, read(None))),
        ] {
            assert_eq!(step(&before, &txn, Some(&answer)), Some(after.clone()), "{why}");
            assert_eq!(step(&before, &txn, None), Some(after), "{why}, outcome unknown");
            let other = Answer::Txn(true, vec![]);
            assert_eq!(step(&before, &txn, Some(&other)), None, "{why}, wrong answer");
        }
    }
}
