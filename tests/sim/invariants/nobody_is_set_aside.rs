//! No peer is in quarantine, and none is contradicted by its leader, while no disk was damaged: each says that something
//! was lost.

use super::{Committed, Invariant, Moment};

pub(super) struct NobodyIsSetAside;

impl Invariant for NobodyIsSetAside {
    fn name(&self) -> &'static str {
        "nobody-is-set-aside"
    }

    fn check(&mut self, moment: &Moment<'_>, _: &Committed) -> Result<(), String> {
        // Whoever is damaged can make others look so.
        if moment.anybody_was_damaged() {
            return Ok(());
        }
        for host in &moment.cluster.hosts {
            let Some(joined) = host.joined() else { continue };
            let peers = &joined.peers;
            let aside = peers.quarantined().into_iter().chain(peers.contradicted()).next();
            if let Some((region, peer, reason)) = aside {
                return Err(format!("region {region}: peer {peer} on {}: {reason}", host.name()));
            }
        }
        Ok(())
    }
}
