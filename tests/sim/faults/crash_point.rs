//! A node dies, with the power of its machine, at a line that what is on its disk depends on.

use std::time::Duration;

use rand::{RngExt as _, seq::IndexedRandom as _};

use super::{Fault, Scene};
use crate::{marks, world::Dead};

/// Lines (`crash_point!` in the server) of what is made once.
const OF_A_BIRTH: &[&str] = &[
    "birth-before-promises",
    "birth-before-decision",
    "birth-after-decision",
    "birth-between",
    "birth-untold",
    "promise-before-write",
    "promise-after-write",
    "adopt-before-write",
    "adopt-after-write",
];

/// Lines that are passed all the time, or by whoever joins.
const OF_A_LIFE: &[&str] = &[
    "apply-before-write",
    "apply-after-write",
    "log-before-write",
    "log-after-write",
    "log-before-purge",
    "join-before-adopt",
    "join-after-adopt",
    "adopt-before-write",
    "adopt-after-write",
];

/// Lines of an install, each of which is passed seldom.
const OF_AN_INSTALL: &[&str] = &[
    "snapshot-before-record",
    "snapshot-before-settle",
    "snapshot-after-record",
    "snapshot-after-replace",
    "snapshot-after-replace-own",
    "snapshot-after-state",
];

pub(super) struct CrashPoint;

impl Fault for CrashPoint {
    fn name(&self) -> &'static str {
        "crash-point"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let is_born = scene.cluster.hosts.iter().any(|host| host.joined().is_some());
        let (lines, after_max) = match scene.random.random_range(0..10) {
            _ if !is_born => (OF_A_BIRTH, 0),
            0..4 => (OF_A_LIFE, 2),
            _ => (OF_AN_INSTALL, 0),
        };
        let line = lines.choose(scene.random).copied()?;
        let after = scene.random.random_range(0..=after_max);
        scene.world.arm(line, after, scene.random.random());
        Some(scene.moment(3_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        scene.world.disarm();
        None
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
    scene.marks.hit_if(marks::DIED_INSTALLING, OF_AN_INSTALL.contains(&line));
    let until = scene.now() + scene.moment(1_000);
    scene.silence(host);
    scene.cluster.end(scene.sim, host, until, log, data);
    scene.cluster.hosts[host].put_files(&files).expect("a temporary folder");
}
