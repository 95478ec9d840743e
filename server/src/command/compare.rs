//! Conditions of a transaction.

use super::transaction::{Stop, Transaction};
use flotilla_proto::v1::{Compare, compare::Condition};

/// Whether the condition holds. Expired is absent.
pub(super) fn holds(
    compare: &Compare,
    transaction: &mut Transaction<'_, '_>,
) -> Result<bool, Stop> {
    let value = transaction.live(&compare.key)?;
    Ok(match &compare.condition {
        Some(Condition::Absent(absent)) => value.is_none() == *absent,
        Some(Condition::Present(present)) => value.is_some() == *present,
        Some(Condition::ValueEquals(wanted)) => value.is_some_and(|value| value.payload == wanted),
        Some(Condition::RevisionEquals(wanted)) => {
            value.is_some_and(|value| value.revision == *wanted)
        }
        // Refused before; false is the side that changes less.
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{WriteCommand, compare::Condition::*};

    use super::super::fixture::*;

    #[test]
    fn expired_and_absent_are_the_same_to_a_condition() {
        // Revision 1 writes all three; `gone` has expired at time 20.
        for (why, key, tested, holds) in [
            ("absent: no value", "none", Absent(true), true),
            ("absent: expired", "gone", Absent(true), true),
            ("absent: present", "here", Absent(true), false),
            ("not absent: present", "here", Absent(false), true),
            ("not absent: no value", "none", Absent(false), false),
            ("present: no value", "none", Present(true), false),
            ("present: expired", "gone", Present(true), false),
            ("present: present", "here", Present(true), true),
            ("present: empty value", "empty", Present(true), true),
            ("not present: expired", "gone", Present(false), true),
            ("value: same", "here", ValueEquals("v".into()), true),
            ("value: other", "here", ValueEquals("w".into()), false),
            ("value: a part", "here", ValueEquals("".into()), false),
            ("value: expired", "gone", ValueEquals("v".into()), false),
            ("value: empty is not absent", "none", ValueEquals("".into()), false),
            ("value: empty", "empty", ValueEquals("".into()), true),
            ("revision: same", "here", RevisionEquals(1), true),
            ("revision: other", "here", RevisionEquals(2), false),
            ("revision: expired", "gone", RevisionEquals(1), false),
            ("revision: 0 is not absent", "none", RevisionEquals(0), false),
        ] {
            let mut region = Fixture::new();
            region.write(vec![put("here", "v"), put("empty", ""), put_ttl("gone", "v", 10)]);
            region.apply(&tick(20));
            let answer = region.write_command(WriteCommand {
                compare: vec![condition(key, tested)],
                ..WriteCommand::default()
            });
            assert_eq!((answer.succeeded, answer.refused), (holds, None), "{why}");
        }
    }

    /// Else both of two who compare the same value would be told that they were first.
    #[test]
    fn a_condition_sees_what_those_before_it_in_the_batch_did() {
        let claim = |owner: &'static str| {
            let compare = vec![condition("lock", Absent(true))];
            let success = vec![put("lock", owner)];
            command(0, body(WriteCommand { compare, success, ..WriteCommand::default() }))
        };
        let mut region = Fixture::new();
        let answers = region.apply_batch(&[claim("first"), claim("second")]);
        let held: Vec<_> = answers.iter().map(|answer| written(answer).succeeded).collect();
        assert_eq!((held, region.live("lock")), (vec![true, false], Some("first".into())));
    }

    #[test]
    fn all_conditions_must_hold() {
        let (yes, no) = (condition("a", Absent(true)), condition("a", Present(true)));
        for (why, compare, holds) in [
            ("none", vec![], true),
            ("both", vec![yes.clone(), yes.clone()], true),
            ("not the first", vec![no.clone(), yes.clone()], false),
            ("not the last", vec![yes, no], false),
        ] {
            let answer =
                Fixture::new().write_command(WriteCommand { compare, ..WriteCommand::default() });
            assert_eq!(answer.succeeded, holds, "{why}");
        }
    }
}
