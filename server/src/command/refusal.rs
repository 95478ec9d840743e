//! Why a write that was committed is not applied.

use flotilla_proto::v1::{WriteRefusal, write_refusal::Kind};

use super::bounds::{EFFECT_BYTES_MAX, ENCODED_KEY_BYTES_MAX, READ_BYTES_MAX};

/// The reason that goes into `WriteReply.refused`, under its own name. Nothing of the command is
/// applied then, and every peer refuses it alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the comparison names no condition")]
    NoCondition,
    #[error("the operation is empty")]
    NoOperation,
    #[error("the operation has both ttl_ms and keep_ttl")]
    TwoTtls,
    /// The proposer passed on what it had to resolve.
    #[error("the range is not resolved")]
    RangeUnresolved,
    /// A key that nothing can be stored under. The proposer should have refused it.
    #[error(
        "no key may be at or above the end of the map, or have more than {ENCODED_KEY_BYTES_MAX} bytes with its keyspace"
    )]
    KeyOutOfRange,
    /// The proposer routed it wrongly; the epoch should have told.
    #[error("the key \"{}\" is not in the region", key.escape_ascii())]
    KeyNotInRegion { key: bytes::Bytes },
    /// As above, for a range that does not end in the region.
    #[error("the range from \"{}\" to \"{}\" is not in the region",
        start.escape_ascii(), end.escape_ascii())]
    RangeNotInRegion { start: bytes::Bytes, end: bytes::Bytes },
    #[error("the value is not a counter")]
    NotACounter,
    #[error("adding {delta} to {start} leaves the range of a counter")]
    CounterOverflow { start: i64, delta: i64 },
    #[error("the value would have {bytes} bytes, at most {limit} are allowed")]
    ValueTooLarge { bytes: usize, limit: usize },
    #[error("the results would have more than {limit} bytes, ask for fewer")]
    AnswerTooLarge { limit: usize },
    #[error("keys and values to write would have more than {EFFECT_BYTES_MAX} bytes")]
    EffectsTooLarge,
    #[error(
        "keys and values to compare, change or delete have more than {READ_BYTES_MAX} bytes together"
    )]
    ReadsTooLarge,
}

impl Refusal {
    /// As it goes to the caller, without a place.
    pub(super) fn to_proto(&self) -> WriteRefusal {
        let (kind, limit) = match self {
            Self::NoCondition => (Kind::NoCondition, 0),
            Self::NoOperation => (Kind::NoOperation, 0),
            Self::TwoTtls => (Kind::TwoTtls, 0),
            Self::RangeUnresolved => (Kind::RangeUnresolved, 0),
            Self::KeyOutOfRange => (Kind::KeyOutOfRange, ENCODED_KEY_BYTES_MAX),
            Self::KeyNotInRegion { .. } | Self::RangeNotInRegion { .. } => {
                (Kind::KeyNotInRegion, 0)
            }
            Self::NotACounter => (Kind::NotACounter, 0),
            Self::CounterOverflow { .. } => (Kind::CounterOverflow, 0),
            Self::ValueTooLarge { limit, .. } => (Kind::ValueTooLarge, *limit),
            Self::AnswerTooLarge { limit } => (Kind::AnswerTooLarge, *limit),
            Self::EffectsTooLarge => (Kind::EffectsTooLarge, EFFECT_BYTES_MAX),
            Self::ReadsTooLarge => (Kind::ReadsTooLarge, READ_BYTES_MAX),
        };
        let message = self.to_string();
        WriteRefusal { kind: kind.into(), limit: limit as u64, message, ..WriteRefusal::default() }
    }
}
