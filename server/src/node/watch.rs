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
    storage::{
        batch::WriteBatch,
        disk::{DiskMonitor, Level},
        engine::{Durability, Engine},
    },
    world::clock,
};

const INTERVAL: Duration = Duration::from_secs(1);

/// How often the space is looked at: what is written meanwhile must fit (`storage/disk.rs`).
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Starts the watch of the disk; a node in memory has none.
pub(super) fn start(node: &Arc<Node>) {
    let Some(disk) = node.disk.clone() else { return };
    look(node, &disk);
    let probes = Arc::new(AtomicU64::new(0));
    let began = clock::monotonic();
    let millis = move || u64::try_from(clock::since(began).as_millis()).unwrap_or(u64::MAX);

    let (probed, probe_disk, prober) = (Arc::clone(&probes), Arc::clone(&disk), Arc::clone(node));
    let probing = thread::Builder::new().name("disk-probe".to_owned()).spawn(move || {
        let mut errors = [0; 2];
        loop {
            let storages = [("log", &prober.log), ("data", &prober.data)];
            for ((storage, engine), met) in storages.into_iter().zip(&mut errors) {
                look_after(&prober, storage, engine.as_ref(), met);
            }
            match probe_disk.probe() {
                Ok(_) | Err(crate::storage::engine::Error::Full { .. }) => {}
                Err(error) => return prober.fail(format!("probe the disk: {error}")),
            }
            probed.store(millis(), Ordering::Release);
            let own = [&prober.log, &prober.data].map(|engine| engine.stats().file_bytes());
            prober.data_bytes.store(own.iter().sum(), Ordering::Relaxed);
            pause(INTERVAL);
        }
    });
    let (watcher, disk_of_relief) = (Arc::clone(node), Arc::clone(&disk));
    // One second beyond it, in which no probe is under way.
    let timeout = node.config.disk.probe_timeout.max(Duration::from_secs(1)) + INTERVAL;
    let watching = thread::Builder::new().name("disk-watch".to_owned()).spawn(move || {
        // It writes nothing itself: a disk that hangs is seen by nobody who waits for it.
        let mut silence = Silence::default();
        loop {
            look(&watcher, &disk);
            let probed = Duration::from_millis(probes.load(Ordering::Acquire));
            let silent = silence.look(Duration::from_millis(millis()), probed);
            if silent > timeout {
                let seconds = silent.as_secs();
                watcher.fail(format!("the disk has not answered a write for {seconds} s"));
                return;
            }
            let slept = clock::monotonic();
            pause(LOOK_INTERVAL);
            silence.slept(clock::since(slept));
        }
    });
    let (relieved, space) = (Arc::clone(node), disk_of_relief);
    let relieving = thread::Builder::new().name("disk-relief".to_owned()).spawn(move || {
        let mut freeing = [Freeing::default(), Freeing::default()];
        loop {
            // The log as well: what was purged of it takes space alike.
            let storages = [("data", &relieved.data), ("log", &relieved.log)];
            for ((storage, engine), freeing) in storages.into_iter().zip(&mut freeing) {
                if space.level() != Level::Normal {
                    let room_bytes = space.available_bytes();
                    relieve(storage, engine.as_ref(), room_bytes, began, freeing);
                }
                if freeing.is_under_way()
                    && let Some(freed) =
                        freeing.look(clock::since(began), engine.stats().file_bytes())
                {
                    freed.tell(storage);
                }
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

/// The watch of the space alone, of a simulated disk: such a node has no threads, and its disk fails in words.
pub(super) fn start_simulated(node: &Arc<Node>) {
    let Some(disk) = node.disk.clone() else { return };
    look(node, &disk);
    let watcher = Arc::downgrade(node);
    node.runtime.spawn(async move {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(node) = watcher.upgrade() else { return };
            look(&node, &disk);
        }
    });
}

/// Looks how much space there is.
fn look(node: &Node, disk: &DiskMonitor) {
    match disk.poll() {
        Ok(status) => *node.disk_status.lock() = Some(status),
        Err(error) => tracing::warn!(%error, "looking at the disk"),
    }
}

/// How long the disk has answered nothing, as far as this process could have noticed: while it is paused, by a
/// signal, a debugger or its container, nobody waits for the disk.
#[derive(Debug, Default)]
struct Silence {
    /// The newest probe that was answered.
    probed: Duration,
    /// What the watcher slept longer than it meant to, since then.
    paused: Duration,
}

impl Silence {
    /// The watcher has slept for so long where it meant to for [`LOOK_INTERVAL`].
    fn slept(&mut self, slept: Duration) {
        // What is left of it counts, so that a machine on which every sleep is long hides no disk.
        self.paused += slept.saturating_sub(LOOK_INTERVAL);
    }

    /// `now` and `probed` since the watch began.
    fn look(&mut self, now: Duration, probed: Duration) -> Duration {
        if self.probed != probed {
            *self = Self { probed, paused: Duration::ZERO };
        }
        now.saturating_sub(probed).saturating_sub(self.paused)
    }
}

/// Tries whether an engine that has met errors in the background still takes writes: one that was mended
/// does, and else nobody would notice before the next write of a client.
fn look_after(node: &Node, storage: &str, engine: &dyn Engine, met: &mut u64) {
    let errors = engine.background_errors();
    if errors == std::mem::replace(met, errors) {
        return;
    }
    tracing::error!(storage, errors, "the storage has met an error in the background");
    if let Err(error) = engine.write(&WriteBatch::new(), Durability::Buffered) {
        node.fail(format!("write the {storage} after an error in the background: {error}"));
    }
}

/// Less is what a node removes in the course of its work: nobody deleted anything.
const FREED_TOLD_BYTES: u64 = 1 << 20;

/// So many looks in a row have seen no less: RocksDB chooses by itself which files it rewrites, and when, and what they
/// take is gone with the last reader of each.
const SETTLED_LOOKS: u32 = 5;

/// What an instance takes while what was deleted is freed, until that has come to rest.
#[derive(Debug, Default)]
struct Freeing {
    /// Since when, and what it took then.
    began: Option<(Duration, u64)>,
    /// The least that it took since, and when that was seen.
    least: (Duration, u64),
    looks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Freed {
    bytes: u64,
    took: Duration,
}

impl Freeing {
    fn is_under_way(&self) -> bool {
        self.began.is_some()
    }

    /// More is to be freed from now on.
    fn begin(&mut self, now: Duration, bytes: u64) {
        self.looks = 0;
        if self.began.is_none() {
            (self.began, self.least) = (Some((now, bytes)), (now, bytes));
        }
    }

    /// What was freed, once it takes no less any more. `now` is as of the look.
    fn look(&mut self, now: Duration, bytes: u64) -> Option<Freed> {
        let (began, before) = self.began?;
        if bytes < self.least.1 {
            (self.least, self.looks) = ((now, bytes), 0);
            return None;
        }
        self.looks += 1;
        if self.looks < SETTLED_LOOKS {
            return None;
        }
        self.began = None;
        let (settled, least) = self.least;
        Some(Freed { bytes: before - least, took: settled.saturating_sub(began) })
    }
}

impl Freed {
    fn tell(self, storage: &str) {
        let (freed_bytes, seconds) = (self.bytes, self.took.as_secs());
        if freed_bytes >= FREED_TOLD_BYTES {
            tracing::info!(storage, freed_bytes, seconds, "what was deleted is freed");
        } else {
            tracing::debug!(storage, freed_bytes, seconds, "little was deleted to be freed");
        }
    }
}

/// On a disk without space nobody writes, and what clients delete would stay in the files. `began` is when the watch did.
fn relieve(
    storage: &str,
    engine: &dyn Engine,
    room_bytes: u64,
    began: std::time::Instant,
    freeing: &mut Freeing,
) {
    let (now, before) = (clock::since(began), engine.stats().file_bytes());
    match engine.relieve(room_bytes) {
        Ok(false) => {}
        Ok(true) => freeing.begin(now, before),
        Err(error) => tracing::warn!(storage, %error, "freeing what was deleted"),
    }
}

#[expect(clippy::disallowed_methods, reason = "threads of their own, which nothing may hold up")]
fn pause(interval: Duration) {
    thread::sleep(interval);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the flush of what was removed nothing is freed yet.
    #[test]
    fn what_was_freed_is_told_when_it_has_come_to_rest() {
        let seconds = Duration::from_secs;
        let told = |more_at: Option<u64>, takes: &[u64]| {
            let mut freeing = Freeing::default();
            freeing.begin(seconds(0), 100);
            let looks = (1..).zip(takes).filter_map(|(at, bytes)| {
                if more_at == Some(at) {
                    freeing.begin(seconds(at), *bytes);
                }
                freeing.look(seconds(at), *bytes).map(|freed| (at, freed))
            });
            looks.collect::<Vec<_>>()
        };
        let freed = |bytes, took| Freed { bytes, took: seconds(took) };
        for (why, more_at, takes, want) in [
            (
                "it is freed later",
                None,
                &[110, 110, 60, 40, 40, 40, 40, 40, 40, 40][..],
                vec![(9, freed(60, 4))],
            ),
            ("it is freed at once", None, &[40, 40, 40, 40, 40, 40], vec![(6, freed(60, 1))]),
            ("little was deleted", None, &[100, 100, 100, 100, 100], vec![(5, freed(0, 0))]),
            ("it is not over", None, &[90, 80, 70, 60, 50, 40, 30], vec![]),
            (
                "clients delete more meanwhile",
                Some(4),
                &[90, 90, 90, 90, 90, 90, 20, 20, 20, 20, 20, 20],
                vec![(12, freed(80, 7))],
            ),
        ] {
            assert_eq!(told(more_at, takes), want, "{why}");
        }
    }

    #[test]
    fn disk_that_hangs_is_told_from_a_process_that_was_paused() {
        let seconds = Duration::from_secs;
        // When the newest probe was answered, the sleeps since, and what the disk was silent for.
        type Row = (&'static str, u64, &'static [u64], u64);
        let rows: [Row; 4] = [
            ("all is well", 1, &[0], 0),
            ("the disk hangs", 1, &[0; 160], 40),
            ("the process was paused", 1, &[100], 0),
            ("it was paused while the disk hung", 1, &[0, 0, 0, 0, 100, 0, 0, 0], 2),
        ];
        for (why, probed, sleeps, want) in rows {
            let (mut silence, mut now) = (Silence::default(), seconds(probed));
            let mut silent = silence.look(now, seconds(probed));
            for paused in sleeps {
                let slept = LOOK_INTERVAL + seconds(*paused);
                now += slept;
                silence.slept(slept);
                silent = silence.look(now, seconds(probed));
            }
            assert_eq!(silent.as_secs(), want, "{why}");
        }
        let mut silence = Silence::default();
        silence.slept(seconds(100));
        assert_eq!(silence.look(seconds(100), seconds(50)), seconds(50), "it was answered since");
    }
}
