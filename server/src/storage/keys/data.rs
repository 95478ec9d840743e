//! `data`, family `default`: `[keyspace id: 3][user key]`. Called an *encoded key* elsewhere;
//! region bounds are such keys.

use super::super::engine::KeyRange;

pub use flotilla_proto::keyspace::{KeyspaceId, decode, encode, prefix_end};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::super::engine::END_OF_MAP, *};

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
    }
}
