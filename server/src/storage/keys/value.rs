//! What lies under a key of `data`:
//! `[format: 0x01][revision: varint][expires_at_ms: varint][payload]`.
//!
//! The payload comes last and has no length, so that a value is stored and read without a copy of
//! it. There is one way to encode each value: replicas must agree byte for byte.

use bytes::{Buf as _, Bytes};

use super::super::engine::Error;

const FORMAT: u8 = 1;
const VARINT_LEN_MAX: usize = 10;
const HEADER_LEN_MAX: usize = 1 + 2 * VARINT_LEN_MAX;

/// A value with what the store keeps beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue {
    /// The region's revision when the key was last written.
    pub revision: u64,
    /// Replicated time, in milliseconds since 1970, past which the value is expired; 0 for never.
    pub expires_at_ms: u64,
    /// The user's bytes.
    pub payload: Bytes,
}

impl StoredValue {
    /// Everything before the payload: store it with `put_parts(.., &[header.as_bytes(), payload])`.
    #[must_use]
    pub fn header(&self) -> ValueHeader {
        ValueHeader::new(self.revision, self.expires_at_ms)
    }

    /// The value from its stored form, sharing the payload's memory.
    ///
    /// # Errors
    /// `Corrupt` for anything that was not made by [`ValueHeader`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, Error> {
        let value = ValueRef::decode(&bytes)?;
        let (revision, expires_at_ms) = (value.revision, value.expires_at_ms);
        let header_len = bytes.len() - value.payload.len();
        bytes.advance(header_len);
        Ok(Self { revision, expires_at_ms, payload: bytes })
    }
}

/// As [`StoredValue`], borrowed: for cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRef<'a> {
    pub revision: u64,
    pub expires_at_ms: u64,
    pub payload: &'a [u8],
}

impl<'a> ValueRef<'a> {
    /// # Errors
    /// As [`StoredValue::decode`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => {
                let (revision, rest) = split_varint(rest)?;
                let (expires_at_ms, payload) = split_varint(rest)?;
                Ok(Self { revision, expires_at_ms, payload })
            }
            Some((format, _)) => Err(corrupt(format!("stored value has unknown format {format}"))),
            None => Err(corrupt("stored value is empty".to_owned())),
        }
    }
}

/// The bytes before a payload, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct ValueHeader {
    bytes: [u8; HEADER_LEN_MAX],
    len: usize,
}

impl ValueHeader {
    #[must_use]
    pub fn new(revision: u64, expires_at_ms: u64) -> Self {
        let mut header = Self { bytes: [0; HEADER_LEN_MAX], len: 0 };
        header.push(FORMAT);
        header.push_varint(revision);
        header.push_varint(expires_at_ms);
        header
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).expect("len counts pushed bytes")
    }

    fn push(&mut self, byte: u8) {
        *self.bytes.get_mut(self.len).expect("a format and two varints fit") = byte;
        self.len += 1;
    }

    fn push_varint(&mut self, mut rest: u64) {
        loop {
            let low = (rest & 0x7F) as u8;
            rest >>= 7;
            if rest == 0 {
                return self.push(low);
            }
            self.push(low | 0x80);
        }
    }
}

/// Takes a varint off the front: seven bits a byte, low ones first, the shortest form only.
fn split_varint(bytes: &[u8]) -> Result<(u64, &[u8]), Error> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(VARINT_LEN_MAX).enumerate() {
        let bits = u64::from(byte & 0x7F);
        let shift = 7 * at as u32;
        // The tenth byte has room for one bit.
        if bits << shift >> shift != bits {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            if *byte == 0 && at > 0 {
                break;
            }
            let (_, rest) = bytes.split_at(at + 1);
            return Ok((value, rest));
        }
    }
    Err(corrupt("stored value has a broken header".to_owned()))
}

fn corrupt(message: String) -> Error {
    Error::Corrupt { message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(value: &StoredValue) -> Bytes {
        [value.header().as_bytes(), &value.payload].concat().into()
    }

    /// The bytes are on disks: they must never change.
    #[test]
    fn layout_is_fixed() {
        let value =
            StoredValue { revision: 300, expires_at_ms: 0, payload: Bytes::from_static(b"v") };
        assert_eq!(&encode(&value)[..], [1, 0xAC, 0x02, 0, b'v']);
    }

    #[test]
    fn garbage_is_corrupt() {
        let overflow = [&[1][..], &[0xFF; 9], &[2, 0]].concat();
        let endless = [&[1][..], &[0x80; 20]].concat();
        for (why, bytes) in [
            ("empty", &b""[..]),
            ("unknown format", &[2, 0, 0]),
            ("no revision", &[1]),
            ("no expiry", &[1, 5]),
            ("cut in a varint", &[1, 5, 0x80]),
            ("not the shortest form", &[1, 0x80, 0, 0]),
            ("more than 64 bits", &overflow),
            ("a varint without an end", &endless),
        ] {
            let got = StoredValue::decode(Bytes::copy_from_slice(bytes));
            assert!(matches!(got, Err(Error::Corrupt { .. })), "{why}: {got:?}");
        }
    }

    proptest! {
        #[test]
        fn value_decodes_to_itself(
            revision in prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0u64..1000],
            expires_at_ms in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let value = StoredValue { revision, expires_at_ms, payload: payload.into() };
            prop_assert_eq!(StoredValue::decode(encode(&value)).unwrap(), value);
        }

        #[test]
        fn decode_takes_any_bytes_and_only_one_encoding(
            bytes in prop::collection::vec(prop_oneof![0u8..3, Just(0x80), Just(0xFF)], 0..24),
        ) {
            if let Ok(value) = StoredValue::decode(bytes.clone().into()) {
                prop_assert_eq!(encode(&value), bytes);
            }
        }
    }
}
