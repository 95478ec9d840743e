//! What commands change of a region itself.

use flotilla_proto::v1::{ApplyState, Region};

/// What a region is, beside its keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionState {
    pub descriptor: Region,
    /// The caller sets the applied log id and the membership, [`apply`](super::apply()) the rest.
    pub state: ApplyState,
}
