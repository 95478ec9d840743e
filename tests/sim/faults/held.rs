//! What is sent between two sides arrives much later: all at once, or on one link after the other.

use std::time::Duration;

use rand::seq::SliceRandom as _;

use super::{Fault, Scene, each, pick};

#[derive(Default)]
pub(super) struct Held(HeldLinks);

impl Fault for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn holds(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let (here, there) = scene.sides();
        self.0.hold(scene, &here, &there);
        Some(scene.moment(3_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        self.0.release(scene)
    }
}

/// Links that are held by one fault.
#[derive(Default)]
pub(super) struct HeldLinks {
    links: Vec<(String, String)>,
    /// They are released one after the other.
    one_by_one: bool,
}

impl HeldLinks {
    /// Holds every link between two sides.
    pub(super) fn hold(&mut self, scene: &mut Scene<'_, '_>, here: &[String], there: &[String]) {
        each(here, there, |one, other| {
            scene.links.hold(scene.sim, one, other);
            self.links.push((one.to_owned(), other.to_owned()));
        });
        self.links.shuffle(scene.random);
        self.one_by_one = pick(scene.random, &[true, false]);
    }

    /// Releases them; when it is to be asked again, for those that are left.
    pub(super) fn release(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        while let Some((one, other)) = self.links.pop() {
            scene.links.release(scene.sim, &one, &other);
            if self.one_by_one && !self.links.is_empty() {
                return Some(scene.moment(40));
            }
        }
        None
    }
}
