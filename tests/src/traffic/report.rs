//! What is told to the one who watches, as lines of JSON.

use serde::{Deserialize, Serialize};

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
    /// What was done, and whether the cluster kept what it promised.
    pub workloads: Vec<Judged>,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Which one.
    pub name: String,
    /// Its requests that were answered.
    pub answered: usize,
    /// The promise that was broken, in words.
    pub broken: Option<String>,
}

impl Verdict {
    /// Whether the cluster kept its promises, however often it failed. Nothing shows nothing.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.workloads.iter().all(|judged| judged.broken.is_none() && judged.answered > 0)
    }
}
