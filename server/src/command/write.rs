//! A transaction in one region: every public write is a shape of it.
//!
//! All comparisons are evaluated, then one branch runs, each operation seeing those before it. The
//! branch raises the region's revision by exactly one if it has any operation that writes, found
//! something to change or not, and every value it writes carries that revision.

use flotilla_proto::{
    range::{Borders, END_OF_MAP},
    region::borders_of,
    v1::{
        Compare, DeleteRangeOp, Op, OpResult, Region, WriteCommand, WriteRefusal, WriteReply,
        op::Op as Kind, op_result::Result as Answer, write_refusal::List,
    },
};

use super::{
    add, append,
    bounds::{ENCODED_KEY_BYTES_MAX, RESULT_BYTES},
    budget::{Budget, check_put},
    compare, delete, delete_range, get,
    overlay::Overlay,
    put,
    read::AsOf,
    refusal::Refusal,
    region::RegionState,
    transaction::{Stop, Transaction},
};
use crate::storage::{
    batch::WriteBatch,
    engine::{self, Read},
};

/// Where in a command the refused part is.
#[derive(Clone, Copy, Debug)]
struct Place {
    list: List,
    index: usize,
}

impl Transaction<'_, '_> {
    /// The comparisons, then the branch that they choose: whether it was the first, and its results.
    fn run_all(&mut self, write: &WriteCommand) -> Result<(bool, Vec<OpResult>), (Stop, Place)> {
        let mut succeeded = true;
        // Reads no further than the first that does not hold.
        for (index, one) in write.compare.iter().enumerate() {
            let holds = compare::holds(one, self);
            succeeded = holds.map_err(|stop| (stop, Place { list: List::Compare, index }))?;
            if !succeeded {
                break;
            }
        }
        let (branch, list) = if succeeded {
            (&write.success, List::Success)
        } else {
            (&write.failure, List::Failure)
        };
        self.revision += u64::from(branch.iter().any(writes));
        Ok((succeeded, self.run(branch, list)?))
    }

    fn run(&mut self, ops: &[Op], list: List) -> Result<Vec<OpResult>, (Stop, Place)> {
        let results = ops.iter().enumerate().map(|(index, op)| {
            let result = self.run_one(op).map_err(|stop| (stop, Place { list, index }))?;
            Ok(OpResult { result: Some(result) })
        });
        results.collect()
    }

    fn run_one(&mut self, op: &Op) -> Result<Answer, Stop> {
        self.budget.charge_answer(RESULT_BYTES)?;
        Ok(match &op.op {
            Some(Kind::Put(op)) => Answer::Put(put::apply(op, self)?),
            Some(Kind::Delete(op)) => Answer::Delete(delete::apply(op, self)?),
            Some(Kind::DeleteRange(op)) => Answer::DeleteRange(delete_range::apply(op, self)?),
            Some(Kind::Add(op)) => Answer::Add(add::apply(op, self)?),
            Some(Kind::Append(op)) => Answer::Append(append::apply(op, self)?),
            Some(Kind::Get(op)) => Answer::Get(get::apply(op, self)?),
            None => return Err(Refusal::NoOperation.into()),
        })
    }
}

/// Applies `write` to `overlay` and `region`, or nothing of it.
pub(super) fn apply(
    write: &WriteCommand,
    region: &mut RegionState,
    overlay: &mut Overlay<'_>,
) -> Result<WriteReply, engine::Error> {
    if let Err((refusal, place)) = check(write, &region.descriptor) {
        return Ok(refused(&refusal, place));
    }
    let RegionState { state, .. } = region;
    let (time_ms, expiry_max_ms) = (state.time_ms, state.expiry_max_ms);
    let budget = Budget::of(write);
    let revision = state.revision;
    let mut transaction = Transaction { overlay, time_ms, revision, expiry_max_ms, budget };
    let ran = transaction.run_all(write);
    let Transaction { expiry_max_ms, revision, .. } = transaction;
    match ran {
        Ok((succeeded, results)) => {
            overlay.settle();
            state.revision = revision;
            state.expiry_max_ms = expiry_max_ms;
            Ok(WriteReply { succeeded, revision, results, refused: None })
        }
        Err((Stop::Refused(refusal), place)) => {
            overlay.undo();
            Ok(refused(&refusal, place))
        }
        Err((Stop::Engine(error), _)) => {
            overlay.undo();
            Err(error)
        }
    }
}

/// Whether neither branch writes: then it is a read, and is not proposed.
#[must_use]
pub fn only_reads(write: &WriteCommand) -> bool {
    !write.success.iter().chain(&write.failure).any(writes)
}

/// Answers `write`, of which neither branch writes, as `apply` would: from `read`, which is the
/// state `as_of` of `region`.
///
/// # Errors
/// A failed read or a damaged value.
pub fn read_transaction(
    read: &dyn Read,
    write: &WriteCommand,
    region: &Region,
    as_of: AsOf,
) -> Result<WriteReply, engine::Error> {
    let mut state = RegionState { descriptor: region.clone(), ..RegionState::default() };
    (state.state.time_ms, state.state.revision) = (as_of.time_ms, as_of.revision);
    // Nothing comes into it.
    let mut batch = WriteBatch::new();
    apply(write, &mut state, &mut Overlay::new(read, &mut batch))
}

fn refused(refusal: &Refusal, place: Place) -> WriteReply {
    let refused = WriteRefusal {
        list: place.list.into(),
        index: u32::try_from(place.index).unwrap_or(u32::MAX),
        ..refusal.to_proto()
    };
    WriteReply { refused: Some(refused), ..WriteReply::default() }
}

fn writes(op: &Op) -> bool {
    !matches!(op.op, None | Some(Kind::Get(_)))
}

/// What can be refused without a read: both branches, so that it does not depend on data.
///
/// Invariant: no key that passes can stop this or a later apply. It is below [`END_OF_MAP`], at which
/// a batch is no batch any more.
fn check(write: &WriteCommand, region: &Region) -> Result<(), (Refusal, Place)> {
    for (index, Compare { key, condition }) in write.compare.iter().enumerate() {
        let checked =
            if condition.is_none() { Err(Refusal::NoCondition) } else { check_key(key, region) };
        checked.map_err(|refusal| (refusal, Place { list: List::Compare, index }))?;
    }
    for (branch, list) in [(&write.success, List::Success), (&write.failure, List::Failure)] {
        for (index, op) in branch.iter().enumerate() {
            check_op(op, region).map_err(|refusal| (refusal, Place { list, index }))?;
        }
    }
    Ok(())
}

fn check_op(op: &Op, region: &Region) -> Result<(), Refusal> {
    match &op.op {
        None => Err(Refusal::NoOperation),
        Some(Kind::Put(op)) => {
            if op.ttl_ms != 0 && op.keep_ttl {
                return Err(Refusal::TwoTtls);
            }
            check_put(op.value.len())?;
            check_key(&op.key, region)
        }
        Some(Kind::Delete(op)) => check_key(&op.key, region),
        Some(Kind::DeleteRange(op)) => check_range(op, region),
        Some(Kind::Add(op)) => check_key(&op.key, region),
        Some(Kind::Append(op)) => check_key(&op.key, region),
        Some(Kind::Get(op)) => check_key(&op.key, region),
    }
}

fn check_key(key: &bytes::Bytes, region: &Region) -> Result<(), Refusal> {
    if key[..] >= END_OF_MAP[..] || key.len() > ENCODED_KEY_BYTES_MAX {
        return Err(Refusal::KeyOutOfRange);
    }
    if borders_of(region).contains(key) {
        Ok(())
    } else {
        Err(Refusal::KeyNotInRegion { key: key.clone() })
    }
}

fn check_range(op: &DeleteRangeOp, region: &Region) -> Result<(), Refusal> {
    let DeleteRangeOp { start_key: start, end_key: end, all, prefix } = op;
    if *all || !prefix.is_empty() {
        return Err(Refusal::RangeUnresolved);
    }
    if start.len().max(end.len()) > ENCODED_KEY_BYTES_MAX {
        return Err(Refusal::KeyOutOfRange);
    }
    if delete_range::is_empty(op) || borders_of(region).covers(Borders { start, end }) {
        Ok(())
    } else {
        Err(Refusal::RangeNotInRegion { start: start.clone(), end: end.clone() })
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{PutOp, compare::Condition, write_refusal::Kind::*};

    use super::{
        super::{
            bounds::{ANSWER_BYTES_MAX, EFFECT_BYTES_MAX, READ_BYTES_MAX, VALUE_BYTES_CEILING},
            fixture::*,
        },
        *,
    };

    #[test]
    fn the_taken_branch_alone_is_applied() {
        for (why, there, succeeded, want) in [
            ("holds", Some("old"), true, "success"),
            ("another value", Some("other"), false, "failure"),
            ("no value", None, false, "failure"),
        ] {
            let mut region = Fixture::new();
            if let Some(value) = there {
                region.write(vec![put("a", value)]);
            }
            let answer = region.write_command(WriteCommand {
                compare: vec![value_equals("a", "old")],
                success: vec![put("b", "success"), get("b")],
                failure: vec![put("b", "failure"), get("b")],
                ..WriteCommand::default()
            });
            assert_eq!(answer.succeeded, succeeded, "{why}");
            assert_eq!(answer.results.len(), 2, "{why}");
            assert_eq!(region.live("b"), Some(want.into()), "{why}");
        }
    }

    #[test]
    fn a_branch_that_writes_raises_the_revision_by_one() {
        let absent = Compare { key: "a".into(), condition: Some(Condition::Absent(true)) };
        let branch = |success: Vec<Op>| WriteCommand { success, ..WriteCommand::default() };
        for (why, write, raised) in [
            ("nothing", branch(vec![]), 0),
            ("only reads", branch(vec![get("a"), get("b")]), 0),
            ("one put", branch(vec![put("a", "1")]), 1),
            ("three writes", branch(vec![put("a", "1"), put("b", "2"), add("n", 1)]), 1),
            ("a delete of nothing", branch(vec![delete("a")]), 1),
            ("a range without keys", branch(vec![delete_range("a", "b")]), 1),
            ("an empty range", branch(vec![delete_range("b", "a")]), 1),
            ("an append of nothing", branch(vec![append("a", "")]), 1),
            (
                "the branch that writes is not taken",
                WriteCommand {
                    compare: vec![absent],
                    success: vec![get("a")],
                    failure: vec![put("a", "1")],
                    ..WriteCommand::default()
                },
                0,
            ),
            ("refused", branch(vec![put("a", "x"), add("a", 1)]), 0),
        ] {
            let mut region = Fixture::new();
            region.region.state.revision = 40;
            let answer = region.write_command(write);
            let revision = region.region.state.revision;
            assert_eq!(revision, 40 + raised, "{why}");
            if answer.refused.is_none() {
                assert_eq!(answer.revision, revision, "{why}");
            }
            for (key, value) in region.rows() {
                assert_eq!(value.revision, revision, "{why}: {key:?}");
            }
        }
    }

    #[test]
    fn a_refused_command_leaves_no_trace() {
        let compare_all = |condition| vec![Compare { key: "a".into(), condition }];
        let unchecked = [put("a", "new"), delete("b"), delete_range("a", "z"), put("c", "new")];
        let with = |op: Op| unchecked.iter().cloned().chain([op]).collect::<Vec<_>>();
        let two_ttls = Op {
            op: Some(Kind::Put(PutOp {
                key: "a".into(),
                ttl_ms: 5,
                keep_ttl: true,
                ..PutOp::default()
            })),
        };
        let with_op = |op| with(Op { op: Some(op) });
        let range = |start: &'static str, end: &'static str| DeleteRangeOp {
            start_key: start.into(),
            end_key: end.into(),
            ..DeleteRangeOp::default()
        };
        let long = vec![b'b'; ENCODED_KEY_BYTES_MAX + 1];
        let long_key = || put(long.clone(), "1");
        let end_of_map = || put(&[0xff; 8][..], "1");
        let none = Vec::new;
        for (why, want_kind, compare, success, failure) in [
            ("not a counter", NotACounter, none(), with(add("c", 1)), vec![]),
            (
                "overflow after others",
                CounterOverflow,
                none(),
                with(add("d", i64::MAX)).into_iter().chain([add("d", 1)]).collect(),
                vec![],
            ),
            ("empty operation", NoOperation, none(), with(Op { op: None }), vec![]),
            (
                "empty operation in the other branch",
                NoOperation,
                none(),
                with(get("a")),
                vec![Op { op: None }],
            ),
            (
                "comparison without condition",
                NoCondition,
                compare_all(None),
                with(get("a")),
                vec![],
            ),
            (
                "compared key below the region",
                KeyNotInRegion,
                vec![value_equals("A", "x")],
                with(get("a")),
                with(get("a")),
            ),
            ("put below the region", KeyNotInRegion, none(), with(put("A", "1")), vec![]),
            ("put above the region", KeyNotInRegion, none(), with(put("z", "1")), vec![]),
            ("delete outside", KeyNotInRegion, none(), with(delete("zz")), vec![]),
            (
                "get outside, in the other branch",
                KeyNotInRegion,
                none(),
                with(get("a")),
                vec![get("zz")],
            ),
            ("add outside", KeyNotInRegion, none(), with(add("z", 1)), vec![]),
            ("append outside", KeyNotInRegion, none(), with(append("z", "1")), vec![]),
            ("range starts outside", KeyNotInRegion, none(), with(delete_range("A", "c")), vec![]),
            ("range ends outside", KeyNotInRegion, none(), with(delete_range("c", "zz")), vec![]),
            ("range without an end", KeyNotInRegion, none(), with(delete_range("c", "")), vec![]),
            ("two ways to say the ttl", TwoTtls, none(), with(two_ttls), vec![]),
            ("a key at the end of the map", KeyOutOfRange, none(), with(end_of_map()), vec![]),
            ("a key that is too long", KeyOutOfRange, none(), with(long_key()), vec![]),
            (
                "a compared key at the end of the map",
                KeyOutOfRange,
                vec![Compare {
                    key: vec![0xff; 9].into(),
                    condition: Some(Condition::Absent(true)),
                }],
                with(get("a")),
                vec![],
            ),
            (
                "a border that is too long",
                KeyOutOfRange,
                none(),
                with_op(Kind::DeleteRange(DeleteRangeOp {
                    end_key: long.clone().into(),
                    ..range("a", "")
                })),
                vec![],
            ),
            (
                "a range that says all",
                RangeUnresolved,
                none(),
                with_op(Kind::DeleteRange(DeleteRangeOp { all: true, ..range("a", "b") })),
                vec![],
            ),
            (
                "a range that says a prefix",
                RangeUnresolved,
                none(),
                with_op(Kind::DeleteRange(DeleteRangeOp { prefix: "a".into(), ..range("a", "b") })),
                vec![],
            ),
            (
                "a value that is too large",
                ValueTooLarge,
                none(),
                with(put("a", vec![0; VALUE_BYTES_CEILING + 1])),
                vec![],
            ),
        ] {
            let mut region = Fixture::new();
            region.write(vec![put("a", "old"), put("b", "old")]);
            let before = region.clone();
            // Between two commands of one batch, of which the later sees what the refused one left.
            let answers = region.apply_batch(&[
                write(0, vec![put("f", "1")]),
                command(
                    0,
                    body(WriteCommand { compare, success, failure, ..WriteCommand::default() }),
                ),
                write(0, vec![get("a"), get("b"), get("c"), get("f")]),
            ]);
            let refused = written(&answers[1]);
            let kind = refused.refused.as_ref().map(WriteRefusal::kind);
            assert_eq!(kind, Some(want_kind), "{why}: {refused:?}");
            assert_eq!(
                refused,
                &WriteReply { refused: refused.refused.clone(), ..WriteReply::default() },
                "{why}"
            );
            let mut undisturbed = before;
            let want = undisturbed.apply_batch(&[
                write(0, vec![put("f", "1")]),
                write(0, vec![get("a"), get("b"), get("c"), get("f")]),
            ]);
            assert_eq!([&answers[0], &answers[2]], [&want[0], &want[1]], "{why}");
            assert_eq!(region, undisturbed, "{why}");
        }
    }

    #[test]
    fn of_two_writes_on_one_condition_in_one_batch_one_succeeds() {
        let cas = |new: &'static str| WriteCommand {
            compare: vec![value_equals("a", "old")],
            success: vec![put("a", new)],
            failure: vec![get("a")],
            ..WriteCommand::default()
        };
        let if_absent = |new: &'static str| WriteCommand {
            compare: vec![condition("b", Condition::Absent(true))],
            success: vec![put("b", new)],
            failure: vec![get("b")],
            ..WriteCommand::default()
        };
        let at_revision = |new: &'static str| WriteCommand {
            compare: vec![condition("a", Condition::RevisionEquals(1))],
            success: vec![put("a", new)],
            failure: vec![get("a")],
            ..WriteCommand::default()
        };
        for (why, shape) in [
            ("compare and put", &cas as &dyn Fn(&'static str) -> WriteCommand),
            ("put if absent", &if_absent),
            ("compare the revision and put", &at_revision),
        ] {
            let mut region = Fixture::new();
            region.write(vec![put("a", "old")]);
            let commands = ["one", "two"].map(|new| command(0, body(shape(new))));
            let answers = region.apply_batch(&commands);
            let succeeded: Vec<_> =
                answers.iter().map(|answer| written(answer).succeeded).collect();
            assert_eq!(succeeded, [true, false], "{why}");
            let loser = &written(&answers[1]).results[0];
            let Some(Answer::Get(seen)) = &loser.result else { panic!("{why}: {loser:?}") };
            assert_eq!(seen.kv.as_ref().map(|kv| &kv.value[..]), Some(&b"one"[..]), "{why}");
        }
    }

    #[test]
    fn of_two_get_and_puts_in_one_batch_the_second_sees_the_first() {
        let mut region = Fixture::new();
        region.write(vec![put("a", "old")]);
        let commands = ["one", "two"].map(|new| write(0, vec![get_and_put("a", new)]));
        let previous: Vec<_> = region
            .apply_batch(&commands)
            .iter()
            .map(|answer| previous(&written(answer).results[0]))
            .collect();
        assert_eq!(previous, [Some("old".into()), Some("one".into())]);
    }

    #[test]
    fn a_refusal_says_where_it_is() {
        let absent = || condition("a", Condition::Absent(true));
        for (why, compare, success, failure, list, index) in [
            ("compare", vec![absent(), value_equals("A", "x")], vec![], vec![], List::Compare, 1),
            ("success", vec![], vec![get("a"), get("a"), delete("zz")], vec![], List::Success, 2),
            ("failure", vec![], vec![], vec![get("a"), delete("zz")], List::Failure, 1),
            (
                "in the branch that ran",
                vec![condition("a", Condition::Present(true))],
                vec![],
                vec![put("b", "text"), add("b", 1)],
                List::Failure,
                1,
            ),
        ] {
            let write = WriteCommand { compare, success, failure, ..WriteCommand::default() };
            let refused = Fixture::new().write_command(write).refused.expect(why);
            assert_eq!((refused.list(), refused.index as usize), (list, index), "{why}");
        }
    }

    /// A region with one large value, so that small commands ask for large answers.
    fn with_large(bytes: usize) -> Fixture {
        let mut region = Fixture::new();
        region.write(vec![put("a", vec![b'x'; bytes]), put("b", "1")]);
        region
    }

    #[test]
    fn what_a_command_answers_is_bounded_before_it_has_an_effect() {
        const VALUE: usize = 1 << 20;
        let fit = ANSWER_BYTES_MAX / (VALUE + 1 + RESULT_BYTES);
        let gets = |count| (0..count).map(|_| get("a")).collect::<Vec<_>>();
        let first = || put("c", "effect");
        let swaps = |count: usize| {
            (0..count).map(|_| get_and_put("a", vec![b'y'; VALUE])).collect::<Vec<_>>()
        };
        for (why, ops, asked, refused) in [
            ("as many as fit", gets(fit), 0, false),
            ("one more", gets(fit + 1), 0, true),
            ("many more", gets(1024), 0, true),
            ("after an effect", [vec![first()], gets(1024)].concat(), 0, true),
            ("what was replaced", swaps(fit), 0, false),
            ("what was replaced, one more", swaps(fit + 1), 0, true),
            (
                "what was deleted",
                vec![delete_and_get("a"), delete_and_get("b")],
                VALUE as u64,
                true,
            ),
            ("less than apply allows", gets(1), VALUE as u64, true),
            ("more than apply allows", gets(fit + 1), u64::MAX, true),
            ("nothing but small results", vec![put("b", "2"); 1024], 0, false),
            ("small results count as well", vec![put("b", "2"); 1024], 1000, true),
        ] {
            let mut region = with_large(VALUE);
            let before = region.clone();
            let write =
                WriteCommand { success: ops, answer_bytes_max: asked, ..WriteCommand::default() };
            let answer = region.write_command(write);
            if !refused {
                assert_eq!(answer.refused, None, "{why}");
                let bytes = prost::Message::encoded_len(&answer);
                assert!(bytes < flotilla_proto::MESSAGE_BYTES_MAX - (1 << 20), "{why}: {bytes}");
                continue;
            }
            let refusal = answer.refused.expect(why);
            let limit = if asked > 0 {
                asked.min(ANSWER_BYTES_MAX as u64)
            } else {
                ANSWER_BYTES_MAX as u64
            };
            assert_eq!((refusal.kind(), refusal.limit), (AnswerTooLarge, limit), "{why}");
            assert_eq!(region, before, "{why}");
        }
    }

    #[test]
    fn what_a_command_writes_is_bounded_before_it_has_an_effect() {
        const VALUE: usize = 1 << 20;
        let fit = EFFECT_BYTES_MAX / (VALUE + 2);
        let appends = |count| vec![append("a", "y"); count];
        for (why, ops, refused) in [
            ("appends to a large value", appends(fit - 1), false),
            ("each makes a value anew", appends(fit + 1), true),
            ("very many", appends(1024), true),
            ("after others", [vec![put("c", "1"), delete("b")], appends(1024)].concat(), true),
        ] {
            let mut region = with_large(VALUE);
            let before = region.clone();
            let answer = region.write(ops);
            let kind = answer.refused.as_ref().map(WriteRefusal::kind);
            assert_eq!(kind, refused.then_some(EffectsTooLarge), "{why}");
            assert!(!refused || region == before, "{why}");
        }
    }

    #[test]
    fn what_a_command_reads_is_bounded_before_it_has_an_effect() {
        const VALUE: usize = 16 << 20;
        let fit = READ_BYTES_MAX / (VALUE + 2);
        let present = |count| vec![condition("a", Condition::Present(true)); count];
        let gone = |count| vec![condition("gone", Condition::Present(false)); count];
        let delete_and_put = |count: usize| {
            let one = [delete("a"), put("a", vec![0; 8])];
            let deletes = one.iter().cloned().cycle().take(2 * count);
            [vec![put("b", "1")], deletes.collect()].concat()
        };
        for (why, compare, success, refused) in [
            ("as much as may be", present(fit), vec![put("b", "1")], false),
            ("once more", present(fit + 1), vec![put("b", "1")], true),
            ("very often", present(1023), vec![add("n", 1)], true),
            ("only reads", present(1023), vec![], true),
            ("compared and deleted", present(fit), vec![delete("a")], true),
            ("what has expired is not there", gone(1023), vec![put("b", "1")], false),
            ("small ones are nothing", vec![], delete_and_put(400), false),
            ("a counter that is none", present(fit), vec![add("a", 1)], true),
            ("time to live kept", present(fit), vec![put_keep_ttl("a", "1")], true),
        ] {
            let mut region = with_large(VALUE);
            region.write(vec![put_ttl("gone", vec![0; 1 << 20], 5)]);
            region.apply(&tick(10));
            let before = region.clone();
            let command = WriteCommand { compare, success, ..WriteCommand::default() };
            let answer = region.write_command(command);
            let kind = answer.refused.as_ref().map(WriteRefusal::kind);
            assert_eq!(kind, refused.then_some(ReadsTooLarge), "{why}");
            assert!(!refused || region == before, "{why}");
        }
    }

    #[test]
    fn a_large_row_that_has_expired_is_read_once() {
        let mut region = with_large(1 << 20);
        region.write(vec![put_ttl("gone", vec![0; 1 << 20], 5)]);
        region.apply(&tick(10));
        let before = region.store.reads.get();
        let compare = vec![condition("gone", Condition::Absent(true)); 1000];
        let success = vec![delete("gone"), put("gone", "1"), get("gone")];
        let answer =
            region.write_command(WriteCommand { compare, success, ..WriteCommand::default() });
        assert_eq!((answer.succeeded, &answer.refused), (true, &None));
        assert_eq!(region.store.reads.get() - before, 1);
        let Some(Answer::Get(found)) = &answer.results[2].result else { panic!("{answer:?}") };
        assert_eq!(found.kv.as_ref().map(|kv| &kv.value[..]), Some(&b"1"[..]));
    }

    #[test]
    fn a_transaction_that_only_reads_answers_the_same_without_a_log() {
        let mut region = Fixture::new();
        region.write(vec![put("a", "1"), put_ttl("t", "2", 30), put_ttl("gone", "3", 5)]);
        region.apply(&tick(10));
        let state = &region.region.state;
        let as_of = AsOf { time_ms: state.time_ms, revision: state.revision };
        for (why, compare, success, failure) in [
            ("holds", vec![value_equals("a", "1")], vec![get("a"), get("t"), get("gone")], vec![]),
            ("does not", vec![value_equals("a", "2")], vec![], vec![get("a"), get("none")]),
            ("no operation", vec![value_equals("a", "1")], vec![], vec![]),
            ("outside", vec![], vec![get("zz")], vec![]),
            ("too much", vec![], vec![get("a"); 400_000], vec![]),
        ] {
            let write = WriteCommand { compare, success, failure, ..WriteCommand::default() };
            assert!(only_reads(&write), "{why}");
            let descriptor = &region.region.descriptor;
            let read = read_transaction(&region.store, &write, descriptor, as_of).expect(why);
            let before = region.clone();
            assert_eq!(region.write_command(write), read, "{why}");
            assert_eq!(region, before, "{why}: it would have changed nothing");
        }
        for op in [put("a", "1"), delete("a"), delete_range("a", "b"), add("n", 1), append("a", "")]
        {
            let failure = vec![op];
            assert!(!only_reads(&WriteCommand { failure, ..WriteCommand::default() }));
        }
    }
}
