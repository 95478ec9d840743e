//! Messages take long, and overtake each other on their way.

use std::time::Duration;

use super::{Fault, Scene, pick};
use crate::world::CALM_LATENCY_MAX;

pub(super) struct LinksSlow;

impl Fault for LinksSlow {
    fn name(&self) -> &'static str {
        "links-slow"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let most = pick(scene.random, &[20, 100, 400]);
        scene.sim.set_max_message_latency(Duration::from_millis(most));
        Some(scene.moment(3_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        scene.sim.set_max_message_latency(CALM_LATENCY_MAX);
    }
}
