//! How many requests a region is asked for on this node, so that the one that has the load is found.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

/// A rate follows its requests within about this time: long enough to be read, short enough to be of now.
const WINDOW: Duration = Duration::from_secs(10);

/// Requests a second, smoothed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PerSecond {
    pub(super) reads: f64,
    pub(super) writes: f64,
}

/// What the rates of all regions take over at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    seconds: f64,
    /// Of what was counted in that time, in the rate that is shown.
    share: f64,
}

impl Turn {
    /// `elapsed` since the turn before.
    pub(super) fn after(elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(0.001);
        // A constant rate is approached, whatever the turns are like.
        Self { seconds, share: 1.0 - (-seconds / WINDOW.as_secs_f64()).exp() }
    }
}

/// Counts the requests of a region that are served here, whichever node they came to.
#[derive(Debug, Default)]
pub(super) struct Rates {
    reads: AtomicU64,
    writes: AtomicU64,
    shown: Mutex<PerSecond>,
}

impl Rates {
    pub(super) fn read(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    pub(super) fn written(&self) {
        self.writes.fetch_add(1, Relaxed);
    }

    /// Takes in what was counted since the last turn.
    pub(super) fn turn(&self, Turn { seconds, share }: Turn) {
        let mut shown = self.shown.lock();
        let PerSecond { reads, writes } = &mut *shown;
        for (rate, count) in [(reads, &self.reads), (writes, &self.writes)] {
            let now = count.swap(0, Relaxed) as f64 / seconds;
            *rate += (now - *rate) * share;
        }
    }

    /// As of the last turn.
    pub(super) fn per_second(&self) -> PerSecond {
        *self.shown.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_approaches_what_is_asked_and_falls_back() {
        let rates = Rates::default();
        for turn in 0..60 {
            (0..100).for_each(|_| rates.read());
            rates.written();
            // Turns come late where the node has much to do.
            rates.turn(Turn::after(Duration::from_secs(1 + turn % 2)));
        }
        let PerSecond { reads, writes } = rates.per_second();
        assert!((50.0..=100.0).contains(&reads), "{reads}");
        assert!((0.5..=1.0).contains(&writes), "{writes}");
        (0..60).for_each(|_| rates.turn(Turn::after(Duration::from_secs(1))));
        let PerSecond { reads, writes } = rates.per_second();
        assert!(reads < 1.0 && writes < 0.01, "{reads} {writes}");
    }
}
