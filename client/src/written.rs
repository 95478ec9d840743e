//! What a client has changed so far.
//!
//! A program that makes several writes and fails at one of them has changed something, whatever the last
//! error promises: that promise is about one call. So the calls are counted where all of them pass, and
//! not by those who make them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Error;

/// Calls that write, over all clones of a client.
#[derive(Debug, Default)]
pub(crate) struct Written {
    done: AtomicU64,
    in_doubt: AtomicU64,
}

impl Written {
    /// Notes how a call that writes has ended.
    pub(crate) fn note<T>(&self, outcome: &Result<T, Error>) {
        match outcome {
            Ok(_) => self.done.fetch_add(1, Relaxed),
            Err(error) if error.maybe_applied() => self.in_doubt.fetch_add(1, Relaxed),
            Err(_) => return,
        };
    }

    /// A call that was answered is known to have changed nothing.
    pub(crate) fn take_back(&self) {
        self.done.fetch_sub(1, Relaxed);
    }

    /// Calls that were answered.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Calls whose outcome is not known.
    pub(crate) fn in_doubt(&self) -> u64 {
        self.in_doubt.load(Relaxed)
    }
}
