//! A disk is set back to what it held some seconds ago, as by whoever restores an image of a machine.

use std::time::Duration;

use flotilla_server::node::simulated::Instances;
use rand::RngExt as _;

use super::{Fault, Scene};
use crate::cluster::copy_of;
use crate::marks;

/// The image of some host's disk.
#[derive(Default)]
pub(super) struct DiskSetBack(Option<(usize, Instances)>);

impl Fault for DiskSetBack {
    fn name(&self) -> &'static str {
        "disk-set-back"
    }

    fn loses(&self) -> bool {
        true
    }

    fn prepares(&self) -> bool {
        self.0.is_some()
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let Some((host, image)) = &self.0 else {
            let host = scene.host();
            let image = scene.cluster.hosts[host].image().ok()?;
            self.0 = Some((host, image));
            return Some(scene.moment(4_000));
        };
        if !scene.may_lose(*host) {
            return None;
        }
        let until = scene.now() + scene.moment(1_000);
        scene.cluster.kill(scene.sim, *host, until);
        let mut image = copy_of(image, image.dir.clone());
        let lost = &mut scene.cluster.hosts[*host];
        lost.is_excused = true;
        if scene.random.random_bool(0.5) {
            // The small files beside the instances were not set back, and tell of it.
            image.dir = lost.disk().dir;
        }
        lost.put_disk(image);
        self.0 = None;
        scene.marks.hit(marks::DISK_SET_BACK);
        Some(scene.moment(2_000))
    }
}
