//! Waiting for a condition, with a bound.

use std::time::Duration;

use anyhow::bail;

use crate::clock;

const PAUSE: Duration = Duration::from_millis(50);

/// Asks `condition` again and again until it has a value.
///
/// # Errors
/// What `condition` says cannot come true any more, or that `patience` is at its end.
pub(super) async fn until<T>(
    what: &str,
    patience: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = clock::now() + patience;
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if clock::now() >= deadline {
            bail!("waited {patience:?} for {what}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
