//! A node dies, of a signal or with the power of its machine, and comes back.

use std::time::Duration;

use rand::RngExt as _;

use super::{Fault, Scene};

pub(super) struct Crash;

impl Fault for Crash {
    fn name(&self) -> &'static str {
        "crash"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let host = scene.host();
        let until = scene.now() + scene.moment(3_000);
        if scene.cluster.hosts[host].is_down() {
            return None;
        }
        if scene.random.random_bool(0.5) {
            scene.cut_power(host, until);
        } else {
            scene.cluster.kill(scene.sim, host, until);
        }
        Some(scene.moment(500))
    }
}
