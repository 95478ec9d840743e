//! Whether the runtimes of this process run their tasks.
//!
//! A task that blocks its thread, or never gives it back, holds up all others of a runtime with one thread,
//! and the process looks alive from outside: its ports are open and its disk is written to. So a task
//! on each runtime notes the time; one that has not for long is on a runtime that is wedged. `/livez` is served
//! by the runtime of the regions: when that is the one, it does not answer at all, which whoever asks takes
//! for the same.
//!
//! What it cannot see: on a runtime of several threads, one or all but one that are blocked, as the last one still
//! runs the beat; a task that waits for ever, for a lock or an answer, as others run meanwhile; threads that are no
//! runtime's, so those that write to the disk, whose silence `watch.rs` and the regions' own bounds show;
//! blocking work that fills its pool, for which tasks wait and the beat does not. Nor does it tell a runtime that is
//! wedged from a process that was paused: the first look after a pause may come before the first beat.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::world::clock;

/// Between two notes.
const INTERVAL: Duration = Duration::from_secs(1);

/// So long a runtime may run nothing. Far more than what a disk that stalls, or a process that was paused for a
/// moment, may cost: a restart is dearer than a wait.
pub(super) const STILL_MAX: Duration = Duration::from_secs(30);

/// A beat of each runtime.
#[derive(Debug)]
pub(super) struct Pulses {
    began: Instant,
    /// Name, and the newest beat in milliseconds since `began`.
    beats: Vec<(String, Arc<AtomicU64>)>,
}

impl Pulses {
    /// Begins to note on each of `runtimes`, for as long as it runs.
    pub(super) fn start(runtimes: &[(String, Handle)]) -> Self {
        Self::every(INTERVAL, runtimes)
    }

    fn every(interval: Duration, runtimes: &[(String, Handle)]) -> Self {
        let began = clock::monotonic();
        let beats = runtimes.iter().map(|(name, runtime)| {
            let beat = Arc::new(AtomicU64::new(0));
            let noted = Arc::clone(&beat);
            runtime.spawn(async move {
                loop {
                    noted.store(millis(clock::since(began)), Relaxed);
                    tokio::time::sleep(interval).await;
                }
            });
            (name.clone(), beat)
        });
        Self { began, beats: beats.collect() }
    }

    /// The runtimes that have run nothing for longer than `bound`, in words.
    pub(super) fn still(&self, bound: Duration) -> Vec<String> {
        let now = millis(clock::since(self.began));
        let still = |(name, beat): &(String, Arc<AtomicU64>)| {
            let silent = Duration::from_millis(now.saturating_sub(beat.load(Relaxed)));
            (silent > bound)
                .then(|| format!("runtime {name}: it has run no task for {} s", silent.as_secs()))
        };
        self.beats.iter().filter_map(still).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    /// Waits for a condition. Bound: ten seconds.
    fn until(what: &str, condition: impl Fn() -> bool) {
        let began = clock::monotonic();
        while !condition() {
            assert!(clock::since(began) < Duration::from_secs(10), "no sign of {what}");
            thread::yield_now();
        }
    }

    #[test]
    fn runtime_whose_thread_is_blocked_is_named_until_it_goes_on() {
        let new = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (wedged, other) = (new().expect("a runtime"), new().expect("a runtime"));
        let handles = [("wedged", &wedged), ("other", &other)];
        let handles = handles.map(|(name, runtime)| (name.to_owned(), runtime.handle().clone()));
        let (stop, stopped) = tokio::sync::watch::channel(());
        let run = |runtime: tokio::runtime::Runtime| {
            let mut stopped = stopped.clone();
            thread::spawn(move || runtime.block_on(async move { drop(stopped.changed().await) }))
        };
        let threads = [run(wedged), run(other)];
        let pulses = Pulses::every(Duration::from_millis(10), &handles);
        let bound = Duration::from_millis(500);
        until("a first beat", || pulses.beats.iter().all(|(_, beat)| beat.load(Relaxed) > 0));
        assert_eq!(pulses.still(bound), Vec::<String>::new());

        let (go_on, held) = mpsc::channel::<()>();
        handles[0].1.spawn(async move {
            let _ = held.recv();
        });
        until(
            "the one that is wedged",
            || matches!(&pulses.still(bound)[..], [one] if one.starts_with("runtime wedged: ")),
        );
        drop(go_on);
        until("its end", || pulses.still(bound).is_empty());
        stop.send(()).expect("they wait for it");
        for thread in threads {
            thread.join().expect("it ends");
        }
    }
}
