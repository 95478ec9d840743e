//! The layout of keys on disk.
//!
//! One codec per map: [`data`] and [`meta`] are the two families of the `data` instance, [`log`] is
//! the `log` instance. Numbers in keys are big-endian, so that bytes sort as the values do; what is
//! read together lies together. What lies under a key of [`data`] is
//! in `command/value.rs`. Decoders take any
//! bytes and never panic: what they refuse is damage.

pub mod data;
pub mod log;
pub mod meta;

use bytes::Bytes;

pub use data::KeyspaceId;

/// The smallest key above every key that begins with `prefix`; empty, which as the end of a range
/// means to the end of the map, when there is none.
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

/// Takes eight big-endian bytes off the front of `bytes`.
fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::engine::KeyRange, *};

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

    proptest! {
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
