//! Tasks stand still between what they have seen and what they do, as if their thread was not given a core, and everything
//! else goes on. (What is slow by its disk or its links stands where it waits for those.)

use std::time::Duration;

use rand::RngExt as _;

use super::{Fault, Scene, pick};

pub(super) struct Lingers;

impl Fault for Lingers {
    fn name(&self) -> &'static str {
        "lingers"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let lasts_max = Duration::from_millis(pick(scene.random, &[500, 3_000, 10_000]));
        scene.world.linger(lasts_max, scene.random.random());
        Some(scene.moment(6_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        scene.world.hurry();
        None
    }
}
