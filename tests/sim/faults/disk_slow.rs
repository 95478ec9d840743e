//! Disks take their time: those of all hosts, or of one; for everything, or now and then, so that what was begun later is
//! done sooner.

use std::time::Duration;

use rand::RngExt as _;

use super::{Fault, Scene, pick};
use crate::world::DiskPace;

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
        let pace = DiskPace {
            micros_max: pick(scene.random, &[20_000, 100_000, 700_000]),
            one_in: pick(scene.random, &[1, 1, 4, 16]),
        };
        self.0.iter().for_each(|host| scene.world.pace_disk(*host, pace));
        Some(scene.moment(3_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        self.0.iter().for_each(|host| scene.world.pace_disk(*host, DiskPace::CALM));
        None
    }
}
