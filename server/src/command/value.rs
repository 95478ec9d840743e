//! How a value lies on disk: `[0x01][revision: varint][expires_at_ms: varint, 0 = never][payload]`.
//!
//! Varints are little-endian base 128, in their shortest form only, so that equal values are equal
//! bytes on every replica. The head is written in front of a payload without joining them first.

use bytes::Bytes;

use super::v1::KeyValue;
use crate::storage::engine;

/// First byte of every value of this form.
const FORMAT: u8 = 0x01;

/// A `u64` has at most ten groups of seven bits.
const VARINT_BYTES_MAX: usize = 10;
const HEAD_BYTES_MAX: usize = 1 + 2 * VARINT_BYTES_MAX;

/// The bytes are no stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a stored value")]
pub struct Garbage;

impl Garbage {
    /// What the disk says when such bytes lie under `key`.
    #[must_use]
    pub fn under(self, key: &[u8]) -> engine::Error {
        engine::Error::Corrupt { message: format!("{self} under key \"{}\"", key.escape_ascii()) }
    }
}

/// A value with what is kept beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredValue {
    /// The region's revision that wrote it.
    pub revision: u64,
    /// Replicated time from which on it is absent. `0`: never.
    pub expires_at_ms: u64,
    pub payload: Bytes,
}

/// As [`StoredValue`], in a buffer of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRef<'a> {
    pub revision: u64,
    pub expires_at_ms: u64,
    pub payload: &'a [u8],
}

impl StoredValue {
    /// The value in `stored`; the payload shares its bytes.
    ///
    /// # Errors
    /// Bytes that [`StoredValue::head`] does not write.
    pub fn decode(stored: &Bytes) -> Result<Self, Garbage> {
        let StoredRef { revision, expires_at_ms, payload } = StoredRef::decode(stored)?;
        Ok(Self { revision, expires_at_ms, payload: stored.slice_ref(payload) })
    }

    /// The bytes to write in front of the payload.
    #[must_use]
    pub fn head(&self) -> ValueHead {
        ValueHead::new(self.revision, self.expires_at_ms)
    }

    /// Whether the value is there at `time_ms` of the replicated time. One that is not equals an
    /// absent one.
    #[must_use]
    pub fn is_live(&self, time_ms: u64) -> bool {
        is_live(self.expires_at_ms, time_ms)
    }

    /// The value under `key` as clients see it at `time_ms`.
    #[must_use]
    pub fn key_value(&self, key: Bytes, time_ms: u64) -> KeyValue {
        KeyValue {
            key,
            value: self.payload.clone(),
            revision: self.revision,
            ttl_ms: ttl_ms(self.expires_at_ms, time_ms),
        }
    }
}

impl<'a> StoredRef<'a> {
    /// The value in `stored`.
    ///
    /// # Errors
    /// As for [`StoredValue::decode`].
    pub fn decode(stored: &'a [u8]) -> Result<Self, Garbage> {
        let (&FORMAT, mut rest) = stored.split_first().ok_or(Garbage)? else {
            return Err(Garbage);
        };
        let revision = take_varint(&mut rest).ok_or(Garbage)?;
        let expires_at_ms = take_varint(&mut rest).ok_or(Garbage)?;
        Ok(Self { revision, expires_at_ms, payload: rest })
    }

    /// As [`StoredValue::is_live`].
    #[must_use]
    pub fn is_live(&self, time_ms: u64) -> bool {
        is_live(self.expires_at_ms, time_ms)
    }

    /// Time left at `time_ms`; `None` for a value that never expires.
    #[must_use]
    pub fn ttl_ms(&self, time_ms: u64) -> Option<u64> {
        ttl_ms(self.expires_at_ms, time_ms)
    }
}

/// The replicated time from which on a stored value is absent; `None` for one that never is, or
/// that does not decode.
#[must_use]
pub fn expires_at_ms(stored: &[u8]) -> Option<u64> {
    let expires_at_ms = StoredRef::decode(stored).ok()?.expires_at_ms;
    (expires_at_ms != 0).then_some(expires_at_ms)
}

/// What stands in front of a payload on disk.
#[derive(Clone, Copy, Debug)]
pub struct ValueHead {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

impl ValueHead {
    #[must_use]
    pub fn new(revision: u64, expires_at_ms: u64) -> Self {
        let mut head = Self { bytes: [0; HEAD_BYTES_MAX], len: 0 };
        head.push(FORMAT);
        head.push_varint(revision);
        head.push_varint(expires_at_ms);
        head
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.split_at(self.len).0
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(0x80 | low_seven(value));
            value >>= 7;
        }
        self.push(low_seven(value));
    }

    fn push(&mut self, byte: u8) {
        let slot = self.bytes.get_mut(self.len).expect("two varints of ten bytes and a format fit");
        *slot = byte;
        self.len += 1;
    }
}

fn low_seven(value: u64) -> u8 {
    u8::try_from(value & 0x7f).expect("seven bits")
}

/// Takes one varint from the front of `input`; `None` for one that is cut short, too large, or
/// longer than it needs to be.
fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return (byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

fn is_live(expires_at_ms: u64, time_ms: u64) -> bool {
    expires_at_ms == 0 || expires_at_ms > time_ms
}

fn ttl_ms(expires_at_ms: u64, time_ms: u64) -> Option<u64> {
    (expires_at_ms != 0).then(|| expires_at_ms.saturating_sub(time_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(value: &StoredValue) -> Bytes {
        Bytes::from([value.head().as_bytes(), &value.payload].concat())
    }

    #[test]
    fn the_form_on_disk_is_as_documented() {
        for (why, revision, expires_at_ms, head) in [
            ("all zero", 0, 0, &[1, 0, 0][..]),
            ("one byte each", 127, 1, &[1, 127, 1]),
            ("two bytes", 128, 300, &[1, 0x80, 0x01, 0xac, 0x02]),
            (
                "the largest",
                u64::MAX,
                u64::MAX,
                &[
                    &[1][..],
                    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                ]
                .concat(),
            ),
        ] {
            assert_eq!(ValueHead::new(revision, expires_at_ms).as_bytes(), head, "{why}");
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for (why, stored) in [
            ("nothing", &[][..]),
            ("only a format", &[1]),
            ("another format", &[2, 1, 1]),
            ("no format", &[0, 1, 1]),
            ("no expiry", &[1, 1]),
            ("revision cut short", &[1, 0x80]),
            ("expiry cut short", &[1, 1, 0x80]),
            ("a longer form of 0", &[1, 0x80, 0x00, 0]),
            ("2^64", &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02, 0]),
            ("eleven groups", &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x81, 0]),
        ] {
            let stored = Bytes::copy_from_slice(stored);
            assert_eq!(StoredValue::decode(&stored), Err(Garbage), "{why}");
        }
    }

    #[test]
    fn a_value_is_absent_from_its_expiry_on() {
        for (why, expires_at_ms, time_ms, live, ttl) in [
            ("never expires", 0, u64::MAX, true, None),
            ("before", 10, 9, true, Some(1)),
            ("exactly then", 10, 10, false, Some(0)),
            ("after", 10, 11, false, Some(0)),
            ("as late as can be", u64::MAX, u64::MAX - 1, true, Some(1)),
        ] {
            let value = StoredValue { revision: 3, expires_at_ms, payload: Bytes::new() };
            assert_eq!(value.is_live(time_ms), live, "{why}");
            assert_eq!(value.key_value(Bytes::new(), time_ms).ttl_ms, ttl, "{why}");
        }
    }

    proptest! {
        #[test]
        fn a_value_survives_the_disk(revision: u64, expires_at_ms: u64, payload: Vec<u8>) {
            let value = StoredValue { revision, expires_at_ms, payload: payload.into() };
            prop_assert_eq!(StoredValue::decode(&join(&value)), Ok(value));
        }

        #[test]
        fn what_decodes_has_one_form(mut stored: Vec<u8>) {
            if let Some(first) = stored.first_mut() {
                *first = FORMAT;
            }
            let stored = Bytes::from(stored);
            if let Ok(value) = StoredValue::decode(&stored) {
                prop_assert_eq!(join(&value), stored);
            }
        }
    }
}
