//! Disks take their time: those of all hosts, or of one.

use std::time::Duration;

use rand::RngExt as _;

use super::{Fault, Scene, pick};
use crate::world::CALM_DISK_MICROS_MAX;

/// The hosts whose disks are slow.
#[derive(Default)]
pub(super) struct DiskSlow(Vec<usize>);

impl Fault for DiskSlow {
    fn name(&self) -> &'static str {
        "disk-slow"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let all = scene.random.random_bool(0.5);
        self.0 = if all { (0..scene.cluster.hosts.len()).collect() } else { vec![scene.host()] };
        let micros_max = pick(scene.random, &[20_000, 100_000, 700_000]);
        self.0.iter().for_each(|host| scene.world.slow_disk(*host, micros_max));
        Some(scene.moment(3_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        self.0.iter().for_each(|host| scene.world.slow_disk(*host, CALM_DISK_MICROS_MAX));
    }
}
