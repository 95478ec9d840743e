//! What applying made falls back to an earlier moment, or to nothing. The log has it all, or the peer is of no use any more.

use std::{sync::Arc, time::Duration};

use flotilla_server::storage::memory::MemoryEngine;
use rand::RngExt as _;

use super::{Fault, Scene};
use crate::marks;

/// What some host's `data` was.
#[derive(Default)]
pub(super) struct DataSetBack(Option<(usize, u32, Arc<MemoryEngine>)>);

impl Fault for DataSetBack {
    fn name(&self) -> &'static str {
        "data-set-back"
    }

    fn loses(&self) -> bool {
        true
    }

    fn prepares(&self) -> bool {
        self.0.is_some()
    }

    fn strike(&mut self, scene: &mut Scene<'_, '_>) -> Option<Duration> {
        let Some((host, life, data)) = &self.0 else {
            let number = scene.host();
            let host = &scene.cluster.hosts[number];
            let data = host.disk().data;
            // Somebody may have removed it, too.
            let all_of_it = scene.random.random_bool(0.3);
            let then = if all_of_it { MemoryEngine::new() } else { data.crash(data.unsynced()) };
            // Of what is damaged nobody has a copy: it is as it was.
            then.mend();
            self.0 = Some((number, host.disk_lives, then));
            return Some(scene.moment(3_000));
        };
        if scene.cluster.hosts[*host].disk_lives != *life {
            // It is of a disk that is gone.
            self.0 = None;
            return None;
        }
        if !scene.may_lose_data(*host) {
            return None;
        }
        let until = scene.now() + scene.moment(500);
        scene.cluster.kill(scene.sim, *host, until);
        scene.cluster.hosts[*host].is_excused = true;
        scene.cluster.hosts[*host].put_data(data.crash(0));
        self.0 = None;
        scene.marks.hit(marks::DATA_FELL_BACK);
        Some(scene.moment(2_000))
    }
}
