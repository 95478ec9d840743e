//! What is told to the one who watches, as lines of JSON.

use serde::{Deserialize, Serialize};

use super::{ledger::Account, registers::Judgement};

/// Of what is wrong, so much is told.
const TOLD: usize = 10;

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Since the start.
    pub elapsed_ms: u64,
    /// Calls that were answered.
    pub calls: u64,
    /// Calls that failed after all the client's retries, those with an unknown outcome included.
    pub failures: u64,
    /// Of these, the writes that may have been applied.
    pub unknown: u64,
    /// The longest time for which any one worker had no answer.
    pub longest_gap_ms: u64,
    /// When it ended.
    pub longest_gap_at_ms: u64,
    /// The first failures, in words.
    pub errors: Vec<String>,
}

/// What it was in the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// How it went.
    #[serde(flatten)]
    pub progress: Progress,
    /// Writes of unique keys that were acknowledged.
    pub acknowledged: usize,
    /// Whether each of them was read back, and none that was refused.
    pub complete: bool,
    /// Calls of the history that were answered.
    pub history: usize,
    /// Whether one copy of the data explains the history.
    pub linearizable: bool,
    /// Why not, where not.
    pub faults: Vec<String>,
}

impl Verdict {
    pub(super) fn of(progress: Progress, ledger: Account, history: Judgement) -> Self {
        Self {
            progress,
            acknowledged: ledger.acknowledged,
            // Nothing shows nothing.
            complete: ledger.wrong.is_empty() && ledger.acknowledged > 0,
            history: history.answered,
            linearizable: history.fault.is_none() && history.answered > 0,
            faults: ledger.wrong.into_iter().take(TOLD).chain(history.fault).collect(),
        }
    }

    /// Whether the cluster kept its promises, however often it failed.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.complete && self.linearizable
    }
}
