//! Disks take their time.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{Fault, Scene, pick};
use crate::world::CALM_DISK_MICROS_MAX;

pub(super) struct DiskSlow;

impl Fault for DiskSlow {
    fn name(&self) -> &'static str {
        "disk-slow"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Duration {
        let micros = *pick(scene.random, &[20_000, 100_000, 700_000]);
        scene.world.disk_micros_max.store(micros, Relaxed);
        scene.moment(3_000)
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        scene.world.disk_micros_max.store(CALM_DISK_MICROS_MAX, Relaxed);
    }
}
