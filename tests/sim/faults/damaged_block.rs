//! A block of what a host has applied cannot be read: some rows of clients, or of what the host itself knows of its regions.
//! Whoever needs them is told so and nothing else. In the end the disk is put right, under its node or for its next start.

use std::time::Duration;

use flotilla_server::storage::batch::Family;
use rand::RngExt as _;

use super::{Fault, Scene};
use crate::marks;

/// Bound: rows of a block.
const ROWS_MAX: usize = 100;

/// The host that has it.
#[derive(Default)]
pub(super) struct DamagedBlock(Option<usize>);

impl Fault for DamagedBlock {
    fn name(&self) -> &'static str {
        "damaged-block"
    }

    fn loses(&self) -> bool {
        true
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let host = scene.host();
        if !scene.may_lose_data(host) {
            return None;
        }
        let of_clients = scene.random.random_bool(0.6);
        let family = if of_clients { Family::Default } else { Family::Meta };
        let rows = scene.random.random_range(1..=ROWS_MAX);
        let data = scene.cluster.hosts[host].disk().data;
        // Where what clients fight over now lies, or anywhere.
        let at_the_end = scene.random.random_bool(0.5);
        let first = |of: usize| match at_the_end {
            true => of.saturating_sub(rows),
            false => scene.random.random_range(0..of),
        };
        if !data.damage(family, rows, first) {
            return None;
        }
        scene.cluster.hosts[host].is_excused = true;
        scene.marks.hit(marks::BLOCK_DAMAGED);
        self.0 = Some(host);
        Some(scene.moment(6_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let host = self.0.take()?;
        if !scene.cluster.hosts[host].is_down() && scene.random.random_bool(0.5) {
            let until = scene.now() + scene.moment(500);
            scene.cluster.kill(scene.sim, host, until);
        }
        scene.cluster.hosts[host].disk().data.mend();
        None
    }
}
