//! What one side says is lost; it hears the other all the same.

use std::time::Duration;

use super::{Fault, Scene, each};

#[derive(Default)]
pub(super) struct CutOneWay(Vec<String>, Vec<String>);

impl Fault for CutOneWay {
    fn name(&self) -> &'static str {
        "cut-one-way"
    }

    fn cuts(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        (self.0, self.1) = scene.sides();
        each(&self.0, &self.1, |from, to| scene.links.cut(scene.sim, from, to));
        Some(scene.moment(5_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        each(&self.0, &self.1, |from, to| scene.links.mend(scene.sim, from, to));
        None
    }
}
