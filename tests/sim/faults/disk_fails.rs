//! A disk refuses a write or a sync, once. What is there of it afterwards nobody knows.

use std::{sync::Arc, time::Duration};

use flotilla_server::storage::memory::{Fault as Injected, MemoryEngine};
use rand::RngExt as _;

use super::{Fault, Scene, pick};
use crate::marks;

/// What is to fail.
#[derive(Default)]
pub(super) struct DiskFails(Option<Arc<MemoryEngine>>);

impl Fault for DiskFails {
    fn name(&self) -> &'static str {
        "disk-fails"
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let host = scene.host();
        let disk = scene.cluster.hosts[host].disk();
        let injected = pick(
            scene.random,
            &[Injected::WriteLost, Injected::WriteKept, Injected::Sync, Injected::Replace],
        );
        let of_data = injected == Injected::Replace || scene.random.random_bool(0.3);
        let engine = if of_data { disk.data } else { disk.log };
        engine.inject(injected);
        self.0 = Some(engine);
        Some(scene.moment(1_000))
    }

    fn heal(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let engine = self.0.take()?;
        let has_failed = !engine.forgive();
        scene.marks.hit_if(marks::DISK_FAILED, has_failed);
        None
    }
}
