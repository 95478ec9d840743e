//! What one region may hold of what all regions of a node share.

/// A region takes at most so many times what it leaves to all others: one that has lost its quorum keeps
/// what it has for long, and others must go on.
const SHARE: usize = 4;

/// Whether a region that holds `held` may have `more` as well, where `left` is what nobody holds. The first
/// that it asks for is always fair.
#[must_use]
pub(crate) fn is_fair(held: usize, more: usize, left: usize) -> bool {
    held == 0 || held + more <= left.saturating_mul(SHARE)
}
