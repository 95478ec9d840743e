//! Adds bytes to the end of a value.

use super::transaction::{Stop, Transaction};
use flotilla_proto::v1::{AppendOp, AppendResult};

/// Keeps the key's expiry. An absent key counts as empty.
///
/// Bound: a value does not grow past the largest that may be put, by the setting of the node that
/// took the request, which is part of the command.
pub(super) fn apply(
    op: &AppendOp,
    transaction: &mut Transaction<'_, '_>,
) -> Result<AppendResult, Stop> {
    let present = transaction.live(&op.key)?.unwrap_or_default();
    let bytes = present.payload.len() + op.value.len();
    transaction.budget.check_appended(bytes)?;
    let payload = if present.payload.is_empty() {
        op.value.clone()
    } else {
        [&present.payload[..], &op.value].concat().into()
    };
    transaction.put(&op.key, payload, present.expires_at_ms)?;
    Ok(AppendResult { value_bytes: bytes as u64 })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{
        AppendResult, WriteCommand, op_result::Result as Answer, write_refusal::Kind,
    };

    use super::super::{bounds::VALUE_BYTES_CEILING, fixture::*};

    #[test]
    fn appended_bytes_follow_those_that_are_there() {
        for (why, key, more, want, expires_at_ms) in [
            ("absent", "none", "x", "x", 0),
            ("nothing to an absent key", "none", "", "", 0),
            ("expired", "gone", "x", "x", 0),
            ("present", "a", "x", "1x", 0),
            ("present, nothing more", "a", "", "1", 0),
            ("present and empty", "empty", "x", "x", 0),
            ("keeps the expiry", "ttl", "x", "1x", 100),
        ] {
            let mut region = Fixture::new();
            region.write(vec![
                put("a", "1"),
                put("empty", ""),
                put_ttl("gone", "1", 5),
                put_ttl("ttl", "1", 100),
            ]);
            region.apply(&tick(10));
            let answer = region.write(vec![append(key, more)]);
            let value_bytes = want.len() as u64;
            let want_answer = Answer::Append(AppendResult { value_bytes });
            assert_eq!(answer.results[0].result, Some(want_answer), "{why}");
            let stored = &region.rows()[key];
            assert_eq!(stored.payload, want, "{why}");
            assert_eq!((stored.expires_at_ms, stored.revision), (expires_at_ms, 2), "{why}");
        }
    }

    #[test]
    fn appends_of_one_command_and_one_batch_add_up() {
        let mut region = Fixture::new();
        region.apply_batch(&[
            write(0, vec![append("a", "1"), append("a", "2")]),
            write(0, vec![append("a", "3")]),
        ]);
        assert_eq!(region.live("a"), Some("123".into()));
    }

    #[test]
    fn a_value_does_not_outgrow_its_bound() {
        let ceiling = VALUE_BYTES_CEILING;
        for (why, asked, limit) in [
            ("the setting of who took the request", 1 << 10, 1 << 10),
            ("no setting", 0, ceiling),
            ("a setting above what apply allows", u64::MAX, ceiling),
        ] {
            let full = vec![b'x'; limit];
            let mut region = Fixture::new();
            let append = |region: &mut Fixture, op| {
                region.write_command(WriteCommand {
                    success: vec![op],
                    value_bytes_max: asked,
                    ..WriteCommand::default()
                })
            };
            assert_eq!(append(&mut region, append_bytes("a", &full[1..])).refused, None, "{why}");
            assert_eq!(append(&mut region, super::super::fixture::append("a", "y")).refused, None);
            let answer = append(&mut region, super::super::fixture::append("a", "z"));
            let refused = answer.refused.expect(why);
            assert_eq!((refused.kind(), refused.limit), (Kind::ValueTooLarge, limit as u64));
            assert_eq!(region.live("a").map(|value| value.len()), Some(limit), "{why}");
        }
    }
}
