//! A disk is lost whole, and another, empty one is in its place.

use std::time::Duration;

use super::{Fault, Scene};
use crate::marks;

pub(super) struct DiskWiped;

impl Fault for DiskWiped {
    fn name(&self) -> &'static str {
        "disk-wiped"
    }

    fn loses(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let host = scene.host_to_lose()?;
        let until = scene.now() + scene.moment(4_000);
        scene.cluster.kill(scene.sim, host, until);
        scene.cluster.hosts[host].is_excused = true;
        scene.cluster.hosts[host].wipe().ok()?;
        scene.marks.hit(marks::DISK_WIPED);
        Some(scene.moment(2_000))
    }
}
