//! The power of all machines fails at once.

use std::time::Duration;

use super::{Fault, Scene};

pub(super) struct ClusterCrash;

impl Fault for ClusterCrash {
    fn name(&self) -> &'static str {
        "cluster-crash"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        for host in 0..scene.cluster.hosts.len() {
            let until = scene.now() + scene.moment(1_500);
            if !scene.cluster.hosts[host].is_down() {
                scene.cut_power(host, until);
            }
        }
        // It is seldom, or nothing else would happen.
        Some(Duration::from_secs(5) + scene.moment(5_000))
    }
}
