//! `data`, family `default`: `[keyspace id: 3][user key]`. Called an *encoded key* elsewhere;
//! region bounds are such keys.

use std::fmt;

use bytes::Bytes;

use super::{super::engine::KeyRange, prefix_end};

const KEYSPACE_LEN: usize = 3;

/// A tenant's name space of keys: 24 bits, of which the highest value is never given out (see
/// [`super::super::engine::END_OF_MAP`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(u32);

impl KeyspaceId {
    /// The cluster's own tables: region 1, out of reach of clients.
    pub const SYSTEM: Self = Self(0);
    /// Where a client that names no keyspace lands.
    pub const DEFAULT: Self = Self(1);
    /// The largest that may be given out.
    pub const MAX: Self = Self(0xFF_FFFE);

    /// `None` above [`KeyspaceId::MAX`].
    #[must_use]
    pub fn new(id: u32) -> Option<Self> {
        (id <= Self::MAX.0).then_some(Self(id))
    }

    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The first encoded key of the keyspace, and the prefix of all of them.
    #[must_use]
    pub fn prefix(self) -> [u8; KEYSPACE_LEN] {
        let [_, prefix @ ..] = self.0.to_be_bytes();
        prefix
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

/// Adds the encoded key to `out`.
pub fn encode_into(out: &mut Vec<u8>, keyspace: KeyspaceId, user_key: &[u8]) {
    out.extend_from_slice(&keyspace.prefix());
    out.extend_from_slice(user_key);
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
    let prefix = keyspace.prefix();
    KeyRange::new(prefix.to_vec(), prefix_end(&prefix))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::engine::END_OF_MAP, *};

    fn keyspaces() -> impl Strategy<Value = KeyspaceId> {
        prop_oneof![
            Just(KeyspaceId::SYSTEM),
            Just(KeyspaceId::DEFAULT),
            Just(KeyspaceId::MAX),
            (0..=KeyspaceId::MAX.0).prop_map(KeyspaceId),
        ]
    }

    fn user_keys() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 0..12)
    }

    #[test]
    fn keyspaces_end_below_the_end_of_the_map() {
        assert_eq!(KeyspaceId::new(0xFF_FFFE), Some(KeyspaceId::MAX));
        assert_eq!(KeyspaceId::new(0xFF_FFFF), None);
        assert_eq!(decode(&[0xFF; 9]), None);
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
            let mut appended = b"x".to_vec();
            encode_into(&mut appended, keyspace, &key);
            prop_assert_eq!(&appended[1..], &encoded[..]);
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
    }
}
