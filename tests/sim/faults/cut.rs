//! The network falls apart in two, and comes together again: all at once, or one link after the other.

use std::time::Duration;

use rand::seq::SliceRandom as _;

use super::{Fault, Scene, each, pick};

#[derive(Default)]
pub(super) struct Cut {
    links: Vec<(String, String)>,
    /// The longest time between two that are mended, in milliseconds.
    one_by_one: Option<u64>,
}

impl Fault for Cut {
    fn name(&self) -> &'static str {
        "cut"
    }

    fn cuts(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let (here, there) = scene.sides();
        each(&here, &there, |one, other| {
            scene.links.cut(scene.sim, one, other);
            scene.links.cut(scene.sim, other, one);
            self.links.push((one.to_owned(), other.to_owned()));
        });
        self.links.shuffle(scene.random);
        self.one_by_one = pick(scene.random, &[None, None, Some(50), Some(1_000)]);
        Some(scene.moment(5_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        while let Some((one, other)) = self.links.pop() {
            scene.links.mend(scene.sim, &one, &other);
            scene.links.mend(scene.sim, &other, &one);
            if let Some(most) = self.one_by_one
                && !self.links.is_empty()
            {
                return Some(scene.moment(most));
            }
        }
        None
    }
}
