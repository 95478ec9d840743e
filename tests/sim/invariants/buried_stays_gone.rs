//! A peer that is buried on a node does not run there: its id is used once. Its node has noted the tombstone before it lets
//! go of the peer, and forgets none.

use super::{Committed, Invariant, Moment};

pub(super) struct BuriedStaysGone;

impl Invariant for BuriedStaysGone {
    fn name(&self) -> &'static str {
        "buried-stays-gone"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        for seen in &moment.peers {
            if let Some(buried) = seen.buried.filter(|buried| seen.peer <= *buried) {
                return Err(format!(
                    "region {}: peer {} runs on host {}, where all up to peer {buried} are buried",
                    seen.region, seen.peer, seen.place.host
                ));
            }
        }
        Ok(())
    }
}
