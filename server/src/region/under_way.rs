//! Snapshots that come in.

use flotilla_proto::range::KeyRange;
use tokio::time::Instant;

/// A snapshot that is being received or installed.
pub(super) struct UnderWay {
    pub(super) range: KeyRange,
    /// If it is still here then, its install hangs.
    pub(super) hangs_from: Option<Instant>,
}
