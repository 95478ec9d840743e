//! The power of all machines fails at once.

use std::time::Duration;

use rand::RngExt as _;

use super::{Fault, Scene};

pub(super) struct ClusterCrash;

impl Fault for ClusterCrash {
    fn name(&self) -> &'static str {
        "cluster-crash"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Duration {
        for host in 0..scene.cluster.hosts.len() {
            let until = scene.now() + scene.moment(1_500);
            if !scene.cluster.hosts[host].is_down() {
                let random = &mut *scene.random;
                scene.cluster.crash(scene.sim, host, until, |steps| random.random_range(0..=steps));
            }
        }
        // It is seldom, or nothing else would happen.
        Duration::from_secs(5) + scene.moment(5_000)
    }
}
