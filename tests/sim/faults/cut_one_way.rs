//! What one side says is lost; it hears the other all the same.

use std::time::Duration;

use super::{Fault, Scene, cut::each};

#[derive(Default)]
pub(super) struct CutOneWay(Vec<String>, Vec<String>);

impl Fault for CutOneWay {
    fn name(&self) -> &'static str {
        "cut-one-way"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Duration {
        (self.0, self.1) = scene.sides();
        each(&self.0, &self.1, |from, to| scene.sim.partition_oneway(from, to));
        scene.moment(5_000)
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        each(&self.0, &self.1, |from, to| scene.sim.repair_oneway(from, to));
    }
}
