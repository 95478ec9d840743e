//! What is sent between two sides arrives at once, much later.

use std::time::Duration;

use super::{Fault, Scene, each};

#[derive(Default)]
pub(super) struct Held(Vec<String>, Vec<String>);

impl Fault for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn holds(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        (self.0, self.1) = scene.sides();
        each(&self.0, &self.1, |one, other| scene.links.hold(scene.sim, one, other));
        Some(scene.moment(3_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        each(&self.0, &self.1, |one, other| scene.links.release(scene.sim, one, other));
    }
}
