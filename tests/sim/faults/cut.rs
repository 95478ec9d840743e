//! The network falls apart in two, and comes together again: all at once, or one link after the other.

use std::time::Duration;

use super::{Fault, Scene, in_parts::InParts};

/// Until the next link is mended.
const PAUSES: &[Option<u64>] = &[None, None, Some(50), Some(1_000)];

#[derive(Default)]
pub(super) struct Cut(InParts);

impl Fault for Cut {
    fn name(&self) -> &'static str {
        "cut"
    }

    fn cuts(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let (here, there) = scene.sides();
        self.0.take(scene, (&here, &there), PAUSES, |scene, one, other| {
            scene.links.cut_both_ways(scene.sim, one, other);
        });
        Some(scene.moment(5_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        self.0.give_back(scene, |scene, one, other| {
            scene.links.mend_both_ways(scene.sim, one, other);
        })
    }
}
