//! One host hears nothing and is not heard for a while, and then gets and sends everything, as a machine that was frozen.
//! (Its own timers go on: turmoil cannot stop one of its hosts.)

use std::time::Duration;

use super::{
    Fault, Scene,
    held::{PAUSES, hold, release},
    in_parts::InParts,
};

#[derive(Default)]
pub(super) struct Frozen(InParts);

impl Fault for Frozen {
    fn name(&self) -> &'static str {
        "frozen"
    }

    fn holds(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let one = scene.leader_or_any();
        let frozen = scene.cluster.hosts[one].names();
        let others = (0..scene.cluster.hosts.len()).filter(|host| *host != one);
        let mut all: Vec<String> =
            others.flat_map(|host| scene.cluster.hosts[host].names()).collect();
        // Clients, too: what they ask a frozen machine waits.
        all.extend(scene.actors.iter().map(|name| (*name).to_owned()));
        self.0.take(scene, (&frozen, &all), PAUSES, hold);
        Some(scene.moment(4_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        self.0.give_back(scene, release)
    }
}
