//! The wall clocks of all machines jump, forward or back.

use std::time::{Duration, UNIX_EPOCH};

use rand::RngExt as _;

use super::{Fault, Scene};

pub(super) struct WallJump;

impl Fault for WallJump {
    fn name(&self) -> &'static str {
        "wall-jump"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let to = scene.random.random_range(0..4_000_000_000);
        scene.simulation.jump(UNIX_EPOCH + Duration::from_secs(to));
        Some(scene.moment(4_000))
    }
}
