//! The layout of keys on disk.
//!
//! One codec per map: `flotilla_proto::keyspace` and [`meta`] are the two families of the `data` instance, [`log`]
//! is the `log` instance. Numbers in keys are big-endian, so that bytes sort as the values do; what is read together
//! lies together. What lies under a key of a keyspace is in `command/value.rs`. Decoders take any bytes and never
//! panic: what they refuse is damage.

pub mod log;
pub mod meta;

/// Takes eight big-endian bytes off the front of `bytes`.
fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*head), rest))
}
