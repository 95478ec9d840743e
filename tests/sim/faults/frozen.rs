//! One host hears nothing and is not heard for a while, and then gets and sends everything at once, as a machine that was
//! frozen. (Its own timers go on: turmoil cannot stop one of its hosts.)

use std::time::Duration;

use super::{Fault, Scene, each};

#[derive(Default)]
pub(super) struct Frozen(Vec<String>, Vec<String>);

impl Fault for Frozen {
    fn name(&self) -> &'static str {
        "frozen"
    }

    fn holds(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let one = scene.leader_or_any();
        self.0 = scene.cluster.hosts[one].names();
        let others = (0..scene.cluster.hosts.len()).filter(|host| *host != one);
        self.1 = others.flat_map(|host| scene.cluster.hosts[host].names()).collect();
        // Clients, too: what they ask a frozen machine waits.
        self.1.extend(scene.actors.iter().map(|name| (*name).to_owned()));
        each(&self.0, &self.1, |one, other| scene.links.hold(scene.sim, one, other));
        Some(scene.moment(4_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        each(&self.0, &self.1, |one, other| scene.links.release(scene.sim, one, other));
    }
}
