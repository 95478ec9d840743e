//! A machine ends, and comes back at another address with its disk.

use std::time::Duration;

use super::{Fault, Scene};
use crate::{cluster::Host, health, marks};

pub(super) struct Moved;

impl Fault for Moved {
    fn name(&self) -> &'static str {
        "moved"
    }

    fn moves_hosts(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        // Of two that have moved at once neither finds the other, unless a third one that both find knows of them; and until
        // all is at rest nobody may have found the last one yet, which may have come back.
        if !health::at_rest(scene.cluster) {
            return None;
        }
        let away = scene.cluster.hosts.iter().position(Host::is_away);
        let host = away.unwrap_or_else(|| scene.host());
        // Whoever is of no cluster yet is found by its address alone.
        scene.cluster.hosts[host].joined()?;
        let until = scene.now() + scene.moment(1_500);
        scene.cluster.kill(scene.sim, host, until);
        scene.cluster.move_away(host);
        scene.marks.hit(marks::NODE_MOVED);
        Some(Duration::from_secs(1) + scene.moment(4_000))
    }
}
