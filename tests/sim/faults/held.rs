//! What is sent between two sides arrives much later: all at once, or on one link after the other.

use std::time::Duration;

use super::{Fault, Scene, in_parts::InParts};

/// Until the next link is released.
pub(super) const PAUSES: &[Option<u64>] = &[Some(40), None];

#[derive(Default)]
pub(super) struct Held(InParts);

impl Fault for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn holds(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let (here, there) = scene.sides();
        self.0.take(scene, (&here, &there), PAUSES, hold);
        Some(scene.moment(3_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        self.0.give_back(scene, release)
    }
}

pub(super) fn hold(scene: &mut Scene<'_, '_>, one: &str, other: &str) {
    scene.links.hold(scene.sim, one, other);
}

pub(super) fn release(scene: &mut Scene<'_, '_>, one: &str, other: &str) {
    scene.links.release(scene.sim, one, other);
}
