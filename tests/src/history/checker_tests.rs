//! The checker is believed only because it accepts what is right by construction, refuses what was
//! spoilt on purpose, and agrees with trying every order.

use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::history::simulated::{Simulation, Spoil};

fn operation(call: Call, invoked: u64, completion: Completion) -> Operation {
    Operation { client: 0, key: Bytes::from_static(b"k"), call, invoked, completion }
}

fn ok(call: Call, invoked: u64, at: u64, answer: Answer) -> Operation {
    operation(call, invoked, Completion::Ok { at, answer, revision: None })
}

fn lost(call: Call, invoked: u64) -> Operation {
    operation(call, invoked, Completion::Unknown)
}

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn write(text: &'static str, invoked: u64, at: u64) -> Operation {
    ok(Call::Write(value(text)), invoked, at, Answer::Written)
}

fn read(text: Option<&'static str>, invoked: u64, at: u64) -> Operation {
    ok(Call::Read, invoked, at, Answer::Value(text.map(value)))
}

#[test]
fn small_histories_are_judged_as_by_hand() {
    let rows: Vec<(&str, Vec<Operation>, bool)> = vec![
        ("nothing", vec![], true),
        ("read your write", vec![write("a", 0, 1), read(Some("a"), 2, 3)], true),
        ("lost write", vec![write("a", 0, 1), read(None, 2, 3)], false),
        ("read beside a write, old", vec![write("a", 0, 3), read(None, 1, 2)], true),
        ("read beside a write, new", vec![write("a", 0, 3), read(Some("a"), 1, 2)], true),
        (
            "new value, then the old one again",
            vec![write("a", 0, 9), read(Some("a"), 1, 2), read(None, 3, 4)],
            false,
        ),
        ("stale read", vec![write("a", 0, 1), write("b", 2, 3), read(Some("a"), 4, 5)], false),
        ("value from nowhere", vec![read(Some("a"), 0, 1)], false),
        (
            "lost write that took effect late",
            vec![lost(Call::Write(value("a")), 0), read(None, 1, 2), read(Some("a"), 3, 4)],
            true,
        ),
        (
            "lost write that took effect twice",
            vec![
                lost(Call::Write(value("a")), 0),
                read(Some("a"), 1, 2),
                write("b", 3, 4),
                read(Some("a"), 5, 6),
            ],
            false,
        ),
        (
            "lost write that never did",
            vec![lost(Call::Write(value("a")), 0), read(None, 1, 2)],
            true,
        ),
        (
            "lost write, seen before it was sent",
            vec![read(Some("a"), 0, 1), lost(Call::Write(value("a")), 2)],
            false,
        ),
        (
            "unseen lost write that a delete found",
            vec![
                lost(Call::Write(value("a")), 0),
                ok(Call::Delete, 1, 2, Answer::Deleted(true)),
                read(None, 3, 4),
            ],
            true,
        ),
        (
            "two lost deletes explain two absences",
            vec![
                write("a", 0, 1),
                lost(Call::Delete, 2),
                lost(Call::Delete, 3),
                read(None, 4, 5),
                write("b", 6, 7),
                read(None, 8, 9),
            ],
            true,
        ),
        (
            "one lost delete does not",
            vec![
                write("a", 0, 1),
                lost(Call::Delete, 2),
                read(None, 4, 5),
                write("b", 6, 7),
                read(None, 8, 9),
            ],
            false,
        ),
        (
            "an answer that promised no effect, and had one",
            vec![
                operation(Call::Write(value("a")), 0, Completion::NotApplied),
                read(Some("a"), 1, 2),
            ],
            false,
        ),
        (
            "put-if-absent twice",
            vec![
                ok(Call::PutIfAbsent(value("a")), 0, 2, Answer::Conditional(Ok(()))),
                ok(Call::PutIfAbsent(value("b")), 1, 3, Answer::Conditional(Ok(()))),
            ],
            false,
        ),
        (
            "get-and-put twice from one value",
            vec![
                write("a", 0, 1),
                ok(Call::GetAndPut(value("b")), 2, 4, Answer::Previous(Some(value("a")))),
                ok(Call::GetAndPut(value("c")), 3, 5, Answer::Previous(Some(value("a")))),
            ],
            false,
        ),
        (
            "increments one after the other",
            vec![
                ok(Call::Increment(2), 0, 3, Answer::Range(3, 5)),
                ok(Call::Increment(3), 1, 2, Answer::Range(0, 3)),
            ],
            true,
        ),
        (
            "a range taken twice",
            vec![
                ok(Call::Increment(1), 0, 3, Answer::Range(0, 1)),
                ok(Call::Increment(1), 1, 2, Answer::Range(0, 1)),
            ],
            false,
        ),
    ];
    for (why, operations, want) in rows {
        let verdict = check(&operations, Budget::default());
        assert_eq!(verdict.is_legal(), want, "{why}: {verdict:?}");
        assert_eq!(verdict.is_illegal(), !want, "{why}: {verdict:?}");
    }
}

#[test]
fn keys_are_judged_apart_and_the_guilty_one_is_named() {
    let mut operations = vec![write("a", 0, 1), read(Some("a"), 2, 3)];
    let mut other = read(Some("a"), 4, 5);
    other.key = value("other");
    operations.push(other);
    match check(&operations, Budget::default()) {
        Verdict::Illegal { key, explanation } => {
            assert_eq!(key, value("other"));
            assert!(explanation.contains("fits nowhere"), "{explanation}");
        }
        verdict => panic!("{verdict:?}"),
    }
}

/// A search that ran out of budget must say so, and never call a history right or wrong.
#[test]
fn exhausted_budget_is_undecided() {
    // Twenty different lost writes, all seen, and an ending that fits none of their orders.
    let mut operations = Vec::new();
    for number in 0..20_u64 {
        let new = Bytes::from(format!("v{number}"));
        operations.push(lost(Call::Write(new.clone()), number));
        let expected = Some(new);
        operations.push(lost(Call::CompareAndPut { expected, new: value("x") }, 100 + number));
    }
    operations.push(read(Some("y"), 1_000, 1_001));
    for budget in [
        Budget { configurations: 1_000, ..Budget::default() },
        Budget { time: Duration::ZERO, configurations: usize::MAX },
    ] {
        let verdict = check(&operations, budget);
        assert!(matches!(verdict, Verdict::Undecided { .. }), "{verdict:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn histories_that_are_right_by_construction_are_legal(
        seed: u64, clients in 1_usize..9, counter: bool,
    ) {
        let mut simulation = Simulation::new(seed, clients, counter);
        simulation.run(300);
        let verdict = check(&simulation.operations, Budget::default());
        prop_assert!(verdict.is_legal(), "{:?}", verdict);
    }

    #[test]
    fn histories_that_were_spoilt_are_illegal(
        seed: u64,
        clients in 1_usize..6,
        spoil in prop::sample::select(vec![
            Spoil::StaleRead, Spoil::LostWrite, Spoil::DoubledCompareAndPut,
            Spoil::DoubledIncrement,
        ]),
    ) {
        let counter = spoil == Spoil::DoubledIncrement;
        let mut simulation = Simulation::new(seed, clients, counter);
        simulation.run(60);
        simulation.spoil(spoil);
        let verdict = check(&simulation.operations, Budget::default());
        prop_assert!(verdict.is_illegal(), "{:?} went unnoticed: {:?}", spoil, verdict);
    }

    /// Few calls, few values, answers drawn without regard to the truth: about half of these are
    /// impossible, in every way there is.
    #[test]
    fn search_agrees_with_trying_every_order(seed: u64, count in 1_usize..7) {
        let operations = arbitrary(seed, count);
        let verdict = check(&operations, Budget::default());
        prop_assert_eq!(verdict.is_legal(), every_order(&operations), "{:#?}", operations);
        prop_assert_eq!(verdict.is_illegal(), !verdict.is_legal());
    }
}

/// The sample of the comparison is worth something only when both answers occur.
#[test]
fn arbitrary_histories_are_of_both_kinds() {
    let legal = (0..500).filter(|seed| every_order(&arbitrary(*seed, 5))).count();
    assert!((50..450).contains(&legal), "{legal} of 500 are legal");
}

fn arbitrary(seed: u64, count: usize) -> Vec<Operation> {
    let mut random = StdRng::seed_from_u64(seed);
    let state = |random: &mut StdRng| match random.random_range(0..3) {
        0 => None,
        1 => Some(value("1")),
        _ => Some(value("2")),
    };
    let mut times: Vec<u64> = (0..2 * count as u64).collect();
    rand::seq::SliceRandom::shuffle(times.as_mut_slice(), &mut random);
    times
        .chunks(2)
        .map(|pair| {
            let (invoked, at) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
            let new = if random.random_bool(0.5) { value("1") } else { value("2") };
            let found = state(&mut random);
            let conditional = if random.random_bool(0.5) { Ok(()) } else { Err(found.clone()) };
            let (call, answer) = match random.random_range(0..7) {
                0 | 1 => (Call::Read, Answer::Value(found)),
                2 => (Call::Write(new), Answer::Written),
                3 => {
                    let expected = state(&mut random);
                    (Call::CompareAndPut { expected, new }, Answer::Conditional(conditional))
                }
                4 => (Call::Delete, Answer::Deleted(random.random_bool(0.5))),
                5 => (Call::PutIfAbsent(new), Answer::Conditional(conditional)),
                _ => (Call::GetAndPut(new), Answer::Previous(found)),
            };
            match random.random_range(0..8) {
                0 | 1 => lost(call, invoked),
                2 => operation(call, invoked, Completion::NotApplied),
                _ => ok(call, invoked, at, answer),
            }
        })
        .collect()
}

/// The definition, word for word, without any cleverness.
fn every_order(operations: &[Operation]) -> bool {
    fn extend(operations: &[Operation], done: &mut Vec<usize>, state: &State) -> bool {
        let open = |index: &usize| !done.contains(index);
        let rest: Vec<usize> = (0..operations.len())
            .filter(open)
            .filter(|index| operations[*index].completion != Completion::NotApplied)
            .collect();
        if rest.iter().all(|index| operations[*index].answer().is_none()) {
            return true;
        }
        for &index in &rest {
            let operation = &operations[index];
            let too_early = rest.iter().any(|other| {
                operations[*other].returned().is_some_and(|at| at < operation.invoked)
            });
            if too_early {
                continue;
            }
            if let Some(after) = step(state, &operation.call, operation.answer()) {
                done.push(index);
                if extend(operations, done, &after) {
                    return true;
                }
                done.pop();
            }
        }
        false
    }
    extend(operations, &mut Vec::new(), &None)
}
