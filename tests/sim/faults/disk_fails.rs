//! A disk refuses a write or a sync, once. What is there of it afterwards nobody knows.

use std::time::Duration;

use flotilla_server::storage::memory::Fault as Injected;
use rand::RngExt as _;

use super::{Fault, Scene, pick};

pub(super) struct DiskFails;

impl Fault for DiskFails {
    fn name(&self) -> &'static str {
        "disk-fails"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let host = scene.host();
        scene.cluster.hosts[host].is_excused = true;
        let disk = scene.cluster.hosts[host].disk();
        let injected =
            pick(scene.random, &[Injected::WriteLost, Injected::WriteKept, Injected::Sync]);
        let instance = if scene.random.random_bool(0.7) { disk.log } else { disk.data };
        instance.inject(injected);
        scene.marks.hit("a disk failed under its node");
        Some(scene.moment(1_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        for host in &scene.cluster.hosts {
            let disk = host.disk();
            disk.log.forgive();
            disk.data.forgive();
        }
    }
}
