//! How far a long command is, on standard error.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{HumanBytes, HumanCount, ProgressBar};
use tokio::time::Instant;

/// Between two lines, when no person is looking.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts keys, and tells.
pub(super) struct Pace {
    verb: &'static str,
    pub(super) keys: u64,
    pub(super) bytes: u64,
    /// One line that changes, on a terminal.
    bar: Option<ProgressBar>,
    told: Instant,
    began: Instant,
}

impl Pace {
    pub(super) fn new(verb: &'static str) -> Self {
        let bar = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        let now = Instant::now();
        Self { verb, keys: 0, bytes: 0, bar, told: now, began: now }
    }

    pub(super) fn add(&mut self, keys: u64, bytes: usize) {
        self.keys += keys;
        self.bytes += bytes as u64;
        match &self.bar {
            Some(bar) => {
                bar.set_message(self.text());
                bar.tick();
            }
            None if self.told.elapsed() >= INTERVAL => {
                self.told = Instant::now();
                // Standard error may be closed; the work goes on.
                let _ = writeln!(io::stderr(), "kvctl: {}", self.text());
            }
            None => {}
        }
    }

    /// The line that changes is gone from here on.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn text(&self) -> String {
        let (keys, bytes) = (HumanCount(self.keys), HumanBytes(self.bytes));
        format!("{} {keys} keys, {bytes}, in {} s", self.verb, self.began.elapsed().as_secs())
    }
}
