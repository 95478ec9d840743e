//! Removes every key of a range.

use super::transaction::{Stop, Transaction};
use flotilla_proto::{
    range::KeyRange,
    v1::{DeleteRangeOp, DeleteResult},
};

/// Whether no key can be in the range: a range turned round is empty, not an error.
pub(super) fn is_empty(op: &DeleteRangeOp) -> bool {
    range(op).is_empty()
}

fn range(op: &DeleteRangeOp) -> KeyRange {
    KeyRange { start: op.start_key.clone(), end: op.end_key.clone() }
}

/// Counts exactly the keys that clients could see. An empty `end_key` is the end of the region.
///
/// Bound: reads the whole range while the region waits, and no other; a region's size bounds it.
pub(super) fn apply(
    op: &DeleteRangeOp,
    transaction: &mut Transaction<'_, '_>,
) -> Result<DeleteResult, Stop> {
    if is_empty(op) {
        return Ok(DeleteResult::default());
    }
    // Not by what is found: expired rows may be gone from another disk.
    transaction.budget.charge_effect(op.start_key.len() + op.end_key.len())?;
    let deleted = transaction.overlay.delete_range(&range(op), transaction.time_ms)?;
    Ok(DeleteResult { deleted, previous: None })
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::{DeleteResult, op_result::Result as Answer};

    use super::super::fixture::*;
    use crate::storage::batch::Change;

    fn deleted(result: &flotilla_proto::v1::OpResult) -> u64 {
        match &result.result {
            Some(Answer::DeleteRange(DeleteResult { deleted, previous: None })) => *deleted,
            other => panic!("not the result of a range: {other:?}"),
        }
    }

    #[test]
    fn a_range_is_half_open_and_counts_what_clients_saw() {
        for (why, start, end, count, left) in [
            ("all", "a", "z", 4, vec![]),
            ("excludes its end", "a", "c", 2, vec!["c", "d", "gone"]),
            ("includes its start", "b", "c", 1, vec!["a", "c", "d", "gone"]),
            ("between keys", "bb", "bc", 0, vec!["a", "b", "c", "d", "gone"]),
            ("expired keys do not count", "f", "h", 0, vec!["a", "b", "c", "d"]),
            ("empty", "b", "b", 0, vec!["a", "b", "c", "d", "gone"]),
            ("turned round", "d", "a", 0, vec!["a", "b", "c", "d", "gone"]),
            ("turned round and outside", "zz", "A", 0, vec!["a", "b", "c", "d", "gone"]),
        ] {
            let mut region = Fixture::new();
            let letters = ["a", "b", "c", "d"].map(|key| put(key, "1"));
            region.write([&letters[..], &[put_ttl("gone", "1", 5)]].concat());
            region.apply(&tick(10));
            let answer = region.write(vec![delete_range(start, end)]);
            assert_eq!(deleted(&answer.results[0]), count, "{why}");
            assert_eq!(region.keys(), left, "{why}");
        }
    }

    #[test]
    fn a_range_acts_on_the_batch_and_the_command_before_it() {
        let mut region = Fixture::new();
        region.write(vec![put("a", "disk"), put("b", "disk"), put("c", "disk")]);
        let answers = region.apply_batch(&[
            write(0, vec![put("b", "batch"), put("d", "batch"), delete("c")]),
            write(0, vec![put_ttl("e", "batch", 5)]),
            tick(10),
            write(
                0,
                vec![
                    put("f", "command"),
                    put("d", "command"),
                    delete_range("a", "x"),
                    get("a"),
                    put("b", "after"),
                    delete_range("a", "x"),
                    put("g", "after"),
                ],
            ),
            write(0, vec![delete_range("a", "x"), get("g")]),
            write(0, vec![put("a", "last")]),
        ]);
        let of_command = written(&answers[3]);
        assert_eq!(deleted(&of_command.results[2]), 4, "a, b, d and f");
        assert_eq!(deleted(&of_command.results[5]), 1, "b, put again");
        assert_eq!(deleted(&written(&answers[4]).results[0]), 1, "g");
        assert_eq!(region.keys(), ["a"]);
    }

    #[test]
    fn a_range_that_is_removed_again_is_not_read_again() {
        let mut region = Fixture::new();
        region.write(vec![put("a", "1"), put("k", "1"), put("m", "1")]);
        let before = region.store.reads.get();
        let again = vec![delete_range("a", "z"); 500];
        let mixed =
            [vec![delete_range("b", "l"), put("k", "2"), delete_range("a", "x")], again.clone()];
        let answers = region.apply_batch(&[write(0, mixed.concat()), write(0, again)]);
        let counts = |reply| -> Vec<u64> {
            let answers = &written(reply).results;
            answers
                .iter()
                .filter(|one| matches!(one.result, Some(Answer::DeleteRange(_))))
                .map(deleted)
                .collect()
        };
        let first = counts(&answers[0]);
        assert_eq!(&first[..3], [1, 3, 0], "k; then a, m and the new k");
        assert!(first[2..].iter().chain(&counts(&answers[1])).all(|count| *count == 0));
        // From b to l, what is left of a to x on both sides of it, and of a to z.
        assert_eq!(region.store.reads.get() - before, 1 + 2 + 1);
        assert_eq!(region.keys(), [""; 0]);
    }

    #[test]
    fn many_keys_are_removed_by_one_tombstone_and_few_by_their_own() {
        for (why, keys, changes) in
            [("none", 0, 0), ("few", 15, 15), ("many", 16, 1), ("more", 99, 1)]
        {
            let mut region = Fixture::new();
            let name = |number| format!("k{number:02}");
            region.write((0..keys).map(|number| put(name(number), "1")).collect());
            region.write(vec![put("j", "kept"), put("l", "kept")]);
            let batch = region.batch_of(&[write(0, vec![delete_range("k", "l")])]);
            assert_eq!(batch.len(), changes, "{why}");
            if changes == 1 {
                let (_, change) = batch.iter().next().expect(why);
                let last = format!("{}\0", name(keys - 1));
                let (start, end) = (&b"k00"[..], last.as_bytes());
                assert_eq!(change, Change::DeleteRange { start, end }, "{why}");
            }
            assert_eq!(region.keys(), ["j", "l"], "{why}");
        }
    }

    #[test]
    fn a_range_without_an_end_reaches_the_end_of_the_last_region() {
        for keys in [3, 40] {
            let mut region = Fixture::new();
            region.region.descriptor.end_key = bytes::Bytes::new();
            region.write((0..keys).map(|number| put(format!("y\u{ff}{number:02}"), "1")).collect());
            let answer = region.write(vec![delete_range("b", ""), put("yy", "after")]);
            assert_eq!(deleted(&answer.results[0]), keys);
            assert_eq!(region.keys(), ["yy"]);
        }
    }

    #[test]
    fn a_failed_scan_is_an_error_and_no_short_count() {
        let mut region = Fixture::new();
        region.write(vec![put("a", "1"), put("b", "1"), put("c", "1")]);
        region.store.fail_after = Some(2);
        assert!(region.try_apply(&write(0, vec![delete_range("a", "z")])).is_err());
    }
}
