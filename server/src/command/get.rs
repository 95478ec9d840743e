//! Reads a key inside of a transaction.

use super::transaction::{Stop, Transaction};
use flotilla_proto::v1::{GetOp, GetResult};

/// Sees the operations before it.
pub(super) fn apply(op: &GetOp, transaction: &mut Transaction<'_, '_>) -> Result<GetResult, Stop> {
    let present = transaction.live(&op.key)?;
    let kv = present.map(|value| transaction.answer(&op.key, value)).transpose()?;
    Ok(GetResult { kv })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{KeyValue, op_result::Result as Answer};

    use super::super::fixture::*;

    #[test]
    fn a_get_sees_what_came_before_it_and_nothing_after() {
        let mut region = Fixture::new();
        region.write(vec![put("a", "disk"), put_ttl("gone", "1", 5), put_ttl("ttl", "1", 50)]);
        region.apply(&tick(10));
        let answer = region.write(vec![
            get("a"),
            put("a", "new"),
            get("a"),
            delete("a"),
            get("a"),
            get("gone"),
            get("ttl"),
            get("none"),
        ]);
        let seen: Vec<_> = answer
            .results
            .iter()
            .filter_map(|result| match &result.result {
                Some(Answer::Get(get)) => Some(get.kv.clone()),
                _ => None,
            })
            .collect();
        let kv = |key: &'static str, value: &'static str, revision, ttl_ms| {
            Some(KeyValue { key: key.into(), value: value.into(), revision, ttl_ms })
        };
        let want = [
            kv("a", "disk", 1, None),
            kv("a", "new", 2, None),
            None,
            None,
            kv("ttl", "1", 1, Some(40)),
            None,
        ];
        assert_eq!(seen, want);
    }
}
