//! Which keyspaces there are, and how a key of one looks inside of the store.
//!
//! An *encoded key* is `[keyspace id: 3 bytes, big-endian][user key]`: a keyspace is one range, and
//! borders of regions sort as bytes do. The API, the storage and the client ask here, and only here.

use std::fmt;

use bytes::Bytes;

use crate::range::KeyRange;

/// Bytes that a keyspace takes in front of a user's key.
pub const KEYSPACE_LEN: usize = 3;

/// A tenant's name space of keys.
///
/// Invariant: the largest value that 24 bits hold is no keyspace. The storage ends a range without
/// an end at eight `0xff`, and a key of such a keyspace could be there or above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(u32);

impl KeyspaceId {
    /// The cluster's own tables: out of reach of clients.
    pub const SYSTEM: Self = Self(0);
    /// Where a client that names no keyspace lands.
    pub const DEFAULT: Self = Self(1);
    /// The largest that there is.
    pub const MAX: Self = Self(0xFF_FFFE);

    /// `None` above [`KeyspaceId::MAX`].
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        if id <= Self::MAX.0 { Some(Self(id)) } else { None }
    }

    /// The keyspace that a client means by `id`: 0 names the default one, so that the system's own
    /// cannot be named. `None` above [`KeyspaceId::MAX`].
    #[must_use]
    pub const fn named(id: u32) -> Option<Self> {
        if id == Self::SYSTEM.0 { Some(Self::DEFAULT) } else { Self::new(id) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The first encoded key of the keyspace, and the prefix of all of them.
    #[must_use]
    pub const fn prefix(self) -> [u8; KEYSPACE_LEN] {
        let [_, prefix @ ..] = self.0.to_be_bytes();
        prefix
    }

    /// The first encoded key after all of the keyspace; never empty.
    #[must_use]
    pub fn end(self) -> Bytes {
        prefix_end(&self.prefix())
    }
}

impl fmt::Display for KeyspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The encoded key.
#[must_use]
pub fn encode(keyspace: KeyspaceId, user_key: &[u8]) -> Bytes {
    [&keyspace.prefix(), user_key].concat().into()
}

/// Keyspace and user key; `None` when `key` is no encoded key.
#[must_use]
pub fn decode(key: &[u8]) -> Option<(KeyspaceId, &[u8])> {
    let ([a, b, c], user_key) = key.split_first_chunk::<KEYSPACE_LEN>()?;
    Some((KeyspaceId::new(u32::from_be_bytes([0, *a, *b, *c]))?, user_key))
}

/// All keys of a keyspace.
#[must_use]
pub fn keyspace_range(keyspace: KeyspaceId) -> KeyRange {
    KeyRange::new(keyspace.prefix().to_vec(), keyspace.end())
}

/// The keys `[start, end)` of a keyspace; an empty `end` means to the end of the keyspace.
#[must_use]
pub fn range(keyspace: KeyspaceId, start: &[u8], end: &[u8]) -> KeyRange {
    let end = if end.is_empty() { keyspace_range(keyspace).end } else { encode(keyspace, end) };
    KeyRange::new(encode(keyspace, start), end)
}

/// The keys of a keyspace that begin with `prefix`.
#[must_use]
pub fn prefix_range(keyspace: KeyspaceId, prefix: &[u8]) -> KeyRange {
    let start = encode(keyspace, prefix);
    // A prefix of full bytes carries into the keyspace id: that is the end of the keyspace.
    let end = prefix_end(&start);
    KeyRange::new(start, end)
}

/// The smallest key above every key that begins with `prefix`; empty, which as the end of a range
/// means to the end of everything, when there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::range::END_OF_MAP;

    #[test]
    fn the_last_number_of_three_bytes_is_no_keyspace() {
        for (why, id, want) in [
            ("the default by its number", 1, Some(1)),
            ("0 means the default", 0, Some(1)),
            ("the largest", 0xFF_FFFE, Some(0xFF_FFFE)),
            ("reaches the end of the map", 0xFF_FFFF, None),
            ("more than three bytes", 0x100_0000, None),
            ("more than three bytes, and small below", 0x100_0001, None),
        ] {
            assert_eq!(KeyspaceId::named(id).map(KeyspaceId::get), want, "{why}");
        }
        assert_eq!(KeyspaceId::new(0), Some(KeyspaceId::SYSTEM));
        assert_eq!(decode(&[0xFF; 9]), None);
    }

    #[test]
    fn every_keyspace_ends_before_the_end_of_the_map() {
        let highest = encode(KeyspaceId::MAX, &[0xFF; 4096]);
        assert!(highest[..] < [0xFF; 8][..]);
        assert_eq!(KeyspaceId::MAX.end()[..], [0xFF; 3]);
        assert_eq!(KeyspaceId::DEFAULT.end()[..], [0, 0, 2]);
    }

    #[test]
    fn prefix_end_skips_bytes_that_cannot_grow() {
        for (why, prefix, want) in [
            ("nothing is above all keys", &b""[..], &b""[..]),
            ("the last byte grows", b"ab", b"ac"),
            ("a full byte carries", b"a\xFF\xFF", b"b"),
            ("all full: no end", b"\xFF\xFF", b""),
        ] {
            assert_eq!(&prefix_end(prefix)[..], want, "{why}");
        }
    }

    fn keyspaces() -> impl Strategy<Value = KeyspaceId> {
        prop_oneof![
            Just(KeyspaceId::SYSTEM),
            Just(KeyspaceId::DEFAULT),
            Just(KeyspaceId::MAX),
            (0..=KeyspaceId::MAX.get()).prop_filter_map("a keyspace", KeyspaceId::new),
        ]
    }

    fn user_keys() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 0..12)
    }

    #[test]
    fn keyspaces_end_below_the_end_of_the_map() {
        assert!(encode(KeyspaceId::MAX, &[0xFF; 4096])[..] < END_OF_MAP[..]);
        assert!(!keyspace_range(KeyspaceId::MAX).end.is_empty());
        assert_eq!(
            keyspace_range(KeyspaceId::SYSTEM),
            KeyRange::new(&[0u8; 3][..], &[0u8, 0, 1][..])
        );
    }

    proptest! {
        #[test]
        fn encoded_keys_sort_as_keyspace_and_key(
            a in (keyspaces(), user_keys()), b in (keyspaces(), user_keys()),
        ) {
            let encoded = |(keyspace, key): &(KeyspaceId, Vec<u8>)| encode(*keyspace, key);
            prop_assert_eq!(encoded(&a).cmp(&encoded(&b)), a.cmp(&b));
        }

        #[test]
        fn encoded_key_decodes_to_itself(keyspace in keyspaces(), key in user_keys()) {
            let encoded = encode(keyspace, &key);
            prop_assert_eq!(decode(&encoded), Some((keyspace, &key[..])));
        }

        #[test]
        fn ranges_hold_exactly_their_keys(
            asked in keyspaces(), start in user_keys(), end in user_keys(),
            keyspace in keyspaces(), key in user_keys(),
        ) {
            let encoded = encode(keyspace, &key);
            let same = asked == keyspace;
            prop_assert_eq!(keyspace_range(asked).contains(&encoded), same);
            let inside = same && key >= start && (end.is_empty() || key < end);
            prop_assert_eq!(range(asked, &start, &end).contains(&encoded), inside);
            let with_prefix = same && key.starts_with(&start);
            prop_assert_eq!(prefix_range(asked, &start).contains(&encoded), with_prefix);
        }

        #[test]
        fn decode_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some((keyspace, key)) = decode(&bytes) {
                prop_assert_eq!(&encode(keyspace, key)[..], &bytes[..]);
            }
        }

        #[test]
        fn prefix_range_holds_exactly_the_keys_with_the_prefix(
            prefix in prop::collection::vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 0..4),
            key in prop::collection::vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 0..6),
        ) {
            let range = KeyRange::new(prefix.clone(), prefix_end(&prefix));
            prop_assert_eq!(range.contains(&key), key.starts_with(&prefix));
        }
    }
}
