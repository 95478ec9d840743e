//! Commands as bytes.
//!
//! A peer that skips what it does not understand is no longer a replica. protobuf drops unknown
//! fields silently, so a command that decodes may still be a part of what the leader meant. A
//! command is always written by [`encode`], which has one form for each value; when what was
//! understood would take another number of bytes than what was read, something was dropped.

use bytes::Bytes;
use prost::Message as _;

use super::v1::Command;
use crate::feature_level;

/// Why the bytes of a log entry are no command of this version. The peer has to stop: see
/// `raft/state_machine.rs`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Not a protobuf message.
    #[error("decode command")]
    Malformed(#[source] prost::DecodeError),
    /// Proposed where all programs could do more than this one; also if all its parts are known, what they
    /// mean may not be.
    #[error("the command cannot be applied")]
    Level(#[source] feature_level::TooOld),
    /// A field or a kind that this version does not know, from a newer one.
    #[error(
        "the command has parts that this version does not know: \
         {understood_bytes} of {actual_bytes} bytes understood"
    )]
    Unknown { understood_bytes: usize, actual_bytes: usize },
    /// Neither a known nor an unknown kind.
    #[error("the command has no body")]
    NoBody,
}

/// The one form of `command` as bytes.
#[must_use]
pub fn encode(command: &Command) -> Bytes {
    command.encode_to_vec().into()
}

/// The command in `bytes`; its keys and values share them.
///
/// # Errors
/// Everything but the result of [`encode`] by a version with the same fields. The peer stops: it
/// must neither skip the entry nor apply the part it understands.
pub fn decode(bytes: Bytes) -> Result<Command, DecodeError> {
    let actual_bytes = bytes.len();
    let command = Command::decode(bytes).map_err(DecodeError::Malformed)?;
    feature_level::check(feature_level::OURS, command.feature_level).map_err(DecodeError::Level)?;
    let understood_bytes = command.encoded_len();
    if understood_bytes != actual_bytes {
        return Err(DecodeError::Unknown { understood_bytes, actual_bytes });
    }
    if command.body.is_none() {
        return Err(DecodeError::NoBody);
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    #[test]
    fn a_command_survives_its_bytes_and_shares_them() {
        let command = fixture::write(5, vec![fixture::put("key", "a value")]);
        let bytes = encode(&command);
        let decoded = decode(bytes.clone()).expect("our own bytes");
        assert_eq!(decoded, command);
        let shared = fixture::first_put(&decoded).value.as_ptr();
        assert!(bytes.as_ptr_range().contains(&shared), "the value was copied");
    }

    #[test]
    fn what_this_version_does_not_know_is_an_error() {
        // Field 100, varint 1: a field that no version has had.
        const NEW_FIELD: [u8; 3] = [0xa0, 0x06, 0x01];
        // Field 100, two bytes: a kind of body or operation from a newer version.
        const NEW_KIND: [u8; 5] = [0xa2, 0x06, 0x02, b'h', b'i'];
        let known = encode(&fixture::write(5, vec![fixture::put("key", "value")]));
        let concat = |parts: &[&[u8]]| Bytes::from(parts.concat());
        // Command { write: WriteCommand { success: [Op { <unknown> }] } }
        let nested = concat(&[&[0x52, 7, 0x12, 5], &NEW_KIND]);
        for (why, bytes) in [
            ("a known body beside a new field", concat(&[&known, &NEW_FIELD])),
            ("only a new kind of body", concat(&[&[0x08, 0x01], &NEW_KIND])),
            ("a new kind of operation", nested),
            ("a number in a longer form than it needs", concat(&[&[0x08, 0x81, 0x00], &[0x5a, 0]])),
        ] {
            let decoded = decode(bytes);
            assert!(matches!(decoded, Err(DecodeError::Unknown { .. })), "{why}: {decoded:?}");
        }
        let beyond = feature_level::OURS + 1;
        let newer = encode(&Command { feature_level: beyond, ..fixture::tick(5) });
        let too_old = feature_level::TooOld { has: feature_level::OURS, needed: beyond };
        assert_eq!(decode(newer), Err(DecodeError::Level(too_old)), "by rules of a newer one");
        assert_eq!(decode(Bytes::new()), Err(DecodeError::NoBody));
        assert_eq!(decode(Bytes::from_static(&[0x08, 0x01])), Err(DecodeError::NoBody));
        for cut in 1..known.len() {
            assert!(decode(known.slice(..cut)).is_err(), "cut at {cut}");
        }
        assert!(matches!(decode(Bytes::from_static(&[0xff; 9])), Err(DecodeError::Malformed(_))));
    }
}
