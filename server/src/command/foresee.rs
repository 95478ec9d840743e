//! What applying a command will read, known before.

use flotilla_proto::v1::{Command, Op, command::Body, op::Op as Kind};

use super::{delete_range, put};

/// Whether applying `command` reads nothing but keys of which `is_quick` holds. A range never is.
///
/// # Errors
/// Those of `is_quick`.
pub fn reads_quickly<E>(
    command: &Command,
    mut is_quick: impl FnMut(&[u8]) -> Result<bool, E>,
) -> Result<bool, E> {
    let Some(Body::Write(write)) = &command.body else { return Ok(true) };
    for compare in &write.compare {
        if !is_quick(&compare.key)? {
            return Ok(false);
        }
    }
    // Which of them runs is not known before the comparisons.
    for Op { op } in write.success.iter().chain(&write.failure) {
        let key = match op {
            None => continue,
            Some(Kind::Put(op)) if !put::reads(op) => continue,
            Some(Kind::DeleteRange(op)) if delete_range::is_empty(op) => continue,
            Some(Kind::DeleteRange(_)) => return Ok(false),
            Some(Kind::Put(op)) => &op.key,
            Some(Kind::Delete(op)) => &op.key,
            Some(Kind::Add(op)) => &op.key,
            Some(Kind::Append(op)) => &op.key,
            Some(Kind::Get(op)) => &op.key,
        };
        if !is_quick(key)? {
            return Ok(false);
        }
    }
    Ok(true)
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
