//! Terms that no two elections share.
//!
//! Raft names a term by a number, and has one leader in it because no voter votes twice in one. A voter whose
//! disk is set back has forgotten that it did: two peers, or one peer twice, could then lead in the same term,
//! each with entries of its own at the same indexes. To Raft these are the same entries, as it compares terms and
//! indexes alone, and the replicas would differ for ever without a word.
//!
//! So whoever stands for election draws a part of the term's name. To Raft a term is a number as ever, of
//! which only the order counts; two elections after the same term have different ones, of which one is the
//! later. What was committed in the one and is missing in the other is then noticed wherever logs are compared
//! (`reversion.rs`, [`super::reversion::contradicts`]).

use std::fmt;

use openraft::vote::RaftTerm;

use crate::world::clock;

/// Bits that are drawn. Two elections share a term once in 16 million times that they could, which takes a disk
/// that was set back while another node is away; the bits above count for 30 years at a thousand elections a second.
const DRAWN_BITS: u32 = 24;

/// The count of elections above, the draw of this one below; shown as one number, which names it everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub u64);

impl Term {
    fn count(self) -> u64 {
        self.0 >> DRAWN_BITS
    }

    fn after(self, random: u64) -> Self {
        let next = (self.count() + 1) << DRAWN_BITS;
        Self(next | (random >> (u64::BITS - DRAWN_BITS)))
    }
}

impl From<u64> for Term {
    fn from(term: u64) -> Self {
        Self(term)
    }
}

impl RaftTerm for Term {
    fn next(&self) -> Self {
        // Who has heard of no term has no vote to forget, and openraft's suite makes its terms so.
        self.after(if self.0 == 0 { 0 } else { clock::random() })
    }

    fn as_u64(&self) -> Option<u64> {
        Some(self.0)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn elections_after_one_term_are_of_different_later_ones() {
        let before = Term(1).next();
        let after: BTreeSet<Term> = (0..100).map(|_| before.next()).collect();
        assert!(after.len() > 90, "{after:?}");
        assert!(after.iter().all(|after| *after > before && after.count() == 2), "{after:?}");
        for random in [0, u64::MAX] {
            assert_eq!(before.after(random).count(), 2);
            assert!(before.after(random) > before);
        }
    }
}
