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

pub use data::KeyspaceId;
pub use flotilla_proto::keyspace::prefix_end;

/// Takes eight big-endian bytes off the front of `bytes`.
fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::engine::KeyRange, *};

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
