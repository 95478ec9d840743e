//! Why a write that was committed is not applied.

use super::append::APPENDED_VALUE_BYTES_MAX;

/// The reason that goes into `WriteReply.refused`. Nothing of the command is applied then, and
/// every peer refuses it alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("comparison {index} names no condition")]
    NoCondition { index: usize },
    #[error("operation {index} of the branch is empty")]
    NoOperation { index: usize },
    /// The proposer routed it wrongly; the epoch should have told.
    #[error("the key \"{}\" is not in the region", key.escape_ascii())]
    KeyNotInRegion { key: bytes::Bytes },
    /// As above, for a range that does not end in the region.
    #[error("the range from \"{}\" to \"{}\" is not in the region",
        start.escape_ascii(), end.escape_ascii())]
    RangeNotInRegion { start: bytes::Bytes, end: bytes::Bytes },
    #[error("operation {index} of the branch has both ttl_ms and keep_ttl")]
    TwoTtls { index: usize },
    #[error("the value is not a counter")]
    NotACounter,
    #[error("adding {delta} to {start} leaves the range of a counter")]
    CounterOverflow { start: i64, delta: i64 },
    #[error("the value would have {bytes} bytes, the limit is {APPENDED_VALUE_BYTES_MAX}")]
    ValueTooLong { bytes: usize },
}
