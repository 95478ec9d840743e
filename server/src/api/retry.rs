//! Asking again when the regions have changed under a request that spans several.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::Error;

const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Pauses between attempts: none before the second, then doubling.
///
/// Bound: no attempt starts after the deadline; pauses grow to 200 ms, so there are few.
#[derive(Debug)]
pub(super) struct Backoff {
    deadline: Instant,
    pause: Duration,
}

impl Backoff {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, pause: Duration::ZERO }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    ///
    /// `error` itself, when it is not one that another attempt can mend or no time is left.
    pub(super) async fn wait(&mut self, error: Error) -> Result<(), Error> {
        if mends(&error) { self.wait_for_time(error).await } else { Err(error) }
    }

    /// As [`Backoff::wait`], for an error that time may mend.
    ///
    /// # Errors
    ///
    /// `error` itself, when no time is left.
    pub(super) async fn wait_for_time(&mut self, error: Error) -> Result<(), Error> {
        let pause = self.pause.max(error.retry_after());
        if Instant::now() + pause >= self.deadline {
            return Err(error);
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        Ok(())
    }
}

/// Whether the view of the regions was old, or nobody led one of them for a moment: nothing was
/// applied, and another look at the regions helps.
pub(super) fn mends(error: &Error) -> bool {
    match error {
        Error::NotLeader { .. }
        | Error::EpochNotMatch { .. }
        | Error::RegionNotFound { .. }
        | Error::KeyNotInRegion { .. }
        | Error::CrossRegion { .. }
        | Error::NoLeader { .. } => true,
        Error::InvalidArgument { .. }
        | Error::NodeMismatch { .. }
        | Error::WrongCluster { .. }
        | Error::Busy { .. }
        | Error::NotJoined { .. }
        | Error::Draining
        | Error::NotReady { .. }
        | Error::VersionMoved { .. }
        | Error::LowDisk { .. }
        | Error::FailedPrecondition { .. }
        | Error::NotFound { .. }
        | Error::Unimplemented { .. }
        | Error::NotACounter { .. }
        | Error::DeadlineExceeded { .. }
        | Error::OutcomeUnknown { .. }
        | Error::DataLoss { .. }
        | Error::Internal { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RegionId;

    #[tokio::test]
    async fn attempts_end_with_the_deadline_and_the_last_error() {
        let started = Instant::now();
        let mut backoff = Backoff::until(started + Duration::from_millis(100));
        let mut attempts = 0;
        let last = loop {
            attempts += 1;
            let error = Error::EpochNotMatch { regions: vec![] };
            if let Err(error) = backoff.wait(error).await {
                break error;
            }
            assert!(attempts < 100, "pauses must grow");
        };
        assert!(matches!(last, Error::EpochNotMatch { .. }));
        assert!(attempts > 3, "{attempts} attempts");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn error_that_another_look_cannot_mend_is_answered_at_once() {
        let mut backoff = Backoff::until(Instant::now() + Duration::from_secs(60));
        for error in [
            Error::OutcomeUnknown { message: "late".into() },
            Error::Draining,
            Error::Internal { message: "bug".into() },
        ] {
            assert_eq!(backoff.wait(error.clone()).await, Err(error));
        }
        assert_eq!(backoff.wait(Error::NoLeader { region: RegionId(2) }).await, Ok(()));
    }
}
