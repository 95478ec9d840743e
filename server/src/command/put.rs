//! Stores a value.

use super::transaction::{Stop, Transaction};
use flotilla_proto::v1::{PutOp, PutResult};

/// Whether the value that is there matters.
pub(super) fn reads(op: &PutOp) -> bool {
    op.keep_ttl || op.return_previous
}

pub(super) fn apply(op: &PutOp, transaction: &mut Transaction<'_, '_>) -> Result<PutResult, Stop> {
    let present = if reads(op) { transaction.live(&op.key)? } else { None };
    let expires_at_ms = match (op.ttl_ms, &present) {
        (0, Some(value)) if op.keep_ttl => value.expires_at_ms,
        (0, _) => 0,
        (ttl_ms, _) => transaction.time_ms.saturating_add(ttl_ms),
    };
    let previous = present
        .filter(|_| op.return_previous)
        .map(|value| transaction.answer(&op.key, value))
        .transpose()?;
    transaction.put(&op.key, op.value.clone(), expires_at_ms)?;
    Ok(PutResult { previous })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::KeyValue;

    use super::super::fixture::*;

    #[test]
    fn expiry_follows_ttl_and_keep_ttl() {
        // `ttl` was written at 10 to expire at 110, `gone` to expire at 15, `ever` without; now 50.
        for (why, op, want, expiry_max_ms) in [
            ("no ttl on a new key", put("new", "x"), 0, 110),
            ("no ttl ends the one there was", put("ttl", "x"), 0, 110),
            ("a ttl from now", put_ttl("ever", "x", 7), 57, 110),
            ("a longer ttl raises the largest", put_ttl("ttl", "x", 70), 120, 120),
            ("a ttl past the end of time", put_ttl("new", "x", u64::MAX), u64::MAX, u64::MAX),
            ("keep", put_keep_ttl("ttl", "x"), 110, 110),
            ("keep none", put_keep_ttl("ever", "x"), 0, 110),
            ("keep on an absent key", put_keep_ttl("new", "x"), 0, 110),
            ("keep on an expired key", put_keep_ttl("gone", "x"), 0, 110),
        ] {
            let mut region = Fixture::new();
            region.apply(&tick(10));
            region.write(vec![put("ever", "1"), put_ttl("ttl", "1", 100), put_ttl("gone", "1", 5)]);
            region.apply(&tick(50));
            let key = first_key(&op);
            region.write(vec![op]);
            let stored = region.rows().remove(&key).expect(why);
            assert_eq!(stored.expires_at_ms, want, "{why}");
            assert_eq!(stored.payload, "x", "{why}");
            assert_eq!(region.region.state.expiry_max_ms, expiry_max_ms, "{why}");
        }
    }

    #[test]
    fn previous_is_what_clients_saw() {
        let mut region = Fixture::new();
        region.write(vec![put("a", ""), put_ttl("b", "1", 30), put_ttl("gone", "1", 5)]);
        region.apply(&tick(10));
        let kv = |key: &'static str, value: &'static str, ttl_ms| {
            Some(KeyValue { key: key.into(), value: value.into(), revision: 1, ttl_ms })
        };
        for (why, key, want) in [
            ("absent", "none", None),
            ("expired", "gone", None),
            ("empty", "a", kv("a", "", None)),
            ("with time left", "b", kv("b", "1", Some(20))),
        ] {
            let answer = region.write(vec![get_and_put(key, "new")]);
            assert_eq!(previous_kv(&answer.results[0]), want, "{why}");
        }
        let answer = region.write(vec![put("a", "2"), put_keep_ttl("a", "3")]);
        assert!(answer.results.iter().all(|result| previous_kv(result).is_none()), "not asked for");
    }

    #[test]
    fn a_blind_put_reads_nothing() {
        let mut region = Fixture::new();
        region.write(vec![put("a", "1")]);
        region.store.reads.set(0);
        region.write(vec![put("a", "2"), put("b", "2"), put_ttl("c", "2", 9)]);
        assert_eq!(region.store.reads.get(), 0);
        assert_eq!(region.live("a"), Some("2".into()));
    }
}
