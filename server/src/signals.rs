//! The signals that ask this process to stop, and the one that would end it without a word.

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, from when this was made on: one that comes while nobody waits is not lost.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// A file has reached the largest size that this process may write. Listened to and never looked at, so
    /// that the write fails instead, and the node can say what has happened.
    _file_size: Signal,
}

impl StopSignals {
    /// From now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the system does not let us hear them.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_size: signal(SignalKind::from_raw(Number::XFSZ.as_raw()))?,
        })
    }

    /// The name of the next one. Several of one kind that came meanwhile are one.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn signal_that_comes_while_nobody_waits_is_not_lost() {
        let mut signals = StopSignals::listen().expect("signals");
        {
            // As a start that is given up for something else.
            let mut waiting = std::pin::pin!(signals.next());
            assert!(futures::poll!(&mut waiting).is_pending());
        }
        kill_process(getpid(), Signal::INT).expect("to ourselves");
        let heard = timeout(Duration::from_secs(20), signals.next()).await;
        assert_eq!(heard.expect("heard"), "SIGINT");
        kill_process(getpid(), Signal::XFSZ).expect("to ourselves");
    }
}
