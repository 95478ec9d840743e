//! Changes that are not in the database yet, in a form that can be asked.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use bytes::Bytes;
use flotilla_proto::range::KeyRange;

use super::value::StoredValue;

/// One change. Keys and payloads share the bytes of the command they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put {
        key: Bytes,
        value: StoredValue,
    },
    Delete {
        key: Bytes,
    },
    /// Invariant: `start < end`; never open-ended.
    DeleteRange {
        start: Bytes,
        end: Bytes,
    },
    /// The changes before it delete whatever is in `[start, end)`: who asks need not look below. By itself it
    /// changes nothing.
    ///
    /// Invariant: `start < end`; never open-ended.
    Cleared {
        start: Bytes,
        end: Bytes,
    },
}

/// What a layer says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup<'a> {
    Value(&'a StoredValue),
    Deleted,
    /// No change of this layer concerns the key: ask below.
    Unknown,
}

/// Changes in order, and an index over them that is built when somebody asks. A batch of blind
/// puts therefore pays for a push each, and for no index.
#[derive(Debug, Default)]
pub(super) struct Layer {
    changes: Vec<Change>,
    /// How many of `changes` are in `keys` and `cleared`.
    indexed: usize,
    /// The last change of each key; `None`: deleted.
    keys: BTreeMap<Bytes, Option<StoredValue>>,
    /// Deleted ranges, start to end. Invariant: they do not touch, and a key of `keys` that lies in
    /// one was changed after it.
    cleared: BTreeMap<Bytes, Bytes>,
}

impl Layer {
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Puts `changes` before all others. Only before the first question.
    pub(super) fn prepend(&mut self, changes: Vec<Change>) {
        assert_eq!(self.indexed, 0, "changes arrive in order");
        self.changes.splice(0..0, changes);
    }

    /// Forgets everything and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.changes.clear();
        self.indexed = 0;
        self.keys.clear();
        self.cleared.clear();
    }

    /// Takes the changes out, in order, and forgets them.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Change> + '_ {
        self.indexed = 0;
        self.keys.clear();
        self.cleared.clear();
        self.changes.drain(..)
    }

    pub(super) fn lookup(&mut self, key: &[u8]) -> Lookup<'_> {
        self.index();
        match self.keys.get(key) {
            Some(Some(value)) => Lookup::Value(value),
            Some(None) => Lookup::Deleted,
            None if self.is_cleared(key) => Lookup::Deleted,
            None => Lookup::Unknown,
        }
    }

    /// The values in `range`, which is not empty, in order.
    pub(super) fn values_in(
        &mut self,
        range: &KeyRange,
    ) -> impl Iterator<Item = (&Bytes, &StoredValue)> {
        self.index();
        let end = if range.end.is_empty() { Unbounded } else { Excluded(&range.end[..]) };
        self.keys
            .range::<[u8], _>((Included(&range.start[..]), end))
            .filter_map(|(key, value)| value.as_ref().map(|value| (key, value)))
    }

    /// The parts of `range`, in order, in which this layer has not deleted everything: where there may be
    /// something below.
    pub(super) fn uncleared(&mut self, range: &KeyRange) -> Vec<KeyRange> {
        if range.is_empty() {
            return Vec::new();
        }
        self.index();
        let (mut start, end) = (range.start.clone(), Bytes::copy_from_slice(range.end_key()));
        let mut parts = Vec::new();
        let at = self.cleared.range::<[u8], _>((Unbounded, Included(&start[..]))).next_back();
        let within = self.cleared.range::<[u8], _>((Excluded(&start[..]), Excluded(&end[..])));
        for (from, to) in at.into_iter().chain(within) {
            if start < *from {
                parts.push(KeyRange { start: start.clone(), end: from.clone() });
            }
            start = start.max(to.clone());
        }
        if start < end {
            parts.push(KeyRange { start, end });
        }
        parts
    }

    fn is_cleared(&self, key: &[u8]) -> bool {
        // Most batches have no range.
        !self.cleared.is_empty()
            && self
                .cleared
                .range::<[u8], _>((Unbounded, Included(key)))
                .next_back()
                .is_some_and(|(_, end)| key < &end[..])
    }

    fn index(&mut self) {
        for change in &self.changes[self.indexed..] {
            match change {
                Change::Put { key, value } => {
                    self.keys.insert(key.clone(), Some(value.clone()));
                }
                Change::Delete { key } => {
                    self.keys.insert(key.clone(), None);
                }
                Change::DeleteRange { start, end } | Change::Cleared { start, end } => {
                    // Later than every key so far: the range answers for those it covers.
                    self.keys.extract_if(start..end, |_, _| true).for_each(drop);
                    clear_range(&mut self.cleared, start, end);
                }
            }
        }
        self.indexed = self.changes.len();
    }
}

/// Adds `[start, end)`, joined with the ranges it touches.
fn clear_range(cleared: &mut BTreeMap<Bytes, Bytes>, start: &Bytes, end: &Bytes) {
    let (mut start, mut end) = (start.clone(), end.clone());
    // From the last that begins at or before `end`, backwards, while they reach `start`.
    while let Some((before, reach)) =
        cleared.range::<[u8], _>((Unbounded, Included(&end[..]))).next_back()
        && *reach >= start
    {
        let before = before.clone();
        end = end.max(reach.clone());
        cleared.remove(&before);
        start = start.min(before);
    }
    cleared.insert(start, end);
}

#[cfg(test)]
mod tests {
    use flotilla_proto::range::END_OF_MAP;

    use super::*;

    fn put(key: &'static str) -> Change {
        Change::Put { key: key.into(), value: StoredValue::default() }
    }

    fn delete_range(start: &'static str, end: &'static str) -> Change {
        Change::DeleteRange { start: start.into(), end: end.into() }
    }

    #[test]
    fn the_last_change_of_a_key_answers() {
        let delete = Change::Delete { key: "b".into() };
        let value =
            Lookup::Value(&StoredValue { revision: 0, expires_at_ms: 0, payload: Bytes::new() });
        for (why, changes, want) in [
            ("no change", vec![], Lookup::Unknown),
            ("another key", vec![put("a"), put("c")], Lookup::Unknown),
            ("put", vec![put("b")], value),
            ("put, deleted", vec![put("b"), delete.clone()], Lookup::Deleted),
            ("deleted, put", vec![delete.clone(), put("b")], value),
            ("put, range", vec![put("b"), delete_range("a", "c")], Lookup::Deleted),
            ("range, put", vec![delete_range("a", "c"), put("b")], value),
            ("range ends at it", vec![delete_range("a", "b")], Lookup::Unknown),
            ("range starts at it", vec![delete_range("b", "c")], Lookup::Deleted),
            ("put, range that ends at it", vec![put("b"), delete_range("a", "b")], value),
            ("deleted, range elsewhere", vec![delete, delete_range("c", "d")], Lookup::Deleted),
        ] {
            // Asked after every change, and only at the end.
            let (mut eager, mut lazy) = (Layer::default(), Layer::default());
            for change in changes {
                eager.push(change.clone());
                eager.lookup(b"x");
                lazy.push(change);
            }
            assert_eq!(eager.lookup(b"b"), want, "{why}");
            assert_eq!(lazy.lookup(b"b"), want, "{why}");
        }
    }

    #[test]
    fn what_is_not_cleared_is_told_in_parts() {
        let mut layer = Layer::default();
        layer.push(put("e"));
        layer.push(delete_range("d", "f"));
        layer.push(Change::Cleared { start: "h".into(), end: "k".into() });
        layer.push(put("i"));
        for (why, start, end, want) in [
            ("all", "a", "z", vec![("a", "d"), ("f", "h"), ("k", "z")]),
            ("cleared", "d", "f", vec![]),
            ("inside of it", "h1", "j", vec![]),
            ("from inside of one to inside of another", "e", "i", vec![("f", "h")]),
            ("between", "f", "h", vec![("f", "h")]),
            ("behind", "k", "m", vec![("k", "m")]),
            ("turned round", "m", "a", vec![]),
        ] {
            let want: Vec<_> = want.into_iter().map(|(s, e)| KeyRange::new(s, e)).collect();
            assert_eq!(layer.uncleared(&KeyRange::new(start, end)), want, "{why}");
        }
        let open = layer.uncleared(&KeyRange::new("j", ""));
        assert_eq!(open, [KeyRange::new("k", Bytes::copy_from_slice(&END_OF_MAP))]);
        assert!(matches!(layer.lookup(b"i"), Lookup::Value(_)), "put after it");
    }

    #[test]
    fn ranges_that_touch_are_joined() {
        let mut cleared = BTreeMap::new();
        for (why, start, end, want) in [
            ("first", "d", "f", vec![("d", "f")]),
            ("apart, after", "k", "m", vec![("d", "f"), ("k", "m")]),
            ("apart, before", "a", "b", vec![("a", "b"), ("d", "f"), ("k", "m")]),
            ("inside", "d", "e", vec![("a", "b"), ("d", "f"), ("k", "m")]),
            ("touches the end", "f", "g", vec![("a", "b"), ("d", "g"), ("k", "m")]),
            ("touches the start", "j", "k", vec![("a", "b"), ("d", "g"), ("j", "m")]),
            ("bridges two", "e", "l", vec![("a", "b"), ("d", "m")]),
            ("covers all", "A", "z", vec![("A", "z")]),
        ] {
            clear_range(&mut cleared, &start.into(), &end.into());
            let want = want.into_iter().map(|(s, e)| (s.into(), e.into())).collect();
            assert_eq!(cleared, want, "{why}");
        }
    }
}
