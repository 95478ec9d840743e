//! In the middle of a change of members the machine that leads it is cut off from all others, and some of those lose their
//! power: whoever leads next has to finish the change, by what its disk has of it.

use std::time::Duration;

use rand::{RngExt as _, seq::IndexedRandom as _};

use super::{Fault, Scene, each};
use crate::marks;

#[derive(Default)]
pub(super) struct ChangeInterrupted(Vec<String>, Vec<String>);

impl Fault for ChangeInterrupted {
    fn name(&self) -> &'static str {
        "change-interrupted"
    }

    fn cuts(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let one = who_changes(scene)?;
        scene.marks.hit(marks::CHANGE_INTERRUPTED);
        self.0 = scene.cluster.hosts[one].names();
        let others: Vec<usize> =
            (0..scene.cluster.hosts.len()).filter(|host| *host != one).collect();
        self.1 = others.iter().flat_map(|host| scene.cluster.hosts[*host].names()).collect();
        each(&self.0, &self.1, |one, other| scene.links.cut_both_ways(scene.sim, one, other));
        for host in others {
            if scene.random.random_bool(0.5) && !scene.cluster.hosts[host].is_down() {
                let until = scene.now() + scene.moment(200);
                scene.cut_power(host, until);
            }
        }
        Some(scene.moment(4_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        each(&self.0, &self.1, |one, other| scene.links.mend_both_ways(scene.sim, one, other));
        None
    }
}

/// Some host that leads a region whose members change; where none does, one that has a peer of such a region.
fn who_changes(scene: &mut Scene<'_, '_>) -> Option<usize> {
    let (mut lead, mut take_part) = (vec![], vec![]);
    for (number, host) in scene.cluster.hosts.iter().enumerate() {
        let mut peers = host.joined().map_or_else(Vec::new, |joined| joined.peers.all());
        peers.retain(|peer| peer.view().with(|now| now.joint));
        if peers.iter().any(|peer| peer.is_leader()) {
            lead.push(number);
        } else if !peers.is_empty() {
            take_part.push(number);
        }
    }
    let from = if lead.is_empty() { take_part } else { lead };
    from.choose(scene.random).copied()
}
