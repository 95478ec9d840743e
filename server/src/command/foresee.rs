//! What applying a command will read, known before.

use bytes::Bytes;
use flotilla_proto::v1::{Command, DeleteRangeOp, Op, WriteCommand, command::Body, op::Op as Kind};

use super::{delete_range, put};

/// The keys of which applying `write` may read the values, each as often as it may: those of comparisons and
/// of both branches, as which of them runs is not known before. Ranges are none.
pub fn keys_read(write: &WriteCommand) -> impl Iterator<Item = &Bytes> {
    let compared = write.compare.iter().map(|compare| &compare.key);
    let changed = write.success.iter().chain(&write.failure).filter_map(|Op { op }| match op {
        None | Some(Kind::DeleteRange(_)) => None,
        Some(Kind::Put(op)) => put::reads(op).then_some(&op.key),
        Some(Kind::Delete(op)) => Some(&op.key),
        Some(Kind::Add(op)) => Some(&op.key),
        Some(Kind::Append(op)) => Some(&op.key),
        Some(Kind::Get(op)) => Some(&op.key),
    });
    compared.chain(changed)
}

/// Whether applying `command` reads nothing but keys of which `is_quick` holds. A range never is.
///
/// # Errors
/// Those of `is_quick`.
pub fn reads_quickly<E>(
    command: &Command,
    mut is_quick: impl FnMut(&[u8]) -> Result<bool, E>,
) -> Result<bool, E> {
    let Some(Body::Write(write)) = &command.body else { return Ok(true) };
    if write.success.iter().chain(&write.failure).any(reads_a_range) {
        return Ok(false);
    }
    for key in keys_read(write) {
        if !is_quick(key)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn reads_a_range(op: &Op) -> bool {
    let range = |op: &DeleteRangeOp| !delete_range::is_empty(op);
    matches!(&op.op, Some(Kind::DeleteRange(op)) if range(op))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use flotilla_proto::v1::{Compare, WriteCommand, compare::Condition};

    use super::{super::fixture::*, *};

    fn foreseen(command: &Command) -> Vec<String> {
        let mut keys = Vec::new();
        let all_quick = reads_quickly(command, |key| {
            keys.push(String::from_utf8_lossy(key).into_owned());
            Ok::<_, Infallible>(true)
        });
        assert_eq!(all_quick, Ok(true));
        let none_quick = reads_quickly(command, |_| Ok::<_, Infallible>(false));
        assert_eq!(none_quick, Ok(keys.is_empty()), "{command:?}");
        keys
    }

    #[test]
    fn what_is_read_was_foreseen() {
        for (why, ops, want) in [
            ("nothing", vec![], &[][..]),
            ("blind puts", vec![put("a", "1"), put_ttl("b", "1", 9)], &[]),
            ("a put that keeps the ttl", vec![put_keep_ttl("a", "1")], &["a"]),
            ("a put that answers what was there", vec![get_and_put("a", "1")], &["a"]),
            ("a delete", vec![delete("a")], &["a"]),
            ("an addition", vec![add("n", 1)], &["n"]),
            ("an append after a put", vec![put("a", "1"), append("b", "x")], &["b"]),
            ("an empty range", vec![delete_range("b", "b")], &[]),
        ] {
            let mut region = Fixture::new();
            let command = write(0, ops);
            assert_eq!(foreseen(&command), want, "{why}");
            region.apply(&command);
            assert_eq!(region.store.reads.get(), want.len() as u64, "{why}");
        }
        let range = write(0, vec![put("a", "1"), delete_range("b", "c")]);
        assert_eq!(reads_quickly(&range, |_| Ok::<_, Infallible>(true)), Ok(false));
        assert_eq!(foreseen(&tick(10)), [""; 0]);
    }

    #[test]
    fn comparisons_and_both_branches_are_foreseen() {
        let compare = |key: &'static str| Compare {
            key: key.into(),
            condition: Some(Condition::Present(true)),
        };
        let write = WriteCommand {
            compare: vec![compare("c"), compare("d")],
            success: vec![delete("s"), put("blind", "1")],
            failure: vec![append("f", "x")],
            ..WriteCommand::default()
        };
        assert_eq!(foreseen(&command(0, Body::Write(write))), ["c", "d", "s", "f"]);
    }

    #[test]
    fn errors_are_passed_on() {
        assert_eq!(reads_quickly(&write(0, vec![delete("a")]), |_| Err("torn")), Err("torn"));
    }
}
