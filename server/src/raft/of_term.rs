//! What a leader knows of its followers, for as long as it leads.

use std::collections::BTreeMap;

use crate::ids::PeerId;

/// Bound: of one term, so that there are no more than the region has had members in it.
pub(super) struct OfTerm<T> {
    pub(super) term: u64,
    pub(super) followers: BTreeMap<PeerId, T>,
}

impl<T> Default for OfTerm<T> {
    fn default() -> Self {
        Self { term: 0, followers: BTreeMap::new() }
    }
}

impl<T> OfTerm<T> {
    /// What is known in `term`; `None` when that is past.
    pub(super) fn of(&mut self, term: u64) -> Option<&mut BTreeMap<PeerId, T>> {
        if term > self.term {
            *self = Self { term, followers: BTreeMap::new() };
        }
        (term == self.term).then_some(&mut self.followers)
    }
}
