//! A peer's term never falls back, over crashes too: it may have voted in it (Raft, section 5.1).
//!
//! Except on a disk that was set back, wiped or damaged, where a promise may be gone.

use std::collections::BTreeMap;

use flotilla_server::ids::PeerId;

use super::{Committed, Invariant, Moment, Place};

/// The newest term of each peer, by its host and the life of its disk.
#[derive(Default)]
pub(super) struct TermsGrow(BTreeMap<(Place, PeerId), u64>);

impl Invariant for TermsGrow {
    fn name(&self) -> &'static str {
        "terms-grow"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        for seen in &moment.peers {
            let newest = self.0.entry((seen.place, seen.peer)).or_default();
            if seen.status.term < *newest {
                return Err(format!(
                    "region {}: peer {} is in term {}, and was in term {newest}",
                    seen.region, seen.peer, seen.status.term
                ));
            }
            *newest = seen.status.term;
        }
        Ok(())
    }
}
