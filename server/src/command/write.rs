//! A transaction in one region: every public write is a shape of it.
//!
//! All comparisons are evaluated, then one branch runs, each operation seeing those before it. The
//! branch raises the region's revision by exactly one if it has any operation that writes, found
//! something to change or not, and every value it writes carries that revision.

use flotilla_proto::v1::{
    Compare, DeleteRangeOp, Op, OpResult, Region, WriteCommand, WriteReply, op::Op as Kind,
    op_result::Result as Answer,
};

use super::{
    add, append, apply::RegionState, compare, delete, delete_range, get, overlay::Overlay, put,
    refusal::Refusal, value::StoredValue,
};
use crate::storage::engine;

/// What an operation works with.
pub(super) struct Transaction<'t, 'a> {
    pub(super) overlay: &'t mut Overlay<'a>,
    /// The replicated time, this command's included.
    pub(super) time_ms: u64,
    /// Of the values that this transaction writes.
    pub(super) revision: u64,
    /// Largest expiry ever given.
    pub(super) expiry_max_ms: u64,
}

/// Why an operation ends its transaction.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

impl Transaction<'_, '_> {
    /// The value that clients see under `key`.
    pub(super) fn live(&mut self, key: &[u8]) -> Result<Option<StoredValue>, engine::Error> {
        let stored = self.overlay.get(key)?;
        Ok(stored.filter(|value| value.is_live(self.time_ms)))
    }

    /// Stores `payload`; `expires_at_ms` 0: for ever.
    pub(super) fn put(&mut self, key: &bytes::Bytes, payload: bytes::Bytes, expires_at_ms: u64) {
        self.expiry_max_ms = self.expiry_max_ms.max(expires_at_ms);
        let value = StoredValue { revision: self.revision, expires_at_ms, payload };
        self.overlay.put(key.clone(), value);
    }

    fn run(&mut self, ops: &[Op]) -> Result<Vec<OpResult>, Stop> {
        ops.iter()
            .enumerate()
            .map(|(index, op)| {
                let answer = match &op.op {
                    Some(Kind::Put(op)) => Answer::Put(put::apply(op, self)?),
                    Some(Kind::Delete(op)) => Answer::Delete(delete::apply(op, self)?),
                    Some(Kind::DeleteRange(op)) => {
                        Answer::DeleteRange(delete_range::apply(op, self)?)
                    }
                    Some(Kind::Add(op)) => Answer::Add(add::apply(op, self)?),
                    Some(Kind::Append(op)) => Answer::Append(append::apply(op, self)?),
                    Some(Kind::Get(op)) => Answer::Get(get::apply(op, self)?),
                    None => return Err(Refusal::NoOperation { index }.into()),
                };
                Ok(OpResult { result: Some(answer) })
            })
            .collect()
    }
}

/// Applies `write` to `overlay` and `region`, or nothing of it.
pub(super) fn apply(
    write: &WriteCommand,
    region: &mut RegionState,
    overlay: &mut Overlay<'_>,
) -> Result<WriteReply, engine::Error> {
    if let Err(refusal) = check(write, &region.descriptor) {
        return Ok(refused(&refusal));
    }
    let RegionState { state, .. } = region;
    let succeeded = compare::all_hold(&write.compare, overlay, state.time_ms)?;
    let branch = if succeeded { &write.success } else { &write.failure };
    let revision = state.revision + u64::from(branch.iter().any(writes));
    let (time_ms, expiry_max_ms) = (state.time_ms, state.expiry_max_ms);
    let mut transaction = Transaction { overlay, time_ms, revision, expiry_max_ms };
    let ran = transaction.run(branch);
    let expiry_max_ms = transaction.expiry_max_ms;
    match ran {
        Ok(results) => {
            overlay.settle();
            state.revision = revision;
            state.expiry_max_ms = expiry_max_ms;
            Ok(WriteReply { succeeded, revision, results, refused: String::new() })
        }
        Err(Stop::Refused(refusal)) => {
            overlay.undo();
            Ok(refused(&refusal))
        }
        Err(Stop::Engine(error)) => {
            overlay.undo();
            Err(error)
        }
    }
}

fn refused(refusal: &Refusal) -> WriteReply {
    WriteReply { refused: refusal.to_string(), ..WriteReply::default() }
}

fn writes(op: &Op) -> bool {
    !matches!(op.op, None | Some(Kind::Get(_)))
}

/// What can be refused without a read: both branches, so that it does not depend on data.
fn check(write: &WriteCommand, region: &Region) -> Result<(), Refusal> {
    for (index, Compare { key, condition }) in write.compare.iter().enumerate() {
        if condition.is_none() {
            return Err(Refusal::NoCondition { index });
        }
        check_key(key, region)?;
    }
    for branch in [&write.success, &write.failure] {
        for (index, op) in branch.iter().enumerate() {
            match &op.op {
                None => return Err(Refusal::NoOperation { index }),
                Some(Kind::Put(op)) => {
                    if op.ttl_ms != 0 && op.keep_ttl {
                        return Err(Refusal::TwoTtls { index });
                    }
                    check_key(&op.key, region)?;
                }
                Some(Kind::Delete(op)) => check_key(&op.key, region)?,
                Some(Kind::DeleteRange(op)) => check_range(op, region)?,
                Some(Kind::Add(op)) => check_key(&op.key, region)?,
                Some(Kind::Append(op)) => check_key(&op.key, region)?,
                Some(Kind::Get(op)) => check_key(&op.key, region)?,
            }
        }
    }
    Ok(())
}

fn check_key(key: &bytes::Bytes, region: &Region) -> Result<(), Refusal> {
    if key >= &region.start_key && (region.end_key.is_empty() || key < &region.end_key) {
        Ok(())
    } else {
        Err(Refusal::KeyNotInRegion { key: key.clone() })
    }
}

fn check_range(op: &DeleteRangeOp, region: &Region) -> Result<(), Refusal> {
    let DeleteRangeOp { start_key: start, end_key: end } = op;
    let ends_inside = region.end_key.is_empty() || (!end.is_empty() && end <= &region.end_key);
    if delete_range::is_empty(op) || (start >= &region.start_key && ends_inside) {
        Ok(())
    } else {
        Err(Refusal::RangeNotInRegion { start: start.clone(), end: end.clone() })
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{PutOp, compare::Condition};

    use super::{super::fixture::*, *};

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
            if answer.refused.is_empty() {
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
        for (why, compare, success, failure) in [
            ("not a counter", vec![], with(add("c", 1)), vec![]),
            (
                "overflow after others",
                vec![],
                with(add("d", i64::MAX)).into_iter().chain([add("d", 1)]).collect(),
                vec![],
            ),
            ("empty operation", vec![], with(Op { op: None }), vec![]),
            ("empty operation in the other branch", vec![], with(get("a")), vec![Op { op: None }]),
            ("comparison without condition", compare_all(None), with(get("a")), vec![]),
            (
                "compared key below the region",
                vec![value_equals("A", "x")],
                with(get("a")),
                with(get("a")),
            ),
            ("put below the region", vec![], with(put("A", "1")), vec![]),
            ("put above the region", vec![], with(put("z", "1")), vec![]),
            ("delete outside", vec![], with(delete("zz")), vec![]),
            ("get outside, in the other branch", vec![], with(get("a")), vec![get("zz")]),
            ("add outside", vec![], with(add("z", 1)), vec![]),
            ("append outside", vec![], with(append("z", "1")), vec![]),
            ("range starts outside", vec![], with(delete_range("A", "c")), vec![]),
            ("range ends outside", vec![], with(delete_range("c", "zz")), vec![]),
            ("range without an end", vec![], with(delete_range("c", "")), vec![]),
            ("two ways to say the ttl", vec![], with(two_ttls), vec![]),
        ] {
            let mut region = Fixture::new();
            region.write(vec![put("a", "old"), put("b", "old")]);
            let before = region.clone();
            // Between two commands of one batch, of which the later sees what the refused one left.
            let answers = region.apply_batch(&[
                write(0, vec![put("f", "1")]),
                command(0, body(WriteCommand { compare, success, failure })),
                write(0, vec![get("a"), get("b"), get("c"), get("f")]),
            ]);
            let refused = written(&answers[1]);
            assert!(!refused.refused.is_empty(), "{why}: {refused:?}");
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
        };
        let if_absent = |new: &'static str| WriteCommand {
            compare: vec![condition("b", Condition::Absent(true))],
            success: vec![put("b", new)],
            failure: vec![get("b")],
        };
        let at_revision = |new: &'static str| WriteCommand {
            compare: vec![condition("a", Condition::RevisionEquals(1))],
            success: vec![put("a", new)],
            failure: vec![get("a")],
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
}
