//! A peer that is buried on a node does not run there: its id is used once. Its node has the tombstone on its disk before it
//! lets go of the peer, and forgets none; who comes after it has a higher id.
//!
//! What a node says that it has buried is believed when it says so, and remembered, for as long as its disk is the same. It
//! says so once that is synced, so that no crash takes it back.

use std::collections::BTreeMap;

use flotilla_server::ids::{PeerId, RegionId};

use super::{Committed, Invariant, Moment, Place};

/// What was seen of the peers of each region on each disk.
#[derive(Default)]
pub(super) struct BuriedStaysGone(BTreeMap<(Place, RegionId), Known>);

#[derive(Default)]
struct Known {
    /// The highest that its node had buried.
    buried: Option<PeerId>,
    /// The highest that has run.
    ran: Option<PeerId>,
}

impl Invariant for BuriedStaysGone {
    fn name(&self) -> &'static str {
        "buried-stays-gone"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        for seen in &moment.peers {
            let known = self.0.entry((seen.place, seen.region)).or_default();
            known.buried = known.buried.max(seen.buried);
            let on_disk = moment.disks.kept_buried(seen.place, seen.region);
            let (region, peer, host) = (seen.region, seen.peer, seen.place.host);
            let broken = |how: String| Err(format!("region {region} on host {host}: {how}"));
            if let Some(buried) = known.buried.filter(|buried| peer <= *buried) {
                return broken(format!("peer {peer} runs, and all up to peer {buried} are buried"));
            }
            for (who, now) in [("its node", seen.buried), ("its disk", on_disk)] {
                if let Some(buried) = known.buried.filter(|buried| now < Some(*buried)) {
                    return broken(format!("{who} has forgotten that peer {buried} is buried"));
                }
            }
            let earlier = known.ran.filter(|ran| *ran != peer);
            if let Some(earlier) = earlier.filter(|earlier| known.buried < Some(*earlier)) {
                return broken(format!("peer {peer} runs, and peer {earlier} was not buried"));
            }
            known.ran = known.ran.max(Some(peer));
        }
        Ok(())
    }
}
