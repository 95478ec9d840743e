//! What a region's descriptor says.

use crate::{range::KeyRange, v1};

/// The range of a descriptor, in encoded keys.
#[must_use]
pub fn range_of(descriptor: &v1::Region) -> KeyRange {
    KeyRange { start: descriptor.start_key.clone(), end: descriptor.end_key.clone() }
}

/// The version part of a descriptor's epoch.
#[must_use]
pub fn epoch_version(descriptor: &v1::Region) -> u64 {
    descriptor.epoch.as_ref().map_or(0, |epoch| epoch.version)
}
