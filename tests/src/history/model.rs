//! One key as a register: what each call does and answers when nothing else happens.

use bytes::Bytes;

use super::{Answer, Call};

/// The value under the key, `None` when it is absent.
pub type State = Option<Bytes>;

/// The state after `call`, if a register in `state` could have answered `answer` to it.
///
/// Without an answer (an unknown outcome) everything is possible, and the state is what it would be
/// if the call took effect now.
#[must_use]
pub fn step(state: &State, call: &Call, answer: Option<&Answer>) -> Option<State> {
    let (next, expected) = apply(state, call)?;
    match answer {
        None => Some(next),
        Some(answer) if *answer == expected => Some(next),
        Some(_) => None,
    }
}

/// What the call does and answers. `None`: the register refuses it (no counter, or past its range).
fn apply(state: &State, call: &Call) -> Option<(State, Answer)> {
    Some(match call {
        Call::Read => (state.clone(), Answer::Value(state.clone())),
        Call::Write(value) => (Some(value.clone()), Answer::Written),
        Call::CompareAndPut { expected, new } if state == expected => {
            (Some(new.clone()), Answer::Conditional(Ok(())))
        }
        Call::PutIfAbsent(value) if state.is_none() => {
            (Some(value.clone()), Answer::Conditional(Ok(())))
        }
        Call::CompareAndPut { .. } | Call::PutIfAbsent(_) => {
            (state.clone(), Answer::Conditional(Err(state.clone())))
        }
        Call::Delete => (None, Answer::Deleted(state.is_some())),
        Call::Increment(delta) => {
            let start = match state {
                None => 0,
                Some(digits) => std::str::from_utf8(digits).ok()?.parse::<i64>().ok()?,
            };
            let end = start.checked_add(*delta)?;
            (Some(Bytes::from(end.to_string())), Answer::Range(start, end))
        }
        Call::GetAndPut(value) => (Some(value.clone()), Answer::Previous(state.clone())),
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
            assert_eq!(step(&state, &call, Some(&answer)), Some(after.clone()), "{why}");
            assert_eq!(step(&state, &call, None), Some(after), "{why}, outcome unknown");
            assert_eq!(
                step(&state, &call, Some(&Answer::Range(99, 99))),
                None,
                "{why}, wrong answer"
            );
        }
        assert_eq!(step(&some_a, &Call::Increment(1), None), None, "letters are no counter");
    }
}
