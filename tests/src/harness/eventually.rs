//! Waiting. The only file of the tests that sleeps.

use std::{fmt::Display, time::Duration};

use tokio::time::Instant;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// The first success of `probe`, which is repeated until it succeeds.
///
/// # Panics
/// When `bound` passes first, with `what` was waited for and the last error.
pub async fn eventually<T, E: Display>(
    what: &str,
    bound: Duration,
    probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    match within(bound, probe).await {
        Ok(value) => value,
        Err(last) => panic!("waited {bound:?} for {what}; last: {last}"),
    }
}

/// As [`eventually`], but the last error is an answer.
///
/// # Errors
/// When `bound` passes first. A probe that hangs past it counts as one that failed.
pub async fn within<T, E: Display>(
    bound: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, String> {
    let deadline = Instant::now() + bound;
    let mut last = "the first attempt did not end".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => return Err(last),
        }
        if Instant::now() + POLL > deadline {
            return Err(last);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Lets time pass where the passing of time is itself the experiment: load that runs, a node that
/// stands still. Never for waiting until something has happened.
pub async fn elapse(time: Duration) {
    tokio::time::sleep(time).await;
}
