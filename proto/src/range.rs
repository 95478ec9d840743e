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

impl KeyRange {
    /// The range `[start, end)`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// The end as a key: [`END_OF_MAP`] when the range has none.
    #[must_use]
    pub fn end_key(&self) -> &[u8] {
        if self.end.is_empty() { &END_OF_MAP } else { &self.end }
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        &self.start[..] >= self.end_key()
    }

    /// Whether a key is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }

    /// Whether a key can be in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        (other.end.is_empty() || self.start < other.end)
            && (self.end.is_empty() || other.start < self.end)
    }
}
