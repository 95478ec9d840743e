//! Adds bytes to the end of a value.

use flotilla_proto::v1::{AppendOp, AppendResult};

use super::{
    refusal::Refusal,
    write::{Stop, Transaction},
};

/// Bound: a value does not grow past this by appending; the command is refused. A constant and no
/// setting, since every peer must decide alike. It is the default limit of a value, so that what
/// was appended can also be read and put.
pub const APPENDED_VALUE_BYTES_MAX: usize = 8 << 20;

/// Keeps the key's expiry. An absent key counts as empty.
pub(super) fn apply(
    op: &AppendOp,
    transaction: &mut Transaction<'_, '_>,
) -> Result<AppendResult, Stop> {
    let present = transaction.live(&op.key)?.unwrap_or_default();
    let bytes = present.payload.len() + op.value.len();
    if bytes > APPENDED_VALUE_BYTES_MAX {
        return Err(Refusal::ValueTooLong { bytes }.into());
    }
    let payload = if present.payload.is_empty() {
        op.value.clone()
    } else {
        [&present.payload[..], &op.value].concat().into()
    };
    transaction.put(&op.key, payload, present.expires_at_ms);
    Ok(AppendResult { value_bytes: bytes as u64 })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{AppendResult, op_result::Result as Answer};

    use super::{super::fixture::*, *};

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
        let full = vec![b'x'; APPENDED_VALUE_BYTES_MAX];
        let mut region = Fixture::new();
        assert_eq!(region.write(vec![append_bytes("a", &full[1..])]).refused, "");
        assert_eq!(region.write(vec![append("a", "y")]).refused, "");
        let answer = region.write(vec![append("a", "z")]);
        assert!(answer.refused.contains(&APPENDED_VALUE_BYTES_MAX.to_string()), "{answer:?}");
        assert_eq!(region.live("a").map(|value| value.len()), Some(APPENDED_VALUE_BYTES_MAX));
    }
}
