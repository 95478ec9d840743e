//! What a start does before the node serves, and that it can be told to stop meanwhile.
//!
//! To open the disk and the regions is to read them, for as long as the disk takes, and much of that is done in one go: a
//! signal would be heard behind it. So it runs on a thread of its own, which nobody waits for once there is a signal;
//! whatever it was at is repeated by the next start.

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What `opening` comes to, or, first, what `told` this process to stop.
pub(super) async fn unless_told<T, O>(
    told: impl Future<Output = &'static str>,
    what: &'static str,
    opening: impl FnOnce() -> O + Send + 'static,
) -> Result<anyhow::Result<T>, &'static str>
where
    T: Send + 'static,
    O: Future<Output = anyhow::Result<T>>,
{
    let (runtime, given_up) = (Handle::current(), CancellationToken::new());
    // Ordering: it ends at its next pause, and does not go on in a process that is ending.
    let guard = given_up.clone().drop_guard();
    #[expect(
        clippy::disallowed_methods,
        reason = "a process of its own is told to stop, a simulated node is not"
    )]
    let opened = tokio::task::spawn_blocking(move || {
        runtime.block_on(given_up.run_until_cancelled(opening()))
    });
    let opened = tokio::select! {
        opened = opened => opened,
        signal = told => return Err(signal),
    };
    guard.disarm();
    // `None` only where nobody waits.
    Ok(opened.context(what).and_then(|opened| opened.context("given up")?))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::raft::fixture::soon;

    /// As the install of a snapshot that is finished at the start, or a long log.
    #[tokio::test]
    async fn signal_is_heard_while_the_disk_is_read_in_one_go() {
        let (release, held) = mpsc::channel::<()>();
        // Bound: so that the test fails, and does not hang.
        let reads = move || async move {
            let released = held.recv_timeout(Duration::from_secs(20));
            assert!(released.is_err(), "nobody sends");
            Ok(7)
        };
        let told = async {
            tokio::task::yield_now().await;
            "SIGTERM"
        };
        assert_eq!(
            soon("a word", unless_told(told, "the test", reads)).await.err(),
            Some("SIGTERM")
        );
        drop(release);

        let opened = unless_told(std::future::pending(), "the test", || async { Ok(7) }).await;
        assert_eq!(opened.expect("nobody was told").expect("it opens"), 7);
        let failed = || async { anyhow::bail!("a bad block") };
        let failed = unless_told::<(), _>(std::future::pending(), "the test", failed).await;
        assert!(
            failed.expect("nobody was told").is_err_and(|error| error.to_string() == "a bad block")
        );
    }
}
