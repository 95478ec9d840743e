//! Reads of one region, as of one state.
//!
//! The caller has proved that the state is new enough (`region/read.rs`) and that the keys are the
//! region's. Keys in answers stay encoded. Expired values do not show; nothing is skipped silently
//! otherwise, an error of the disk is an error of the read.

use bytes::Bytes;
use flotilla_proto::{
    range::KeyRange,
    v1::{KeyValue, PointReads, RangeRead, ReadItem, ReadReply},
};

use super::value::{StoredRef, StoredValue};
use crate::storage::{
    batch::Family,
    engine::{Direction, Error, Read},
};

/// Bound: keys of a page, also when more are asked for; a page that asks for 0 gets up to this many.
pub const PAGE_KEYS_MAX: u64 = 65_536;

/// Bound: bytes of a page, also when more are asked for; the page ends, with `more`. Only one that has a
/// single key may exceed this.
pub const PAGE_BYTES_MAX: u64 = 8 << 20;

/// Bound: bytes of an answer to point reads that fits into a message with one value more.
pub const POINTS_BYTES_MAX: u64 = 8 << 20;

/// Bound: rows, and bytes of them, that a page looks at: expired rows, which nobody is told of, and values
/// where only keys are asked for. A page that meets it may have no key.
const LOOKED_AT_ROWS_MAX: u64 = 64 << 10;
const LOOKED_AT_BYTES_MAX: u64 = 16 << 20;

/// What an item costs beside its key and value, roughly, in the memory of whoever holds it: more than in a
/// message.
const ITEM_BYTES: u64 = 128;

/// The state that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The replicated time by which values expire.
    pub time_ms: u64,
    /// The region's revision, for the answer.
    pub revision: u64,
}

/// The values of the keys asked for, in their order, absent ones marked.
///
/// Bound: once the items, or what was read for them, take `bytes_max`, the answer ends early with `more`: the items are then
/// those of the first keys, of at least one. The caller asks again for the rest.
///
/// # Errors
/// A failed read or a damaged value.
pub fn read_points(
    read: &dyn Read,
    points: &PointReads,
    as_of: AsOf,
    bytes_max: u64,
) -> Result<ReadReply, Error> {
    let mut reply = ReadReply { applied_revision: as_of.revision, ..ReadReply::default() };
    let mut bytes = 0;
    for key in &points.keys {
        if bytes >= bytes_max && !reply.items.is_empty() {
            reply.more = true;
            break;
        }
        let stored = read.get(Family::Default, key)?;
        // An expired value is no answer, but was read.
        let read_bytes = stored.as_ref().map_or(0, |stored| stored.len() as u64);
        bytes += push_point(&mut reply, key, stored, as_of)?.max(read_bytes);
    }
    Ok(reply)
}

/// As [`read_points`], of one key, under which `stored` was found. It may be newer than `as_of`:
/// `applied_revision` is then that of the value.
///
/// # Errors
/// A damaged value.
pub fn read_point(key: &Bytes, stored: Option<Bytes>, as_of: AsOf) -> Result<ReadReply, Error> {
    let mut reply = ReadReply { applied_revision: as_of.revision, ..ReadReply::default() };
    push_point(&mut reply, key, stored, as_of)?;
    Ok(reply)
}

/// Adds an item; answers what it costs.
fn push_point(
    reply: &mut ReadReply,
    key: &Bytes,
    stored: Option<Bytes>,
    as_of: AsOf,
) -> Result<u64, Error> {
    let value = match stored {
        None => None,
        Some(stored) => Some(StoredValue::decode(&stored).map_err(|garbage| garbage.under(key))?),
    };
    let item = match value.filter(|value| value.is_live(as_of.time_ms)) {
        None => ReadItem {
            present: false,
            kv: Some(KeyValue { key: key.clone(), ..KeyValue::default() }),
        },
        Some(value) => {
            reply.applied_revision = reply.applied_revision.max(value.revision);
            ReadItem { present: true, kv: Some(value.key_value(key.clone(), as_of.time_ms)) }
        }
    };
    let bytes = item.kv.as_ref().map_or(0, |kv| item_bytes(kv.key.len(), kv.value.len()));
    reply.items.push(item);
    Ok(bytes)
}

/// One page of the keys of a range that are there, in order, or from the end with `reverse`.
///
/// `more` says that the page ended at a bound: the next one starts after `reached`, the last row that was
/// looked at. Where it ended at `limit` or `bytes_max`, at least one further key is there, unless too many
/// expired ones come first. A `limit` or `bytes_max` of 0 means as much as a page may have.
///
/// Bound: `bytes_max` is never exceeded, so that a caller can have made room for a page before it is read. A
/// next item that does not fit into what is left is told by its size, `next_bytes`; where it is the first,
/// nothing is read, and it is to be asked for with as much.
///
/// # Errors
/// A failed read or a damaged value, also when it lies behind good ones.
pub fn read_range(read: &dyn Read, range: &RangeRead, as_of: AsOf) -> Result<ReadReply, Error> {
    let mut reply = ReadReply { applied_revision: as_of.revision, ..ReadReply::default() };
    let keys = KeyRange { start: range.start_key.clone(), end: range.end_key.clone() };
    if keys.is_empty() {
        return Ok(reply);
    }
    let limit = or_max(range.limit, PAGE_KEYS_MAX);
    let bytes_max = or_max(range.bytes_max, PAGE_BYTES_MAX);
    // The first one may be larger than any page, if there is room for it.
    let first_max = if range.bytes_max == 0 { u64::MAX } else { range.bytes_max };
    let direction = if range.reverse { Direction::Reverse } else { Direction::Forward };
    let mut bytes = 0;
    let (mut rows, mut row_bytes, mut reached) = (0, 0, Vec::new());
    let mut cursor = read.scan(Family::Default, &keys, direction);
    while let Some((key, stored)) = cursor.next()? {
        let value = StoredRef::decode(stored).map_err(|garbage| garbage.under(key))?;
        let is_live = value.is_live(as_of.time_ms);
        let payload = if range.keys_only { &[][..] } else { value.payload };
        let item_bytes = item_bytes(key.len(), payload.len());
        let (bytes_max, is_at_limit) = match reply.items.len() as u64 {
            0 => (first_max, false),
            count => (bytes_max, count >= limit),
        };
        let fits = bytes + item_bytes <= bytes_max;
        if is_live && (is_at_limit || !fits) {
            reply.more = true;
            reply.next_bytes = if fits { 0 } else { item_bytes };
            break;
        }
        reached.clear();
        reached.extend_from_slice(key);
        rows += 1;
        row_bytes += (key.len() + stored.len()) as u64;
        if !is_live {
            if rows >= LOOKED_AT_ROWS_MAX || row_bytes >= LOOKED_AT_BYTES_MAX {
                reply.more = true;
                break;
            }
            continue;
        }
        let item = ReadItem {
            present: true,
            kv: Some(KeyValue {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(payload),
                revision: value.revision,
                ttl_ms: value.ttl_ms(as_of.time_ms),
            }),
        };
        bytes += item_bytes;
        reply.items.push(item);
        if row_bytes >= LOOKED_AT_BYTES_MAX {
            reply.more = true;
            break;
        }
    }
    if reply.more {
        reply.reached = reached.into();
    }
    Ok(reply)
}

fn or_max(asked: u64, max: u64) -> u64 {
    if asked == 0 { max } else { asked.min(max) }
}

/// What an item costs.
#[must_use]
pub fn item_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
    (key_bytes + value_bytes) as u64 + ITEM_BYTES
}

#[cfg(test)]
mod tests {
    use super::{super::fixture::*, *};

    const AS_OF: AsOf = AsOf { time_ms: 10, revision: 77 };

    /// `a` to `d`, of which `b` has expired at 10, and `c` will at 30.
    fn letters() -> Fixture {
        let mut region = Fixture::new();
        region.write(vec![
            put("a", "1"),
            put_ttl("b", "2", 10),
            put_ttl("c", "3", 30),
            put("d", ""),
        ]);
        region
    }

    fn keys(reply: &ReadReply) -> Vec<&[u8]> {
        reply
            .items
            .iter()
            .map(|item| &item.kv.as_ref().expect("every item has a key").key[..])
            .collect()
    }

    #[test]
    fn points_answer_every_key_in_the_order_asked() {
        let region = letters();
        let points = PointReads { keys: ["d", "b", "none", "c", "c"].map(Into::into).to_vec() };
        let reply = read_points(&region.store, &points, AS_OF, POINTS_BYTES_MAX).expect("reads");
        let item = |key: &'static str, value: &'static str, ttl_ms| ReadItem {
            present: true,
            kv: Some(KeyValue { key: key.into(), value: value.into(), revision: 1, ttl_ms }),
        };
        let absent = |key: &'static str| ReadItem {
            present: false,
            kv: Some(KeyValue { key: key.into(), ..KeyValue::default() }),
        };
        let c = item("c", "3", Some(20));
        let items = vec![item("d", "", None), absent("b"), absent("none"), c.clone(), c];
        assert_eq!(reply, ReadReply { items, applied_revision: 77, ..ReadReply::default() });
    }

    #[test]
    fn points_end_early_at_their_bound_and_say_so() {
        let region = letters();
        let points = PointReads { keys: ["a", "c", "d"].map(Into::into).to_vec() };
        for (why, bytes_max, count) in [
            ("at least one", 0, 1),
            ("one reaches it", ITEM_BYTES + 2, 1),
            ("two reach it", ITEM_BYTES + 3, 2),
            ("all fit", 3 * (ITEM_BYTES + 2), 3),
        ] {
            let reply = read_points(&region.store, &points, AS_OF, bytes_max).expect("reads");
            assert_eq!((reply.items.len(), reply.more), (count, count < 3), "{why}");
        }
    }

    #[test]
    fn a_page_ends_at_its_bounds_and_says_whether_more_is_there() {
        let region = letters();
        let page = |start: &'static str, end: &'static str| RangeRead {
            start_key: start.into(),
            end_key: end.into(),
            ..RangeRead::default()
        };
        for (why, range, want, more) in [
            ("all", page("", ""), vec!["a", "c", "d"], false),
            ("half open", page("a", "d"), vec!["a", "c"], false),
            ("reverse", RangeRead { reverse: true, ..page("", "") }, vec!["d", "c", "a"], false),
            (
                "reverse, half open",
                RangeRead { reverse: true, ..page("a", "d") },
                vec!["c", "a"],
                false,
            ),
            ("one key", RangeRead { limit: 1, ..page("", "") }, vec!["a"], true),
            (
                "one from the end",
                RangeRead { limit: 1, reverse: true, ..page("", "") },
                vec!["d"],
                true,
            ),
            ("exactly all", RangeRead { limit: 3, ..page("", "") }, vec!["a", "c", "d"], false),
            (
                "only an expired key is left",
                RangeRead { limit: 1, ..page("a", "c") },
                vec!["a"],
                false,
            ),
            ("a byte", RangeRead { bytes_max: 1, ..page("", "") }, vec![], true),
            (
                "bytes of one",
                RangeRead { bytes_max: 2 * ITEM_BYTES + 3, ..page("", "") },
                vec!["a"],
                true,
            ),
            (
                "bytes of two",
                RangeRead { bytes_max: 2 * ITEM_BYTES + 4, ..page("", "") },
                vec!["a", "c"],
                true,
            ),
            ("no key", page("e", "f"), vec![], false),
            ("only an expired one", page("b", "c"), vec![], false),
            ("empty", page("b", "b"), vec![], false),
            ("turned round", page("c", "a"), vec![], false),
            (
                "more than a page may have",
                RangeRead { limit: u64::MAX, bytes_max: u64::MAX, ..page("", "") },
                vec!["a", "c", "d"],
                false,
            ),
        ] {
            let reply = read_range(&region.store, &range, AS_OF).expect(why);
            let want: Vec<_> = want.iter().map(|key| key.as_bytes()).collect();
            assert_eq!((keys(&reply), reply.more), (want, more), "{why}");
            assert_eq!(reply.applied_revision, 77, "{why}");
        }
    }

    #[test]
    fn a_page_carries_values_unless_keys_suffice() {
        let region = letters();
        for (keys_only, value) in [(false, "3"), (true, "")] {
            let range =
                RangeRead { start_key: "c".into(), limit: 1, keys_only, ..RangeRead::default() };
            let reply = read_range(&region.store, &range, AS_OF).expect("reads");
            let want =
                KeyValue { key: "c".into(), value: value.into(), revision: 1, ttl_ms: Some(20) };
            assert_eq!(reply.items, [ReadItem { present: true, kv: Some(want) }]);
        }
    }

    #[test]
    fn an_item_that_does_not_fit_is_told_by_its_size_and_then_asked_for() {
        let mut region = Fixture::new();
        region.write(vec![put("a", "1"), put("b", vec![0; 9 << 20]), put("c", "1")]);
        let page = |start: &'static str, bytes_max: u64| {
            let range = RangeRead { start_key: start.into(), bytes_max, ..RangeRead::default() };
            let reply = read_range(&region.store, &range, AS_OF).expect("reads");
            let keys = keys(&reply).into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
            (keys.concat(), reply.more, reply.next_bytes, reply.reached)
        };
        let large = ITEM_BYTES + 1 + (9 << 20);
        assert_eq!(page("a", 1000), (b"a".to_vec(), true, large, "a".into()));
        assert_eq!(page("b", 1000), (b"".to_vec(), true, large, "".into()));
        assert_eq!(page("b", large - 1), (b"".to_vec(), true, large, "".into()));
        // Alone, for it is more than a page has.
        let small = ITEM_BYTES + 2;
        assert_eq!(page("b", large), (b"b".to_vec(), true, small, "b".into()));
        assert_eq!(page("b", 2 * large), (b"b".to_vec(), true, small, "b".into()));
        assert_eq!(page("b", 0), (b"b".to_vec(), true, small, "b".into()));
        assert_eq!(page("c", 1000), (b"c".to_vec(), false, 0, "".into()));
    }

    #[test]
    fn what_a_page_looks_at_is_bounded_and_the_next_goes_on_there() {
        let mut region = Fixture::new();
        let rows = LOOKED_AT_ROWS_MAX as usize + 10;
        let name = |number: usize| format!("k{number:06}");
        let expired = (0..rows).map(|number| {
            let key = Box::leak(name(number).into_boxed_str());
            put_ttl(key, "v", 5)
        });
        region.write(expired.collect());
        region.write(vec![put("a", "1"), put("y0", "1")]);
        let values = (0..20).map(|number| put(format!("v{number:02}"), vec![0; 1 << 20]));
        values.collect::<Vec<_>>().chunks(4).for_each(|some| drop(region.write(some.to_vec())));
        for reverse in [false, true] {
            let mut range = RangeRead { reverse, keys_only: true, ..RangeRead::default() };
            let (mut seen, mut pages) = (Vec::new(), Vec::new());
            loop {
                let reply = read_range(&region.store, &range, AS_OF).expect("reads");
                seen.extend(keys(&reply).into_iter().map(<[u8]>::to_vec));
                pages.push(reply.items.len());
                if !reply.more {
                    break;
                }
                match reverse {
                    true => range.end_key = reply.reached,
                    false => range.start_key = [&reply.reached[..], &[0]].concat().into(),
                }
            }
            let mut want: Vec<_> =
                (0..20).map(|number| format!("v{number:02}").into_bytes()).collect();
            want.insert(0, b"a".to_vec());
            want.push(b"y0".to_vec());
            if reverse {
                want.reverse();
            }
            assert_eq!(seen, want);
            // The first meets the rows that have expired, the next the large values.
            let all = if reverse { vec![17, 4, 1] } else { vec![1, 16, 5] };
            assert_eq!(pages, all, "reverse: {reverse}");
        }
    }

    #[test]
    fn pages_join_without_gap_or_repeat() {
        let mut region = Fixture::new();
        let names: Vec<_> = (0..25).map(|number| format!("k{number:02}")).collect();
        region.write(names.iter().map(|name| put(name.clone(), "1")).collect());
        for limit in [1, 7, 25, 26] {
            let mut range = RangeRead { limit, ..RangeRead::default() };
            let mut seen = Vec::new();
            loop {
                let reply = read_range(&region.store, &range, AS_OF).expect("reads");
                seen.extend(
                    keys(&reply).into_iter().map(|key| String::from_utf8_lossy(key).into_owned()),
                );
                if !reply.more {
                    break;
                }
                assert_eq!(Some(&reply.reached[..]), keys(&reply).pop());
                range.start_key = [&reply.reached[..], &[0]].concat().into();
            }
            assert_eq!(seen, names, "pages of {limit}");
        }
    }

    #[test]
    fn damage_is_an_error_and_no_short_page() {
        let mut region = letters();
        region.store.fail_after = Some(2);
        assert!(
            read_range(&region.store, &RangeRead::default(), AS_OF).is_err(),
            "a damaged block"
        );
        region.store.fail_after = None;
        region.store.rows.insert("d".into(), vec![9, 9]);
        assert!(
            read_range(&region.store, &RangeRead::default(), AS_OF).is_err(),
            "a damaged value"
        );
        let points = PointReads { keys: vec!["a".into(), "d".into()] };
        assert!(read_points(&region.store, &points, AS_OF, POINTS_BYTES_MAX).is_err());
    }
}
