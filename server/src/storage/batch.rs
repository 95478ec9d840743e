//! A list of changes that is applied as one.

use super::engine::Family;

/// One change of a [`WriteBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    /// Removes `[start, end)`.
    DeleteRange {
        start: &'a [u8],
        end: &'a [u8],
    },
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    family: Family,
    kind: Kind,
    /// Ends of the two parts in `bytes`; the first begins where the previous entry ended.
    first_end: usize,
    second_end: usize,
}

/// Changes in order; a later one wins. All bytes lie in one buffer, which [`WriteBatch::clear`]
/// keeps for the next use.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl WriteBatch {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.push(family, Kind::Put, &[key], &[value]);
    }

    /// As [`WriteBatch::put`] with a value in parts, which are joined.
    pub fn put_parts(&mut self, family: Family, key: &[u8], value: &[&[u8]]) {
        self.push(family, Kind::Put, &[key], value);
    }

    pub fn delete(&mut self, family: Family, key: &[u8]) {
        self.push(family, Kind::Delete, &[key], &[]);
    }

    /// Removes every key in `[start, end)`.
    pub fn delete_range(&mut self, family: Family, start: &[u8], end: &[u8]) {
        self.push(family, Kind::DeleteRange, &[start], &[end]);
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Size of all keys and values, in bytes.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the changes and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Family, Change<'_>)> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let first = &self.bytes[start..entry.first_end];
            let second = &self.bytes[entry.first_end..entry.second_end];
            start = entry.second_end;
            let change = match entry.kind {
                Kind::Put => Change::Put { key: first, value: second },
                Kind::Delete => Change::Delete { key: first },
                Kind::DeleteRange => Change::DeleteRange { start: first, end: second },
            };
            (entry.family, change)
        })
    }

    fn push(&mut self, family: Family, kind: Kind, first: &[&[u8]], second: &[&[u8]]) {
        first.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let first_end = self.bytes.len();
        second.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let second_end = self.bytes.len();
        self.entries.push(Entry { family, kind, first_end, second_end });
    }
}
