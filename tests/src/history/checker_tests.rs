//! The checker is believed only because it accepts what is right by construction, refuses what was
//! spoilt on purpose, and agrees with trying every order.

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::history::{
    Answer, Call, Request, State, Txn,
    simulated::{Kind, Simulation, Spoil},
    step,
};

fn operation(call: Call, invoked: u64, completion: Completion) -> Operation {
    of(Request::One(value("k"), call), invoked, completion)
}

fn of(request: Request, invoked: u64, completion: Completion) -> Operation {
    Operation { client: 0, request, invoked, completion }
}

fn ok(call: Call, invoked: u64, at: u64, answer: Answer) -> Operation {
    operation(call, invoked, Completion::Ok { at, answer, revision: None })
}

fn lost(call: Call, invoked: u64) -> Operation {
    operation(call, invoked, Completion::Unknown)
}

/// Writes two keys in one step.
fn write_both(one: &'static str, other: &'static str) -> Request {
    let then = vec![(value("a"), Call::Write(value(one))), (value("b"), Call::Write(value(other)))];
    Request::Txn(Txn { then, ..Txn::default() })
}

/// Reads two keys in one step.
fn read_both(one: Option<&'static str>, other: Option<&'static str>) -> (Request, Answer) {
    let then = vec![(value("a"), Call::Read), (value("b"), Call::Read)];
    let answers = [one, other].map(|found| Answer::Value(found.map(value)));
    (Request::Txn(Txn { then, ..Txn::default() }), Answer::Txn(true, answers.into()))
}

/// Writes a key if it holds a value, as a transaction.
fn swap(expected: &'static str, new: &'static str) -> Request {
    let when = vec![(value("a"), Some(value(expected)))];
    let then = vec![(value("a"), Call::Write(value(new)))];
    Request::Txn(Txn { when, then, ..Txn::default() })
}

fn of_key(key: &'static str, call: Call, invoked: u64, at: u64, answer: Answer) -> Operation {
    let completion = Completion::Ok { at, answer, revision: None };
    of(Request::One(value(key), call), invoked, completion)
}

fn both(request: (Request, Answer), invoked: u64, at: u64) -> Operation {
    of(request.0, invoked, Completion::Ok { at, answer: request.1, revision: None })
}

fn wrote_both(one: &'static str, other: &'static str, invoked: u64, at: u64) -> Operation {
    let answer = Answer::Txn(true, vec![Answer::Written, Answer::Written]);
    both((write_both(one, other), answer), invoked, at)
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
        (
            "both keys of a transaction, or none",
            vec![
                wrote_both("1", "2", 0, 9),
                both(read_both(None, None), 1, 2),
                both(read_both(Some("1"), Some("2")), 3, 4),
            ],
            true,
        ),
        (
            "half of a transaction",
            vec![wrote_both("1", "2", 0, 9), both(read_both(Some("1"), None), 1, 2)],
            false,
        ),
        (
            "a transaction that took effect in two steps",
            vec![
                wrote_both("1", "2", 0, 9),
                of_key("b", Call::Read, 1, 2, Answer::Value(Some(value("2")))),
                of_key("a", Call::Read, 3, 4, Answer::Value(None)),
            ],
            false,
        ),
        (
            "a lost transaction that took effect between two reads",
            vec![
                of(write_both("1", "2"), 0, Completion::Unknown),
                both(read_both(None, None), 1, 2),
                both(read_both(Some("1"), Some("2")), 3, 4),
            ],
            true,
        ),
        (
            "half of a lost transaction",
            vec![
                of(write_both("1", "2"), 0, Completion::Unknown),
                of_key("b", Call::Read, 1, 2, Answer::Value(Some(value("2")))),
                of_key("a", Call::Read, 3, 4, Answer::Value(None)),
            ],
            false,
        ),
        (
            "two transactions that look for one value and both find it",
            vec![
                wrote_both("1", "2", 0, 1),
                both((swap("1", "3"), Answer::Txn(true, vec![Answer::Written])), 2, 4),
                both((swap("1", "4"), Answer::Txn(true, vec![Answer::Written])), 3, 5),
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
    operations.push(of_key("other", Call::Read, 4, 5, Answer::Value(Some(value("a")))));
    match check(&operations, Budget::default()) {
        Verdict::Illegal { keys, explanation } => {
            assert_eq!(keys, [value("other")]);
            assert!(explanation.contains("fits nowhere"), "{explanation}");
        }
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn keys_are_judged_together_when_transactions_join_them() {
    let one = |key, at| of_key(key, Call::Read, at, at + 1, Answer::Value(None));
    let joining = |keys: &[&'static str], at| {
        let then = keys.iter().map(|key| (value(key), Call::Read)).collect();
        of(Request::Txn(Txn { then, ..Txn::default() }), at, Completion::Unknown)
    };
    let operations = [
        one("e", 0),
        joining(&["d", "b"], 2),
        one("c", 4),
        joining(&["e", "d"], 6),
        one("a", 8),
        joining(&["c"], 10),
    ];
    let groups: Vec<(Vec<&Bytes>, usize)> =
        groups(&operations).into_iter().map(|(keys, all)| (keys, all.len())).collect();
    let keys = |keys: &[&'static str]| keys.iter().map(|key| value(key)).collect::<Vec<_>>();
    let want = [(keys(&["a"]), 1), (keys(&["b", "d", "e"]), 3), (keys(&["c"]), 2)];
    let found: Vec<_> =
        groups.iter().map(|(keys, all)| (keys.iter().copied().cloned().collect(), *all)).collect();
    assert_eq!(found, want);
}

/// A search that ran out of budget must say so, and never call a history right or wrong.
#[test]
fn exhausted_budget_is_undecided() {
    // Twenty different sums that may have been added, and an ending that fits none of their subsets.
    let mut operations = Vec::new();
    for number in 0..20_u32 {
        operations.push(lost(Call::Increment(1 << number), number.into()));
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
        seed: u64,
        clients in 1_usize..11,
        kind in prop::sample::select(vec![Kind::Register, Kind::Counter, Kind::Pair]),
    ) {
        let mut simulation = Simulation::new(seed, clients, kind);
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
            Spoil::DoubledIncrement, Spoil::TornTransaction, Spoil::DoubledTransaction,
        ]),
    ) {
        let kind = match spoil {
            Spoil::DoubledIncrement => Kind::Counter,
            Spoil::TornTransaction | Spoil::DoubledTransaction => Kind::Pair,
            _ => Kind::Register,
        };
        let mut simulation = Simulation::new(seed, clients, kind);
        simulation.run(60);
        simulation.spoil(spoil);
        let verdict = check(&simulation.operations, Budget::default());
        prop_assert!(verdict.is_illegal(), "{:?} went unnoticed: {:?}", spoil, verdict);
    }

    /// Few calls, few values, answers drawn without regard to the truth: about half of these are
    /// impossible, in every way there is.
    #[test]
    fn search_agrees_with_trying_every_order(seed: u64, count in 1_usize..7, pair: bool) {
        let operations = arbitrary(seed, count, pair);
        let verdict = check(&operations, Budget::default());
        prop_assert_eq!(verdict.is_legal(), every_order(&operations), "{:#?}", operations);
        prop_assert_eq!(verdict.is_illegal(), !verdict.is_legal());
    }
}

/// The sample of the comparison is worth something only when both answers occur.
#[test]
fn arbitrary_histories_are_of_both_kinds() {
    for pair in [false, true] {
        let legal = (0..500).filter(|seed| every_order(&arbitrary(*seed, 5, pair))).count();
        assert!((50..450).contains(&legal), "{legal} of 500 are legal, of pairs: {pair}");
    }
}

/// Of one key, or of a pair of keys and transactions on both.
fn arbitrary(seed: u64, count: usize, pair: bool) -> Vec<Operation> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut times: Vec<u64> = (0..2 * count as u64).collect();
    rand::seq::SliceRandom::shuffle(times.as_mut_slice(), &mut random);
    times
        .chunks(2)
        .map(|ends| {
            let (invoked, at) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
            let key = if pair && random.random_bool(0.5) { value("l") } else { value("k") };
            let (request, answer) = if pair && random.random_bool(0.4) {
                let when = match random.random_bool(0.5) {
                    true => vec![(key, state(&mut random))],
                    false => Vec::new(),
                };
                let (one, first) = any_call(&mut random, true);
                let (other, second) = any_call(&mut random, true);
                let then = vec![(value("k"), one), (value("l"), other)];
                let failed = !when.is_empty() && random.random_bool(0.5);
                let answer = match failed {
                    true => Answer::Txn(false, vec![]),
                    false => Answer::Txn(true, vec![first, second]),
                };
                (Request::Txn(Txn { when, then, otherwise: vec![] }), answer)
            } else {
                let (call, answer) = any_call(&mut random, false);
                (Request::One(key, call), answer)
            };
            match random.random_range(0..8) {
                0 | 1 => of(request, invoked, Completion::Unknown),
                2 => of(request, invoked, Completion::NotApplied),
                _ => of(request, invoked, Completion::Ok { at, answer, revision: None }),
            }
        })
        .collect()
}

/// Numbers, which can be counted up to, and others.
const VALUES: [&str; 4] = ["1", "2", "x", "y"];

fn state(random: &mut StdRng) -> Option<Bytes> {
    VALUES.get(random.random_range(0..=VALUES.len())).map(|text| value(text))
}

/// A call that a transaction has, or any.
fn any_call(random: &mut StdRng, in_txn: bool) -> (Call, Answer) {
    let new = value(VALUES[random.random_range(0..VALUES.len())]);
    let found = state(random);
    let conditional = if random.random_bool(0.5) { Ok(()) } else { Err(found.clone()) };
    match random.random_range(0..if in_txn { 5 } else { 8 }) {
        0 | 1 => (Call::Read, Answer::Value(found)),
        2 => (Call::Write(new), Answer::Written),
        3 => (Call::Delete, Answer::Deleted(random.random_bool(0.5))),
        4 => (Call::GetAndPut(new), Answer::Previous(found)),
        5 => {
            let start = random.random_range(0..3);
            (Call::Increment(1), Answer::Range(start, start + 1))
        }
        6 => (Call::PutIfAbsent(new), Answer::Conditional(conditional)),
        _ => {
            let expected = state(random);
            (Call::CompareAndPut { expected, new }, Answer::Conditional(conditional))
        }
    }
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
            if let Some(after) = step(state, &operation.request, operation.answer()) {
                done.push(index);
                if extend(operations, done, &after) {
                    return true;
                }
                done.pop();
            }
        }
        false
    }
    extend(operations, &mut Vec::new(), &State::new())
}

/// Long runs of many clients on one group of keys, with one call of ten lost. They take a fraction of a second
/// on a machine that has nothing else to do; the bound is only against a search that explodes.
#[test]
fn long_runs_of_many_clients_are_judged_within_their_budget() {
    for kind in [Kind::Register, Kind::Counter, Kind::Pair] {
        for seed in 0..3 {
            let operations = long_run(seed, kind, None);
            let verdict = check(&operations, LONG);
            assert!(verdict.is_legal(), "{kind:?}, seed {seed}: {verdict:?}");
        }
    }
}

/// That there is no order is harder to show than that there is one: no way to explain what came before may be left.
#[test]
fn long_runs_that_were_spoilt_at_their_end_are_refused_within_their_budget() {
    for (seed, (kind, spoil)) in [
        (Kind::Register, Spoil::StaleRead),
        (Kind::Register, Spoil::LostWrite),
        (Kind::Register, Spoil::DoubledCompareAndPut),
        (Kind::Counter, Spoil::DoubledIncrement),
        (Kind::Pair, Spoil::StaleRead),
        (Kind::Pair, Spoil::LostWrite),
        (Kind::Pair, Spoil::DoubledCompareAndPut),
        (Kind::Pair, Spoil::TornTransaction),
        (Kind::Pair, Spoil::DoubledTransaction),
    ]
    .into_iter()
    .enumerate()
    {
        let operations = long_run(seed as u64, kind, Some(spoil));
        let verdict = check(&operations, LONG);
        assert!(verdict.is_illegal(), "{spoil:?} of {kind:?}, seed {seed}: {verdict:?}");
    }
}

const LONG: Budget = Budget { time: Duration::from_secs(300), configurations: 200_000 };

fn long_run(seed: u64, kind: Kind, spoil: Option<Spoil>) -> Vec<Operation> {
    let mut simulation = Simulation::new(seed, 10, kind);
    simulation.run(2_000);
    if let Some(spoil) = spoil {
        simulation.spoil(spoil);
    }
    simulation.operations
}
