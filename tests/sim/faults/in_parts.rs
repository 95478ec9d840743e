//! Links that a fault takes together, and gives back all at once or one after the other.

use std::time::Duration;

use rand::seq::SliceRandom as _;

use super::{Scene, each, pick};

/// What is done to a link, by its ends.
type Deed = fn(&mut Scene<'_, '_>, &str, &str);

#[derive(Default)]
pub(super) struct InParts {
    links: Vec<(String, String)>,
    /// The longest time between two that are given back, in milliseconds. `None`: all are at once.
    pause_max: Option<u64>,
}

impl InParts {
    /// Takes every link between two sides, and draws the pauses.
    pub(super) fn take(
        &mut self,
        scene: &mut Scene<'_, '_>,
        (here, there): (&[String], &[String]),
        pauses: &[Option<u64>],
        take: Deed,
    ) {
        each(here, there, |one, other| {
            take(scene, one, other);
            self.links.push((one.to_owned(), other.to_owned()));
        });
        self.links.shuffle(scene.random);
        self.pause_max = pick(scene.random, pauses);
    }

    /// Gives them back; when it is to be asked again, for those that are left.
    pub(super) fn give_back(
        &mut self,
        scene: &mut Scene<'_, '_>,
        give_back: Deed,
    ) -> Option<Duration> {
        while let Some((one, other)) = self.links.pop() {
            give_back(scene, &one, &other);
            let is_more = !self.links.is_empty();
            if let Some(most) = self.pause_max.filter(|_| is_more) {
                return Some(scene.moment(most));
            }
        }
        None
    }
}
