//! How a command ends.

use std::io;

use crate::Error;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// It was done, and the answer is no.
    #[error("{0}")]
    Failed(String),
    /// The cluster refused or could not.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// Reading the input or writing the output failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Io(error.into())
    }
}

impl From<serde_yaml::Error> for Failure {
    fn from(error: serde_yaml::Error) -> Self {
        Self::Io(io::Error::other(error))
    }
}

impl Failure {
    /// What to tell, if there is somebody to tell it to.
    pub(super) fn text(&self) -> Option<String> {
        (!self.is_closed_pipe()).then(|| self.to_string())
    }

    /// `kvctl scan | head` ends well.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The exit code: 0 done, 1 failed, 2 usage, 3 not found, 4 maybe applied.
pub(super) fn code(outcome: &Result<(), Failure>) -> u8 {
    match outcome {
        Ok(()) => 0,
        Err(failure) if failure.is_closed_pipe() => 0,
        Err(Failure::Usage(_) | Failure::Cluster(Error::Configuration { .. })) => 2,
        Err(Failure::NotFound(_) | Failure::Cluster(Error::NotFound { .. })) => 3,
        Err(Failure::Cluster(error)) if error.maybe_applied() => 4,
        Err(Failure::Failed(_) | Failure::Cluster(_) | Failure::Io(_)) => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_failure_has_its_exit_code() {
        let text = String::new;
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        let timed_out =
            Error::TimedOut { timeout: Duration::from_secs(1), attempts: 1, last: text() };
        for (why, outcome, want) in [
            ("done", Ok(()), 0),
            ("the reader went away", Err(Failure::Io(closed)), 0),
            ("the answer is no", Err(Failure::Failed(text())), 1),
            ("the disk is full", Err(Failure::Io(io::ErrorKind::StorageFull.into())), 1),
            ("certainly not applied", Err(timed_out.into()), 1),
            ("refused", Err(Error::NotACounter { message: text() }.into()), 1),
            ("a bad argument", Err(Failure::Usage(text())), 2),
            ("a bad endpoint", Err(Error::configuration("endpoint", "").into()), 2),
            ("an absent key", Err(Failure::NotFound(text())), 3),
            ("an unknown node", Err(Error::NotFound { message: text() }.into()), 3),
            ("nobody knows", Err(Error::MaybeApplied { message: text() }.into()), 4),
        ] {
            assert_eq!(code(&outcome), want, "{why}");
        }
    }
}
