//! The network falls apart in two.

use std::time::Duration;

use super::{Fault, Scene, each};

#[derive(Default)]
pub(super) struct Cut(Vec<String>, Vec<String>);

impl Fault for Cut {
    fn name(&self) -> &'static str {
        "cut"
    }

    fn cuts(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        (self.0, self.1) = scene.sides();
        each(&self.0, &self.1, |one, other| {
            scene.links.cut(scene.sim, one, other);
            scene.links.cut(scene.sim, other, one);
        });
        Some(scene.moment(5_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        each(&self.0, &self.1, |one, other| {
            scene.links.mend(scene.sim, one, other);
            scene.links.mend(scene.sim, other, one);
        });
    }
}
