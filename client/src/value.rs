//! What calls answer.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::v1;

/// A key that is present, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The user's key.
    pub key: Bytes,
    /// Empty when only keys were asked for.
    pub value: Bytes,
    /// Grows with every write of the key; comparable for one key only. A fencing token.
    pub revision: u64,
    /// Time left before the key expires; `None` is never.
    pub ttl: Option<Duration>,
}

impl From<v1::KeyValue> for KeyValue {
    fn from(kv: v1::KeyValue) -> Self {
        let ttl = kv.ttl_ms.map(Duration::from_millis);
        Self { key: kv.key, value: kv.value, revision: kv.revision, ttl }
    }
}

/// A value was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The key's new revision.
    pub revision: u64,
    /// What was there, if it was asked for and was there.
    pub previous: Option<KeyValue>,
}

/// A key was removed, or was not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The region's revision after the write.
    pub revision: u64,
    /// Whether the key was present.
    pub deleted: bool,
    /// What was there, if it was asked for and was there.
    pub previous: Option<KeyValue>,
}

/// A conditional write was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// Whether the value was stored.
    pub succeeded: bool,
    /// The region's revision after the decision.
    pub revision: u64,
    /// When it was not stored: what is there.
    pub current: Option<KeyValue>,
}

/// A counter was moved from `start` to `end`: the numbers `[start, end)` belong to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The key's new revision.
    pub revision: u64,
    /// Before the addition.
    pub start: i64,
    /// After it.
    pub end: i64,
}

/// Bytes were added to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The key's new revision.
    pub revision: u64,
    /// Size of the whole value now.
    pub value_bytes: u64,
}

/// Keys of a range were removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeDeleted {
    /// How many were present.
    pub deleted: u64,
    /// The regions that did their part.
    pub regions_done: Vec<u64>,
}
