//! A list of changes that is applied as one.

use flotilla_proto::range::{Borders, END_OF_MAP};

use super::keys::meta;

/// Which of an instance's two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// In `data`: users' and system values. In `log`: the Raft logs.
    Default,
    /// In `data`: the disk that it was made on, descriptors, apply states, regions' own rows. Unused in `log`.
    Meta,
}

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
    /// Removes `[start, end)`; `start` is below `end`.
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

    /// # Panics
    /// As for [`WriteBatch::put_parts`].
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.put_parts(family, key, &[value]);
    }

    /// As [`WriteBatch::put`] with a value in parts, which are joined.
    ///
    /// # Panics
    /// When `key` is not below [`END_OF_MAP`], or it is a region's own row and above [`meta::OWN_ROW_BYTES_MAX`].
    pub fn put_parts(&mut self, family: Family, key: &[u8], value: &[&[u8]]) {
        assert!(key < &END_OF_MAP[..], "a key is at or above the end of the map");
        let fits = || meta::fits(key, value.iter().map(|part| part.len()).sum());
        assert!(family != Family::Meta || fits(), "a region's own row is larger than any may be");
        self.push(family, Kind::Put, &[key], value);
    }

    pub fn delete(&mut self, family: Family, key: &[u8]) {
        self.push(family, Kind::Delete, &[key], &[]);
    }

    /// Removes every key in `[start, end)`; an empty `end` means to the end of the map. Nothing is
    /// added when no key can be in the range.
    pub fn delete_range(&mut self, family: Family, start: &[u8], end: &[u8]) {
        let end = Borders { start, end }.end_key();
        // RocksDB fails on an inverted range only after it has written it to its log.
        if start < end {
            self.push(family, Kind::DeleteRange, &[start], &[end]);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RegionId;

    #[test]
    fn batch_gives_back_what_was_put_in() {
        let mut batch = WriteBatch::new();
        batch.put(Family::Default, b"a", b"1");
        batch.put_parts(Family::Meta, b"", &[b"x", b"", b"yz"]);
        batch.delete(Family::Default, b"b");
        batch.delete_range(Family::Default, b"c", b"d");
        let want = vec![
            (Family::Default, Change::Put { key: b"a", value: b"1" }),
            (Family::Meta, Change::Put { key: b"", value: b"xyz" }),
            (Family::Default, Change::Delete { key: b"b" }),
            (Family::Default, Change::DeleteRange { start: b"c", end: b"d" }),
        ];
        assert_eq!(batch.iter().collect::<Vec<_>>(), want);
        assert_eq!((batch.len(), batch.bytes_len()), (4, 8));
        batch.clear();
        assert!(batch.is_empty() && batch.iter().next().is_none());
    }

    #[test]
    fn delete_range_takes_an_open_end_and_drops_an_empty_range() {
        let mut batch = WriteBatch::new();
        for (start, end) in [("b", "b"), ("b", "a")] {
            batch.delete_range(Family::Default, start.as_bytes(), end.as_bytes());
        }
        assert!(batch.is_empty(), "an inverted range must not reach RocksDB");
        batch.delete_range(Family::Default, b"b", b"");
        let open = Change::DeleteRange { start: b"b", end: &END_OF_MAP };
        assert_eq!(batch.iter().next(), Some((Family::Default, open)));
    }

    #[test]
    fn batch_takes_the_largest_own_row_of_a_region_and_none_above_it() {
        let key = meta::own_rows(RegionId(2)).start;
        let put = |key: &[u8], bytes: usize| {
            let value = vec![7; bytes];
            std::panic::catch_unwind(|| {
                WriteBatch::new().put_parts(Family::Meta, key, &[&value[..1], &value[1..]]);
            })
        };
        let most = meta::OWN_ROW_BYTES_MAX - key.len();
        put(&key, most).expect("the largest");
        put(&key, most + 1).expect_err("above it");
        put(&meta::descriptor(RegionId(2)), most + 1).expect("of another kind");
    }

    #[test]
    #[should_panic(expected = "end of the map")]
    fn batch_refuses_a_key_above_the_end_of_the_map() {
        WriteBatch::new().put(Family::Default, &[0xFF; 8], b"");
    }
}
