//! Ranges of keys: what a region holds, what a scan asks for, what the storage erases.

use bytes::Bytes;

/// Above every key: where a range without an end stops.
///
/// Invariant: no key is at or above it; the storage refuses one. It is why the last keyspace, the last region id and
/// the last kinds of keys of the storage's own are never given out.
pub const END_OF_MAP: [u8; 8] = [0xFF; 8];

/// A half-open range `[start, end)`; an empty `end` means to the end of the map.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first key, if it is one.
    pub start: Bytes,
    /// The first key behind it; empty: there is none.
    pub end: Bytes,
}

/// A range that somebody else holds. What ranges are to each other is told here alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Borders<'a> {
    /// As [`KeyRange::start`].
    pub start: &'a [u8],
    /// As [`KeyRange::end`].
    pub end: &'a [u8],
}

impl<'a> Borders<'a> {
    /// The end as a key: [`END_OF_MAP`] when the range has none.
    #[must_use]
    pub fn end_key(self) -> &'a [u8] {
        if self.end.is_empty() { &END_OF_MAP } else { self.end }
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start >= self.end_key()
    }

    /// Whether it goes on behind `key`.
    #[must_use]
    pub fn ends_after(self, key: &[u8]) -> bool {
        self.end.is_empty() || key < self.end
    }

    /// Whether it ends no earlier than a range that ends with `end`.
    #[must_use]
    pub fn reaches(self, end: &[u8]) -> bool {
        self.end.is_empty() || (!end.is_empty() && end <= self.end)
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(self, key: &[u8]) -> bool {
        key >= self.start && self.ends_after(key)
    }

    /// Whether it has both borders of `other` within its own, and so all of its keys.
    #[must_use]
    pub fn covers(self, other: Borders<'_>) -> bool {
        self.start <= other.start && self.reaches(other.end)
    }

    /// Whether a key can be in both; neither is to be empty.
    #[must_use]
    pub fn overlaps(self, other: Borders<'_>) -> bool {
        other.ends_after(self.start) && self.ends_after(other.start)
    }
}

impl KeyRange {
    /// The range `[start, end)`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// Without a copy.
    #[must_use]
    pub fn borders(&self) -> Borders<'_> {
        Borders { start: &self.start, end: &self.end }
    }

    /// As [`Borders::end_key`].
    #[must_use]
    pub fn end_key(&self) -> &[u8] {
        self.borders().end_key()
    }

    /// As [`Borders::is_empty`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.borders().is_empty()
    }

    /// As [`Borders::contains`].
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.borders().contains(key)
    }

    /// As [`Borders::covers`].
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.borders().covers(other.borders())
    }

    /// As [`Borders::overlaps`].
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.borders().overlaps(other.borders())
    }

    /// The keys of both; empty, or turned round, where there are none.
    #[must_use]
    pub fn clip(&self, other: &Self) -> Self {
        let end = if self.borders().reaches(&other.end) { &other.end } else { &self.end };
        Self { start: self.start.clone().max(other.start.clone()), end: end.clone() }
    }

    /// The smallest range that covers both.
    #[must_use]
    pub fn span(&self, other: &Self) -> Self {
        let end = if self.borders().reaches(&other.end) { &self.end } else { &other.end };
        Self { start: self.start.clone().min(other.start.clone()), end: end.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(start, end)
    }

    #[test]
    fn ranges_are_to_each_other_what_their_keys_are() {
        for (why, a, b, covers, overlaps) in [
            ("the same", range("b", "d"), range("b", "d"), true, true),
            ("within", range("a", "z"), range("b", "d"), true, true),
            ("begins earlier", range("b", "d"), range("a", "c"), false, true),
            ("ends later", range("b", "d"), range("c", "e"), false, true),
            ("beside", range("b", "d"), range("d", "e"), false, false),
            ("without an end in one with", range("b", "d"), range("c", ""), false, true),
            ("with an end in one without", range("b", ""), range("c", "d"), true, true),
            ("both without an end", range("b", ""), range("c", ""), true, true),
            ("all", range("", ""), range("", ""), true, true),
        ] {
            assert_eq!((a.covers(&b), a.overlaps(&b)), (covers, overlaps), "{why}");
            assert_eq!(a.overlaps(&b), b.overlaps(&a), "{why}");
        }
    }

    #[test]
    fn range_without_keys_is_empty() {
        for (why, range, want) in [
            ("turned round", range("b", "a"), true),
            ("of no key", range("b", "b"), true),
            ("of one", range("b", "b\0"), false),
            ("to the end", range("b", ""), false),
            ("behind the end", KeyRange::new(END_OF_MAP.to_vec(), ""), true),
        ] {
            assert_eq!(range.is_empty(), want, "{why}");
        }
    }

    fn ranges() -> impl Strategy<Value = KeyRange> {
        let key = || prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFF)], 0..3);
        (key(), key()).prop_map(|(start, end)| KeyRange::new(start, end))
    }

    proptest! {
        #[test]
        fn clip_holds_the_keys_of_both_and_span_covers_both(
            a in ranges(), b in ranges(),
            key in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFF)], 0..4),
        ) {
            let clipped = a.clip(&b);
            prop_assert_eq!(clipped.contains(&key), a.contains(&key) && b.contains(&key));
            let span = a.span(&b);
            prop_assert!(span.covers(&a) && span.covers(&b));
            if !a.is_empty() && !b.is_empty() {
                prop_assert_eq!(a.overlaps(&b), !clipped.is_empty());
            }
            if a.covers(&b) && b.contains(&key) {
                prop_assert!(a.contains(&key));
            }
        }
    }
}
