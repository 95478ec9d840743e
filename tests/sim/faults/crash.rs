//! A node dies, of a signal or with the power of its machine, and comes back.

use std::time::Duration;

use rand::RngExt as _;

use super::{Fault, Scene};

pub(super) struct Crash;

impl Fault for Crash {
    fn name(&self) -> &'static str {
        "crash"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Duration {
        let host = scene.host();
        let until = scene.now() + scene.moment(3_000);
        if !scene.cluster.hosts[host].is_down() {
            let with_power = scene.random.random_bool(0.5);
            let (random, marks) = (&mut *scene.random, &mut *scene.marks);
            scene.cluster.crash(scene.sim, host, until, |steps| {
                let kept = if with_power { random.random_range(0..=steps) } else { steps };
                marks.hit_if("a power cut lost what was not synced", kept < steps);
                kept
            });
        }
        scene.moment(500)
    }
}
