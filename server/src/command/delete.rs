//! Removes a key.

use super::transaction::{Stop, Transaction};
use flotilla_proto::v1::{DeleteOp, DeleteResult};

/// Reads the key, to say whether it was there; one that was not costs no tombstone.
pub(super) fn apply(
    op: &DeleteOp,
    transaction: &mut Transaction<'_, '_>,
) -> Result<DeleteResult, Stop> {
    // Whether or not it is there: an expired row may be gone from another disk.
    transaction.budget.charge_effect(op.key.len())?;
    let Some(stored) = transaction.overlay.get(&op.key, transaction.time_ms)? else {
        return Ok(DeleteResult::default());
    };
    transaction.overlay.delete(op.key.clone());
    if !stored.is_live(transaction.time_ms) {
        return Ok(DeleteResult::default());
    }
    transaction.budget.charge_read(op.key.len() + stored.payload.len())?;
    let previous = op.return_previous.then(|| transaction.answer(&op.key, stored)).transpose()?;
    Ok(DeleteResult { deleted: 1, previous })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{DeleteResult, KeyValue, op_result::Result as Answer};

    use super::super::fixture::*;

    #[test]
    fn a_delete_says_whether_the_key_was_there() {
        let previous = KeyValue { key: "a".into(), value: "1".into(), revision: 1, ttl_ms: None };
        for (why, op, deleted, previous) in [
            ("present", delete("a"), 1, None),
            ("present, asked for", delete_and_get("a"), 1, Some(previous)),
            ("absent", delete_and_get("none"), 0, None),
            ("expired", delete_and_get("gone"), 0, None),
        ] {
            let mut region = Fixture::new();
            region.write(vec![put("a", "1"), put_ttl("gone", "1", 5)]);
            region.apply(&tick(10));
            let key = first_key(&op);
            let answer = region.write(vec![op]);
            let want = Answer::Delete(DeleteResult { deleted, previous });
            assert_eq!(answer.results[0].result, Some(want), "{why}");
            assert_eq!(region.rows().get(&key), None, "{why}");
        }
    }

    #[test]
    fn a_delete_of_nothing_writes_nothing() {
        let mut region = Fixture::new();
        assert_eq!(region.batch_of(&[write(0, vec![delete("none")])]).len(), 0);
        let put_and_delete = write(0, vec![put("a", "1"), delete("a"), delete("a")]);
        assert_eq!(region.batch_of(&[put_and_delete]).len(), 2);
    }
}
