//! From a `RequestContext` and headers to what the next hop needs.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{
    keyspace::{self, KEYSPACE_LEN, KeyspaceId},
    range::KeyRange,
    v1,
};
use http::HeaderMap;
use tokio::time::Instant;

use crate::{error::Error, ids::RegionId, router::Context};

/// The keyspace of a request: never the system's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyspace(KeyspaceId);

impl Keyspace {
    pub const DEFAULT: Self = Self(KeyspaceId::DEFAULT);

    /// The keyspace that a request names; 0 names the default one, so that the system's own, whose
    /// id is 0, cannot be addressed.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when there is no such id.
    pub fn named(id: u32) -> Result<Self, Error> {
        KeyspaceId::named(id).map(Self).ok_or_else(|| Error::InvalidArgument {
            field: "context.keyspace".into(),
            message: format!("there is no keyspace {id}, the largest is {}", KeyspaceId::MAX),
            limit: u64::from(KeyspaceId::MAX.get()),
        })
    }

    /// The encoded form of a user's key.
    #[must_use]
    pub fn encode(self, key: &[u8]) -> Bytes {
        keyspace::encode(self.0, key)
    }

    /// The encoded range `[start, end)`; an empty `end` is the end of the keyspace.
    #[must_use]
    pub fn range(self, start: &[u8], end: &[u8]) -> KeyRange {
        keyspace::range(self.0, start, end)
    }

    /// The encoded range of the keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(self, prefix: &[u8]) -> KeyRange {
        keyspace::prefix_range(self.0, prefix)
    }

    /// The encoded range from a key of this keyspace to the last key of the last keyspace.
    #[must_use]
    pub fn and_all_after(self, start: &[u8]) -> KeyRange {
        KeyRange { start: self.encode(start), end: KeyspaceId::MAX.end() }
    }

    /// The id of the keyspace that an encoded key is in.
    pub(super) fn of(encoded: &Bytes) -> Result<u32, Error> {
        match keyspace::decode(encoded) {
            Some((keyspace, _)) => Ok(keyspace.get()),
            None => Err(Error::Internal { message: "a stored key has no keyspace".into() }),
        }
    }
}

/// The user's key in an encoded key.
pub(super) fn user_key(encoded: &Bytes) -> Result<Bytes, Error> {
    if encoded.len() < KEYSPACE_LEN {
        return Err(Error::Internal { message: "a stored key has no keyspace".into() });
    }
    Ok(encoded.slice(KEYSPACE_LEN..))
}

/// Takes a request's context apart.
///
/// # Errors
///
/// `InvalidArgument` for a keyspace or read mode that does not exist, and for a region without an
/// epoch.
pub(super) fn open(
    context: Option<v1::RequestContext>,
    deadline: Instant,
) -> Result<(Keyspace, Context), Error> {
    let Some(context) = context else {
        let read_mode = v1::ReadMode::Linearizable;
        return Ok((Keyspace::DEFAULT, Context { route: None, read_mode, whole: None, deadline }));
    };
    let keyspace = Keyspace::named(context.keyspace)?;
    let read_mode = match v1::ReadMode::try_from(context.read_mode) {
        Ok(v1::ReadMode::Unspecified) => v1::ReadMode::Linearizable,
        Ok(read_mode) => read_mode,
        Err(_) => return Err(Error::invalid("context.read_mode", "is not a known read mode")),
    };
    let route = match (context.region_id, context.epoch) {
        (0, _) => None,
        (region_id, Some(epoch)) => Some((RegionId(region_id), epoch)),
        (_, None) => {
            return Err(Error::invalid("context.epoch", "must be set together with region_id"));
        }
    };
    Ok((keyspace, Context { route, read_mode, whole: None, deadline }))
}

/// The `grpc-timeout` of a request, if it has one.
///
/// # Errors
///
/// `InvalidArgument` when it is not as the specification says: one to eight digits and a unit.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(header) = headers.get("grpc-timeout") else { return Ok(None) };
    let malformed = || Error::invalid("grpc-timeout", "must be 1 to 8 digits and one of HMSmun");
    let Some((unit, digits)) = header.as_bytes().split_last() else { return Err(malformed()) };
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let count = digits.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(malformed()),
    };
    Ok(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_behind_their_keyspace() {
        let keyspace = Keyspace::named(0x01_02_03).expect("in range");
        let encoded = keyspace.encode(b"k\0y");
        assert_eq!(&encoded[..], b"\x01\x02\x03k\0y");
        assert_eq!(user_key(&encoded).expect("encoded"), &b"k\0y"[..]);
        assert!(user_key(&Bytes::from_static(b"\x01\x02")).is_err());
    }

    #[test]
    fn system_keyspace_cannot_be_addressed() {
        assert_eq!(Keyspace::named(0).expect("the default"), Keyspace::DEFAULT);
        assert_eq!(Keyspace::DEFAULT.encode(b"")[..], [0, 0, 1]);
        assert!(Keyspace::named(0xff_fffe).is_ok());
        for (why, id) in [("its keys reach the end of the map", 0xff_ffff), ("too large", 1 << 24)]
        {
            assert!(
                matches!(
                    Keyspace::named(id),
                    Err(Error::InvalidArgument { field, limit: 0xff_fffe, .. })
                        if field == "context.keyspace"
                ),
                "{why}"
            );
        }
    }

    #[test]
    fn ranges_end_where_they_should() {
        let first = Keyspace::DEFAULT;
        let last = Keyspace(KeyspaceId::MAX);
        for (why, range, start, end) in [
            ("both ends", first.range(b"a", b"b"), &b"\0\0\x01a"[..], &b"\0\0\x01b"[..]),
            ("whole keyspace", first.range(b"", b""), b"\0\0\x01", b"\0\0\x02"),
            ("prefix", first.prefix(b"ab"), b"\0\0\x01ab", b"\0\0\x01ac"),
            (
                "prefix that ends in ff",
                first.prefix(b"a\xff\xff"),
                b"\0\0\x01a\xff\xff",
                b"\0\0\x01b",
            ),
            ("prefix of ff alone", first.prefix(b"\xff"), b"\0\0\x01\xff", b"\0\0\x02"),
            ("last keyspace", last.range(b"a", b""), b"\xff\xff\xfea", b"\xff\xff\xff"),
            ("last prefix", last.prefix(b"\xff"), b"\xff\xff\xfe\xff", b"\xff\xff\xff"),
        ] {
            assert_eq!((&range.start[..], &range.end[..]), (start, end), "{why}");
        }
    }

    #[test]
    fn contexts_are_taken_apart() {
        let deadline = Instant::now();
        let (keyspace, cx) = open(None, deadline).expect("no context is fine");
        assert_eq!(keyspace, Keyspace::DEFAULT);
        assert_eq!((cx.route, cx.read_mode), (None, v1::ReadMode::Linearizable));

        let epoch = v1::RegionEpoch { conf_ver: 3, version: 4 };
        let full = v1::RequestContext {
            keyspace: 9,
            region_id: 5,
            epoch: Some(epoch),
            read_mode: v1::ReadMode::Stale as i32,
        };
        let (keyspace, cx) = open(Some(full), deadline).expect("well-formed");
        assert_eq!(Ok(keyspace), Keyspace::named(9));
        assert_eq!(cx.route, Some((RegionId(5), epoch)));
        assert_eq!(cx.read_mode, v1::ReadMode::Stale);
        assert_eq!(cx.deadline, deadline);

        for (why, context, field) in [
            ("region without epoch", v1::RequestContext { epoch: None, ..full }, "context.epoch"),
            (
                "read mode of the future",
                v1::RequestContext { read_mode: 99, ..full },
                "context.read_mode",
            ),
            (
                "keyspace out of range",
                v1::RequestContext { keyspace: u32::MAX, ..full },
                "context.keyspace",
            ),
        ] {
            match open(Some(context), deadline) {
                Err(Error::InvalidArgument { field: actual, .. }) => assert_eq!(actual, field),
                other => panic!("{why}: {other:?}"),
            }
        }
    }

    #[test]
    fn timeouts_are_read_as_the_specification_says() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().expect("a header value"));
            grpc_timeout(&headers)
        };
        for (value, want) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(read(value).expect(value), Some(want), "{value}");
        }
        for value in ["", "S", "1", "1x", "123456789S", "-1S", "1.5S", "+1S"] {
            assert!(read(value).is_err(), "{value:?}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()).expect("none"), None);
    }
}
