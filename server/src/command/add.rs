//! Adds to a counter and answers the range that was taken: a sequence.
//!
//! A counter is stored as the decimal digits of an `i64`, so that any client can read and set it.

use flotilla_proto::v1::{AddOp, AddResult};

use super::{
    refusal::Refusal,
    transaction::{Stop, Transaction},
};

/// Keeps the key's expiry. An absent key counts as 0.
pub(super) fn apply(op: &AddOp, transaction: &mut Transaction<'_, '_>) -> Result<AddResult, Stop> {
    let present = transaction.live(&op.key)?;
    let expires_at_ms = present.as_ref().map_or(0, |value| value.expires_at_ms);
    let start = present.map_or(Ok(0), |value| parse(&value.payload))?;
    let delta = op.delta;
    let end = start.checked_add(delta).ok_or(Refusal::CounterOverflow { start, delta })?;
    transaction.put(&op.key, end.to_string().into(), expires_at_ms)?;
    Ok(AddResult { start, end })
}

fn parse(payload: &[u8]) -> Result<i64, Refusal> {
    str::from_utf8(payload).ok().and_then(|digits| digits.parse().ok()).ok_or(Refusal::NotACounter)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{AddResult, op_result::Result as Answer};

    use super::super::fixture::*;

    #[test]
    fn a_counter_counts_in_its_range_and_nothing_else_does() {
        const MAX: &str = "9223372036854775807";
        const MIN: &str = "-9223372036854775808";
        for (why, there, delta, want) in [
            ("absent", None, 5, Some((0, 5))),
            ("absent, down", None, -5, Some((0, -5))),
            ("zero delta", Some("7"), 0, Some((7, 7))),
            ("up", Some("7"), 3, Some((7, 10))),
            ("through zero", Some("-2"), 5, Some((-2, 3))),
            ("to the largest", Some("9223372036854775806"), 1, Some((i64::MAX - 1, i64::MAX))),
            ("past the largest", Some(MAX), 1, None),
            ("to the smallest", Some("-9223372036854775807"), -1, Some((i64::MIN + 1, i64::MIN))),
            ("past the smallest", Some(MIN), -1, None),
            ("from end to end", Some(MIN), i64::MAX, Some((i64::MIN, -1))),
            ("larger than any counter", Some("9223372036854775808"), -1, None),
            ("text", Some("seven"), 1, None),
            ("empty", Some(""), 1, None),
            ("spaces", Some(" 7"), 1, None),
            ("a fraction", Some("7.0"), 1, None),
        ] {
            let mut region = Fixture::new();
            if let Some(value) = there {
                region.write(vec![put("n", value)]);
            }
            let answer = region.write(vec![add("n", delta)]);
            let stored = region.live("n");
            match want {
                Some((start, end)) => {
                    let want = Answer::Add(AddResult { start, end });
                    assert_eq!(answer.results[0].result, Some(want), "{why}");
                    assert_eq!(stored, Some(end.to_string().into()), "{why}");
                }
                None => {
                    assert!(answer.refused.is_some(), "{why}");
                    assert_eq!(stored, there.map(Into::into), "{why}");
                }
            }
        }
        let mut region = Fixture::new();
        region.write(vec![put_bytes("n", b"\xff1")]);
        assert!(region.write(vec![add("n", 1)]).refused.is_some(), "not even text");
    }

    #[test]
    fn a_sequence_never_repeats_within_a_batch_or_a_command() {
        let mut region = Fixture::new();
        let commands = [write(0, vec![add("n", 2), add("n", 3)]), write(0, vec![add("n", 1)])];
        let taken: Vec<_> = region
            .apply_batch(&commands)
            .iter()
            .flat_map(|answer| written(answer).results.clone())
            .map(|result| match result.result {
                Some(Answer::Add(AddResult { start, end })) => (start, end),
                other => panic!("not the result of an addition: {other:?}"),
            })
            .collect();
        assert_eq!(taken, [(0, 2), (2, 5), (5, 6)]);
    }

    #[test]
    fn adding_keeps_the_expiry_and_an_expired_counter_starts_anew() {
        let mut region = Fixture::new();
        region.write(vec![put_ttl("n", "7", 100), put_ttl("gone", "7", 5)]);
        region.apply(&tick(10));
        region.write(vec![add("n", 1), add("gone", 1)]);
        let rows = region.rows();
        assert_eq!((&rows["n"].payload[..], rows["n"].expires_at_ms), (&b"8"[..], 100));
        assert_eq!((&rows["gone"].payload[..], rows["gone"].expires_at_ms), (&b"1"[..], 0));
    }
}
