//! The disk of a host, or those of all, is nearly full by what somebody else writes there: it is low, or critical. Then there
//! is room again.

use std::time::Duration;

use rand::RngExt as _;

use super::{Fault, Scene, pick};
use crate::{cluster, world::PLENTY_BYTES};

/// The hosts whose disks are full.
#[derive(Default)]
pub(super) struct DiskFull(Vec<usize>);

impl Fault for DiskFull {
    fn name(&self) -> &'static str {
        "disk-full"
    }

    fn fills_disks(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let all = scene.random.random_bool(0.2);
        self.0 = if all { (0..scene.cluster.hosts.len()).collect() } else { vec![scene.host()] };
        for host in &self.0 {
            let free = pick(scene.random, &[cluster::LOW_BYTES, cluster::CRITICAL_BYTES]);
            scene.world.leave_free(*host, free - 1);
        }
        Some(scene.moment(5_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        self.0.iter().for_each(|host| scene.world.leave_free(*host, PLENTY_BYTES));
        None
    }
}
