//! Looks after the disk from threads that nothing else can hold up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::Node;
use crate::{
    clock,
    storage::{
        batch::WriteBatch,
        disk::Level,
        engine::{Durability, Engine},
    },
};

const INTERVAL: Duration = Duration::from_secs(1);

/// How often the space is looked at: what is written meanwhile must fit (`storage/disk.rs`).
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Starts the watch of the disk; a node in memory has none.
pub(super) fn start(node: &Arc<Node>) {
    let Some(disk) = node.disk.clone() else { return };
    if let Ok(status) = disk.poll() {
        *node.disk_status.lock() = Some(status);
    }
    let probes = Arc::new(AtomicU64::new(0));
    let began = clock::monotonic();
    let seconds = move || began.elapsed().as_secs();

    let (probed, probe_disk, prober) = (Arc::clone(&probes), Arc::clone(&disk), Arc::clone(node));
    let probing = thread::Builder::new().name("disk-probe".to_owned()).spawn(move || {
        let mut errors = [0; 2];
        loop {
            for (engine, met) in [&prober.log, &prober.data].into_iter().zip(&mut errors) {
                look_after(&prober, engine.as_ref(), met);
            }
            match probe_disk.probe() {
                Ok(_) | Err(crate::storage::engine::Error::Full { .. }) => {}
                Err(error) => return prober.fail(format!("probe the disk: {error}")),
            }
            probed.store(seconds(), Ordering::Release);
            let own = [&prober.log, &prober.data].map(|engine| engine.stats().file_bytes());
            prober.data_bytes.store(own.iter().sum(), Ordering::Relaxed);
            pause(INTERVAL);
        }
    });
    let (watcher, disk_of_relief) = (Arc::clone(node), Arc::clone(&disk));
    let timeout = node.config.disk.probe_timeout.as_secs();
    let watching = thread::Builder::new().name("disk-watch".to_owned()).spawn(move || {
        // It writes nothing itself: a disk that hangs is seen by nobody who waits for it.
        loop {
            match disk.poll() {
                Ok(status) => *watcher.disk_status.lock() = Some(status),
                Err(error) => tracing::warn!(%error, "looking at the disk"),
            }
            let silent = seconds().saturating_sub(probes.load(Ordering::Acquire));
            if silent > timeout.max(1) + 1 {
                watcher.fail(format!("the disk has not answered a write for {silent} s"));
                return;
            }
            pause(LOOK_INTERVAL);
        }
    });
    let (relieved, space) = (Arc::clone(node), disk_of_relief);
    let relieving = thread::Builder::new().name("disk-relief".to_owned()).spawn(move || {
        loop {
            if space.level() != Level::Normal {
                // The log as well: what was purged of it takes space alike.
                relieve(relieved.data.as_ref(), space.available_bytes());
                relieve(relieved.log.as_ref(), space.available_bytes());
            }
            pause(INTERVAL);
        }
    });
    for thread in [probing, watching, relieving] {
        if let Err(error) = thread {
            node.fail(format!("start the watch of the disk: {error}"));
        }
    }
}

/// Tries whether an engine that has met errors in the background still takes writes: one that was mended
/// does, and else nobody would notice before the next write of a client.
fn look_after(node: &Node, engine: &dyn Engine, met: &mut u64) {
    let errors = engine.background_errors();
    if errors == std::mem::replace(met, errors) {
        return;
    }
    tracing::error!(?engine, errors, "the storage has met an error in the background");
    if let Err(error) = engine.write(&WriteBatch::new(), Durability::Buffered) {
        node.fail(format!("write after an error in the background: {error}"));
    }
}

/// On a disk without space nobody writes, and what clients delete would stay in the files.
fn relieve(engine: &dyn Engine, room_bytes: u64) {
    let began = clock::monotonic();
    match engine.relieve(room_bytes) {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!(
                ?engine,
                seconds = began.elapsed().as_secs(),
                "what was deleted is freed"
            )
        }
        Err(error) => tracing::warn!(%error, "freeing what was deleted"),
    }
}

#[expect(clippy::disallowed_methods, reason = "threads of their own, which nothing may hold up")]
fn pause(interval: Duration) {
    thread::sleep(interval);
}
