//! Waiting. The only file that sleeps.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::time::Instant;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(300);

/// The first success of `probe`, which is repeated until it succeeds.
///
/// # Errors
/// When `bound` passes first: what was waited for, and the last error.
pub async fn eventually<T>(
    what: impl AsRef<str>,
    bound: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + bound;
    let mut last = anyhow!("the first look did not end");
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if Instant::now() + POLL > deadline {
            return Err(last).with_context(|| format!("waited {bound:?} for {}", what.as_ref()));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Looks again and again for as long as `time`: what must stay so.
///
/// # Errors
/// The first one of `probe`.
pub async fn throughout(
    what: impl AsRef<str>,
    time: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        probe().await.with_context(|| {
            format!("{} did not last: it ended after {:?}", what.as_ref(), began.elapsed())
        })?;
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Lets time pass where the passing of time is itself the experiment. Never for waiting until
/// something has happened.
pub async fn elapse(time: Duration) {
    tokio::time::sleep(time).await;
}
