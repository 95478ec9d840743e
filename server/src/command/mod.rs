//! What is replicated, and what applying it does.
//!
//! A [`v1::Command`] is encoded once, by the leader that proposes it, and those bytes reach every
//! peer. Applying is pure: state and answer are a function of the region's state, its data and the
//! command, never of a clock, a setting, or of how the log was cut into batches. So it is evaluated
//! against an [`Overlay`], the batch so far over the database: two compare-and-puts that share a
//! batch cannot both succeed. Nothing here does I/O beyond the reads of [`storage::engine::Read`];
//! the caller, `raft/state_machine.rs`, writes the batch together with the applied log id.
//!
//! [`v1::Command`]: flotilla_proto::v1::Command
//! [`Overlay`]: crate::command::Overlay
//! [`storage::engine::Read`]: crate::storage::engine::Read

mod add;
mod append;
mod apply;
mod bounds;
mod budget;
mod checksum;
mod codec;
mod compare;
mod delete;
mod delete_range;
mod foresee;
mod get;
mod layer;
mod members;
mod overlay;
mod put;
mod read;
mod refusal;
mod region;
mod transaction;
mod value;
mod write;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod level_test;
#[cfg(test)]
mod log_test;
#[cfg(test)]
mod model;
#[cfg(test)]
mod reclaim_test;

use flotilla_proto::v1;

use crate::feature_level;

pub use apply::{Effect, apply};
pub use bounds::{
    ANSWER_BYTES_MAX, EFFECT_BYTES_MAX, ENCODED_KEY_BYTES_MAX, READ_BYTES_MAX, RESULT_BYTES,
    VALUE_BYTES_CEILING,
};
pub use checksum::checksum;
pub use codec::{DecodeError, decode, encode};
pub use foresee::{keys_read, reads_quickly};
pub use members::apply as apply_members;
pub use overlay::Overlay;
pub use read::{
    AsOf, PAGE_BYTES_MAX, PAGE_KEYS_MAX, POINTS_BYTES_MAX, item_bytes, read_point, read_points,
    read_range,
};
pub use refusal::Refusal;
pub use region::RegionState;
pub use value::{Garbage, StoredRef, StoredValue, ValueHead, expires_at_ms};
pub use write::{only_reads, read_transaction};

/// Whether a write only takes away (or reads), so that it is let in when the disk is low.
#[must_use]
pub fn frees_space(write: &v1::WriteCommand) -> bool {
    use v1::op::Op;
    write
        .success
        .iter()
        .chain(&write.failure)
        .all(|op| matches!(op.op, Some(Op::Delete(_) | Op::DeleteRange(_) | Op::Get(_))))
}

/// The cluster's feature level as an entry carries it: by its rules the entry is applied, now and whenever the
/// log is applied again.
#[must_use]
pub fn stamp(cluster_level: u32) -> u32 {
    if cluster_level <= feature_level::FIRST { 0 } else { cluster_level }
}

/// The feature level from which on a command may be proposed: below it some peer would have to stop.
#[must_use]
pub fn feature_level(body: &v1::command::Body) -> u32 {
    use v1::command::Body;
    match body {
        Body::Write(_) | Body::Tick(_) | Body::Checksum(_) => feature_level::FIRST,
    }
}
