//! The network falls apart in two.

use std::time::Duration;

use super::{Fault, Scene};

#[derive(Default)]
pub(super) struct Cut(Vec<String>, Vec<String>);

impl Fault for Cut {
    fn name(&self) -> &'static str {
        "cut"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Duration {
        (self.0, self.1) = scene.sides();
        each(&self.0, &self.1, |one, other| scene.sim.partition(one, other));
        scene.moment(5_000)
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        each(&self.0, &self.1, |one, other| scene.sim.repair(one, other));
    }
}

/// Every pair across.
pub(super) fn each(here: &[String], there: &[String], mut act: impl FnMut(&str, &str)) {
    for one in here {
        for other in there {
            act(one, other);
        }
    }
}
