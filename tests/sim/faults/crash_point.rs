//! A node dies, with the power of its machine, at a line that what is on its disk depends on.

use std::time::Duration;

use rand::{RngExt as _, seq::IndexedRandom as _};

use super::{Fault, Scene};
use crate::{marks, world::Dead};

/// The lines (`crash_point!` in the server). Those of an install are here more often: it is seldom that one is passed.
const LINES: &[&str] = &[
    "apply-before-write",
    "apply-after-write",
    "log-before-write",
    "log-after-write",
    "log-before-purge",
    "snapshot-before-record",
    "snapshot-after-record",
    "snapshot-after-replace",
    "snapshot-after-state",
    "snapshot-after-record",
    "snapshot-after-replace",
    "birth-before-promises",
    "birth-before-decision",
    "birth-after-decision",
    "birth-between",
    "birth-untold",
    "promise-before-write",
    "promise-after-write",
    "adopt-before-write",
    "adopt-after-write",
    "join-before-adopt",
    "join-after-adopt",
];

pub(super) struct CrashPoint;

impl Fault for CrashPoint {
    fn name(&self) -> &'static str {
        "crash-point"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let line = LINES.choose(scene.random).copied()?;
        // Whichever node comes by first.
        let after = scene.random.random_range(0..3);
        scene.world.arm(line, after, scene.random.random());
        Some(scene.moment(4_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) {
        scene.world.disarm();
    }
}

/// Takes down whoever has died at a line in the last step.
pub(super) fn take_down(scene: &mut Scene<'_, '_>) {
    let Some(Dead { host, line, log, data, files }) = scene.world.who_died() else { return };
    if scene.cluster.hosts[host].is_down() {
        return;
    }
    tracing::info!("host {host} has died at {line}");
    scene.marks.hit(marks::DIED_AT_A_LINE);
    scene.marks.hit_if(marks::DIED_INSTALLING, line.starts_with("snapshot-after"));
    let until = scene.now() + scene.moment(1_000);
    scene.silence(host);
    scene.cluster.end(scene.sim, host, until, log, data);
    scene.cluster.hosts[host].put_files(&files).expect("a temporary folder");
}
