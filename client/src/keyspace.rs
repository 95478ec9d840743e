//! Encoded keys: the keyspace id as three big-endian bytes, then the user's key.
//!
//! The client encodes keys only to find a region in its route table; requests carry user keys.

use flotilla_proto::keyspace::KeyspaceId;

use crate::Error;

/// The keyspace of callers that do not choose one.
pub const DEFAULT_KEYSPACE: u32 = KeyspaceId::DEFAULT.get();

/// Refuses ids of no keyspace; 0 means the default.
pub(crate) fn check(keyspace: u32) -> Result<u32, Error> {
    let most = KeyspaceId::MAX;
    KeyspaceId::named(keyspace)
        .map(KeyspaceId::get)
        .ok_or_else(|| Error::configuration("keyspace", format!("at most {most}")))
}

/// The encoded form of a user key.
pub(crate) fn encode(keyspace: u32, key: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(3 + key.len());
    encoded.extend_from_slice(&keyspace.to_be_bytes()[1..]);
    encoded.extend_from_slice(key);
    encoded
}

/// The encoded form of an exclusive end; an empty one is the end of the keyspace.
pub(crate) fn encode_end(keyspace: u32, end: &[u8]) -> Vec<u8> {
    // The last keyspace has one after it, to which no key belongs.
    if end.is_empty() { encode(keyspace + 1, b"") } else { encode(keyspace, end) }
}

/// The user key of an encoded key of this keyspace.
pub(crate) fn decode(keyspace: u32, encoded: &[u8]) -> Option<&[u8]> {
    encoded.strip_prefix(&keyspace.to_be_bytes()[1..])
}

/// The first key after all keys with this prefix; empty when there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_encoded_keys_is_keyspace_then_bytes() {
        let keys =
            [encode(1, b""), encode(1, b"a"), encode(1, b"a\0"), encode(1, b"b"), encode(2, b"")];
        assert!(keys.is_sorted());
        assert_eq!(encode(0x01_02_03, b"k"), [1, 2, 3, b'k']);
    }

    #[test]
    fn an_empty_end_is_the_end_of_the_keyspace() {
        assert_eq!(encode_end(1, b""), [0, 0, 2]);
        assert_eq!(encode_end(1, b"k"), [0, 0, 1, b'k']);
        assert_eq!(encode_end(KeyspaceId::MAX.get(), b""), [0xff; 3]);
    }

    #[test]
    fn a_key_of_another_keyspace_does_not_decode() {
        assert_eq!(decode(1, &encode(1, b"k")), Some(&b"k"[..]));
        assert_eq!(decode(1, &encode(2, b"k")), None);
        assert_eq!(decode(1, b""), None);
    }

    #[test]
    fn prefix_end_is_the_least_key_above_all_with_the_prefix() {
        for (why, prefix, want) in [
            ("plain", &b"ab"[..], &b"ac"[..]),
            ("carries over 0xff", b"a\xff\xff", b"b"),
            ("nothing above", b"\xff\xff", b""),
            ("no prefix is no bound", b"", b""),
        ] {
            assert_eq!(prefix_end(prefix), want, "{why}");
        }
    }

    #[test]
    fn keyspace_zero_is_the_default_and_huge_ids_are_refused() {
        assert_eq!(check(0), Ok(DEFAULT_KEYSPACE));
        assert_eq!(check(9), Ok(9));
        assert_eq!(check(0xff_fffe), Ok(0xff_fffe));
        assert!(check(0xff_ffff).is_err(), "its keys would reach the end of the map");
        assert!(check(1 << 24).is_err());
    }
}
